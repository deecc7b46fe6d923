//! Exports and weights asked for by annotation.
//!
//! A value that cannot be read is a fault of its own: the earlier state stays, and a condition says
//! what to write instead.

use std::collections::BTreeMap;

use fairlead_api::labels::{EXPORT, FLEET_WEIGHT, WEIGHT};

/// Annotations of one object.
pub type Annotations = BTreeMap<String, String>;

/// An annotation that cannot be read: what and what to do, one sentence.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("annotation {key} is {value:?}; {rule}")]
pub struct BadAnnotation {
    /// Its key.
    pub key: &'static str,
    /// Its value.
    pub value: String,
    /// What it should be.
    pub rule: &'static str,
}

/// Whether the annotations ask for an export; `None` where they say nothing.
pub fn export(annotations: &Annotations) -> Result<Option<bool>, BadAnnotation> {
    match annotations.get(EXPORT).map(String::as_str) {
        None => Ok(None),
        Some("true") => Ok(Some(true)),
        Some("false") => Ok(Some(false)),
        Some(value) => Err(BadAnnotation {
            key: EXPORT,
            value: value.to_owned(),
            rule: "write \"true\" to export, or remove it",
        }),
    }
}

/// The weight that the annotations give, 0 to 1000; ours before Fleet's.
pub fn weight(annotations: &Annotations) -> Result<Option<i32>, BadAnnotation> {
    let found = [WEIGHT, FLEET_WEIGHT]
        .into_iter()
        .find_map(|key| Some((key, annotations.get(key)?)));
    let Some((key, value)) = found else {
        return Ok(None);
    };
    match value.parse::<i32>() {
        Ok(weight @ 0..=1000) => Ok(Some(weight)),
        _ => Err(BadAnnotation {
            key,
            value: value.clone(),
            rule: "write a whole number from 0 (drain) to 1000",
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn annotated(key: &str, value: &str) -> Annotations {
        [(key.to_owned(), value.to_owned())].into()
    }

    #[test]
    fn only_true_and_false_are_answers() {
        assert_eq!(export(&Annotations::new()), Ok(None));
        assert_eq!(export(&annotated(EXPORT, "true")), Ok(Some(true)));
        assert_eq!(export(&annotated(EXPORT, "false")), Ok(Some(false)));
        let fault = export(&annotated(EXPORT, "yes")).unwrap_err();
        assert_eq!(
            fault.to_string(),
            "annotation fairlead.dev/export is \"yes\"; write \"true\" to export, or remove it"
        );
    }

    #[test]
    fn weights_are_whole_numbers_up_to_1000_and_ours_wins() {
        for (value, expected) in [("0", Some(0)), ("1000", Some(1000)), ("07", Some(7))] {
            assert_eq!(weight(&annotated(WEIGHT, value)), Ok(expected));
        }
        for value in ["-1", "1001", "1.5", "", "many"] {
            assert!(weight(&annotated(WEIGHT, value)).is_err(), "{value}");
        }
        let mut both = annotated(WEIGHT, "3");
        both.extend(annotated(FLEET_WEIGHT, "9"));
        assert_eq!(weight(&both), Ok(Some(3)));
        assert_eq!(weight(&annotated(FLEET_WEIGHT, "9")), Ok(Some(9)));
    }
}
