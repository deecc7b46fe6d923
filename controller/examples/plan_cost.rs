//! What one endpoint's change costs the hub as the fleet grows: plan, encode, publish.
//!
//! `cargo run --release -p fairlead-controller --example plan_cost`

use std::{collections::BTreeMap, time::Instant};

use fairlead_api::{
    export::{ExportRecord, ExportRecordSpec},
    labels,
    mcs::ServicePort,
    member::MemberCluster,
    proxy::{ProxyGroup, ProxyGroupSpec},
};
use fairlead_controller::{
    board::Board,
    plan::plan,
    world::{Dirty, Settings, World},
};
use k8s_openapi::{
    api::discovery::v1::{Endpoint, EndpointPort, EndpointSlice},
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time},
    jiff::Timestamp,
};

const SERVICES: usize = 10;
const ENDPOINTS: usize = 10;
const CHANGES: usize = 200;

fn main() {
    println!("members  endpoints  everything  one change (mean of {CHANGES})");
    for members in [10, 100, 1000] {
        run(members);
    }
}

fn run(members: usize) {
    let now = Time(Timestamp::UNIX_EPOCH);
    let (mut world, mut board) = (World::new(Settings::default()), Board::new(String::new()));
    let spec = ProxyGroupSpec {
        addresses: vec!["192.0.2.1".into()],
        services: vec!["*/*".into()],
        ..Default::default()
    };
    world.apply(ProxyGroup::new("edge", spec).into());
    for member in 0..members {
        world.apply(MemberCluster::new(&format!("m{member}"), Default::default()).into());
        for service in 0..SERVICES {
            world.apply(record(member, service).into());
            world.apply(slice(member, service, 0).into());
        }
    }
    let started = Instant::now();
    world.take_dirty();
    board.apply(&plan(&world, &Dirty::everything(), &now), 1);
    let everything = started.elapsed();
    let started = Instant::now();
    for change in 1..=CHANGES {
        world.apply(slice(change % members, change % SERVICES, change).into());
        let dirty = world.take_dirty();
        assert!(board.apply(&plan(&world, &dirty, &now), 2));
    }
    let each = started.elapsed() / u32::try_from(CHANGES).unwrap_or(1);
    let endpoints = members * SERVICES * ENDPOINTS;
    println!("{members:>7}  {endpoints:>9}  {everything:>10.1?}  {each:.1?}");
}

fn record(member: usize, service: usize) -> ExportRecord {
    let name = format!("s{service}");
    let mut record = ExportRecord::new(
        &labels::export_record_name("shop", &name),
        ExportRecordSpec {
            service_namespace: "shop".into(),
            service_name: name,
            ports: vec![ServicePort {
                name: Some("http".into()),
                port: 80,
                ..Default::default()
            }],
            ..Default::default()
        },
    );
    record.metadata.namespace = Some(labels::member_namespace(&format!("m{member}")));
    record
}

fn slice(member: usize, service: usize, change: usize) -> EndpointSlice {
    let name = format!("s{service}");
    let endpoint = |at: usize| Endpoint {
        addresses: vec![format!("10.{}.{}.{}", member / 256, member % 256, at + 1)],
        ..Default::default()
    };
    let mut endpoints: Vec<Endpoint> = (0..ENDPOINTS).map(endpoint).collect();
    // Another address each time, so that every change is one.
    endpoints.push(endpoint(20 + change % 199));
    EndpointSlice {
        address_type: "IPv4".into(),
        endpoints: Some(endpoints),
        ports: Some(vec![EndpointPort {
            name: Some("http".into()),
            port: Some(8080),
            ..Default::default()
        }]),
        metadata: ObjectMeta {
            name: Some(labels::slice_mirror_name("shop", &name, "s")),
            namespace: Some(labels::member_namespace(&format!("m{member}"))),
            labels: Some(BTreeMap::from([
                (labels::SERVICE_NAMESPACE.to_owned(), "shop".to_owned()),
                (labels::SERVICE_NAME.to_owned(), name),
            ])),
            ..Default::default()
        },
    }
}
