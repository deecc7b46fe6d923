//! The server name in a TLS ClientHello, without terminating TLS.
//!
//! Record layer and ClientHello after RFC 8446 (§4.1.2, §5.1), server name after RFC 6066 (§3).
//! [`parse`] is pure and incremental: give it all bytes so far, it says how many it needs at
//! least, which name the hello asks for, or why this is no hello. A hello may be spread over
//! several records. It never panics; a call costs one pass over the record heads, and one over the
//! hello once that is complete.

use fairlead_config::frontend::HELLO_BYTES_MAX;

#[cfg(test)]
mod tests;

/// What is known after some bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// A hello so far; there is no use in asking again with fewer bytes than this in all.
    Incomplete {
        /// Counted from the first byte of the connection.
        at_least: usize,
    },
    /// A whole hello.
    Complete {
        /// The name asked for, lower case and without a trailing dot; none where the hello names
        /// no server.
        host: Option<Box<str>>,
    },
}

/// Why this is no hello.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HelloError {
    /// The first bytes are no TLS handshake record.
    #[error("not TLS: the connection begins with no handshake record")]
    NotTls,
    /// A handshake, but of something else.
    #[error("a TLS handshake that begins with no ClientHello")]
    NotHello,
    /// Longer than we read, by its own account or by its records.
    #[error("a ClientHello of more than 16384 bytes or 64 records")]
    TooLong,
    /// Lengths that don't add up.
    #[error("a ClientHello that is malformed: {0}")]
    Malformed(&'static str),
}

/// Reads the hello at the start of `bytes`.
pub fn parse(bytes: &[u8]) -> Result<Progress, HelloError> {
    let mut hello = Vec::new();
    let mut at = 0;
    for _ in 0..RECORDS_MAX {
        let Some(length) = record_length(&bytes[at..])? else {
            return incomplete(at + RECORD_HEAD);
        };
        let end = at + RECORD_HEAD + length;
        let body = &bytes[at + RECORD_HEAD..end.min(bytes.len())];
        hello.extend_from_slice(body);
        if let Some(total) = hello_length(&hello)?
            && hello.len() >= total
        {
            let host = server_name(&hello[HANDSHAKE_HEAD..total])?;
            return Ok(Progress::Complete { host });
        }
        if end > bytes.len() {
            // The hello may end inside this record only where something follows it there.
            let left = hello_length(&hello)?.map_or(HANDSHAKE_HEAD, |total| total) - hello.len();
            return incomplete(end.min(bytes.len() + left));
        }
        at = end;
    }
    Err(HelloError::TooLong)
}

