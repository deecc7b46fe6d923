//! Label and field selectors, in the grammar of Kubernetes.

use crate::error::ApiError;

/// A conjunction of requirements on labels; empty selects everything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct LabelSelector(Vec<Requirement>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Requirement {
    key: String,
    test: Test,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Test {
    Exists,
    Absent,
    In(Vec<String>),
    NotIn(Vec<String>),
    GreaterThan(i64),
    LessThan(i64),
}

/// A conjunction of equalities and inequalities on fields.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct FieldSelector(Vec<FieldTest>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct FieldTest {
    field: String,
    value: String,
    equal: bool,
}

// === impl LabelSelector ===

impl LabelSelector {
    pub(crate) fn parse(text: Option<&str>) -> Result<Self, ApiError> {
        let Some(text) = text else {
            return Ok(Self::default());
        };
        let fault = |why: &str| {
            ApiError::bad_request(format!("unable to parse requirement: {why} in {text:?}"))
        };
        if text.trim().is_empty() {
            return Ok(Self::default());
        }
        let parts = split_outside_parentheses(text).into_iter();
        let requirements = parts.map(|part| Requirement::parse(part.trim()).map_err(fault));
        Ok(Self(requirements.collect::<Result<_, _>>()?))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn matches<'a>(&self, label: impl Fn(&str) -> Option<&'a str>) -> bool {
        self.0
            .iter()
            .all(|requirement| requirement.matches(label(&requirement.key)))
    }
}

impl Requirement {
    fn parse(part: &str) -> Result<Self, &'static str> {
        if let Some(key) = part.strip_prefix('!') {
            return Self::new(key.trim(), Test::Absent);
        }
        if let Some((key, value)) = part.split_once("!=") {
            return Self::new(key, Test::NotIn(vec![value_of(value)?]));
        }
        if let Some((key, value)) = part.split_once("==").or_else(|| part.split_once('=')) {
            return Self::new(key, Test::In(vec![value_of(value)?]));
        }
        for (sign, test) in [
            ('>', Test::GreaterThan as fn(i64) -> Test),
            ('<', Test::LessThan as fn(i64) -> Test),
        ] {
            if let Some((key, value)) = part.split_once(sign) {
                // A label value too, so never negative.
                let bound = value_of(value)?
                    .parse()
                    .map_err(|_| "'>' and '<' need an integer")?;
                return Self::new(key, test(bound));
            }
        }
        let Some((head, list)) = part.split_once('(') else {
            return Self::new(part, Test::Exists);
        };
        let list = list
            .strip_suffix(')')
            .ok_or("a list without its closing parenthesis")?;
        let values: Result<Vec<_>, _> = list.split(',').map(value_of).collect();
        let mut words = head.split_whitespace();
        let key = words.next().unwrap_or_default();
        match (words.next(), words.next()) {
            (Some("in"), None) => Self::new(key, Test::In(values?)),
            (Some("notin"), None) => Self::new(key, Test::NotIn(values?)),
            _ => Err("expected 'in' or 'notin' before a list"),
        }
    }

    fn new(key: &str, test: Test) -> Result<Self, &'static str> {
        let key = key.trim();
        if !is_qualified_name(key) {
            return Err("not a label key");
        }
        Ok(Self {
            key: key.to_owned(),
            test,
        })
    }

    fn matches(&self, label: Option<&str>) -> bool {
        let number = || label.and_then(|value| value.parse::<i64>().ok());
        match &self.test {
            Test::Exists => label.is_some(),
            Test::Absent => label.is_none(),
            Test::In(values) => label.is_some_and(|label| values.iter().any(|v| v == label)),
            Test::NotIn(values) => label.is_none_or(|label| values.iter().all(|v| v != label)),
            Test::GreaterThan(bound) => number().is_some_and(|value| value > *bound),
            Test::LessThan(bound) => number().is_some_and(|value| value < *bound),
        }
    }
}

/// A label value, possibly empty.
fn value_of(text: &str) -> Result<String, &'static str> {
    let text = text.trim();
    if !text.is_empty() && !is_label_word(text) {
        return Err("not a label value");
    }
    Ok(text.to_owned())
}

fn split_outside_parentheses(text: &str) -> Vec<&str> {
    let mut depth = 0_i32;
    text.split(|c| {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            _ => {}
        }
        c == ',' && depth == 0
    })
    .collect()
}

/// `NAME` or `PREFIX/NAME`, as label and annotation keys are.
pub(crate) fn is_qualified_name(key: &str) -> bool {
    match key.split_once('/') {
        Some((prefix, name)) => is_subdomain(prefix) && is_label_word(name),
        None => is_label_word(key),
    }
}

/// 1–63 characters `[A-Za-z0-9._-]`, alphanumeric at both ends.
pub(crate) fn is_label_word(text: &str) -> bool {
    let bytes = text.as_bytes();
    let inner = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    (1..=63).contains(&bytes.len())
        && bytes.iter().all(inner)
        && bytes[0].is_ascii_alphanumeric()
        && bytes[bytes.len() - 1].is_ascii_alphanumeric()
}

/// An RFC 1123 subdomain.
pub(crate) fn is_subdomain(text: &str) -> bool {
    (1..=253).contains(&text.len()) && text.split('.').all(is_dns_label)
}

