use std::{collections::BTreeSet, time::Duration};

use fairlead_config::name::{MemberName, ServiceName};

use super::{
    names::{COLLECTED, CONTROL_PLANE, Family, Kind, MEMBER, PROCESS, SERVICE, THREAD},
    text::{PART_BYTES, Page, Sheets},
    *,
};
use crate::access_log::Reason;

#[test]
fn every_series_keeps_the_naming_rules() {
    let mut kinds = BTreeMap::new();
    for family in families() {
        let Family { name, kind, help } = family;
        assert!(name.starts_with("fairlead_"), "{name}");
        assert_eq!(name.ends_with("_total"), kind == Kind::Counter, "{name}");
        assert!(
            help.ends_with('.') && !help.contains('\n'),
            "{name}: {help}"
        );
        let (known_kind, known_help) = kinds.entry(name).or_insert((kind, help));
        assert_eq!((*known_kind, *known_help), (kind, help), "{name}");
    }
}

#[test]
fn a_family_stands_in_one_place_of_one_table() {
    let mut runs = Vec::new();
    for family in families() {
        if runs.last() != Some(&family.name) {
            runs.push(family.name);
        }
    }
    assert_eq!(
        runs.iter().collect::<BTreeSet<_>>().len(),
        runs.len(),
        "{runs:?}"
    );
}

#[test]
fn the_page_shows_what_was_counted_under_its_labels() {
    let metrics = Metrics::new(2);
    let service = metrics.service(&ServiceName::parse("shop/web:http").unwrap());
    let member = service.member(&MemberName::parse("eu-1").unwrap());
    member.sessions_closed.inc(Reason::EndpointReset);
    member.connect_seconds.observe(Duration::from_micros(300));
    member.connect_seconds.observe(Duration::from_secs(60));
    member.bytes_down.add(7);
    service.sessions_unserved.add(Reason::NoEndpoint, 2);
    metrics.thread(1).sessions_active.inc();

    let text = page(&metrics);
    for line in [
        "# TYPE fairlead_sessions_closed_total counter",
        r#"fairlead_sessions_closed_total{service="shop/web:http",member="eu-1",reason="endpoint-reset"} 1"#,
        r#"fairlead_session_bytes_total{service="shop/web:http",member="eu-1",direction="down"} 7"#,
        r#"fairlead_sessions_unserved_total{service="shop/web:http",reason="no-endpoint"} 2"#,
        r#"fairlead_connect_seconds_bucket{service="shop/web:http",member="eu-1",le="0.00025"} 0"#,
        r#"fairlead_connect_seconds_bucket{service="shop/web:http",member="eu-1",le="0.0005"} 1"#,
        r#"fairlead_connect_seconds_bucket{service="shop/web:http",member="eu-1",le="+Inf"} 2"#,
        r#"fairlead_connect_seconds_sum{service="shop/web:http",member="eu-1"} 60.0003"#,
        r#"fairlead_connect_seconds_count{service="shop/web:http",member="eu-1"} 2"#,
        r#"fairlead_thread_sessions{thread="0"} 0"#,
        r#"fairlead_thread_sessions{thread="1"} 1"#,
        "fairlead_ready 0",
    ] {
        assert!(
            text.lines().any(|found| found == line),
            "missing {line} in\n{text}"
        );
    }
    assert!(
        !text.contains("fairlead_session_seconds"),
        "nothing was observed"
    );
    assert!(
        !text.contains(r#"reason="finished""#),
        "what never counted is left out"
    );
}

#[test]
fn each_family_has_one_head_and_its_samples_follow_it() {
    let metrics = Metrics::new(3);
    let names = ["a/a:a", "b/b:b"].map(|name| ServiceName::parse(name).unwrap());
    let held: Vec<_> = names.iter().map(|name| metrics.service(name)).collect();
    let member = MemberName::parse("m").unwrap();
    let _members: Vec<_> = held.iter().map(|service| service.member(&member)).collect();

    check_order(&page(&metrics));
}

/// Each family's samples follow its one head, and none is there twice.
fn check_order(text: &str) {
    let mut current = "";
    let mut seen = BTreeSet::new();
    let mut series = BTreeSet::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            current = rest.split(' ').next().unwrap();
            assert!(seen.insert(current), "second head of {current}");
        } else if !line.starts_with('#') {
            assert!(line.starts_with(current), "{line} under {current}");
            let name = line.rsplit_once(' ').unwrap().0;
            assert!(series.insert(name), "{name} is there twice");
        }
    }
}

/// Services of one member each, all of which count; what they are counted in.
fn counting(metrics: &Metrics, count: usize) -> Vec<(Arc<ServiceMetrics>, Arc<MemberMetrics>)> {
    let cells = (0..count).map(|number| {
        let name = ServiceName::parse(&format!("team-{number:05}/web:https")).unwrap();
        let service = metrics.service(&name);
        let member = service.member(&MemberName::parse("eu-1").unwrap());
        service.session_seconds.observe(Duration::from_secs(1));
        member.connect_seconds.observe(Duration::from_millis(1));
        member.sessions_closed.inc(Reason::Finished);
        (service, member)
    });
    cells.collect()
}

