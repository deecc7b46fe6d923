//! What is there when a cluster starts: see [`table`] for roles and bindings.

pub(crate) mod table;

pub(crate) use table::shared_rules;
