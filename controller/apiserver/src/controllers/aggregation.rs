//! ClusterRole aggregation: the rules of a role with an `aggregationRule` are those of the roles it
//! selects, in the order of their names, each once.

use crate::kinds::metadata::selector_matches;
use crate::kinds::value::list;
use serde_json::Value;

pub(crate) const GROUP: &str = "rbac.authorization.k8s.io";

/// The rules a role with `aggregation_rule` should have, from all other ClusterRoles. Null when
/// none is selected, as the API shows an empty required list.
pub(crate) fn aggregated(aggregation_rule: &Value, roles: &[&Value]) -> Value {
    let mut sorted: Vec<&&Value> = roles.iter().collect();
    sorted.sort_by_key(|role| role["metadata"]["name"].as_str().unwrap_or_default());
    let mut rules: Vec<&Value> = Vec::new();
    for selector in list(aggregation_rule, "clusterRoleSelectors") {
        for role in &sorted {
            if !selector_matches(selector, &role["metadata"]["labels"]) {
                continue;
            }
            for rule in list(role, "rules") {
                if !rules.contains(&rule) {
                    rules.push(rule);
                }
            }
        }
    }
    if rules.is_empty() {
        Value::Null
    } else {
        rules.into_iter().cloned().collect()
    }
}
