//! CEL rules of custom resources (`x-kubernetes-validations`).
//!
//! Rules are compiled once per version. A rule sees `self`, and `oldSelf` where the value can be told from an old one: struct
//! fields, granular maps, and elements of keyed lists. On an update, a rule without `oldSelf` that fails on a value that
//! didn't change is forgiven (ratcheting). A rule that can't be evaluated, for instance because it uses a function that is
//! missing here, refuses the object.

use kube_cel::KubeCelExt as _;
use kube_cel::cel::objects::OptionalValue;
use kube_cel::cel::{Context, Program, Value as Cel};
use serde_json::Value;

use super::values::ValueSchema;
use crate::error::{Cause, CauseReason};
use crate::schema::join;

/// The rules at and below a node. Branches without rules aren't kept.
#[derive(Debug, Default)]
pub(crate) struct Rules {
    own: Vec<Rule>,
    /// How a value becomes one of CEL; kept only where there are rules.
    values: Option<Box<ValueSchema>>,
    properties: Vec<(Box<str>, Self)>,
    items: Option<Box<Self>>,
    additional: Option<Box<Self>>,
    all_of: Vec<Self>,
    /// The keys that tell elements apart; none where they can't be.
    list_keys: Vec<Box<str>>,
    atomic_map: bool,
    /// Messages show no value of objects and lists.
    scalar: bool,
    /// The schema's type.
    kind: Box<str>,
}

/// Why a rule refuses a value.
#[derive(Debug, PartialEq)]
enum Fault {
    /// It doesn't hold.
    Broken(String),
    /// It can't be evaluated.
    Unknown(String),
}

#[derive(Debug)]
struct Rule {
    text: String,
    program: Result<Program, String>,
    message: String,
    message_program: Option<Program>,
    reason: CauseReason,
    field: String,
    uses_old: bool,
    optional_old: bool,
}

/// One node of an object under validation.
#[derive(Clone, Copy)]
struct Place<'a> {
    value: &'a Value,
    old: Option<&'a Value>,
    /// The value is the same as before, or part of one that is.
    unchanged: bool,
}

// === impl Rules ===

