use std::sync::Arc;

use fairlead_config::xds::{
    proto,
    service::{Answers, LoadReportingServer},
};
use fairlead_runtime::clock::Clock;
use tokio::{
    net::TcpListener,
    sync::{mpsc, oneshot, watch},
};

use super::*;
use crate::source::xds::{Options, tests::plane::accept};

fn at(millis: u64) -> Tick {
    Tick::from_start(Duration::from_millis(millis))
}

/// An endpoint with these totals.
fn endpoint(host: u8, active: u32, sessions: u32, failed: u32) -> EndpointLoad {
    EndpointLoad {
        addr: SocketAddr::from(([10, 0, 0, host], 80)),
        active,
        sessions,
        failed,
        verdict: VerdictKind::Healthy,
        reason: String::new(),
    }
}

fn service(name: &str, endpoints: Vec<EndpointLoad>) -> ServiceLoad {
    ServiceLoad {
        service: ServiceName::parse(name).unwrap(),
        dropped: 0,
        datagrams: false,
        members: vec![MemberLoad {
            member: MemberName::parse("eu-1").unwrap(),
            tier: 1,
            endpoints,
        }],
    }
}

fn sample(services: Vec<ServiceLoad>) -> Sample {
    Sample {
        services,
        proxy: ProxyState::default(),
        unix_millis: 1000,
    }
}

fn wants(watched: &[&str], endpoints: bool) -> LoadStatsResponse {
    LoadStatsResponse {
        send_all_clusters: true,
        report_endpoint_granularity: endpoints,
        watched: watched.iter().map(ToString::to_string).collect(),
        ..LoadStatsResponse::default()
    }
}

#[test]
fn what_is_live_on_an_endpoint_counts_until_it_ends_though_the_endpoint_is_gone() {
    let mut fixture = crate::testing::services::service("eu-1:2 eu-2:1").build();
    let endpoints = fixture.endpoints();
    let (first, last) = (endpoints[0].begin(), endpoints[2].begin());
    let name = fixture.name.clone();
    fixture.apply(vec![fairlead_config::snapshot::Change::Endpoints(
        name,
        Vec::new(),
    )]);
    drop(endpoints);
    let live = |fixture: &crate::testing::services::Fixture| {
        let time = std::time::SystemTime::UNIX_EPOCH;
        let state = ProxyState::default();
        let sample = super::sample(&fixture.directory, &fixture.snapshot, state, time);
        let members = sample.services[0].members.iter();
        let live = |it: &MemberLoad| it.endpoints.iter().map(|row| row.active).sum();
        members.map(live).collect::<Vec<u32>>()
    };
    assert_eq!(live(&fixture), [1, 1]);
    drop(first);
    assert_eq!(live(&fixture), [0, 1]);
    drop(last);
    assert_eq!(live(&fixture), [0, 0]);
}

#[test]
fn a_member_whose_last_endpoint_is_forgotten_has_nothing_live() {
    let mut reporter = Reporter::new();
    reporter.take(&wants(&[], false), at(0));
    let two = vec![endpoint(1, 2, 2, 0), endpoint(2, 3, 3, 0)];
    let report = reporter.report(&sample(vec![service("a/b:c", two)]), at(0));
    assert_eq!(totals(&report.unwrap()), [(5, 0, 5)]);
    // One endpoint has gone, and its sessions with it.
    let one = vec![endpoint(1, 2, 2, 0)];
    let report = reporter.report(&sample(vec![service("a/b:c", one)]), at(10_000));
    assert_eq!(totals(&report.unwrap()), [(0, 0, 2)]);
    let mut none = service("a/b:c", Vec::new());
    none.members.clear();
    let report = reporter.report(&sample(vec![none.clone()]), at(20_000));
    assert_eq!(totals(&report.unwrap()), [(0, 0, 0)]);
    let report = reporter.report(&sample(vec![none]), at(30_000)).unwrap();
    assert_eq!(totals(&report), [], "once is enough");
}

/// (issued, failed, active) of each member of each service.
fn totals(report: &LoadStatsRequest) -> Vec<(u64, u64, u64)> {
    let members = report.cluster_stats.iter();
    let members = members.flat_map(|stats| &stats.upstream_locality_stats);
    members
        .map(|it| {
            (
                it.total_issued_requests,
                it.total_fail_connections,
                it.total_active_connections,
            )
        })
        .collect()
}

fn rows(report: &LoadStatsRequest) -> usize {
    let members = report.cluster_stats.iter();
    let members = members.flat_map(|stats| &stats.upstream_locality_stats);
    members.map(|it| it.upstream_endpoint_stats.len()).sum()
}