#[test]
fn ten_thousand_services_are_written_in_parts_of_bounded_size() {
    let metrics = Metrics::new(2);
    let _held = counting(&metrics, 10_000);
    let parts: Vec<_> = Sheets::new(metrics.sections()).collect();
    // A histogram of one member is the largest row.
    let largest = parts.iter().map(|part| part.len()).max().unwrap();
    assert!(largest < PART_BYTES + 4096, "a part of {largest} bytes");
    let whole = String::from_utf8(parts.concat()).unwrap();
    assert!(whole.len() > 300 * PART_BYTES, "{}", whole.len());
    check_order(&whole);
    for family in [
        "fairlead_connect_retries_total{",
        "fairlead_session_seconds_count{",
        "fairlead_connect_seconds_count{",
        "fairlead_sessions_closed_total{",
    ] {
        let rows = whole.lines().filter(|line| line.starts_with(family));
        assert_eq!(rows.count(), 10_000, "{family}");
    }
}

#[test]
fn members_that_fill_more_than_a_part_are_all_there() {
    let metrics = Metrics::new(1);
    let service = metrics.service(&ServiceName::parse("shop/web:http").unwrap());
    let next = metrics.service(&ServiceName::parse("shop/web:next").unwrap());
    let cells = |service: &ServiceMetrics, count: u32| {
        let names = (0..count).map(|number| MemberName::parse(&format!("m-{number:04}")).unwrap());
        names.map(|name| service.member(&name)).collect::<Vec<_>>()
    };
    let _held = (cells(&service, 3000), cells(&next, 2));
    let text = page(&metrics);
    check_order(&text);
    let rows = text
        .lines()
        .filter(|line| line.starts_with("fairlead_flows_opened_total{"));
    assert_eq!(rows.count(), 3002);
}

#[test]
fn services_that_come_and_go_while_a_page_is_read_leave_it_well_formed() {
    let metrics = Metrics::new(1);
    let mut held = counting(&metrics, 2_000);
    let mut parts = Vec::new();
    for part in Sheets::new(metrics.sections()) {
        parts.push(part);
        if let Some(last) = held.len().checked_sub(7) {
            held.swap_remove(last);
        }
        let late = format!("team-{:05}/late:https", parts.len() * 13 % 2_000);
        let service = metrics.service(&ServiceName::parse(&late).unwrap());
        let member = service.member(&MemberName::parse("eu-2").unwrap());
        held.insert(0, (service, member));
        assert!(parts.len() < 10_000, "it ends");
    }
    check_order(&String::from_utf8(parts.concat()).unwrap());
}

#[test]
fn a_page_that_nobody_reads_on_keeps_no_service() {
    let metrics = Metrics::new(1);
    let held = counting(&metrics, 2_000);
    let mut sheets = Sheets::new(metrics.sections());
    sheets.next().unwrap();
    let (service, member) = &held[0];
    assert_eq!(
        (Arc::strong_count(service), Arc::strong_count(member)),
        (1, 1)
    );
}

#[test]
fn a_service_that_nobody_holds_is_shown_no_more_and_starts_again_at_zero() {
    let metrics = Metrics::new(1);
    let name = ServiceName::parse("shop/web:http").unwrap();
    let service = metrics.service(&name);
    service.retries.inc();
    assert!(Arc::ptr_eq(&service, &metrics.service(&name)));
    drop(service);
    assert!(!page(&metrics).contains("shop/web"));
    assert_eq!(metrics.service(&name).retries.value(), 0);
}

#[test]
fn labels_are_escaped() {
    let mut page = Page::default();
    page.sample(&names::BUILD_INFO, &[("version", "a\"b\\c\nd")], None, 1);
    let written = page.take();
    assert!(written.ends_with(b"{version=\"a\\\"b\\\\c\\nd\"} 1\n"));
}

fn page(metrics: &Arc<Metrics>) -> String {
    let parts: Vec<_> = Sheets::new(metrics.sections()).collect();
    String::from_utf8(parts.concat()).unwrap()
}

fn families() -> impl Iterator<Item = Family> {
    let process = PROCESS.iter().map(|series| series.family);
    let process = process.chain(CONTROL_PLANE.iter().map(|series| series.family));
    let thread = THREAD.iter().map(|series| series.family);
    let service = SERVICE.iter().map(|series| series.family);
    let member = MEMBER.iter().map(|series| series.family);
    let collected = COLLECTED.iter().copied();
    process
        .chain(thread)
        .chain(service)
        .chain(member)
        .chain(collected)
}