/// Lower-case alphanumerics and `-`, alphanumeric at both ends; length is the caller's to check.
pub(crate) fn is_dns_label(text: &str) -> bool {
    let bytes = text.as_bytes();
    let end = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    !bytes.is_empty()
        && bytes.iter().all(|b| end(*b) || *b == b'-')
        && end(bytes[0])
        && end(bytes[bytes.len() - 1])
}

// === impl FieldSelector ===

impl FieldSelector {
    pub(crate) fn parse(text: Option<&str>) -> Result<Self, ApiError> {
        let text = text.unwrap_or_default();
        let parts = split_unescaped(text).into_iter();
        let tests = parts
            .filter(|part| !part.is_empty())
            .map(|part| FieldTest::parse(&part, text))
            // Nothing equal to nothing selects everything.
            .filter(|test| !test.as_ref().is_ok_and(FieldTest::is_void));
        Ok(Self(tests.collect::<Result<_, _>>()?))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The fields that are named.
    pub(crate) fn fields(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|test| test.field.as_str())
    }

    /// The value that a field must equal, if there is one.
    pub(crate) fn exactly(&self, field: &str) -> Option<&str> {
        let found = self.0.iter().find(|test| test.equal && test.field == field);
        found.map(|test| test.value.as_str())
    }

    pub(crate) fn matches<'a>(&self, value: impl Fn(&str) -> &'a str) -> bool {
        self.0
            .iter()
            .all(|test| (value(&test.field) == test.value) == test.equal)
    }
}

impl FieldTest {
    /// Reads one test of the selector `whole`; its first operator counts.
    fn parse(part: &str, whole: &str) -> Result<Self, ApiError> {
        let fault = || {
            ApiError::bad_request(format!(
                "invalid selector: '{whole}'; can't understand '{part}'"
            ))
        };
        let (field, value) = part.split_once('=').ok_or_else(fault)?;
        let (field, equal) = match field.strip_suffix('!') {
            Some(field) => (field, false),
            None => (field, true),
        };
        let value = match value.strip_prefix('=') {
            Some(value) if equal => value,
            _ => value,
        };
        Ok(Self {
            field: field.to_owned(),
            value: unescape(value)?,
            equal,
        })
    }

    fn is_void(&self) -> bool {
        self.field.is_empty() && self.value.is_empty()
    }
}

/// Splits at commas that no backslash precedes.
fn split_unescaped(text: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut escaped = false;
    for c in text.chars() {
        if c == ',' && !escaped {
            parts.push(String::new());
        } else if let Some(part) = parts.last_mut() {
            part.push(c);
        }
        escaped = c == '\\' && !escaped;
    }
    parts
}

/// A backslash may stand before itself, a comma and an equals sign, which may not stand alone.
fn unescape(value: &str) -> Result<String, ApiError> {
    let fault = |why: String| {
        Err(ApiError::bad_request(format!(
            "invalid field selector: {why}"
        )))
    };
    let mut out = String::with_capacity(value.len());
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some(c @ ('\\' | ',' | '=')) => out.push(c),
                other => {
                    let rest = other.map(String::from).unwrap_or_default();
                    return fault(format!("invalid escape sequence: \\{rest}"));
                }
            },
            ',' | '=' => {
                return fault(format!("unescaped character in value: {}", u32::from(c)));
            }
            _ => out.push(c),
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selects(selector: &str, labels: &[(&str, &'static str)]) -> bool {
        let selector = LabelSelector::parse(Some(selector)).unwrap();
        selector.matches(|key| labels.iter().find(|(k, _)| *k == key).map(|(_, v)| *v))
    }

    #[test]
    fn label_selectors_follow_the_set_grammar() {
        let labels = [("app", "web"), ("tier", "2"), ("example.com/x", "")];
        for (selector, expected) in [
            ("", true),
            ("app=web", true),
            ("app==web,tier", true),
            ("app!=web", false),
            ("missing!=web", true),
            ("app in (api, web),tier notin (1)", true),
            ("app notin (web)", false),
            ("!app", false),
            ("!missing", true),
            ("tier>1,tier<3", true),
            ("tier>2", false),
            ("example.com/x=", true),
        ] {
            assert_eq!(selects(selector, &labels), expected, "{selector}");
        }
        for bad in [
            "a=b=c", "a in b", "in (x)", "a in (x", "-a", "a>x", "a=b c", "a,", ",a", "a,,b", ",",
            "a>-1",
        ] {
            assert!(LabelSelector::parse(Some(bad)).is_err(), "{bad}");
        }
    }

    #[test]
    fn field_selectors_compare_whole_values() {
        let selector =
            FieldSelector::parse(Some(r"metadata.name=a\,b,status.phase!=Done")).unwrap();
        assert_eq!(selector.exactly("metadata.name"), Some("a,b"));
        assert!(selector.matches(|field| if field == "metadata.name" { "a,b" } else { "" }));
        assert!(!selector.matches(|field| if field == "metadata.name" {
            "a,b"
        } else {
            "Done"
        }));
        for everything in ["", ",", "=", "==", "!="] {
            assert!(FieldSelector::parse(Some(everything)).unwrap().is_empty());
        }
        for bad in ["a", "a=b=c", "a===b", "a!==b", "a=b!=c", r"a=\b", r"a=b\"] {
            assert!(FieldSelector::parse(Some(bad)).is_err(), "{bad}");
        }
    }
}