impl Rules {
    /// Compiles the rules of a version's schema.
    pub(crate) fn compile(schema: &Value) -> Self {
        let Some(node) = schema.as_object() else {
            return Self::default();
        };
        let child = |node: &Value| Some(Box::new(Self::compile(node))).filter(|r| !r.is_empty());
        let own = node
            .get("x-kubernetes-validations")
            .and_then(Value::as_array);
        let own: Vec<_> = own.into_iter().flatten().map(Rule::compile).collect();
        let properties = node.get("properties").and_then(Value::as_object);
        let kind = node.get("type").and_then(Value::as_str).unwrap_or_default();
        let list_keys = node
            .get("x-kubernetes-list-map-keys")
            .and_then(Value::as_array);
        let is_keyed = node.get("x-kubernetes-list-type").and_then(Value::as_str) == Some("map");
        let all_of = node.get("allOf").and_then(Value::as_array);
        Self {
            values: (!own.is_empty()).then(|| Box::new(ValueSchema::read(schema))),
            own,
            properties: properties
                .into_iter()
                .flatten()
                .map(|(name, node)| (name.as_str().into(), Self::compile(node)))
                .filter(|(_, rules): &(Box<str>, Self)| !rules.is_empty())
                .collect(),
            items: node.get("items").and_then(child),
            additional: node.get("additionalProperties").and_then(child),
            all_of: all_of
                .into_iter()
                .flatten()
                .map(Self::compile)
                .filter(|r| !r.is_empty())
                .collect(),
            list_keys: list_keys
                .filter(|_| is_keyed)
                .into_iter()
                .flatten()
                .filter_map(Value::as_str)
                .map(Box::from)
                .collect(),
            atomic_map: node.get("x-kubernetes-map-type").and_then(Value::as_str) == Some("atomic"),
            scalar: kind != "object" && kind != "array",
            kind: kind.into(),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.own.is_empty()
            && self.properties.is_empty()
            && self.items.is_none()
            && self.additional.is_none()
            && self.all_of.is_empty()
    }

    /// What the rules have against an object; `old` is the one it replaces.
    pub(crate) fn validate(&self, value: &Value, old: Option<&Value>) -> Vec<Cause> {
        let mut causes = Vec::new();
        if !self.is_empty() {
            let place = Place {
                value,
                old,
                unchanged: old == Some(value),
            };
            FUNCTIONS.with(|context| self.walk(place, "", context, &mut causes));
        }
        causes
    }

    fn walk(&self, place: Place<'_>, path: &str, context: &Context<'_>, causes: &mut Vec<Cause>) {
        if place.value.is_null() {
            return;
        }
        self.evaluate(place, path, context, causes);
        for rules in &self.all_of {
            rules.walk(
                Place {
                    unchanged: false,
                    ..place
                },
                path,
                context,
                causes,
            );
        }
        match place.value {
            Value::Object(map) => {
                let old = place
                    .old
                    .filter(|_| !self.atomic_map)
                    .and_then(Value::as_object);
                for (name, rules) in &self.properties {
                    if let Some(value) = map.get(&**name) {
                        let below = place.below(value, old.and_then(|old| old.get(&**name)));
                        rules.walk(below, &join(path, name), context, causes);
                    }
                }
                let Some(rules) = &self.additional else {
                    return;
                };
                for (name, value) in map {
                    let below = place.below(value, old.and_then(|old| old.get(name)));
                    rules.walk(below, &format!("{path}[{name}]"), context, causes);
                }
            }
            Value::Array(list) => {
                let Some(rules) = &self.items else { return };
                let old = place.old.and_then(Value::as_array);
                for (at, value) in list.iter().enumerate() {
                    let twin = old.and_then(|old| self.twin(value, old));
                    let below = place.below(value, twin);
                    rules.walk(below, &format!("{path}[{at}]"), context, causes);
                }
            }
            _ => {}
        }
    }

    fn twin<'v>(&self, value: &Value, old: &'v [Value]) -> Option<&'v Value> {
        let keys = (!self.list_keys.is_empty()).then_some(&self.list_keys)?;
        old.iter()
            .find(|old| keys.iter().all(|key| old.get(&**key) == value.get(&**key)))
    }

    fn evaluate(
        &self,
        place: Place<'_>,
        path: &str,
        context: &Context<'_>,
        causes: &mut Vec<Cause>,
    ) {
        let Some(values) = &self.values else { return };
        let mut scope = context.new_inner_scope();
        scope.add_variable_from_value("self", values.to_cel(place.value));
        let old = place.old.map(|old| values.to_cel(old));
        for rule in &self.own {
            if rule.uses_old && old.is_none() && !rule.optional_old {
                continue;
            }
            let mut inner = scope.new_inner_scope();
            if rule.uses_old {
                inner.add_variable_from_value("oldSelf", rule.old_self(old.as_ref()));
            }
            let Some(fault) = rule.fault(&inner) else {
                continue;
            };
            if place.unchanged && !rule.uses_old {
                continue;
            }
            causes.push(match fault {
                Fault::Broken(detail) => {
                    rule.cause(path, self.scalar.then_some(place.value), &detail)
                }
                // What couldn't be judged is told by its type.
                Fault::Unknown(detail) => {
                    Cause::invalid(rule.path(path), &self.kind.as_ref().into(), &detail)
                }
            });
        }
    }
}

impl<'a> Place<'a> {
    fn below(self, value: &'a Value, old: Option<&'a Value>) -> Self {
        Place {
            value,
            old,
            unchanged: self.unchanged || old == Some(value),
        }
    }
}

thread_local! {
    /// Every function that Kubernetes' rules may call, registered once per thread.
    static FUNCTIONS: Context<'static> = Context::default().with_all();
}

// === impl Rule ===

impl Rule {
    fn compile(rule: &Value) -> Self {
        let text = |key: &str| {
            rule.get(key)
                .and_then(Value::as_str)
                .unwrap_or_default()
                .trim()
        };
        let program = Program::compile(text("rule")).map_err(|error| error.to_string());
        let uses_old = program
            .as_ref()
            .is_ok_and(|program| program.references().has_variable("oldSelf"));
        Self {
            text: text("rule").to_owned(),
            message: text("message").to_owned(),
            message_program: Program::compile(text("messageExpression")).ok(),
            reason: match text("reason") {
                "FieldValueForbidden" => CauseReason::FieldValueForbidden,
                "FieldValueRequired" => CauseReason::FieldValueRequired,
                "FieldValueDuplicate" => CauseReason::FieldValueDuplicate,
                _ => CauseReason::FieldValueInvalid,
            },
            field: normalized(text("fieldPath")),
            uses_old,
            optional_old: rule
                .get("optionalOldSelf")
                .and_then(Value::as_bool)
                .unwrap_or_default(),
            program,
        }
    }

