//! Which Listener has which frontends.
//!
//! A frontend is one Listener's. Listeners that are told together are judged together, by what all
//! of them will have: so two may swap their frontends, and more may pass theirs on in a ring.
//!
//! Cost: O(n log n) in the frontends told, once more for each step of a chain of Listeners that wait for
//! one another and at whose end is one that stays where it is.

use std::collections::BTreeMap;

use crate::{frontend::Frontend, name::FrontendName, snapshot::Change};

/// Who has what.
#[derive(Debug, Clone, Default)]
pub(super) struct Places {
    /// Listener to its frontends, and back.
    listeners: BTreeMap<String, Vec<FrontendName>>,
    owners: BTreeMap<FrontendName, String>,
}

/// Listeners with what they are to have.
pub(super) type Told = BTreeMap<String, Vec<Frontend>>;

/// A Listener that finds a frontend taken.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Displaced {
    pub(super) listener: String,
    pub(super) frontend: FrontendName,
    pub(super) owner: String,
}

impl Places {
    /// Gives as many of the Listeners what they are to have as can have it together; the others
    /// keep what they had.
    pub(super) fn put(&mut self, mut told: Told, changes: &mut Vec<Change>) -> Vec<Displaced> {
        let displaced = self.settle(&mut told);
        let mut gone = Vec::new();
        for listener in told.keys() {
            for name in self.listeners.remove(listener).unwrap_or_default() {
                self.owners.remove(&name);
                gone.push(name);
            }
        }
        let mut come = Vec::new();
        for (listener, frontends) in told {
            let names: Vec<FrontendName> = frontends.iter().map(|row| row.name.clone()).collect();
            for name in &names {
                self.owners.insert(name.clone(), listener.clone());
            }
            self.listeners.insert(listener, names);
            come.extend(frontends);
        }
        gone.retain(|name| !self.owners.contains_key(name));
        changes.extend(gone.into_iter().map(Change::RemoveFrontend));
        changes.extend(come.into_iter().map(Change::Frontend));
        displaced
    }

    /// Takes a Listener's frontends away.
    pub(super) fn remove(&mut self, listener: &str, changes: &mut Vec<Change>) {
        for name in self.listeners.remove(listener).unwrap_or_default() {
            self.owners.remove(&name);
            changes.push(Change::RemoveFrontend(name));
        }
    }

    /// Takes out of `told` what can't be. One that is taken out keeps what it has, which may be in
    /// the way of another one: so on until nothing is. Those that are told one frontend get at each
    /// other only when nobody else is in their way.
    fn settle(&self, told: &mut Told) -> Vec<Displaced> {
        let mut displaced = Vec::new();
        loop {
            let mut round = self.in_the_way_of_outsiders(told);
            if round.is_empty() {
                round = self.claimed_twice(told);
            }
            if round.is_empty() {
                return displaced;
            }
            for one in &round {
                told.remove(&one.listener);
            }
            displaced.extend(round);
        }
    }

    fn in_the_way_of_outsiders(&self, told: &Told) -> Vec<Displaced> {
        let in_the_way = |(listener, frontends): (&String, &Vec<Frontend>)| {
            frontends.iter().find_map(|frontend| {
                let owner = self.owners.get(&frontend.name)?;
                (!told.contains_key(owner)).then(|| Displaced {
                    listener: listener.clone(),
                    frontend: frontend.name.clone(),
                    owner: owner.clone(),
                })
            })
        };
        told.iter().filter_map(in_the_way).collect()
    }

    /// Who has a frontend already and is told it again keeps it.
    fn claimed_twice(&self, told: &Told) -> Vec<Displaced> {
        let claims = |keeps: bool| {
            let all = told.iter().flat_map(|(listener, frontends)| {
                frontends.iter().map(move |row| (listener, &row.name))
            });
            all.filter(move |(listener, name)| (self.owners.get(*name) == Some(*listener)) == keeps)
        };
        let mut owners: BTreeMap<&FrontendName, &String> = BTreeMap::new();
        let mut displaced: BTreeMap<&String, Displaced> = BTreeMap::new();
        for (listener, name) in claims(true).chain(claims(false)) {
            let owner = *owners.entry(name).or_insert(listener);
            if owner != listener {
                displaced.entry(listener).or_insert_with(|| Displaced {
                    listener: listener.clone(),
                    frontend: name.clone(),
                    owner: owner.clone(),
                });
            }
        }
        displaced.into_values().collect()
    }
}
