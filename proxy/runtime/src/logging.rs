//! Log lines on standard error: for people, or as JSON.

use std::io::IsTerminal;

use tracing_subscriber::{EnvFilter, filter::ParseError, fmt};

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// For people; in colour on a terminal.
    #[default]
    Text,
    /// One JSON object a line, fields at the top level.
    Json,
}

/// Why logging couldn't start.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The filter can't be understood.
    #[error("log filter {filter:?} is none; write a level such as info, or module=level,...")]
    Filter {
        /// As given.
        filter: String,
        /// What is wrong with it.
        #[source]
        source: ParseError,
    },
    /// Somebody set up logging before.
    #[error("logging was set up already")]
    SetUp,
}

/// Starts logging what `filter` lets through (`info`, or `warn,fairlead_proxy::health=debug`).
///
/// Standard output stays free for access logs.
pub fn start(filter: &str, format: Format) -> Result<(), LogError> {
    let filter = parse(filter)?;
    let builder = fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    let started = match format {
        Format::Text => builder.with_target(false).try_init(),
        Format::Json => builder.json().flatten_event(true).try_init(),
    };
    started.map_err(|_| LogError::SetUp)
}

/// Whether a filter can be understood.
pub fn check(filter: &str) -> Result<(), LogError> {
    parse(filter).map(drop)
}

fn parse(filter: &str) -> Result<EnvFilter, LogError> {
    EnvFilter::builder()
        .parse(filter)
        .map_err(|source| LogError::Filter {
            filter: filter.to_owned(),
            source,
        })
}

/// An error with everything below it, in one line: "transport error" alone helps nobody.
pub fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text.push_str(&format!(": {inner}"));
        cause = inner.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_are_checked() {
        check("info").unwrap();
        check("warn,fairlead_proxy::health=debug").unwrap();
        let error = check("loud=very=much").unwrap_err();
        assert!(error.to_string().contains("loud=very=much"));
    }
}
