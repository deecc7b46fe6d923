//! What one endpoint's change costs the hub as the fleet grows: plan, encode, publish, and tell a stream.
//! What a fleet takes of memory: World and board, without the objects that watches hold.
//!
//! `cargo run --profile quick -p fairlead-controller --example plan_cost`

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use fairlead_api::{
    export::{ExportRecord, ExportRecordSpec},
    labels,
    mcs::ServicePort,
    member::MemberCluster,
    proxy::{ProxyGroup, ProxyGroupSpec},
};
use fairlead_config::xds::proto::discovery::DeltaDiscoveryRequest;
use fairlead_controller::{
    board::{Board, Type},
    plan::plan,
    stream::Stream,
    world::{Dirty, Settings, World},
};
use k8s_openapi::{
    api::discovery::v1::{Endpoint, EndpointPort, EndpointSlice},
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time},
    jiff::Timestamp,
};
use prost::Message;

const SERVICES: usize = 10;
const ENDPOINTS: usize = 10;
const CHANGES: usize = 200;
const STREAMS: usize = 20;

fn main() {
    println!(
        "members  endpoints  everything  a change (mean of {CHANGES})  of that to plan  \
         a stream  bytes told  memory an endpoint  a stream"
    );
    for members in [10, 100, 1000] {
        run(members);
    }
}

fn run(members: usize) {
    let empty = resident();
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
    let endpoints = members * SERVICES * ENDPOINTS;
    let filled = resident().saturating_sub(empty);

    let mut streams: Vec<Stream> = (0..STREAMS).map(|_| follow(&board)).collect();
    let of_streams = resident().saturating_sub(empty + filled) / STREAMS;
    let (mut planning, mut applying, mut telling) =
        (Duration::ZERO, Duration::ZERO, Duration::ZERO);
    let mut bytes = 0;
    for change in 1..=CHANGES {
        let started = Instant::now();
        world.apply(slice(change % members, change % SERVICES, change).into());
        let dirty = world.take_dirty();
        let decided = plan(&world, &dirty, &now);
        planning += started.elapsed();
        let started = Instant::now();
        assert!(board.apply(&decided, 2));
        applying += started.elapsed();
        let started = Instant::now();
        for stream in &mut streams {
            bytes += say(stream, &board);
        }
        telling += started.elapsed();
    }
    let count = u32::try_from(CHANGES).unwrap_or(1);
    let each = (planning + applying) / count;
    println!(
        "{members:>7}  {endpoints:>9}  {everything:>10.1?}  {each:>25.1?}  {:>15.1?}  {:>8.1?}  {:>10}  {:>16} B  {of_streams:>6} B",
        planning / count,
        telling / count / u32::try_from(STREAMS).unwrap_or(1),
        bytes / CHANGES / STREAMS,
        filled / endpoints,
    );
}

/// A stream of a proxy that has everything.
fn follow(board: &Board) -> Stream {
    let mut stream = Stream::default();
    for of in Type::OF_PROXIES {
        stream.hear(&DeltaDiscoveryRequest {
            type_url: of.url().to_owned(),
            ..DeltaDiscoveryRequest::default()
        });
    }
    say(&mut stream, board);
    stream
}

/// What there is to tell, acknowledged at once; its size.
fn say(stream: &mut Stream, board: &Board) -> usize {
    let Some(table) = board.group("edge") else {
        return 0;
    };
    let (chunks, revision) = (board.chunks(), board.revision());
    let mut bytes = 0;
    for response in stream.say_with(table, chunks, revision, &Type::OF_PROXIES) {
        bytes += response.encode_to_vec().len();
        stream.hear(&DeltaDiscoveryRequest {
            type_url: response.type_url,
            response_nonce: response.nonce,
            ..DeltaDiscoveryRequest::default()
        });
    }
    bytes
}

/// Bytes of memory that the process has.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = status.split(' ').nth(1).and_then(|text| text.parse().ok());
    pages.unwrap_or(0) * 4096
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
