//! Services: their tiers, members and endpoints.

use std::{collections::HashMap, sync::Arc};

use super::{
    field::{At, Fields, shown},
    frontend::{Placed, frontend},
    policy::policy,
    report::Report,
    scalar::{number, thousandths},
};
use crate::{
    endpoint::{ENDPOINT_WEIGHT_MAX, Endpoint, EndpointKey, Hop, ObjectState, Target},
    name::{MemberName, ServiceName},
    policy::Policy,
    rule,
    service::{ENDPOINTS_MAX, MEMBERS_MAX, Member, MemberWeight, Service, TIERS_MAX, Tier},
    snapshot::{Endpoints, Snapshot},
};

/// The services read so far.
#[derive(Default)]
pub(super) struct Services {
    pub(super) snapshot: Snapshot,
    pub(super) frontends: Vec<Placed>,
    /// Where each service stands.
    lines: HashMap<ServiceName, u32>,
}

/// One service's members and endpoints while they are read.
#[derive(Default)]
struct Members {
    lines: HashMap<MemberName, u32>,
    endpoints: Endpoints,
    endpoint_lines: HashMap<EndpointKey, u32>,
}

impl Services {
    /// Reads one service and adds it.
    pub(super) fn read(&mut self, at: At<'_>, report: &mut Report) -> Option<()> {
        let known = ["name", "frontends", "policy", "tiers"];
        let fields = Fields::open(at, report, &known)?;
        let name = fields.required("name", report, |at, report| self.name(at, report));
        // A service without a good name is still read, for its other problems.
        let checked = name.clone().unwrap_or_else(placeholder);
        fields.optional("frontends", report, |at, report| {
            let mut index = 0;
            at.list(report, |at, report| {
                let frontend = frontend(at, report, &checked, index);
                index += 1;
                self.frontends.push(Placed {
                    frontend: frontend?,
                    mark: at.mark(),
                    path: at.path_text(),
                });
                Some(())
            })
        });
        let policy = fields.optional("policy", report, policy);
        let mut members = Members::default();
        let tiers = fields.required("tiers", report, |at, report| members.tiers(at, report));
        self.add(name?, policy.unwrap_or_default(), tiers?, members.endpoints);
        Some(())
    }

    fn name(&mut self, at: At<'_>, report: &mut Report) -> Option<ServiceName> {
        let text = at.text(report, "a name: namespace/name:port")?;
        // The message of a bad name repeats the name itself.
        let name = match ServiceName::parse(text) {
            Ok(name) => name,
            Err(broken) => {
                at.fault(report, format!("{} {}", shown(text), broken.rule));
                return None;
            }
        };
        let line = at.mark().line;
        if let Some(first) = self.lines.insert(name.clone(), line) {
            at.fault(report, format!("{name} stands in line {first} already"));
        }
        Some(name)
    }

    fn add(&mut self, name: ServiceName, policy: Policy, tiers: Vec<Tier>, endpoints: Endpoints) {
        let service = Service {
            name: name.clone(),
            policy,
            tiers,
        };
        if !endpoints.is_empty() {
            let row = endpoints.into();
            self.snapshot.endpoints.insert(name.clone(), row);
        }
        self.snapshot.services.insert(name, service.into());
    }
}

impl Members {
    fn tiers(&mut self, at: At<'_>, report: &mut Report) -> Option<Vec<Tier>> {
        let tiers = at.list(report, |at, report| self.tier(at, report))?;
        let limits = [
            ("tiers", tiers.len(), TIERS_MAX),
            ("members", self.lines.len(), MEMBERS_MAX),
            ("endpoints", self.endpoints.len(), ENDPOINTS_MAX),
        ];
        for (what, count, max) in limits {
            if count > max {
                at.fault(report, format!("has {count} {what}, {max} is the limit"));
            }
        }
        Some(tiers)
    }

    fn tier(&mut self, at: At<'_>, report: &mut Report) -> Option<Tier> {
        let fields = Fields::open(at, report, &["members"])?;
        let members = fields.required("members", report, |at, report| {
            at.list(report, |at, report| self.member(at, report))
        })?;
        Some(Tier { members })
    }

