use std::{net::IpAddr, time::Duration};

use fairlead_config::{snapshot, yaml};

use super::*;
use crate::{
    dns::{Failure, Found},
    registry::{EndpointState, Flags},
};

#[test]
fn a_dns_name_becomes_endpoints_and_an_address_gone_from_the_answer_keeps_its_sessions() {
    let mut rig = Rig::new(r#"{ dns: "x.example:80" }, { address: "10.0.0.9:80" }"#);
    assert_eq!(rig.control.unanswered_names(), 1);
    assert_eq!(rig.control.take_lookups(), [Host::from("x.example")]);
    assert_eq!(rig.addrs(), ["10.0.0.9:80"]);
    rig.found(&["10.0.0.1", "10.0.0.2"]);
    assert_eq!(rig.control.unanswered_names(), 0);
    assert_eq!(rig.addrs(), ["10.0.0.1:80", "10.0.0.2:80", "10.0.0.9:80"]);
    let first = rig.endpoint("10.0.0.1:80");
    let live = first.begin();

    rig.ask_again();
    rig.found(&["10.0.0.2"]);
    assert_eq!(rig.addrs(), ["10.0.0.2:80", "10.0.0.9:80"]);
    assert!(first.flags().has(Flags::REMOVED), "no new sessions");
    assert_eq!(
        rig.control.leaving.next_deadline(),
        None,
        "the live ones have no deadline"
    );
    drop(live);

    // One that is gone from the file has.
    let static_one = rig.endpoint("10.0.0.9:80");
    let _live = static_one.begin();
    rig.apply(r#"{ dns: "x.example:80" }"#);
    assert!(rig.control.leaving.next_deadline().is_some());
}

#[test]
fn a_failed_look_up_keeps_what_was_known_and_is_counted() {
    let mut rig = Rig::new(r#"{ dns: "x.example:80" }"#);
    rig.control.take_lookups();
    rig.found(&["10.0.0.1"]);
    rig.ask_again();
    rig.control.looked(Looked {
        host: "x.example".into(),
        result: Err(Failure::NoName),
    });
    assert_eq!(rig.addrs(), ["10.0.0.1:80"]);
    let lookups = &rig.control.fleet.metrics.process.dns_lookups;
    assert_eq!(lookups.value(crate::metrics::DnsResult::NoName), 1);
    assert_eq!(lookups.value(crate::metrics::DnsResult::Answered), 1);
}

#[test]
fn a_name_that_left_the_file_is_asked_for_no_more() {
    let mut rig = Rig::new(r#"{ dns: "x.example:80" }"#);
    rig.apply(r#"{ address: "10.0.0.9:80" }"#);
    assert_eq!(rig.control.take_lookups(), [] as [Host; 0]);
    rig.apply(r#"{ dns: "y.example:80" }"#);
    assert_eq!(rig.control.take_lookups(), [Host::from("y.example")]);
}

struct Rig {
    control: Control,
    clock: Clock,
}

impl Rig {
    fn new(endpoints: &str) -> Self {
        let clock = Clock::manual(Tick(1_000_000_000));
        let metrics = Metrics::new(1);
        let fleet = Fleet::new(1, metrics.clone(), clock.clone()).unwrap();
        let options = Options {
            seed: 7,
            budget: Budget::of_files(16),
            ..Options::default()
        };
        let control = Control::new(fleet, clock.clone(), Sinks::new(1, metrics), options);
        let mut rig = Self { control, clock };
        rig.apply(endpoints);
        rig
    }

    fn apply(&mut self, endpoints: &str) {
        let text = format!(
            "services: [ {{ name: t/s:p, tiers: [ {{ members: [ {{ name: m, endpoints: [ {endpoints} ] }} ] }} ] }} ]"
        );
        let file = yaml::parse(text.as_bytes()).unwrap_or_else(|problems| panic!("{problems}"));
        let delta = snapshot::diff(self.control.snapshot(), &file.snapshot);
        assert_eq!(self.control.apply(delta).problems, []);
    }

    fn found(&mut self, addresses: &[&str]) {
        let addresses = addresses
            .iter()
            .map(|ip| ip.parse::<IpAddr>().unwrap())
            .collect();
        let result = Ok(Found {
            addresses,
            ttl: Duration::from_secs(5),
        });
        self.control.looked(Looked {
            host: "x.example".into(),
            result,
        });
    }

    fn ask_again(&mut self) {
        self.clock.advance(Duration::from_secs(5));
        assert_eq!(self.control.take_lookups(), [Host::from("x.example")]);
    }

    fn endpoints(&mut self) -> Vec<Arc<EndpointState>> {
        let name = ServiceName::parse("t/s:p").unwrap();
        let view = self
            .control
            .directory()
            .service(&name)
            .unwrap()
            .view()
            .clone()
            .unwrap();
        view.endpoints()
            .map(|(_, entry)| entry.state.clone())
            .collect()
    }

    fn addrs(&mut self) -> Vec<String> {
        self.endpoints()
            .iter()
            .map(|endpoint| endpoint.addr.to_string())
            .collect()
    }

    fn endpoint(&mut self, addr: &str) -> Arc<EndpointState> {
        let mut all = self.endpoints().into_iter();
        all.find(|endpoint| endpoint.addr.to_string() == addr)
            .unwrap()
    }
}
