//! Whether the hub's store is still the one that this agent wrote to.
//!
//! A store restored from a back-up has lost writes, and watches on it may wait for ever for numbers
//! that do not come. Two signs tell: the heartbeat's own resourceVersion goes back, or the hub states
//! another epoch on it. Each makes the agent list its hub namespace anew, write what is missing, and
//! report the epoch it did so in.

/// The hub's store as the agent last saw it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HubStore {
    /// How often it turned out to be another.
    pub generation: u64,
    /// What the hub calls it; `None` until it was restored once.
    pub epoch: Option<String>,
    version: u64,
}

impl HubStore {
    /// Takes in a heartbeat as the hub answered it. Says whether everything has to be listed anew.
    pub fn heartbeat(&mut self, version: u64, epoch: Option<String>) -> bool {
        let first = self.version == 0;
        let other = version < self.version || epoch != self.epoch;
        self.version = version;
        self.epoch = epoch;
        if other && !first {
            self.generation += 1;
        }
        other && !first
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_is_another_when_its_numbers_go_back_or_the_hub_says_so() {
        let mut store = HubStore::default();
        let epoch = |text: &str| Some(text.to_owned());
        assert!(!store.heartbeat(100, None), "the first look");
        assert!(!store.heartbeat(105, None));
        assert!(store.heartbeat(40, None), "its numbers went back");
        assert!(
            store.heartbeat(45, epoch("two")),
            "the hub has noticed as well"
        );
        assert!(!store.heartbeat(50, epoch("two")));
        assert!(store.heartbeat(60, epoch("three")));
        assert_eq!(store.generation, 3);
        let mut fresh = HubStore::default();
        assert!(!fresh.heartbeat(50, epoch("two")), "it has listed just now");
        assert_eq!(fresh.epoch.as_deref(), Some("two"));
    }
}
