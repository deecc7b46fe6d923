//! The endpoints of one service, as a table.
//!
//! A sorted list of shared rows: 8 bytes an endpoint beside the row itself, where a map would hold
//! every key twice. A million endpoints is what a proxy may be told, so that counts. Looking up is
//! O(log n); inserting or removing one moves up to n pointers, which at the limit of 100,000 is less
//! than copying the table, and that is what every change costs anyway.

use std::{ops::Index, sync::Arc};

use crate::{
    endpoint::{Endpoint, EndpointKey},
    name::MemberName,
};

/// The endpoints of one service, ordered by member and address.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Endpoints(Vec<Arc<Endpoint>>);

impl Endpoints {
    /// An empty table.
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The row of a key.
    pub fn get(&self, key: &EndpointKey) -> Option<&Arc<Endpoint>> {
        self.place(key).ok().map(|place| &self.0[place])
    }

    /// Whether there is a row of this key.
    pub fn contains_key(&self, key: &EndpointKey) -> bool {
        self.place(key).is_ok()
    }

    /// Adds or replaces a row; the answer is the one that it replaces.
    pub fn insert(&mut self, endpoint: Arc<Endpoint>) -> Option<Arc<Endpoint>> {
        match self.place(&endpoint.key) {
            Ok(place) => Some(std::mem::replace(&mut self.0[place], endpoint)),
            Err(place) => {
                self.0.insert(place, endpoint);
                None
            }
        }
    }

    /// Removes a row.
    pub fn remove(&mut self, key: &EndpointKey) -> Option<Arc<Endpoint>> {
        let place = self.place(key).ok()?;
        Some(self.0.remove(place))
    }

    /// The rows of one member, in the order of their targets.
    pub fn of_member(&self, member: &MemberName) -> &[Arc<Endpoint>] {
        let start = self.0.partition_point(|row| row.key.member < *member);
        let rest = &self.0[start..];
        &rest[..rest.partition_point(|row| row.key.member == *member)]
    }

    /// The keys, in order.
    pub fn keys(&self) -> impl DoubleEndedIterator<Item = &EndpointKey> + ExactSizeIterator {
        self.0.iter().map(|row| &row.key)
    }

    /// The rows, in the order of their keys.
    pub fn values(&self) -> std::slice::Iter<'_, Arc<Endpoint>> {
        self.0.iter()
    }

    /// Keys and rows, in order.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (&EndpointKey, &Arc<Endpoint>)> {
        self.0.iter().map(|row| (&row.key, row))
    }

    /// Changes every row in place; keys stay what they are.
    pub fn for_each(&mut self, mut change: impl FnMut(&mut Arc<Endpoint>)) {
        for row in &mut self.0 {
            let key = row.key.clone();
            change(row);
            assert_eq!(row.key, key, "a change of a row keeps its key");
        }
    }

    fn place(&self, key: &EndpointKey) -> Result<usize, usize> {
        // Rows come in order as a rule: look at the end first.
        match self.0.last() {
            Some(last) if last.key < *key => Err(self.0.len()),
            _ => self.0.binary_search_by(|row| row.key.cmp(key)),
        }
    }
}

/// Of two rows with one key the later one counts.
impl FromIterator<Arc<Endpoint>> for Endpoints {
    fn from_iter<I: IntoIterator<Item = Arc<Endpoint>>>(rows: I) -> Self {
        let mut rows: Vec<Arc<Endpoint>> = rows.into_iter().collect();
        rows.reverse();
        rows.sort_by(|one, other| one.key.cmp(&other.key));
        rows.dedup_by(|later, kept| later.key == kept.key);
        rows.shrink_to_fit();
        Self(rows)
    }
}

impl FromIterator<(EndpointKey, Arc<Endpoint>)> for Endpoints {
    fn from_iter<I: IntoIterator<Item = (EndpointKey, Arc<Endpoint>)>>(rows: I) -> Self {
        rows.into_iter().map(|(_, row)| row).collect()
    }
}

impl<'a> IntoIterator for &'a Endpoints {
    type Item = (&'a EndpointKey, &'a Arc<Endpoint>);
    type IntoIter = std::iter::Map<
        std::slice::Iter<'a, Arc<Endpoint>>,
        fn(&'a Arc<Endpoint>) -> (&'a EndpointKey, &'a Arc<Endpoint>),
    >;

    fn into_iter(self) -> Self::IntoIter {
        self.0.iter().map(|row| (&row.key, row))
    }
}

impl Index<&EndpointKey> for Endpoints {
    type Output = Arc<Endpoint>;

    fn index(&self, key: &EndpointKey) -> &Arc<Endpoint> {
        self.get(key).expect("the key of a row")
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, net::Ipv4Addr};

    use proptest::prelude::*;

    use super::*;
    use crate::endpoint::{Hop, ObjectState, Target};

    fn row(member: u8, number: u8, weight: u16) -> Arc<Endpoint> {
        let name = ["a", "b", "c"][usize::from(member % 3)];
        let addr = (Ipv4Addr::new(10, 0, 0, number), 80).into();
        Arc::new(Endpoint {
            key: EndpointKey {
                member: MemberName::parse(name).expect("a label"),
                target: Target::Addr(addr),
            },
            weight,
            zone: None,
            state: ObjectState::Ready,
            hop: Hop::Direct,
        })
    }

    // A million of them is what a proxy may hold; see the scale example of the proxy.
    #[test]
    fn an_endpoint_costs_at_most_88_bytes() {
        let size = size_of::<Endpoint>();
        assert!(size <= 88, "{size}");
    }

    proptest! {
        #[test]
        fn it_holds_what_a_map_would_hold(
            steps in prop::collection::vec((0u8..3, 0u8..20, 1u16..9, prop::bool::weighted(0.3)), 0..60),
        ) {
            let mut table = Endpoints::default();
            let mut map = BTreeMap::new();
            for (member, number, weight, remove) in steps {
                let row = row(member, number, weight);
                if remove {
                    prop_assert_eq!(table.remove(&row.key), map.remove(&row.key));
                } else {
                    let before = table.insert(row.clone());
                    prop_assert_eq!(before, map.insert(row.key.clone(), row));
                }
                prop_assert_eq!(table.len(), map.len());
            }
            prop_assert!(table.iter().eq(map.iter()));
            prop_assert!(map.keys().all(|key| table.get(key) == map.get(key)));
            let member = MemberName::parse("b").expect("a label");
            let of_member = map.values().filter(|row| row.key.member == member);
            prop_assert!(table.of_member(&member).iter().eq(of_member));
            prop_assert_eq!(map.into_iter().collect::<Endpoints>(), table);
        }

        #[test]
        fn of_two_rows_with_one_key_the_later_counts(first in 1u16..9, second in 1u16..9) {
            let table: Endpoints = [row(0, 1, first), row(0, 0, 1), row(0, 1, second)].into_iter().collect();
            let weights: Vec<u16> = table.values().map(|row| row.weight).collect();
            prop_assert_eq!(weights, [1, second]);
        }
    }
}
