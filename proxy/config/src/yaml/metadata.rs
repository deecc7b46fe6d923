//! The keys of the file inside protobuf, for what the published messages have no field for.
//!
//! The same readers read both, so a policy means the same from either source. Unknown keys are
//! skipped: a control plane may be a version ahead.

use prost_types::Struct;

use super::{
    encode::policy_values,
    field::{At, Fields},
    frontend::accept_proxy,
    policy,
    report::Report,
    scalar::networks,
    tree::Tree,
};
use crate::{
    frontend::AcceptProxy,
    policy::Policy,
    problem::{Place, Problem},
};
use ipnet::IpNet;

/// A fault: the path of keys to it, and what is wrong.
pub(crate) type Fault = (String, String);

/// What a frontend has besides the published fields.
#[derive(Debug, Default)]
pub(crate) struct FrontendExtras {
    pub(crate) allow: Option<Vec<IpNet>>,
    pub(crate) proxy_protocol: Option<AcceptProxy>,
}

/// Overwrites in `policy` what `values` say.
pub(crate) fn overlay_policy(values: &Struct, policy: &mut Policy) -> Result<(), Vec<Fault>> {
    let tree = Tree::of_struct(values);
    let mut report = Report::skipping_unknown();
    policy::overlay(At::root(&tree), &mut report, policy);
    faults(report)
}

/// The keys in which `policy` differs from `base`, with their values.
pub(crate) fn policy_difference(policy: &Policy, base: &Policy) -> Struct {
    let mut difference = Struct::default();
    let values = policy_values(policy).into_iter().zip(policy_values(base));
    for ((key, value), (_, old)) in values {
        if value != old {
            let mut report = Report::default();
            let tree = Tree::read(&value, &mut report).expect("we write valid YAML");
            let value = tree.to_value(tree.root());
            difference.fields.insert(key.to_owned(), value);
        }
    }
    difference
}

/// Reads `allow` and `proxyProtocol` of a frontend.
pub(crate) fn frontend_extras(values: &Struct) -> Result<FrontendExtras, Vec<Fault>> {
    let tree = Tree::of_struct(values);
    let mut report = Report::skipping_unknown();
    let mut extras = FrontendExtras::default();
    if let Some(fields) = Fields::open(At::root(&tree), &mut report, &["allow", "proxyProtocol"]) {
        extras.allow = fields.optional("allow", &mut report, networks);
        extras.proxy_protocol = fields.optional("proxyProtocol", &mut report, accept_proxy);
    }
    faults(report)?;
    Ok(extras)
}

fn faults(report: Report) -> Result<(), Vec<Fault>> {
    let (problems, _) = report.into_parts();
    if problems.is_empty() {
        return Ok(());
    }
    let fault = |problem: Problem| match problem.place {
        Place::File { path, .. } => (path, problem.message),
        Place::Resource { field, .. } => (field, problem.message),
    };
    Err(problems.into_iter().map(fault).collect())
}
