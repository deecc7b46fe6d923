//! Strings with a meaning: quantities, times, bytes and the string formats of custom resources.

use std::net::{Ipv4Addr, Ipv6Addr};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

pub(super) const QUANTITY_RULE: &str = "quantities must match the regular expression \
     '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'";

/// Ten to this power below one is the smallest step a quantity holds.
const NANO: i32 = -9;

/// The form in which `resource.Quantity` prints itself: `0.5` is `500m`, `1024Mi` is `1Gi`. None for no quantity.
pub(super) fn canonical_quantity(text: &str) -> Option<String> {
    let (number, suffix) = split_number(text.trim())?;
    let (mut mantissa, mut exponent) = decimal(number)?;
    if let Some(power) = BINARY.iter().position(|name| *name == suffix) {
        return Some(
            binary(mantissa, exponent, power as u32 + 1).unwrap_or_else(|| text.to_owned()),
        );
    }
    let scientific = suffix.starts_with(['e', 'E']) && suffix.len() > 1;
    exponent += if scientific {
        suffix[1..].parse::<i32>().ok().filter(|e| e.abs() < 30)?
    } else {
        DECIMAL.iter().find(|(name, _)| *name == suffix)?.1
    };
    while exponent < NANO {
        // Rounds away from zero, so that a tiny request never becomes none.
        mantissa = mantissa / 10 + (mantissa % 10).signum();
        exponent += 1;
    }
    Some(print_decimal(mantissa, exponent, scientific).unwrap_or_else(|| text.to_owned()))
}

fn split_number(text: &str) -> Option<(&str, &str)> {
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    let digits = unsigned
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(unsigned.len());
    let at = text.len() - unsigned.len() + digits;
    let (number, suffix) = text.split_at(at);
    let proper = number.bytes().any(|b| b.is_ascii_digit())
        && number.bytes().filter(|b| *b == b'.').count() <= 1;
    proper.then_some((number, suffix))
}

/// The number as mantissa and power of ten.
fn decimal(number: &str) -> Option<(i128, i32)> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let digits: String = [whole, fraction].concat();
    let digits = digits.strip_prefix('+').unwrap_or(&digits);
    if digits.len() > 30 {
        return None;
    }
    Some((digits.parse().ok()?, -(fraction.len() as i32)))
}

fn binary(mantissa: i128, exponent: i32, power: u32) -> Option<String> {
    let scaled = mantissa.checked_mul(1_i128.checked_shl(10 * power)?)?;
    let divisor = 10_i128.checked_pow(exponent.unsigned_abs())?;
    if (scaled / divisor).abs() < 1024 {
        return print_decimal(scaled, exponent, false);
    }
    let mut value = scaled / divisor + (scaled % divisor).signum();
    let mut power = 0;
    while value % 1024 == 0 && power < BINARY.len() {
        value /= 1024;
        power += 1;
    }
    let suffix = if power == 0 { "" } else { BINARY[power - 1] };
    Some(format!("{value}{suffix}"))
}

fn print_decimal(mut mantissa: i128, mut exponent: i32, scientific: bool) -> Option<String> {
    if mantissa == 0 {
        return Some("0".to_owned());
    }
    while mantissa % 10 == 0 {
        mantissa /= 10;
        exponent += 1;
    }
    while exponent.rem_euclid(3) != 0 || exponent > 18 {
        mantissa = mantissa.checked_mul(10)?;
        exponent -= 1;
    }
    if scientific {
        let suffix = if exponent == 0 {
            String::new()
        } else {
            format!("e{exponent}")
        };
        return Some(format!("{mantissa}{suffix}"));
    }
    let (suffix, _) = DECIMAL.iter().find(|(_, power)| *power == exponent)?;
    Some(format!("{mantissa}{suffix}"))
}