/// What holds for any input; the fuzzer and the corpus replay call it.
#[cfg(any(test, fuzzing))]
pub fn check(bytes: &[u8]) {
    match parse(bytes) {
        Ok(Progress::Incomplete { at_least }) => {
            assert!(at_least > bytes.len() && at_least <= HELLO_BYTES_MAX);
        }
        Ok(Progress::Complete { host }) => {
            if let Some(host) = &host {
                assert!(!host.is_empty() && host.len() <= NAME_BYTES_MAX);
                assert!(host.bytes().all(|byte| byte.is_ascii_graphic()));
                assert!(!host.bytes().any(|byte| byte.is_ascii_uppercase()));
            }
            let mut longer = bytes.to_vec();
            longer.extend_from_slice(&[0xff; 16]);
            assert_eq!(parse(&longer), Ok(Progress::Complete { host }));
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

fn incomplete(at_least: usize) -> Result<Progress, HelloError> {
    if at_least > HELLO_BYTES_MAX {
        return Err(HelloError::TooLong);
    }
    Ok(Progress::Incomplete { at_least })
}

/// The length of the handshake record that begins here, once its head is there. What can be refused
/// at the first byte is.
fn record_length(bytes: &[u8]) -> Result<Option<usize>, HelloError> {
    if bytes.first().is_some_and(|kind| *kind != RECORD_HANDSHAKE)
        || bytes.get(1).is_some_and(|major| *major != TLS_MAJOR)
    {
        return Err(HelloError::NotTls);
    }
    let Some([_, _, _, high, low]) = bytes.first_chunk::<RECORD_HEAD>() else {
        return Ok(None);
    };
    match usize::from(u16::from_be_bytes([*high, *low])) {
        0 => Err(HelloError::Malformed("an empty record")),
        length if length > RECORD_BYTES_MAX => Err(HelloError::Malformed("a record too long")),
        length => Ok(Some(length)),
    }
}

/// The length of the handshake message, its head included, once that is there.
fn hello_length(hello: &[u8]) -> Result<Option<usize>, HelloError> {
    if hello
        .first()
        .is_some_and(|kind| *kind != HANDSHAKE_CLIENT_HELLO)
    {
        return Err(HelloError::NotHello);
    }
    let Some([_, high, middle, low]) = hello.first_chunk::<HANDSHAKE_HEAD>() else {
        return Ok(None);
    };
    let length = u32::from_be_bytes([0, *high, *middle, *low]) as usize + HANDSHAKE_HEAD;
    if length > HELLO_BYTES_MAX {
        return Err(HelloError::TooLong);
    }
    Ok(Some(length))
}

/// The name in the body of a ClientHello.
fn server_name(body: &[u8]) -> Result<Option<Box<str>>, HelloError> {
    let mut rest = Reader(body);
    rest.take(VERSION_AND_RANDOM, "its head")?;
    rest.list8("its session id")?;
    rest.list16("its cipher suites")?;
    rest.list8("its compression methods")?;
    if rest.0.is_empty() {
        return Ok(None);
    }
    let mut extensions = Reader(rest.list16("its extensions")?);
    if !rest.0.is_empty() {
        return Err(HelloError::Malformed("something follows its extensions"));
    }
    let mut host = None;
    while !extensions.0.is_empty() {
        let kind = extensions.number16("an extension's type")?;
        let value = extensions.list16("an extension")?;
        if kind != EXTENSION_SERVER_NAME {
            continue;
        }
        if host.is_some() {
            return Err(HelloError::Malformed("two server name extensions"));
        }
        host = Some(host_name(value)?);
    }
    Ok(host)
}

/// The host name in a server name extension: exactly one entry of that type.
fn host_name(value: &[u8]) -> Result<Box<str>, HelloError> {
    let mut outer = Reader(value);
    let mut names = Reader(outer.list16("its server names")?);
    if !outer.0.is_empty() {
        return Err(HelloError::Malformed("something follows its server names"));
    }
    let mut host = None;
    while !names.0.is_empty() {
        let kind = names.take(1, "a server name's type")?;
        let name = names.list16("a server name")?;
        if kind != [NAME_TYPE_HOST] {
            continue;
        }
        if host.is_some() {
            return Err(HelloError::Malformed("two host names"));
        }
        host = Some(checked_host(name)?);
    }
    host.ok_or(HelloError::Malformed("a server name without a host name"))
}

fn checked_host(name: &[u8]) -> Result<Box<str>, HelloError> {
    let name = name.strip_suffix(b".").unwrap_or(name);
    let fits = (1..=NAME_BYTES_MAX).contains(&name.len());
    match std::str::from_utf8(name) {
        Ok(host) if fits && host.bytes().all(|byte| byte.is_ascii_graphic()) => {
            Ok(host.to_ascii_lowercase().into())
        }
        _ => Err(HelloError::Malformed(
            "a host name that isn't 1 to 255 printable characters",
        )),
    }
}

struct Reader<'a>(&'a [u8]);

// === impl Reader ===

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize, what: &'static str) -> Result<&'a [u8], HelloError> {
        let (taken, rest) = self
            .0
            .split_at_checked(count)
            .ok_or(HelloError::Malformed(what))?;
        self.0 = rest;
        Ok(taken)
    }

    fn number16(&mut self, what: &'static str) -> Result<u16, HelloError> {
        let bytes = self.take(2, what)?;
        Ok(u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    fn list8(&mut self, what: &'static str) -> Result<&'a [u8], HelloError> {
        let length = self.take(1, what)?[0];
        self.take(usize::from(length), what)
    }

    fn list16(&mut self, what: &'static str) -> Result<&'a [u8], HelloError> {
        let length = self.number16(what)?;
        self.take(usize::from(length), what)
    }
}

/// Records that a hello may be spread over: some clients split it on purpose, none into dust.
const RECORDS_MAX: usize = 64;
/// RFC 8446 §5.1.
const RECORD_BYTES_MAX: usize = 1 << 14;
const RECORD_HEAD: usize = 5;
const RECORD_HANDSHAKE: u8 = 22;
const TLS_MAJOR: u8 = 3;
const HANDSHAKE_HEAD: usize = 4;
const HANDSHAKE_CLIENT_HELLO: u8 = 1;
const VERSION_AND_RANDOM: usize = 2 + 32;
const EXTENSION_SERVER_NAME: u16 = 0;
const NAME_TYPE_HOST: u8 = 0;
/// As long as a domain name may be.
const NAME_BYTES_MAX: usize = 255;
