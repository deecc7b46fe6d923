//! When a connect is retried, raced or given up.
pub mod budget;