    fn member(&mut self, at: At<'_>, report: &mut Report) -> Option<Member> {
        let fields = Fields::open(at, report, &["name", "weight", "endpoints"])?;
        let name = fields.required("name", report, |at, report| self.member_name(at, report));
        let weight = fields.optional("weight", report, |at, report| {
            let thousandths = thousandths(0..=1_000_000)(at, report)?;
            MemberWeight::from_thousandths(thousandths)
        });
        let checked = name
            .clone()
            .unwrap_or_else(|| MemberName::parse("unnamed").expect("a DNS label"));
        fields.optional("endpoints", report, |at, report| {
            at.list(report, |at, report| self.endpoint(at, report, &checked))
        });
        Some(Member {
            name: name?,
            weight: weight.unwrap_or(MemberWeight::DEFAULT),
        })
    }

    fn member_name(&mut self, at: At<'_>, report: &mut Report) -> Option<MemberName> {
        let text = at.text(report, "a member's name")?;
        let name = match MemberName::parse(text) {
            Ok(name) => name,
            Err(broken) => {
                at.fault(report, format!("{} {}", shown(text), broken.rule));
                return None;
            }
        };
        if let Some(first) = self.lines.insert(name.clone(), at.mark().line) {
            let message = format!("{name} is in this service already, in line {first}");
            at.fault(report, message);
        }
        Some(name)
    }

    fn endpoint(&mut self, at: At<'_>, report: &mut Report, member: &MemberName) -> Option<()> {
        let known = ["address", "dns", "weight", "zone", "state", "hop"];
        let fields = Fields::open(at, report, &known)?;
        if fields.has("address") == fields.has("dns") {
            at.fault(report, "needs address or dns, one of the two");
        }
        let address = fields.optional("address", report, |at, report| {
            let text = at.text(report, "an address with a port")?;
            at.check(report, rule::addr_target(text))
        });
        let dns = fields.optional("dns", report, |at, report| {
            let text = at.text(report, "a host name with a port")?;
            at.check(report, rule::dns_target(text))
        });
        let weight = fields.optional("weight", report, number(1..=ENDPOINT_WEIGHT_MAX));
        let zone = fields.optional("zone", report, |at, report| {
            let text = at.text(report, "the name of a zone")?;
            at.check(report, rule::zone(text))
        });
        let state = fields.optional("state", report, |at, report| at.choice(report, &STATES));
        fields.optional("hop", report, hop);
        self.put(
            at,
            report,
            Endpoint {
                key: EndpointKey {
                    member: member.clone(),
                    target: address.or(dns)?,
                },
                weight: weight.unwrap_or(1),
                zone,
                state: state.unwrap_or_default(),
                hop: Hop::Direct,
            },
        );
        Some(())
    }

    fn put(&mut self, at: At<'_>, report: &mut Report, endpoint: Endpoint) {
        let line = at.mark().line;
        if let Some(first) = self.endpoint_lines.insert(endpoint.key.clone(), line) {
            let target: &Target = &endpoint.key.target;
            let message = format!("{target} is in this member already, in line {first}");
            at.fault(report, message);
        }
        self.endpoints.insert(Arc::new(endpoint));
    }
}

/// Only `direct` today.
fn hop(at: At<'_>, report: &mut Report) -> Option<()> {
    if at.raw() == Some("direct") {
        return Some(());
    }
    if !at.is_map() {
        return at.choice(report, &[("direct", ())]);
    }
    let fields = Fields::open(at, report, &["via"])?;
    fields.required("via", report, |at, report| {
        at.fault(
            report,
            "gateways are not supported yet; remove hop, or write direct",
        );
        None
    })
}

fn placeholder() -> ServiceName {
    ServiceName::parse("unnamed/unnamed:0").expect("three DNS labels")
}

pub(super) const STATES: [(&str, ObjectState); 3] = [
    ("ready", ObjectState::Ready),
    ("not-ready", ObjectState::NotReady),
    ("draining", ObjectState::Draining),
];
