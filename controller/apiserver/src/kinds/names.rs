//! The name and value formats Kubernetes checks, with its texts: RFC 1123 labels and subdomains,
//! RFC 1035 labels, qualified names, label values, port names, config keys.
//!
//! Each function returns the list of what is wrong, empty when nothing is. No regular expression
//! runs: one pass over the bytes, no allocation for a valid value.

/// How the name of a kind is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameRule {
    /// Most kinds: RFC 1123 subdomain.
    Subdomain,
    /// Namespaces, and Services since 1.34: RFC 1123 label.
    Label,
    /// RFC 1035 label.
    Label1035,
    /// RBAC kinds and others: a path segment.
    PathSegment,
}

impl NameRule {
    /// What is wrong with `name`; `prefix` = more will be appended (generateName).
    pub fn faults(self, name: &str, prefix: bool) -> Vec<String> {
        if self == Self::PathSegment {
            return path_segment(name, prefix);
        }
        let masked;
        let name = if prefix && name.len() > 1 && name.ends_with('-') {
            // A trailing dash is fine when characters follow it.
            masked = format!("{}a", &name[..name.len() - 1]);
            masked.as_str()
        } else {
            name
        };
        match self {
            Self::Subdomain => subdomain(name),
            Self::Label => label(name),
            _ => label_1035(name),
        }
    }
}

/// RFC 1123 label.
pub fn label(value: &str) -> Vec<String> {
    let mut faults = Vec::new();
    if value.len() > LABEL_MAX {
        faults.push(length(LABEL_MAX, "characters"));
    }
    if !is_label(value) {
        faults.push(if is_subdomain(value) {
            "must not contain dots".to_owned()
        } else {
            regex(LABEL_TEXT, LABEL_FORMAT, &["my-name", "123-abc"])
        });
    }
    faults
}

/// RFC 1123 subdomain.
pub fn subdomain(value: &str) -> Vec<String> {
    let mut faults = Vec::new();
    if value.len() > SUBDOMAIN_MAX {
        faults.push(length(SUBDOMAIN_MAX, "characters"));
    }
    if !is_subdomain(value) {
        faults.push(regex(SUBDOMAIN_TEXT, &subdomain_format(), &["example.com"]));
    }
    faults
}

/// RFC 1035 label.
pub fn label_1035(value: &str) -> Vec<String> {
    let mut faults = Vec::new();
    if value.len() > LABEL_MAX {
        faults.push(length(LABEL_MAX, "characters"));
    }
    if !(is_label(value) && value.as_bytes()[0].is_ascii_lowercase()) {
        faults.push(regex(
            LABEL_1035_TEXT,
            "[a-z]([-a-z0-9]*[a-z0-9])?",
            &["my-name", "abc-123"],
        ));
    }
    faults
}

/// Label keys, annotation keys (lower-cased by the caller), finalizers: `[prefix/]name`.
pub fn qualified_name(value: &str) -> Vec<String> {
    let mut faults = Vec::new();
    let name = match value.split_once('/') {
        None => value,
        Some((_, rest)) if rest.contains('/') => {
            return vec![format!(
                "a valid label key {} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')",
                regex(KEY_TEXT, KEY_FORMAT, &["MyName", "my.name", "123-abc"])
            )];
        }
        Some(("", name)) => {
            faults.push("prefix part must be non-empty".to_owned());
            name
        }
        Some((prefix, name)) => {
            if prefix.len() > SUBDOMAIN_MAX {
                faults.push(format!("prefix part {}", length(SUBDOMAIN_MAX, "bytes")));
            }
            if !is_subdomain(prefix) {
                let text = regex(SUBDOMAIN_TEXT, &subdomain_format(), &["example.com"]);
                faults.push(format!("prefix part {text}"));
            }
            name
        }
    };
    if name.is_empty() {
        faults.push("name part must be non-empty".to_owned());
    } else if name.len() > LABEL_MAX {
        faults.push(format!("name part {}", length(LABEL_MAX, "bytes")));
    }
    if !is_key(name) {
        let text = regex(KEY_TEXT, KEY_FORMAT, &["MyName", "my.name", "123-abc"]);
        faults.push(format!("name part {text}"));
    }
    faults
}

/// The value of a label.
pub fn label_value(value: &str) -> Vec<String> {
    let mut faults = Vec::new();
    if value.len() > LABEL_MAX {
        faults.push(length(LABEL_MAX, "bytes"));
    }
    if !(value.is_empty() || is_key(value)) {
        let format = format!("({KEY_FORMAT})?");
        faults.push(regex(
            LABEL_VALUE_TEXT,
            &format,
            &["MyValue", "my_value", "12345"],
        ));
    }
    faults
}

