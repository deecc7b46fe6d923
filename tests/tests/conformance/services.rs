//! Services, EndpointSlices, Leases and Events.

use anyhow::{Context, ensure};
use k8s_openapi::api::{
    coordination::v1::Lease,
    core::v1::{Event, Service},
    discovery::v1::EndpointSlice,
    events::v1::Event as NewEvent,
};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use crate::{
    Case, same,
    support::{causes, object, refused},
};

pub(crate) async fn a_service_gets_an_address_and_keeps_it(case: Case) -> anyhow::Result<()> {
    let api = case.api::<Service>();
    let made = api
        .create(&PostParams::default(), &service(json!({}))?)
        .await?;
    let spec = made.spec.context("a spec")?;
    let ip: std::net::Ipv4Addr = spec.cluster_ip.context("an address")?.parse()?;
    ensure!(ip.octets()[..2] == [10, 96], "{ip}");
    same!(spec.cluster_ips, Some(vec![ip.to_string()]));
    same!(spec.type_.as_deref(), Some("ClusterIP"));
    same!(spec.session_affinity.as_deref(), Some("None"));
    same!(spec.ip_families, Some(vec!["IPv4".to_owned()]));
    same!(spec.ip_family_policy.as_deref(), Some("SingleStack"));
    same!(spec.internal_traffic_policy.as_deref(), Some("Cluster"));
    let port = &spec.ports.context("ports")?[0];
    same!(port.protocol.as_deref(), Some("TCP"));
    same!(serde_json::to_value(&port.target_port)?, json!(80));
    let other = json!({ "spec": { "clusterIP": "10.96.99.99" } });
    let result = api
        .patch("web", &PatchParams::default(), &Patch::Merge(&other))
        .await;
    let status = refused(result, 422, "Invalid")?;
    ensure!(
        causes(&status).contains(&(
            "FieldValueInvalid".to_owned(),
            "spec.clusterIPs[0]".to_owned()
        )),
        "{:?}",
        causes(&status)
    );
    Ok(())
}

pub(crate) async fn a_headless_service_gets_none(case: Case) -> anyhow::Result<()> {
    let made = case
        .api::<Service>()
        .create(
            &PostParams::default(),
            &service(json!({ "clusterIP": "None" }))?,
        )
        .await?;
    same!(
        made.spec.and_then(|spec| spec.cluster_ips),
        Some(vec!["None".to_owned()])
    );
    Ok(())
}

pub(crate) async fn what_a_refused_service_asked_for_is_free_again(
    case: Case,
) -> anyhow::Result<()> {
    let api = case.api::<Service>();
    // Below what is given out unasked, and no other case's.
    let wish = |name: &str, port: u16| {
        object::<Service>(json!({
            "metadata": { "name": name },
            "spec": {
                "type": "NodePort", "clusterIP": "10.96.0.77",
                "ports": [ { "port": port, "nodePort": 30077 } ],
            },
        }))
    };
    let dry = PostParams {
        dry_run: true,
        ..PostParams::default()
    };
    api.create(&dry, &wish("dry", 80)?).await?;
    let wrong = api.create(&PostParams::default(), &wish("wrong", 0)?).await;
    refused(wrong, 422, "Invalid")?;
    api.create(&PostParams::default(), &wish("one", 80)?)
        .await?;
    let second = api.create(&PostParams::default(), &wish("two", 80)?).await;
    let status = refused(second, 422, "Invalid")?;
    ensure!(
        status.message.contains("provided IP is already allocated"),
        "{}",
        status.message
    );
    let mut third = wish("three", 80)?;
    let spec = third.spec.as_mut().context("a spec")?;
    spec.cluster_ip = None;
    let status = refused(
        api.create(&PostParams::default(), &third).await,
        422,
        "Invalid",
    )?;
    let port = (
        "FieldValueInvalid".to_owned(),
        "spec.ports[0].nodePort".to_owned(),
    );
    same!(causes(&status), [port]);
    // A write that is refused leaves what its Service holds.
    let bad = json!({ "spec": { "ports": [ { "port": 80, "nodePort": 1 } ] } });
    let result = api
        .patch("one", &PatchParams::default(), &Patch::Merge(&bad))
        .await;
    refused(result, 422, "Invalid")?;
    let status = refused(
        api.create(&PostParams::default(), &third).await,
        422,
        "Invalid",
    )?;
    ensure!(status.message.contains("30077"), "{}", status.message);
    api.delete("one", &DeleteParams::default()).await?;
    api.create(&PostParams::default(), &wish("two", 80)?)
        .await?;
    Ok(())
}

