//! Nobody may grant what they don't hold: whether one set of rules covers another, and how the
//! refusal reads. Pure; cost is (granted atoms × held rules).

use super::rbac::{ANY, PolicyRule, contains_or_any, go_list, path_matches};
use std::collections::{BTreeMap, BTreeSet};

/// `Ok` when `held` covers all of `granted`, else the message of the 403.
///
/// # Errors
/// The text Kubernetes prints, listing the missing rights in compact form.
pub fn confirm_no_escalation(
    user: &str,
    groups: &[String],
    held: &[PolicyRule],
    granted: &[PolicyRule],
) -> Result<(), String> {
    let missing = missing(held, granted);
    if missing.is_empty() {
        return Ok(());
    }
    let lines: BTreeSet<String> = compact(missing).iter().map(PolicyRule::compact).collect();
    let lines: Vec<String> = lines.into_iter().collect();
    Err(format!(
        "user {user:?} (groups={}) is attempting to grant RBAC permissions not currently held:\n{}",
        go_list(groups),
        lines.join("\n")
    ))
}

/// The atoms (one verb on one resource, name or path) of `granted` that no rule of `held` covers.
pub fn missing(held: &[PolicyRule], granted: &[PolicyRule]) -> Vec<PolicyRule> {
    granted
        .iter()
        .flat_map(atoms)
        .filter(|atom| !held.iter().any(|rule| covers(rule, atom)))
        .collect()
}

fn atoms(rule: &PolicyRule) -> Vec<PolicyRule> {
    let mut atoms = Vec::new();
    for group in &rule.api_groups {
        for resource in &rule.resources {
            for verb in &rule.verbs {
                let atom = PolicyRule {
                    verbs: vec![verb.clone()],
                    api_groups: vec![group.clone()],
                    resources: vec![resource.clone()],
                    ..PolicyRule::default()
                };
                if rule.resource_names.is_empty() {
                    atoms.push(atom);
                    continue;
                }
                for name in &rule.resource_names {
                    atoms.push(PolicyRule {
                        resource_names: vec![name.clone()],
                        ..atom.clone()
                    });
                }
            }
        }
    }
    for path in &rule.non_resource_urls {
        for verb in &rule.verbs {
            atoms.push(PolicyRule {
                verbs: vec![verb.clone()],
                non_resource_urls: vec![path.clone()],
                ..PolicyRule::default()
            });
        }
    }
    atoms
}

fn covers(held: &PolicyRule, atom: &PolicyRule) -> bool {
    let all =
        |held: &[String], wanted: &[String]| wanted.iter().all(|item| contains_or_any(held, item));
    let names = held.resource_names.is_empty()
        || (!atom.resource_names.is_empty()
            && atom
                .resource_names
                .iter()
                .all(|name| held.resource_names.contains(name)));
    all(&held.verbs, &atom.verbs)
        && all(&held.api_groups, &atom.api_groups)
        && atom
            .resources
            .iter()
            .all(|resource| resource_covered(&held.resources, resource))
        && names
        && atom
            .non_resource_urls
            .iter()
            .all(|path| path_covered(&held.non_resource_urls, path))
}

fn resource_covered(held: &[String], resource: &str) -> bool {
    if contains_or_any(held, resource) {
        return true;
    }
    match resource.split_once('/') {
        Some((_, subresource)) => held
            .iter()
            .any(|rule| rule.strip_prefix("*/") == Some(subresource)),
        None => false,
    }
}

fn path_covered(held: &[String], path: &str) -> bool {
    held.iter()
        .any(|rule| rule == ANY || path_matches(rule, path))
}

/// Joins atoms on the same group, resource and name into one rule with several verbs, so that
/// the message stays readable.
fn compact(atoms: Vec<PolicyRule>) -> Vec<PolicyRule> {
    let mut simple: BTreeMap<(String, String, Vec<String>), usize> = BTreeMap::new();
    let mut joined: Vec<PolicyRule> = Vec::new();
    for mut atom in atoms {
        if !atom.non_resource_urls.is_empty() {
            joined.push(atom);
            continue;
        }
        let key = (
            atom.api_groups.first().cloned().unwrap_or_default(),
            atom.resources.first().cloned().unwrap_or_default(),
            atom.resource_names.clone(),
        );
        if let Some(&at) = simple.get(&key) {
            joined[at].verbs.append(&mut atom.verbs);
        } else {
            simple.insert(key, joined.len());
            joined.push(atom);
        }
    }
    joined
}
