//! JSON patch, RFC 6902, with the errors that Kubernetes gives.

use serde_json::Value;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JsonPatchError {
    /// 400 BadRequest: the patch itself is none.
    #[error("{0}")]
    Malformed(String),
    /// 422 Invalid: an operation can't be done on this object.
    #[error("{0}")]
    Failed(String),
    /// 413: more operations than [`OPERATIONS_MAX`].
    #[error("The allowed maximum operations in a JSON patch is {OPERATIONS_MAX}, got {0}")]
    TooMany(usize),
}

/// Operations in one patch.
const OPERATIONS_MAX: usize = 10_000;

/// `document` after all operations of `patch`, or unchanged with the first error.
pub fn json(document: &Value, patch: &[u8]) -> Result<Value, JsonPatchError> {
    let malformed = |why: &str| JsonPatchError::Malformed(why.to_owned());
    let patch: Value =
        serde_json::from_slice(patch).map_err(|_| malformed("invalid JSON patch"))?;
    let operations = match patch {
        Value::Array(operations) => operations,
        // Go reads this as an empty list.
        Value::Null => Vec::new(),
        _ => {
            let why = "error decoding patch: json: cannot unmarshal object into Go value of type []handlers.jsonPatchOp";
            return Err(malformed(why));
        }
    };
    if operations.len() > OPERATIONS_MAX {
        return Err(JsonPatchError::TooMany(operations.len()));
    }
    let mut document = document.clone();
    for operation in &operations {
        run(&mut document, operation)?;
    }
    Ok(document)
}

/// Fields that operations don't have, as complaints of strict field validation.
pub fn json_complaints(patch: &[u8]) -> Vec<String> {
    const KNOWN: [&str; 4] = ["op", "path", "from", "value"];
    let Ok(operations) = serde_json::from_slice::<Vec<Value>>(patch) else {
        return Vec::new();
    };
    let mut complaints = Vec::new();
    for (at, operation) in operations.iter().enumerate() {
        for name in operation
            .as_object()
            .into_iter()
            .flat_map(|operation| operation.keys())
        {
            if !KNOWN.contains(&name.as_str()) {
                complaints.push(format!("json patch unknown field \"[{at}].{name}\""));
            }
        }
    }
    complaints
}

fn run(document: &mut Value, operation: &Value) -> Result<(), JsonPatchError> {
    let text = |key: &str| operation.get(key).and_then(Value::as_str);
    let path = text("path").ok_or_else(|| malformed("path"))?;
    // No value is null.
    let value = || operation.get("value").cloned().unwrap_or_default();
    match text("op") {
        Some("add") => add(document, path, value()),
        Some("replace") => replace(document, path, value()),
        Some("remove") => remove(document, path).map(|_| ()),
        Some("test") => {
            let found = document.pointer(path).unwrap_or(&Value::Null);
            if *found == value() {
                return Ok(());
            }
            Err(failed(format!("testing value {path} failed: test failed")))
        }
        Some("copy") => {
            let from = text("from").ok_or_else(|| malformed("from"))?;
            let found = document.pointer(from).cloned();
            add(document, path, found.ok_or_else(|| missing("copy", from))?)
        }
        Some("move") => {
            let from = text("from").ok_or_else(|| malformed("from"))?;
            let moved = remove(document, from)?;
            add(document, path, moved)
        }
        other => Err(failed(format!(
            "Unexpected kind: {}",
            other.unwrap_or("unknown")
        ))),
    }
}

fn add(document: &mut Value, path: &str, value: Value) -> Result<(), JsonPatchError> {
    let (parent, last) = split(path).ok_or_else(|| missing("add", path))?;
    let parent = find_mut(document, parent).ok_or_else(|| missing("add", path))?;
    match parent {
        Value::Object(map) => {
            map.insert(last, value);
            Ok(())
        }
        Value::Array(list) => {
            let at = match last.as_str() {
                "-" => list.len(),
                index => position(index).filter(|at| *at <= list.len()).ok_or_else(|| {
                    failed(format!("add operation does not apply: doc is missing path: {path:?}: missing value"))
                })?,
            };
            list.insert(at, value);
            Ok(())
        }
        _ => Err(missing("add", path)),
    }
}

/// An object's field need not be there: the library of the real server looks at nothing but its parent. The whole document,
/// which has none, is neither added nor replaced.
fn replace(document: &mut Value, path: &str, value: Value) -> Result<(), JsonPatchError> {
    let (parent, last) = split(path).ok_or_else(|| missing("replace", path))?;
    match find_mut(document, parent) {
        Some(Value::Object(map)) => {
            map.insert(last, value);
            Ok(())
        }
        _ => {
            let place = find_mut(document, path).ok_or_else(|| missing("replace", path))?;
            *place = value;
            Ok(())
        }
    }
}

fn remove(document: &mut Value, path: &str) -> Result<Value, JsonPatchError> {
    let (parent, last) = split(path).ok_or_else(|| missing("remove", path))?;
    let parent = find_mut(document, parent).ok_or_else(|| missing("remove", path))?;
    let removed = match parent {
        Value::Object(map) => map.shift_remove(&last),
        Value::Array(list) => position(&last)
            .filter(|at| *at < list.len())
            .map(|at| list.remove(at)),
        _ => None,
    };
    removed.ok_or_else(|| missing("remove", path))
}

fn find_mut<'a>(document: &'a mut Value, path: &str) -> Option<&'a mut Value> {
    document.pointer_mut(path)
}

/// The parent's pointer and the last name, unescaped. None for the whole document.
fn split(path: &str) -> Option<(&str, String)> {
    let (parent, last) = path.rsplit_once('/')?;
    Some((parent, last.replace("~1", "/").replace("~0", "~")))
}

fn position(text: &str) -> Option<usize> {
    let plain = text == "0" || !text.starts_with('0');
    text.parse().ok().filter(|_| plain)
}

fn missing(operation: &str, path: &str) -> JsonPatchError {
    failed(format!(
        "{operation} operation does not apply: doc is missing path: {path:?}: missing value"
    ))
}

fn failed(message: String) -> JsonPatchError {
    JsonPatchError::Failed(message)
}

fn malformed(key: &str) -> JsonPatchError {
    JsonPatchError::Failed(format!("{key} is missing in an operation of the patch"))
}