    /// Why the rule doesn't hold, none where it does.
    fn fault(&self, scope: &Context<'_>) -> Option<Fault> {
        let program = match &self.program {
            Ok(program) => program,
            Err(error) => return Some(Fault::Unknown(format!("rule compile error: {error}"))),
        };
        let shown = if self.message.is_empty() {
            &self.text
        } else {
            &self.message
        };
        match program.execute(scope) {
            Ok(Cel::Bool(true)) => None,
            Ok(Cel::Bool(false)) => Some(Fault::Broken(self.message(scope))),
            Ok(_) => Some(Fault::Unknown(format!(
                "rule compile error: must evaluate to a bool: {}",
                self.text
            ))),
            Err(error) => {
                let error = error.to_string().replacen("No such", "no such", 1);
                Some(Fault::Unknown(format!("{error} evaluating rule: {shown}")))
            }
        }
    }

    fn message(&self, scope: &Context<'_>) -> String {
        let computed =
            self.message_program
                .as_ref()
                .and_then(|program| match program.execute(scope) {
                    Ok(Cel::String(text)) => Some(text.trim().to_owned()),
                    _ => None,
                });
        // An empty or multi-line text is no message.
        match computed.filter(|text| !text.is_empty() && !text.contains('\n')) {
            Some(text) => text,
            None if self.message.is_empty() => format!("failed rule: {}", self.text),
            None => self.message.clone(),
        }
    }

    /// The field that the rule is about, of the value at `path`.
    fn path(&self, path: &str) -> String {
        match (path, self.field.as_str()) {
            ("", "") => "<nil>".to_owned(),
            (path, field) => join(path, field).trim_end_matches('.').to_owned(),
        }
    }

    fn cause(&self, path: &str, value: Option<&Value>, detail: &str) -> Cause {
        let path = self.path(path);
        match (self.reason, value) {
            (CauseReason::FieldValueForbidden, _) => Cause::forbidden(path, detail),
            (CauseReason::FieldValueRequired, _) => Cause::required(path, detail),
            (CauseReason::FieldValueDuplicate, Some(value)) => Cause::duplicate(path, value),
            (CauseReason::FieldValueDuplicate, None) => {
                Cause::new(CauseReason::FieldValueDuplicate, path, "Duplicate value")
            }
            (_, Some(value)) => Cause::invalid(path, value, detail),
            (_, None) => {
                let message = format!("Invalid value: {detail}");
                Cause::new(CauseReason::FieldValueInvalid, path, message)
            }
        }
    }

    fn old_self(&self, old: Option<&Cel>) -> Cel {
        match (self.optional_old, old) {
            (true, Some(old)) => Cel::Opaque(std::sync::Arc::new(OptionalValue::of(old.clone()))),
            (true, None) => Cel::Opaque(std::sync::Arc::new(OptionalValue::none())),
            (false, Some(old)) => old.clone(),
            (false, None) => Cel::Null,
        }
    }
}

/// `.spec.a['b']` as a field path: `spec.a[b]`.
fn normalized(path: &str) -> String {
    path.trim_start_matches('.')
        .replace("['", "[")
        .replace("']", "]")
}

/// What is wrong with a rule's text when a CRD brings it: syntax, unknown variables.
pub(crate) fn compile_error(rule: &str) -> Option<String> {
    let program = match Program::compile(rule) {
        Ok(program) => program,
        Err(error) => return Some(format!("compilation failed: {error}")),
    };
    let references = program.references();
    let mut unknown: Vec<_> = references.functions();
    unknown.retain(|name| {
        let operator = !name.starts_with(|first: char| first.is_ascii_alphabetic());
        !operator && FUNCTIONS_KNOWN.binary_search(name).is_err()
    });
    // Comprehensions bring variables of their own; the parser names those too, so only a rule without any can be judged.
    if !MACROS.iter().any(|name| rule.contains(name)) {
        let variables = references.variables();
        unknown.extend(
            variables
                .into_iter()
                .filter(|name| !VARIABLES.contains(name)),
        );
    }
    let name = unknown.iter().min()?;
    Some(format!(
        "compilation failed: undeclared reference to '{name}' (in container '')"
    ))
}