/// A port name of a container or a `targetPort` (IANA service name).
pub fn port_name(value: &str) -> Vec<String> {
    let mut faults = Vec::new();
    if value.len() > PORT_NAME_MAX {
        faults.push(length(PORT_NAME_MAX, "characters"));
    }
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    if value.is_empty() || !value.bytes().all(allowed) {
        faults.push(
            "must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)".to_owned(),
        );
    }
    if !value.bytes().any(|b| b.is_ascii_lowercase()) {
        faults.push("must contain at least one letter (a-z)".to_owned());
    }
    if value.contains("--") {
        faults.push("must not contain consecutive hyphens".to_owned());
    }
    if value.starts_with('-') || value.ends_with('-') {
        faults.push("must not begin or end with a hyphen".to_owned());
    }
    faults
}

/// A data key of a ConfigMap or Secret.
pub fn config_key(value: &str) -> Vec<String> {
    let mut faults = Vec::new();
    if value.len() > SUBDOMAIN_MAX {
        faults.push(length(SUBDOMAIN_MAX, "characters"));
    }
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    if value.is_empty() || !value.bytes().all(allowed) {
        faults.push(regex(
            "a valid config key must consist of alphanumeric characters, '-', '_' or '.'",
            "[-._a-zA-Z0-9]+",
            &["key.name", "KEY_NAME", "key-name"],
        ));
    }
    match value {
        "." => faults.push("must not be '.'".to_owned()),
        ".." => faults.push("must not be '..'".to_owned()),
        _ if value.starts_with("..") => faults.push("must not start with '..'".to_owned()),
        _ => {}
    }
    faults
}

/// The name of an environment variable: printable ASCII but `=`.
pub fn environment_name(value: &str) -> Vec<String> {
    let mut faults = Vec::new();
    if value.is_empty() {
        faults.push("environment variable name must be non-empty".to_owned());
    }
    if !value
        .bytes()
        .all(|b| (b' '..=b'~').contains(&b) && b != b'=')
    {
        faults.push(
            "a valid environment variable name must consist only of printable ASCII characters other than '='"
                .to_owned(),
        );
    }
    faults
}

/// A port number.
pub fn port_number(port: i64) -> Option<&'static str> {
    (!(1..=65535).contains(&port)).then_some("must be between 1 and 65535, inclusive")
}

fn path_segment(name: &str, prefix: bool) -> Vec<String> {
    if !prefix && matches!(name, "." | "..") {
        return vec![format!("may not be '{name}'")];
    }
    ["/", "%"]
        .iter()
        .filter(|part| name.contains(**part))
        .map(|part| format!("may not contain '{part}'"))
        .collect()
}

fn is_label(value: &str) -> bool {
    let bytes = value.as_bytes();
    let inner = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    match (bytes.first(), bytes.last()) {
        (Some(first), Some(last)) => {
            inner(first) && inner(last) && bytes.iter().all(|b| inner(b) || *b == b'-')
        }
        _ => false,
    }
}

pub(crate) fn is_subdomain(value: &str) -> bool {
    !value.is_empty() && value.split('.').all(is_label)
}

fn is_key(value: &str) -> bool {
    let bytes = value.as_bytes();
    match (bytes.first(), bytes.last()) {
        (Some(first), Some(last)) => {
            first.is_ascii_alphanumeric()
                && last.is_ascii_alphanumeric()
                && bytes
                    .iter()
                    .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
        }
        _ => false,
    }
}

fn length(max: usize, unit: &str) -> String {
    format!("must be no more than {max} {unit}")
}

fn regex(text: &str, format: &str, examples: &[&str]) -> String {
    let quoted: Vec<String> = examples
        .iter()
        .map(|example| format!("'{example}', "))
        .collect();
    format!(
        "{text} (e.g. {}regex used for validation is '{format}')",
        quoted.join(" or ")
    )
}

fn subdomain_format() -> String {
    format!("{LABEL_FORMAT}(\\.{LABEL_FORMAT})*")
}

const LABEL_MAX: usize = 63;
const SUBDOMAIN_MAX: usize = 253;
const PORT_NAME_MAX: usize = 15;
const LABEL_FORMAT: &str = "[a-z0-9]([-a-z0-9]*[a-z0-9])?";
const LABEL_TEXT: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character";
const LABEL_1035_TEXT: &str = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character";
const SUBDOMAIN_TEXT: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character";
const KEY_FORMAT: &str = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]";
const KEY_TEXT: &str = "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character";
const LABEL_VALUE_TEXT: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character";
