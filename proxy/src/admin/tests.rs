use serde_json::Value;

use super::*;
use crate::control::Options;
use crate::{
    access_log::sink::Sinks, metrics::names::ENDPOINT_SERIES_MAX, registry::Flags, sockets::Budget,
    source::RefusalKind, tcp::Fleet,
};
use fairlead_config::{snapshot, yaml};

#[tokio::test]
async fn services_show_members_endpoints_and_why_they_are_out() {
    let mut rig = Rig::new(TWO_SERVICES);
    rig.endpoint("t/a:p", 0)
        .change_flags(Flags::NOT_READY, Flags::NONE);
    let page = rig.json(Asked::Services(query(&[])));
    assert_eq!(page["services"].as_array().unwrap().len(), 2);
    assert_eq!(page["next"], Value::Null);
    let service = &page["services"][0];
    assert_eq!(service["name"], "t/a:p");
    let member = &service["tiers"][0]["members"][0];
    assert_eq!(
        (&member["name"], &member["weight"]),
        (&"m".into(), &80.0.into())
    );
    let endpoint = &member["endpoints"][0];
    assert_eq!(endpoint["address"], "127.0.0.1:1");
    assert_eq!(endpoint["state"], "not-ready");
    assert_eq!(endpoint["reason"], "its objects say that it is not ready");
    assert_eq!(member["endpoints"][1]["state"], "usable");

    let one = rig.json(Asked::Services(query(&[("service", "t/b:p")])));
    assert_eq!(one["services"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn services_come_in_pages() {
    let mut rig = Rig::new(TWO_SERVICES);
    let first = rig.json(Asked::Services(query(&[("limit", "1")])));
    assert_eq!(first["services"][0]["name"], "t/a:p");
    assert_eq!(first["next"], "/services?after=t/a:p");
    let second = rig.json(Asked::Services(query(&[
        ("limit", "1"),
        ("after", "t/a:p"),
    ])));
    assert_eq!(second["services"][0]["name"], "t/b:p");
    assert_eq!(second["next"], Value::Null);
    for limit in ["0", "1001", "x"] {
        let refused = rig.ask(Asked::Services(query(&[("limit", limit)])));
        assert_eq!(refused.status, StatusCode::BAD_REQUEST);
    }
}

#[tokio::test]
async fn explain_says_why_in_sentences() {
    let mut rig = Rig::new(TWO_SERVICES);
    let text = rig.text(Asked::Explain(query(&[("service", "t/a:p")])));
    assert!(
        text.contains("tier 0 takes 100.0 % of new sessions: 3 of 3 endpoints healthy"),
        "{text}"
    );
    assert!(
        text.contains("member m takes 80.0 %: weight 80, 2 of 2 endpoints usable"),
        "{text}"
    );
    assert!(text.contains("tier 1 takes 0.0 %"), "{text}");
    let unknown = rig.ask(Asked::Explain(query(&[("service", "t/z:p")])));
    assert_eq!(unknown.status, StatusCode::NOT_FOUND);
    assert_eq!(
        rig.ask(Asked::Explain(query(&[]))).status,
        StatusCode::BAD_REQUEST
    );
}

#[tokio::test]
async fn a_drained_member_takes_nothing_until_it_is_called_off_and_a_reload_changes_nothing() {
    let mut rig = Rig::new(TWO_SERVICES);
    let drained = rig.json(Asked::Drain(query(&[
        ("member", "m"),
        ("service", "t/a:p"),
    ])));
    assert_eq!(drained["services"], serde_json::json!(["t/a:p"]));
    assert_eq!(rig.shares("t/a:p"), [0.0, 1.0, 0.0]);
    assert_eq!(rig.shares("t/b:p"), [1.0]);
    rig.apply(&TWO_SERVICES.replace("weight: 80", "weight: 60"));
    assert_eq!(rig.shares("t/a:p"), [0.0, 1.0, 0.0]);
    let shown = rig.json(Asked::Snapshot);
    assert_eq!(
        shown["drainedByHand"],
        serde_json::json!(["member m of t/a:p"])
    );
    let off = query(&[("member", "m"), ("service", "t/a:p"), ("off", "1")]);
    rig.json(Asked::Drain(off));
    assert_eq!(rig.shares("t/a:p"), [0.75, 0.25, 0.0]);
    assert_eq!(
        rig.json(Asked::Snapshot)["drainedByHand"],
        serde_json::json!([])
    );
}

#[tokio::test]
async fn a_drained_endpoint_is_drained_in_every_service_that_has_it() {
    let mut rig = Rig::new(TWO_SERVICES);
    let drained = rig.json(Asked::Drain(query(&[("endpoint", "127.0.0.1:1")])));
    assert_eq!(drained["services"], serde_json::json!(["t/a:p", "t/b:p"]));
    assert!(rig.endpoint("t/a:p", 0).flags().is_draining());
    assert!(rig.endpoint("t/b:p", 0).flags().is_draining());
    assert!(rig.endpoint("t/a:p", 1).is_usable());
}

#[tokio::test]
async fn a_drain_of_nothing_is_refused_with_what_to_do() {
    let mut rig = Rig::new(TWO_SERVICES);
    for (pairs, status) in [
        (&[("member", "z")][..], StatusCode::NOT_FOUND),
        (&[("endpoint", "192.0.2.1:1")], StatusCode::NOT_FOUND),
        (&[("endpoint", "here")], StatusCode::BAD_REQUEST),
        (
            &[("member", "m"), ("endpoint", "127.0.0.1:1")],
            StatusCode::BAD_REQUEST,
        ),
        (
            &[("member", "m"), ("service", "a")],
            StatusCode::BAD_REQUEST,
        ),
        (&[], StatusCode::BAD_REQUEST),
    ] {
        assert_eq!(
            rig.ask(Asked::Drain(query(pairs))).status,
            status,
            "{pairs:?}"
        );
    }
    assert_eq!(
        rig.json(Asked::Snapshot)["drainedByHand"],
        serde_json::json!([])
    );
}

#[tokio::test]
async fn the_snapshot_page_counts_and_keeps_the_last_refusal() {
    let mut rig = Rig::new(TWO_SERVICES);
    rig.status.applied(&[], Tick(1));
    rig.status.refused = Some((
        Tick(2),
        Refusal::new(RefusalKind::Invalid, "file.yaml", "3:4: nonsense"),
    ));
    let page = rig.json(Asked::Snapshot);
    assert_eq!(
        (&page["services"], &page["endpoints"]),
        (&2.into(), &5.into())
    );
    assert_eq!(page["version"], 1);
    assert_eq!(
        page["refused"]["problems"],
        serde_json::json!(["3:4: nonsense"])
    );
    rig.status.applied(&[], Tick(3));
    assert_eq!(rig.json(Asked::Snapshot)["refused"], Value::Null);
}

#[tokio::test]
async fn the_metrics_page_has_states_shares_and_on_demand_endpoints() {
    let mut rig = Rig::new(TWO_SERVICES);
    rig.endpoint("t/a:p", 0)
        .change_flags(Flags::EJECTED, Flags::NONE);
    let text = rig.metrics_page(false);
    for line in [
        r#"fairlead_endpoints{service="t/a:p",member="m",state="ejected"} 1"#,
        r#"fairlead_endpoints{service="t/a:p",member="m",state="usable"} 1"#,
        r#"fairlead_member_share{service="t/b:p",member="m"} 1"#,
        "fairlead_ready 1",
    ] {
        assert!(
            text.lines().any(|found| found == line),
            "{line} is missing in\n{text}"
        );
    }
    assert!(!text.contains("fairlead_endpoint_usable"));
    let text = rig.metrics_page(true);
    let line = r#"fairlead_endpoint_usable{service="t/a:p",member="m",endpoint="127.0.0.1:1"} 0"#;
    assert!(text.lines().any(|found| found == line), "{text}");
    assert!(text.contains("fairlead_endpoints_omitted 0"));
}

#[tokio::test]
async fn series_of_endpoints_are_capped_and_the_rest_is_counted() {
    let rows: Vec<_> = (0..ENDPOINT_SERIES_MAX + 7)
        .map(|number| {
            format!(
                "{{ address: \"10.{}.{}.1:80\" }}",
                number / 250,
                number % 250
            )
        })
        .collect();
    let text = format!(
        "services: [ {{ name: t/s:p, tiers: [ {{ members: [ {{ name: m, endpoints: [ {} ] }} ] }} ] }} ]",
        rows.join(", ")
    );
    let mut rig = Rig::new(&text);
    let text = rig.metrics_page(true);
    let series = text
        .lines()
        .filter(|line| line.starts_with("fairlead_endpoint_usable{"));
    assert_eq!(series.count(), ENDPOINT_SERIES_MAX);
    assert!(text.contains("fairlead_endpoints_omitted 7\n"));
}

#[tokio::test]
async fn ready_says_what_is_waited_for_and_which_tasks_fail() {
    let rig = Rig::new(TWO_SERVICES);
    let context = rig.context();
    let token = context.readiness.wait_for("the first round of probes");
    let answer = answers::ready(&context);
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(text(answer), "not ready: the first round of probes\n");
    drop(token);
    let answer = answers::ready(&context);
    assert_eq!(answer.status, StatusCode::OK);
    assert_eq!(text(answer), "ready\n");
}

struct Rig {
    control: Control,
    status: Status,
    clock: Clock,
    metrics: Arc<Metrics>,
}

impl Rig {
    fn new(text: &str) -> Self {
        let clock = Clock::manual(Tick(1_000_000_000));
        let metrics = Metrics::new(1);
        let fleet = Fleet::new(1, metrics.clone(), clock.clone()).unwrap();
        let sinks = Sinks::new(1, metrics.clone());
        let options = Options {
            seed: 7,
            budget: Budget::of_files(16),
            ..Options::default()
        };
        let mut rig = Self {
            control: Control::new(fleet, clock.clone(), sinks, options),
            status: Status::default(),
            clock,
            metrics,
        };
        rig.apply(text);
        rig
    }

    fn apply(&mut self, text: &str) {
        let file = yaml::parse(text.as_bytes()).unwrap_or_else(|problems| panic!("{problems}"));
        let delta = snapshot::diff(self.control.snapshot(), &file.snapshot);
        assert_eq!(self.control.apply(delta).problems, []);
    }

    fn context(&self) -> Context {
        Context {
            metrics: self.metrics.clone(),
            readiness: Readiness::new(),
            board: Board::default(),
        }
    }

    fn ask(&mut self, asked: Asked) -> Answer {
        let (reply, mut answer) = oneshot::channel();
        Question { asked, reply }.answer(&mut self.control, &self.status, &self.clock);
        match answer.try_recv().unwrap() {
            Reply::Answer(answer) => answer,
            Reply::States(_) => panic!("not an answer"),
        }
    }

    fn text(&mut self, asked: Asked) -> String {
        let answer = self.ask(asked);
        assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
        text(answer)
    }

    fn metrics_page(&mut self, endpoints: bool) -> String {
        let states = self.control.directory().services();
        let states = states.map(Arc::downgrade).collect();
        let parts: Vec<_> = page::parts(&self.context(), &states, endpoints).collect();
        String::from_utf8(parts.concat()).unwrap()
    }

    fn json(&mut self, asked: Asked) -> Value {
        serde_json::from_str(&self.text(asked)).unwrap()
    }

    fn shares(&mut self, service: &str) -> Vec<f64> {
        let page = self.json(Asked::Services(query(&[("service", service)])));
        let tiers = page["services"][0]["tiers"].as_array().unwrap();
        let members = tiers
            .iter()
            .flat_map(|tier| tier["members"].as_array().unwrap());
        members
            .map(|member| member["share"].as_f64().unwrap())
            .collect()
    }

    fn endpoint(&mut self, service: &str, index: usize) -> Arc<crate::registry::EndpointState> {
        let name = fairlead_config::name::ServiceName::parse(service).unwrap();
        let state = self.control.directory().service(&name).unwrap();
        let view = state.view().clone().unwrap();
        view.endpoints().nth(index).unwrap().1.state.clone()
    }
}

fn text(answer: Answer) -> String {
    String::from_utf8(answer.body.whole().unwrap().to_vec()).unwrap()
}

fn query(pairs: &[(&str, &str)]) -> Request {
    let own = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
    Request {
        query: pairs.iter().map(own).collect(),
        body: Vec::new().into(),
    }
}

const TWO_SERVICES: &str = r#"
services:
  - name: t/a:p
    tiers:
      - members:
          - { name: m, weight: 80, endpoints: [ { address: "127.0.0.1:1" }, { address: "127.0.0.1:2" } ] }
          - { name: n, weight: 20, endpoints: [ { address: "127.0.0.1:3" } ] }
      - members: [ { name: o, endpoints: [ { address: "127.0.0.1:4" } ] } ]
  - name: t/b:p
    tiers: [ { members: [ { name: m, endpoints: [ { address: "127.0.0.1:1" } ] } ] } ]
"#;