#[test]
fn nothing_is_said_before_it_is_asked_for() {
    let mut reporter = Reporter::new();
    assert_eq!(reporter.next_deadline(), Tick::MAX);
    assert_eq!(
        reporter.report(
            &sample(vec![service("a/b:c", vec![endpoint(1, 1, 1, 1)])]),
            at(0)
        ),
        None
    );
}

#[test]
fn counters_are_deltas_and_levels_are_levels_also_when_a_counter_wraps() {
    let mut reporter = Reporter::new();
    reporter.take(&wants(&[], false), at(0));
    let load = |active, sessions, failed| {
        sample(vec![service(
            "a/b:c",
            vec![endpoint(1, active, sessions, failed), endpoint(2, 1, 0, 0)],
        )])
    };
    let report = reporter.report(&load(3, u32::MAX - 1, 2), at(0)).unwrap();
    assert_eq!(totals(&report), [(u64::from(u32::MAX - 1), 2, 4)]);
    assert_eq!(
        report.cluster_stats[0].upstream_locality_stats[0].priority,
        1
    );
    assert_eq!(rows(&report), 0, "endpoints were not asked for");
    let report = reporter.report(&load(2, 3, 2), at(10_000)).unwrap();
    assert_eq!(totals(&report), [(5, 0, 3)]);
    let interval = report.cluster_stats[0].load_report_interval;
    let ten_seconds = proto::Duration {
        seconds: 10,
        nanos: 0,
    };
    assert_eq!(interval, Some(ten_seconds));
}

#[test]
fn flows_are_counted_but_not_as_sessions() {
    let mut reporter = Reporter::new();
    reporter.take(&wants(&[], false), at(0));
    let flows = ServiceLoad {
        datagrams: true,
        ..service("a/b:c", vec![endpoint(1, 7, 9, 0)])
    };
    let report = reporter.report(&sample(vec![flows]), at(0)).unwrap();
    assert_eq!(totals(&report), [(9, 0, 0)]);
    let stats = &report.cluster_stats[0].upstream_locality_stats[0];
    assert_eq!(stats.total_requests_in_progress, 7);
}

#[test]
fn what_did_not_change_is_not_repeated() {
    let mut reporter = Reporter::new();
    reporter.take(&wants(&[], true), at(0));
    let quiet = service("a/quiet:c", vec![endpoint(1, 0, 0, 0)]);
    let busy = |sessions| {
        service(
            "a/busy:c",
            vec![endpoint(1, 0, sessions, 0), endpoint(2, 0, 0, 0)],
        )
    };
    let report = reporter
        .report(&sample(vec![quiet.clone(), busy(1)]), at(0))
        .unwrap();
    assert_eq!((report.cluster_stats.len(), rows(&report)), (2, 1));
    let report = reporter
        .report(&sample(vec![quiet, busy(1)]), at(10_000))
        .unwrap();
    assert_eq!(report.cluster_stats, [], "only the state of the proxy");
    assert!(report.proxy.is_some());
}

#[test]
fn watched_services_are_reported_every_second_with_all_endpoints() {
    let mut reporter = Reporter::new();
    reporter.take(&wants(&["a/b:c"], false), at(0));
    let load = sample(vec![
        service("a/b:c", vec![endpoint(1, 0, 0, 0), endpoint(2, 0, 0, 0)]),
        service("a/other:c", vec![endpoint(1, 9, 9, 9)]),
    ]);
    reporter.report(&load, at(0));
    assert_eq!(reporter.next_deadline(), at(1000));
    let report = reporter.report(&load, at(1000)).unwrap();
    assert_eq!((report.cluster_stats.len(), rows(&report)), (1, 2));
    assert_eq!(report.cluster_stats[0].cluster_name, "a/b:c");
    assert_eq!(report.proxy, None);
    reporter.take(&wants(&[], false), at(1500));
    reporter.report(&load, at(1500));
    assert_eq!(reporter.next_deadline(), at(11_500), "no longer watched");
}

#[test]
fn a_changed_verdict_goes_at_once_and_only_itself() {
    let mut reporter = Reporter::new();
    reporter.take(&wants(&[], false), at(0));
    let mut load = sample(vec![service(
        "a/b:c",
        vec![endpoint(1, 0, 5, 0), endpoint(2, 0, 0, 0)],
    )]);
    assert_eq!(
        reporter.report(&load, at(0)).unwrap().verdicts.len(),
        2,
        "all at first"
    );
    assert_eq!(reporter.report(&load, at(100)), None);
    let broken = &mut load.services[0].members[0].endpoints[1];
    broken.verdict = VerdictKind::Ejected;
    broken.reason = "refused 3 times".to_owned();
    broken.sessions = 1;
    load.unix_millis = 2000;
    let report = reporter.report(&load, at(200)).unwrap();
    let [verdict] = report.verdicts.as_slice() else {
        panic!("{report:?}");
    };
    assert_eq!(
        (verdict.kind(), verdict.since_unix_millis),
        (VerdictKind::Ejected, 2000)
    );
    assert_eq!(
        (verdict.member.as_str(), verdict.reason.as_str()),
        ("eu-1", "refused 3 times")
    );
    assert_eq!(report.cluster_stats, [], "counters wait for their time");
    load.unix_millis = 3000;
    reporter.restart();
    reporter.take(&wants(&[], false), at(300));
    let report = reporter.report(&load, at(300)).unwrap();
    assert_eq!(report.verdicts.len(), 2, "a new stream hears all of them");
    assert_eq!(
        report.verdicts[1].since_unix_millis, 2000,
        "with the time of the change"
    );
    assert_eq!(totals(&report), [(1, 0, 0)], "and counters go on");
}

