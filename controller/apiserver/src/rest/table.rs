//! Tables: what `kubectl get` shows.

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::error::ApiError;

mod columns;

pub(super) use columns::{of as columns_of, of_scale as scale_columns};

/// Which part of each object a row carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Include {
    None,
    Metadata,
    Object,
}

/// A table without its rows.
pub(super) struct Head {
    pub(super) metadata: Value,
    pub(super) columns: Vec<columns::Filled>,
    /// Say what the columns are.
    pub(super) definitions: bool,
}

/// One column: its definition and how to fill it.
pub(super) struct Column {
    name: &'static str,
    kind: &'static str,
    format: &'static str,
    /// Zero is always shown, more only with `-o wide`.
    priority: u8,
    cell: fn(&Value, Timestamp) -> Value,
}

impl Include {
    pub(super) fn parse(text: Option<&str>) -> Result<Self, ApiError> {
        match text {
            None | Some("Metadata") => Ok(Self::Metadata),
            Some("None") => Ok(Self::None),
            Some("Object") => Ok(Self::Object),
            Some(other) => Err(ApiError::bad_request(format!(
                "Unable to convert to Table as requested: includeObject: Invalid value: \
                 {other:?}: must be 'Metadata', 'Object', 'None', or empty"
            ))),
        }
    }
}

/// The table of some objects of one resource.
pub(super) fn table(head: &Head, objects: &[Value], include: Include, now: Timestamp) -> Value {
    let columns = &head.columns;
    let defined: Vec<_> = columns.iter().map(columns::Filled::definition).collect();
    let rows: Vec<_> = objects
        .iter()
        .map(|object| {
            let cells: Vec<_> = columns
                .iter()
                .map(|column| column.cell(object, now))
                .collect();
            let mut row = json!({"cells": cells});
            match include {
                Include::None => {}
                Include::Metadata => {
                    row["object"] = json!({
                        "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1",
                        "metadata": object["metadata"],
                    });
                }
                Include::Object => row["object"] = object.clone(),
            }
            row
        })
        .collect();
    json!({
        "kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": head.metadata,
        "columnDefinitions": if head.definitions { json!(defined) } else { Value::Null },
        "rows": rows,
    })
}

/// Time since a timestamp in the short form of `kubectl get`: `5s`, `3m20s`, `2d4h`, `3y12d`.
pub(super) fn age(since: &Value, now: Timestamp) -> String {
    let Some(since) = since
        .as_str()
        .and_then(|text| text.parse::<Timestamp>().ok())
    else {
        return "<unknown>".to_owned();
    };
    human_duration(now.duration_since(since).as_secs())
}

fn human_duration(seconds: i64) -> String {
    let (minutes, hours) = (seconds / 60, seconds / 3600);
    let days = hours / 24;
    let pair = |big: i64, unit: char, small: i64, small_unit: char| {
        if small == 0 {
            format!("{big}{unit}")
        } else {
            format!("{big}{unit}{small}{small_unit}")
        }
    };
    match seconds {
        ..-1 => "<invalid>".to_owned(),
        -1..0 => "0s".to_owned(),
        0..120 => format!("{seconds}s"),
        120..600 => pair(minutes, 'm', seconds % 60, 's'),
        600..10_800 => format!("{minutes}m"),
        10_800..28_800 => pair(hours, 'h', minutes % 60, 'm'),
        28_800..172_800 => format!("{hours}h"),
        172_800..691_200 => pair(days, 'd', hours % 24, 'h'),
        691_200..63_072_000 => format!("{days}d"),
        63_072_000..252_288_000 => pair(days / 365, 'y', days % 365, 'd'),
        _ => format!("{}y", days / 365),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_read_as_kubectl_prints_them() {
        for (seconds, shown) in [
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (200, "3m20s"),
            (600, "10m"),
            (10_799, "179m"),
            (10_860, "3h1m"),
            (86_400, "24h"),
            (172_800, "2d"),
            (187_200, "2d4h"),
            (30 * 86_400, "30d"),
            (800 * 86_400, "2y70d"),
            (3000 * 86_400, "8y"),
            (-5, "<invalid>"),
        ] {
            assert_eq!(human_duration(seconds), shown, "{seconds} s");
        }
    }
}
