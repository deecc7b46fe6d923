//! What proxies report, and where it shows.

use fairlead_config::{
    name::MemberName,
    xds::{
        endpoints::{address, member_locality},
        proto::{
            core::SocketProtocol,
            fairlead::{Verdict, VerdictKind},
            load_stats::{ClusterStats, LoadStatsRequest, UpstreamLocalityStats},
        },
    },
};

use super::*;

/// A report of this many sessions of `shop/web` on member a.
fn report(active: u64) -> LoadStatsRequest {
    LoadStatsRequest {
        node: Some(Node {
            id: "proxy-0".into(),
            cluster: "edge".into(),
            ..Default::default()
        }),
        cluster_stats: vec![ClusterStats {
            cluster_name: "shop/web:http".into(),
            upstream_locality_stats: vec![UpstreamLocalityStats {
                locality: Some(member_locality(&MemberName::parse("a").unwrap())),
                total_active_connections: active,
                ..Default::default()
            }],
            ..Default::default()
        }],
        ..Default::default()
    }
}

fn failed() -> Verdict {
    let addr = "10.0.0.1:8080".parse().unwrap();
    Verdict {
        service: "shop/web:http".into(),
        member: "a".into(),
        address: Some(address(addr, SocketProtocol::Tcp)),
        kind: VerdictKind::ProbeFailed.into(),
        reason: "refused".into(),
        since_unix_millis: 1,
    }
}

#[tokio::test]
async fn sessions_and_verdicts_that_a_proxy_reports_show_in_the_service_status() {
    let world = world(false).await;
    world.member("a").await;
    world.exports("a", &["10.0.0.1"]).await;
    world.serves().await;
    let mut proxy = world.plain("edge").await;
    proxy.until(|proxy| proxy.endpoints().len() == 1).await;
    let (reports, taken) = mpsc::channel(4);
    reports.send(report(5)).await.unwrap();
    let channel = Channel::from_shared(format!("http://{}", world.hub.addr)).unwrap();
    let mut client = XdsClient::new(channel.connect().await.unwrap());
    let mut answers = client
        .stream_load_stats(tonic::Request::new(ReceiverStream::new(taken)))
        .await
        .unwrap()
        .into_inner();
    assert!(answers.message().await.unwrap().unwrap().send_all_clusters);
    eventually("five sessions", async || {
        let status = world.status().await;
        (status.members.first()?.active_sessions == Some(5)).then_some(())
    })
    .await;
    let members: Api<MemberCluster> = Api::all(world.client.clone());
    let drain = json!({ "spec": { "trafficClaims": [{ "owner": "user", "permille": 0 }] } });
    members
        .patch("a", &PatchParams::default(), &Patch::Merge(&drain))
        .await
        .unwrap();
    let asked = loop {
        let answer = answers.message().await.unwrap().unwrap();
        if !answer.watched.is_empty() {
            break answer.watched;
        }
    };
    assert_eq!(
        asked,
        ["shop/web:http"],
        "a drained service is reported on every second"
    );
    let mut drained = report(0);
    drained.verdicts = vec![failed()];
    reports.send(drained).await.unwrap();
    eventually("the drain to be over", async || {
        let status = world.status().await;
        let member = status.members.first()?;
        let draining = member.state == fairlead_api::service::MemberState::Draining;
        (draining && member.active_sessions == Some(0)).then_some(())
    })
    .await;
    let key = crate::world::ServiceKey::new("shop", "web");
    let explained = world.hub.view().explain(&key);
    assert_eq!(explained["verdicts"][0]["verdict"], "ProbeFailed");
    world.hub.stop().await;
}