pub(crate) async fn an_invalid_service_names_its_fields(case: Case) -> anyhow::Result<()> {
    let ports = json!({ "ports": [ { "name": "a", "port": 0 }, { "port": 70000 } ] });
    let result = case
        .api()
        .create(&PostParams::default(), &service(ports)?)
        .await;
    let status = refused(result, 422, "Invalid")?;
    let fields: Vec<_> = causes(&status);
    for expected in [
        ("FieldValueInvalid", "spec.ports[0].port"),
        ("FieldValueInvalid", "spec.ports[1].port"),
        ("FieldValueRequired", "spec.ports[1].name"),
    ] {
        let expected = (expected.0.to_owned(), expected.1.to_owned());
        ensure!(
            fields.contains(&expected),
            "{expected:?} is not in {fields:?}"
        );
    }
    Ok(())
}

pub(crate) async fn slices_refuse_loopback_addresses(case: Case) -> anyhow::Result<()> {
    let slice = |address: &str| {
        object::<EndpointSlice>(json!({
            "metadata": { "name": "web" },
            "addressType": "IPv4",
            "endpoints": [ { "addresses": [address] } ],
            "ports": [ { "name": "", "port": 80, "protocol": "TCP" } ],
        }))
    };
    let api = case.api::<EndpointSlice>();
    for wrong in ["127.0.0.1", "169.254.1.1", "224.0.0.1", "0.0.0.0"] {
        let result = api.create(&PostParams::default(), &slice(wrong)?).await;
        let status = refused(result, 422, "Invalid")?;
        let field = "endpoints[0].addresses[0]".to_owned();
        same!(causes(&status), [("FieldValueInvalid".to_owned(), field)]);
    }
    let made = api
        .create(&PostParams::default(), &slice("10.1.2.3")?)
        .await?;
    same!(
        made.endpoints.context("endpoints")?[0].addresses,
        ["10.1.2.3"]
    );
    let result = api
        .patch(
            "web",
            &PatchParams::default(),
            &Patch::Merge(&json!({ "addressType": "IPv6" })),
        )
        .await;
    let status = refused(result, 422, "Invalid")?;
    ensure!(
        causes(&status).contains(&("FieldValueInvalid".to_owned(), "addressType".to_owned())),
        "{:?}",
        causes(&status)
    );
    Ok(())
}

pub(crate) async fn a_lease_is_renewed_under_its_version(case: Case) -> anyhow::Result<()> {
    let api = case.api::<Lease>();
    let lease = object(json!({
        "metadata": { "name": "one" },
        "spec": {
            "holderIdentity": "a", "leaseDurationSeconds": 15,
            "renewTime": "2026-01-01T00:00:00.000001Z",
        },
    }))?;
    let made = api.create(&PostParams::default(), &lease).await?;
    let mut renewed = made.clone();
    renewed.spec.as_mut().context("a spec")?.holder_identity = Some("b".into());
    api.replace("one", &PostParams::default(), &renewed).await?;
    refused(
        api.replace("one", &PostParams::default(), &renewed).await,
        409,
        "Conflict",
    )?;
    Ok(())
}

fn service(extra: Value) -> anyhow::Result<Service> {
    let mut spec = json!({
        "selector": { "app": "web" },
        "ports": [ { "port": 80 } ],
    });
    if let (Some(spec), Some(extra)) = (spec.as_object_mut(), extra.as_object()) {
        spec.extend(extra.clone());
    }
    object(json!({ "metadata": { "name": "web" }, "spec": spec }))
}

pub(crate) async fn an_event_is_the_same_in_both_of_its_groups(case: Case) -> anyhow::Result<()> {
    let event: Event = object(json!({
        "metadata": { "name": "one" },
        "involvedObject": { "kind": "Pod", "namespace": case.namespace, "name": "main" },
        "reason": "Started", "message": "It runs", "type": "Normal", "count": 2,
    }))?;
    let events = case.api::<Event>();
    let made = events.create(&PostParams::default(), &event).await?;
    let other = case.api::<NewEvent>().get("one").await?;
    same!(other.metadata.uid, made.metadata.uid);
    same!(other.note.as_deref(), Some("It runs"));
    same!(
        other.regarding.and_then(|pod| pod.name).as_deref(),
        Some("main")
    );
    same!(other.deprecated_count, Some(2));
    let of_pod = ListParams::default().fields("involvedObject.name=main,reason=Started");
    same!(events.list(&of_pod).await?.items.len(), 1);
    let of_other = ListParams::default().fields("involvedObject.name=other");
    same!(events.list(&of_other).await?.items.len(), 0);
    Ok(())
}
