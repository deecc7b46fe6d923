//! A CRD's printer columns: values at simple JSON paths.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{age, list, text};

/// A CRD column's cell: simple paths (`.spec.x`, `.status.list[0].y`, and
/// `.list[?(@.type=="Ready")].status`).
pub(super) fn cell(column: &Value, object: &Value, now: Timestamp) -> Value {
    let Some(value) = walk(object, text(&column["jsonPath"])) else {
        return Value::Null;
    };
    match (text(&column["type"]), value) {
        ("date", value) => json!(age(value, now)),
        ("string", value @ (Value::Object(_) | Value::Array(_))) => json!(value.to_string()),
        ("string", Value::Number(number)) => json!(number.to_string()),
        ("string", Value::Bool(flag)) => json!(flag.to_string()),
        (_, value) => value.clone(),
    }
}

fn walk<'v>(object: &'v Value, path: &str) -> Option<&'v Value> {
    let mut here = object;
    for step in split_path(path) {
        let (field, index) = match step.split_once('[') {
            Some((field, rest)) => (field, Some(rest.trim_end_matches(']'))),
            None => (step, None),
        };
        let field = field.replace("\\.", ".");
        if !field.is_empty() {
            here = here.get(&field)?;
        }
        let Some(index) = index else { continue };
        here = match index
            .strip_prefix("?(@.")
            .and_then(|filter| filter.strip_suffix(')'))
        {
            Some(filter) => {
                let (key, wanted) = filter.split_once("==")?;
                let wanted = wanted.trim().trim_matches(['"', '\'']);
                list(here).iter().find(|item| item[key.trim()] == wanted)?
            }
            None => match index.trim_matches(['"', '\'']).parse::<usize>() {
                Ok(index) => here.get(index)?,
                Err(_) => here.get(index.trim_matches(['"', '\'']))?,
            },
        };
    }
    Some(here)
}

/// Splits at dots outside brackets that no backslash precedes.
fn split_path(path: &str) -> Vec<&str> {
    let mut depth = 0_i32;
    let mut escaped = false;
    path.split(|c| {
        match c {
            '[' => depth += 1,
            ']' => depth -= 1,
            _ => {}
        }
        let here = c == '.' && depth == 0 && !escaped;
        escaped = c == '\\';
        here
    })
    .filter(|part| !part.is_empty())
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn printer_columns_follow_simple_paths() {
        let object = json!({
            "spec": {"a": [{"b": 7}]},
            "metadata": {"labels": {"x.y/z": "label"}},
            "status": {"conditions": [
                {"type": "Done", "status": "False"}, {"type": "Ready", "status": "True"},
            ]},
        });
        assert_eq!(walk(&object, ".spec.a[0].b"), Some(&json!(7)));
        assert_eq!(
            walk(&object, ".status.conditions[?(@.type==\"Ready\")].status"),
            Some(&json!("True"))
        );
        assert_eq!(
            walk(&object, r".metadata.labels.x\.y/z"),
            Some(&json!("label"))
        );
        assert_eq!(
            walk(&object, ".metadata.labels['x.y/z']"),
            Some(&json!("label"))
        );
        assert_eq!(walk(&object, ".spec.missing.b"), None);
    }
}
