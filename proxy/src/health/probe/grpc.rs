//! `grpc.health.v1`: one request and one answer, too small for a code generator.
//!
//! <https://github.com/grpc/grpc/blob/master/doc/health-checking.md>

/// `HealthCheckResponse.ServingStatus.SERVING`.
pub const SERVING: u8 = 1;

/// A `HealthCheckRequest` for this service, framed for the wire.
pub fn request(service: &str) -> Vec<u8> {
    let mut message = Vec::with_capacity(service.len() + 4);
    if !service.is_empty() {
        message.push(FIELD_1_BYTES);
        put_varint(service.len() as u64, &mut message);
        message.extend_from_slice(service.as_bytes());
    }
    let mut frame = vec![NOT_COMPRESSED];
    frame.extend_from_slice(&(message.len() as u32).to_be_bytes());
    frame.extend_from_slice(&message);
    frame
}

/// The status in a framed `HealthCheckResponse`; `None` when it isn't one. Fields of later versions
/// are skipped.
pub fn status(frame: &[u8]) -> Option<u8> {
    let (head, rest) = frame.split_at_checked(5)?;
    let length = u32::from_be_bytes(head[1..].try_into().ok()?) as usize;
    if head[0] != NOT_COMPRESSED {
        return None;
    }
    let mut message = rest.get(..length)?;
    // Proto3 leaves the default out: UNKNOWN.
    let mut status = 0;
    while !message.is_empty() {
        let tag = take_varint(&mut message)?;
        match tag {
            FIELD_1_VARINT => status = u8::try_from(take_varint(&mut message)?).ok()?,
            _ => skip(tag, &mut message)?,
        }
    }
    Some(status)
}

fn skip(tag: u64, message: &mut &[u8]) -> Option<()> {
    let length = match tag & 7 {
        0 => {
            take_varint(message)?;
            0
        }
        1 => 8,
        2 => usize::try_from(take_varint(message)?).ok()?,
        5 => 4,
        _ => return None,
    };
    *message = message.get(length..)?;
    Some(())
}

fn take_varint(message: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..70).step_by(7) {
        let (&byte, rest) = message.split_first()?;
        *message = rest;
        value |= u64::from(byte & 0x7f).checked_shl(shift)?;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

fn put_varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

const NOT_COMPRESSED: u8 = 0;
const FIELD_1_BYTES: u8 = 0x0a;
const FIELD_1_VARINT: u64 = 0x08;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_request_is_framed_as_the_protocol_says() {
        assert_eq!(request(""), [0, 0, 0, 0, 0]);
        assert_eq!(request("ab"), [0, 0, 0, 0, 4, 0x0a, 2, b'a', b'b']);
        let long = request(&"x".repeat(200));
        assert_eq!(long[..8], [0, 0, 0, 0, 203, 0x0a, 0xc8, 0x01]);
    }

    #[test]
    fn answers_are_read_with_unknown_fields_and_refused_when_broken() {
        let rows: [(&[u8], Option<u8>); 9] = [
            (&[0, 0, 0, 0, 2, 8, 1], Some(SERVING)),
            (&[0, 0, 0, 0, 2, 8, 2], Some(2)),
            (&[0, 0, 0, 0, 0], Some(0)),
            (&[0, 0, 0, 0, 6, 0x12, 2, 9, 9, 8, 1], Some(SERVING)),
            (&[1, 0, 0, 0, 2, 8, 1], None),
            (&[0, 0, 0, 0, 3, 8, 1], None),
            (&[0, 0, 0, 0, 1, 8], None),
            (&[0, 0, 0, 0, 3, 0x12, 9, 9], None),
            (&[0, 0], None),
        ];
        for (frame, expected) in rows {
            assert_eq!(status(frame), expected, "{frame:?}");
        }
    }

    proptest! {
        #[test]
        fn no_answer_breaks_the_reader(bytes: Vec<u8>) {
            status(&bytes);
            let mut framed = vec![0, 0, 0, 0, bytes.len() as u8];
            framed.extend_from_slice(&bytes);
            status(&framed);
        }
    }
}