#[test]
fn only_services_that_were_named_are_reported() {
    let mut reporter = Reporter::new();
    let named = LoadStatsResponse {
        clusters: vec!["a/b:c".to_owned()],
        ..LoadStatsResponse::default()
    };
    reporter.take(&named, at(0));
    let load = sample(vec![
        service("a/b:c", vec![endpoint(1, 1, 0, 0)]),
        service("a/other:c", vec![endpoint(1, 1, 0, 0)]),
    ]);
    let report = reporter.report(&load, at(0)).unwrap();
    assert_eq!(report.cluster_stats.len(), 1);
    assert!(
        report
            .verdicts
            .iter()
            .all(|verdict| verdict.service == "a/b:c")
    );
}

#[test]
fn what_is_gone_is_forgotten_and_starts_over_when_it_comes_back() {
    let mut reporter = Reporter::new();
    reporter.take(&wants(&[], false), at(0));
    let load = |sessions| sample(vec![service("a/b:c", vec![endpoint(1, 0, sessions, 0)])]);
    reporter.report(&load(5), at(0));
    reporter.report(&sample(vec![service("a/b:c", Vec::new())]), at(10_000));
    let report = reporter.report(&load(2), at(20_000)).unwrap();
    assert_eq!(totals(&report), [(2, 0, 0)]);
    reporter.report(&sample(Vec::new()), at(30_000));
    assert!(reporter.last.is_empty());
}

/// A control plane that hands on the reports of its streams and answers each with `wants`.
struct Plane(mpsc::Sender<LoadStatsRequest>, LoadStatsResponse);

impl fairlead_config::xds::service::LoadReporting for Plane {
    async fn stream_load_stats(
        &self,
        request: tonic::Request<tonic::Streaming<LoadStatsRequest>>,
    ) -> Result<tonic::Response<Answers<LoadStatsResponse>>, tonic::Status> {
        let (reports, wants) = (self.0.clone(), self.1.clone());
        let mut requests = request.into_inner();
        tokio::spawn(async move {
            while let Ok(Some(report)) = requests.message().await {
                reports.send(report).await.expect("the test runs");
            }
        });
        let first = tokio_stream::once(Ok(wants));
        let open = futures::StreamExt::chain(first, futures::stream::pending());
        Ok(tonic::Response::new(Box::pin(open)))
    }
}

#[tokio::test]
async fn reports_travel_and_a_verdict_is_not_waited_for() {
    let (reports, mut heard) = mpsc::channel(16);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let options = Options {
        server: format!("http://{}", listener.local_addr().unwrap()),
        node_id: "proxy-1".to_owned(),
        group: "edge".to_owned(),
        ..Options::default()
    };
    let plane = LoadReportingServer::new(Arc::new(Plane(reports, wants(&[], false))));
    let (_stop, stopped) = oneshot::channel();
    tokio::spawn(accept(listener, None, plane, stopped));
    let (control, mut asked) = mpsc::channel::<Asked>(1);
    let (verdict, verdicts) = watch::channel(0);
    let reporter = LoadReporter::new(options, Clock::system(), control, verdicts);
    let reporting = tokio::spawn(reporter.run());

    let node = heard.recv().await.unwrap().node.expect("who reports");
    assert_eq!(
        (node.id.as_str(), node.cluster.as_str()),
        ("proxy-1", "edge")
    );
    let mut load = sample(vec![service("a/b:c", vec![endpoint(1, 1, 2, 3)])]);
    asked.recv().await.unwrap().send(load.clone()).unwrap();
    let first = heard.recv().await.unwrap();
    assert_eq!(totals(&first), [(2, 3, 1)]);
    load.services[0].members[0].endpoints[0].verdict = VerdictKind::ProbeFailed;
    verdict.send_modify(|count| *count += 1);
    asked.recv().await.unwrap().send(load).unwrap();
    let second = heard.recv().await.unwrap();
    assert_eq!(second.verdicts[0].kind(), VerdictKind::ProbeFailed);
    drop(asked);
    reporting.abort();
}
