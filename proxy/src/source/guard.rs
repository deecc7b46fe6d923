//! The guard against removing a fleet by mistake.
//!
//! A file that was cut short, rendered from an empty list or mounted from the wrong place is valid
//! and serves nothing. Such a reload waits for a person: SIGHUP, or `allowMassRemoval: true`.

use fairlead_config::snapshot::Snapshot;

/// A reload that removes too much to go unasked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the reload would remove {removed} of {before} services; nothing was changed. \
     Send SIGHUP to confirm it, or set allowMassRemoval: true"
)]
pub struct MassRemoval {
    /// Services in force that the reload lacks.
    pub removed: usize,
    /// Services in force.
    pub before: usize,
}

/// Refuses to go from `old` to `new` when that removes every service, or more than half of ten or
/// more. O(services).
pub fn check(old: &Snapshot, new: &Snapshot) -> Result<(), MassRemoval> {
    let before = old.services.len();
    let gone = |name| !new.services.contains_key(name);
    let removed = old.services.keys().filter(|name| gone(*name)).count();
    let every = before > 0 && removed == before;
    let most = before >= MANY && removed * 2 > before;
    if every || most {
        Err(MassRemoval { removed, before })
    } else {
        Ok(())
    }
}

/// Below this many services, removing most of them is everyday work.
const MANY: usize = 10;

#[cfg(test)]
mod tests {
    use fairlead_config::{name::ServiceName, policy::Policy, service::Service};

    use super::*;

    /// Services `a/s<i>:p` for each `i`.
    fn snapshot(services: impl IntoIterator<Item = usize>) -> Snapshot {
        let mut snapshot = Snapshot::default();
        for index in services {
            let name = ServiceName::parse(&format!("a/s{index}:p")).unwrap();
            let service = Service {
                name: name.clone(),
                policy: Policy::default(),
                tiers: Vec::new(),
            };
            snapshot.services.insert(name, service.into());
        }
        snapshot
    }

    #[test]
    fn removing_every_service_or_most_of_many_needs_confirmation() {
        let refused =
            |old: usize, kept: usize| check(&snapshot(0..old), &snapshot(0..kept)).is_err();
        assert!(refused(1, 0));
        assert!(!refused(0, 0));
        assert!(!refused(9, 1), "most of nine is everyday work");
        assert!(refused(10, 4), "six of ten");
        assert!(!refused(10, 5), "half of ten");
        assert!(refused(11, 5), "six of eleven");
    }

    #[test]
    fn replacing_every_service_counts_as_removing_it() {
        let refused = check(&snapshot(0..3), &snapshot(3..6));
        let expected = MassRemoval {
            removed: 3,
            before: 3,
        };
        assert_eq!(refused, Err(expected));
        assert!(expected.to_string().contains("3 of 3 services"));
    }
}