pub(crate) fn uses_old_self(rule: &str) -> bool {
    Program::compile(rule).is_ok_and(|program| program.references().has_variable("oldSelf"))
}

/// What rules may call, sorted. A function that isn't here refuses the CRD.
#[rustfmt::skip]
const FUNCTIONS_KNOWN: [&str; 180] = [
    "abs", "add", "all", "asApproximateFloat", "asInteger", "base64.decode", "base64.encode",
    "bitAnd", "bitNot", "bitOr", "bitShiftLeft", "bitShiftRight", "bitXor", "bool", "byte",
    "bytes", "ceil", "charAt", "cidr", "compareTo", "contains", "containsCIDR", "containsIP",
    "date", "datetime", "decode", "distinct", "dns1035Label", "dns1035LabelPrefix",
    "dns1123Label", "dns1123LabelPrefix", "dns1123Subdomain", "dns1123SubdomainPrefix", "double",
    "duration", "dyn", "encode", "endsWith", "equivalent", "escapeKey", "exists", "exists_one",
    "family", "filter", "find", "findAll", "first", "flatten", "floor", "format", "format.byte",
    "format.date", "format.datetime", "format.labelValue", "format.named", "format.qualifiedName",
    "format.uri", "format.uuid", "getDate", "getDayOfMonth", "getDayOfWeek", "getDayOfYear",
    "getEscapedPath", "getFullYear", "getHost", "getHostname", "getHours", "getMilliseconds",
    "getMinutes", "getMonth", "getPort", "getQuery", "getScheme", "getSeconds", "greatest", "has",
    "hasValue", "indexOf", "int", "intersects", "ip", "ip.isCanonical", "isCIDR", "isCanonical",
    "isFinite", "isGlobalUnicast", "isGreaterThan", "isIP", "isInf", "isInteger", "isLessThan",
    "isLinkLocalMulticast", "isLinkLocalUnicast", "isLoopback", "isNaN", "isQuantity", "isSemver",
    "isSorted", "isURL", "isUnspecified", "join", "jsonpatch.escapeKey", "labelValue", "last",
    "lastIndexOf", "least", "lists.range", "lowerAscii", "major", "map", "masked", "matches",
    "math.abs", "math.bitAnd", "math.bitNot", "math.bitOr", "math.bitShiftLeft",
    "math.bitShiftRight", "math.bitXor", "math.ceil", "math.floor", "math.greatest",
    "math.isFinite", "math.isInf", "math.isNaN", "math.least", "math.round", "math.sign",
    "math.sqrt", "math.trunc", "max", "min", "minor", "named", "none", "of", "ofNonZeroValue",
    "optFlatMap", "optMap", "optional.none", "optional.of", "optional.ofNonZeroValue", "or",
    "orValue", "patch", "prefixLength", "qualifiedName", "quantity", "quote", "range", "replace",
    "reverse", "round", "semver", "sets.contains", "sets.equivalent", "sets.intersects", "sign",
    "size", "slice", "sort", "split", "sqrt", "startsWith", "string", "strings.quote", "sub",
    "substring", "sum", "timestamp", "trim", "trunc", "type", "uint", "upperAscii", "uri", "url",
    "uuid", "validate", "value",
];

const VARIABLES: [&str; 24] = [
    "sets",
    "math",
    "lists",
    "format",
    "base64",
    "jsonpatch",
    "strings",
    "ip",
    "url",
    "cel",
    "self",
    "oldSelf",
    "int",
    "uint",
    "double",
    "bool",
    "string",
    "bytes",
    "list",
    "map",
    "null_type",
    "type",
    "optional",
    "dyn",
];
const MACROS: [&str; 12] = [
    ".all(",
    ".exists(",
    ".exists_one(",
    ".map(",
    ".filter(",
    ".transformList(",
    ".transformMap(",
    ".sortBy(",
    "cel.bind(",
    ".optMap(",
    ".optFlatMap(",
    "sets.",
];