const BINARY: [&str; 6] = ["Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
const DECIMAL: [(&str, i32); 10] = [
    ("", 0),
    ("n", -9),
    ("u", -6),
    ("m", -3),
    ("k", 3),
    ("M", 6),
    ("G", 9),
    ("T", 12),
    ("P", 15),
    ("E", 18),
];

/// A time in UTC with whole seconds, or six digits for `MicroTime`. None where it already has that form.
pub(super) fn canonical_time(text: &str, micro: bool) -> Option<Result<String, String>> {
    let length = if micro {
        "2006-01-02T15:04:05.000000Z".len()
    } else {
        "2006-01-02T15:04:05Z".len()
    };
    if text.len() == length && text.ends_with('Z') && is_time_shaped(text.as_bytes()) {
        return None;
    }
    let layout = if micro {
        "2006-01-02T15:04:05.000000Z07:00"
    } else {
        "2006-01-02T15:04:05Z07:00"
    };
    // Go reads as many digits of the second as the layout has: none or any for `Time`, six for `MicroTime`.
    let digits = text
        .get(20..)
        .map(|rest| rest.bytes().take_while(u8::is_ascii_digit).count());
    let fraction = text.as_bytes().get(19) == Some(&b'.') && digits == Some(6);
    let strict = text.len() >= 20 && text.as_bytes()[10] == b'T' && (fraction || !micro);
    match text.parse::<jiff::Timestamp>() {
        Ok(time) if strict => {
            let format = if micro {
                "%Y-%m-%dT%H:%M:%S.%6fZ"
            } else {
                "%Y-%m-%dT%H:%M:%SZ"
            };
            Some(Ok(time.strftime(format).to_string()))
        }
        _ => Some(Err(format!(
            "parsing time {text:?} as {layout:?}: cannot parse {text:?} as \"2006\""
        ))),
    }
}

fn is_time_shaped(text: &[u8]) -> bool {
    text.iter().enumerate().all(|(at, byte)| match at {
        4 | 7 => *byte == b'-',
        10 => *byte == b'T',
        13 | 16 => *byte == b':',
        19 => matches!(byte, b'Z' | b'.'),
        26 => *byte == b'Z',
        _ => byte.is_ascii_digit(),
    }) && text[5..7] <= b"12"[..]
        && text[8..10] <= b"31"[..]
        && text[11..13] <= b"23"[..]
        && text[14..16] <= b"59"[..]
        && text[17..19] <= b"59"[..]
}

pub(super) fn base64_error(text: &str) -> Option<String> {
    let at = match STANDARD.decode(text) {
        Ok(_) => return None,
        Err(
            base64::DecodeError::InvalidByte(at, _) | base64::DecodeError::InvalidLastSymbol(at, _),
        ) => at,
        Err(_) => text.len() / 4 * 4,
    };
    Some(format!("illegal base64 data at input byte {at}"))
}

/// Formats that a custom resource's strings are checked against; every other one is ignored, as in Kubernetes.
pub(crate) fn is_format_known(format: &str) -> bool {
    UNCHECKED.contains(&format) || FORMATS.iter().any(|(name, _)| *name == format)
}

/// False where the text breaks the format; unknown formats hold always.
pub(super) fn has_format(text: &str, format: &str) -> bool {
    FORMATS
        .iter()
        .find(|(name, _)| *name == format)
        .is_none_or(|(_, check)| check(text))
}

/// Formats that Kubernetes knows and that are not checked here.
const UNCHECKED: [&str; 10] = [
    "bsonobjectid",
    "creditcard",
    "hexcolor",
    "isbn",
    "isbn10",
    "isbn13",
    "password",
    "rgbcolor",
    "ssn",
    "k8s-short-name",
];

type Check = fn(&str) -> bool;

const FORMATS: [(&str, Check); 16] = [
    ("byte", |text| STANDARD.decode(text).is_ok()),
    ("cidr", |text| text.parse::<ipnet::IpNet>().is_ok()),
    ("date", |text| {
        text.parse::<jiff::civil::Date>().is_ok() && text.len() == 10
    }),
    ("date-time", |text| {
        matches!(canonical_time(text, false), None | Some(Ok(_)))
    }),
    ("datetime", |text| {
        matches!(canonical_time(text, false), None | Some(Ok(_)))
    }),
    ("duration", is_duration),
    ("email", |text| {
        text.split_once('@')
            .is_some_and(|(a, b)| !a.is_empty() && !b.is_empty())
    }),
    ("hostname", is_hostname),
    ("ipv4", |text| text.parse::<Ipv4Addr>().is_ok()),
    ("ipv6", |text| text.parse::<Ipv6Addr>().is_ok()),
    ("mac", is_mac),
    ("uri", |text| {
        text.parse::<http::Uri>()
            .is_ok_and(|uri| uri.scheme().is_some() || text.starts_with('/'))
    }),
    ("uuid", |text| is_uuid(text, None)),
    ("uuid3", |text| is_uuid(text, Some(b'3'))),
    ("uuid4", |text| is_uuid(text, Some(b'4'))),
    ("uuid5", |text| is_uuid(text, Some(b'5'))),
];

/// Go's `time.ParseDuration`: `1h30m`, `-1.5s`, `0`; also whole days and weeks, which the format's library adds.
pub(crate) fn is_duration(text: &str) -> bool {
    let mut rest = text.strip_prefix(['+', '-']).unwrap_or(text);
    if rest == "0" {
        return true;
    }
    if rest.is_empty() {
        return false;
    }
    while !rest.is_empty() {
        let digits = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(rest.len());
        let number = &rest[..digits];
        if number.is_empty() || number == "." || number.matches('.').count() > 1 {
            return false;
        }
        rest = rest[digits..].trim_start();
        let Some(unit) = UNITS.iter().find(|unit| rest.starts_with(**unit)) else {
            return false;
        };
        rest = &rest[unit.len()..];
    }
    true
}

const UNITS: [&str; 10] = ["ns", "us", "µs", "μs", "ms", "s", "m", "h", "d", "w"];

fn is_hostname(text: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    !text.is_empty() && text.len() <= 253 && text.trim_end_matches('.').split('.').all(label)
}

fn is_mac(text: &str) -> bool {
    let parts: Vec<_> = text.split([':', '-']).collect();
    matches!(parts.len(), 6 | 8 | 20)
        && parts
            .iter()
            .all(|part| part.len() == 2 && part.bytes().all(|b| b.is_ascii_hexdigit()))
}

fn is_uuid(text: &str, version: Option<u8>) -> bool {
    let bytes: Vec<u8> = text.bytes().filter(|b| *b != b'-').collect();
    bytes.len() == 32
        && bytes.iter().all(u8::is_ascii_hexdigit)
        && version.is_none_or(|version| bytes[12] == version)
}
