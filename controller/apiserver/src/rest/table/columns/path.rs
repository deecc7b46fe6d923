//! A CRD's printer columns: values at simple JSON paths.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{age, list, text};

/// A CRD column's cell: simple paths (`.spec.x`, `.status.list[0].y`, `.list[*].y`, and
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
    follow(object, &split_path(path))
}

fn follow<'v>(here: &'v Value, steps: &[&str]) -> Option<&'v Value> {
    let Some((step, rest)) = steps.split_first() else {
        return Some(here);
    };
    let (field, index) = match step.split_once('[') {
        Some((field, index)) => (field, Some(index.trim_end_matches(']'))),
        None => (*step, None),
    };
    let field = field.replace("\\.", ".");
    let here = match &*field {
        "" => here,
        field => here.get(field)?,
    };
    match index {
        None => follow(here, rest),
        // Of several values a cell shows the first.
        Some("*") => list(here).iter().find_map(|item| follow(item, rest)),
        Some(index) => follow(element(here, index)?, rest),
    }
}

/// By a number, a key in quotes, or a filter for equality.
fn element<'v>(here: &'v Value, index: &str) -> Option<&'v Value> {
    let filter = index
        .strip_prefix("?(@.")
        .and_then(|filter| filter.strip_suffix(')'));
    if let Some(filter) = filter {
        let (key, wanted) = filter.split_once("==")?;
        let wanted = wanted.trim().trim_matches(['"', '\'']);
        return list(here).iter().find(|item| item[key.trim()] == wanted);
    }
    let index = index.trim_matches(['"', '\'']);
    match index.parse::<usize>() {
        Ok(index) => here.get(index),
        Err(_) => here.get(index),
    }
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
        assert_eq!(walk(&object, ".spec.a[*].b"), Some(&json!(7)));
        assert_eq!(
            walk(&object, ".status.conditions[*].type"),
            Some(&json!("Done"))
        );
        assert_eq!(walk(&object, ".spec.a[*].missing"), None);
        assert_eq!(walk(&object, ".spec.missing.b"), None);
    }
}
