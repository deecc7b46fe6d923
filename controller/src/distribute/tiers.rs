//! Members in order of preference, seen from where the proxies are.

use std::collections::BTreeMap;

use fairlead_api::{
    labels,
    proxy::ProxyGroup,
    service::{Relative, TierSpec},
};
use fairlead_config::{
    name::MemberName,
    service::{MEMBERS_MAX, Member, TIERS_MAX, Tier},
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use super::{Backend, BackendPort, weigh};
use crate::world::{ServiceKey, World};

/// Where something is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Place {
    /// The member, if it is in one.
    pub member: Option<MemberName>,
    /// The region, if known.
    pub region: Option<String>,
    /// The zone, if known.
    pub zone: Option<String>,
}

impl Place {
    /// Where a member is, by the labels of its MemberCluster.
    pub fn of_member(world: &World, name: &MemberName) -> Self {
        let member = world.members.get(name);
        let label = |key: &str| member.and_then(|member| member.labels.get(key)).cloned();
        Self {
            member: Some(name.clone()),
            region: label(labels::REGION),
            zone: label(labels::ZONE),
        }
    }

    /// Where a proxy group is: where its member is, else where it says.
    pub fn of_group(world: &World, group: &ProxyGroup) -> Self {
        let member = group.spec.member.as_deref().map(MemberName::parse);
        if let Some(Ok(member)) = member {
            return Self::of_member(world, &member);
        }
        let locality = group.spec.locality.clone().unwrap_or_default();
        Self {
            member: None,
            region: locality.region,
            zone: locality.zone,
        }
    }
}

/// The first tier that selects a member, from 0. Without tiers everybody is in tier 0.
pub fn tier_of(
    tiers: &[TierSpec],
    world: &World,
    member: &MemberName,
    from: &Place,
) -> Option<usize> {
    if tiers.is_empty() {
        return Some(0);
    }
    let place = Place::of_member(world, member);
    let none = BTreeMap::new();
    let labels = world
        .members
        .get(member)
        .map_or(&none, |member| &member.labels);
    tiers.iter().position(|tier| {
        let named = tier.members.iter().any(|name| name == member.as_str());
        let selected = tier
            .selector
            .as_ref()
            .is_some_and(|selector| selects(selector, labels));
        let near = tier
            .relative
            .is_some_and(|relative| is_near(relative, &place, from));
        named || selected || near
    })
}

/// The tiers of a port. Members without an endpoint for it are left out, and with them tiers that
/// would be empty.
pub(super) fn tiers(
    world: &World,
    key: &ServiceKey,
    backend: &Backend,
    port: &BackendPort,
    from: &Place,
) -> Vec<Tier> {
    let specs = backend.policy.as_ref().map(|policy| &policy.spec.tiers[..]);
    let specs = specs.unwrap_or_default();
    let mut tiers = vec![Tier::default(); specs.len().max(1)];
    let mut last: Option<&MemberName> = None;
    let mut count = 0;
    for endpoint in port.endpoints.keys() {
        if last == Some(&endpoint.member) {
            continue;
        }
        last = Some(&endpoint.member);
        let Some(at) = tier_of(specs, world, &endpoint.member, from) else {
            continue;
        };
        count += 1;
        if count > MEMBERS_MAX {
            break;
        }
        let weight = weigh(world, key, backend, &endpoint.member, Some(at));
        tiers[at].members.push(Member {
            name: endpoint.member.clone(),
            weight: weight.effective,
        });
    }
    tiers.retain(|tier| !tier.members.is_empty());
    tiers.truncate(TIERS_MAX);
    tiers
}

fn is_near(relative: Relative, place: &Place, from: &Place) -> bool {
    let same = |a: &Option<String>, b: &Option<String>| a.is_some() && a == b;
    match relative {
        Relative::SameMember => from.member.is_some() && from.member == place.member,
        Relative::SameZone => same(&from.region, &place.region) && same(&from.zone, &place.zone),
        Relative::SameRegion => same(&from.region, &place.region),
    }
}

/// Kubernetes' rules; an operator that is none of them selects nothing.
fn selects(selector: &LabelSelector, labels: &BTreeMap<String, String>) -> bool {
    let exact = selector.match_labels.iter().flatten();
    let mut expressions = selector.match_expressions.iter().flatten();
    exact
        .into_iter()
        .all(|(key, value)| labels.get(key) == Some(value))
        && expressions.all(|rule| {
            let have = labels.get(&rule.key);
            let listed = |value: &String| rule.values.iter().flatten().any(|one| one == value);
            match rule.operator.as_str() {
                "In" => have.is_some_and(listed),
                "NotIn" => !have.is_some_and(listed),
                "Exists" => have.is_some(),
                "DoesNotExist" => have.is_none(),
                _ => false,
            }
        })
}
