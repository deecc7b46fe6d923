//! What a member that has turned bad tries, and what comes of it.

use std::path::PathBuf;

use anyhow::{Context, ensure};
use fairlead_api::{export::ExportRecord, labels, member::MemberCluster};
use fairlead_tests::{
    fleet::{self, Fleet},
    wait,
};
use k8s_openapi::api::{discovery::v1::EndpointSlice, events::v1::Event};
use kube::{
    Api, Client,
    api::{DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams},
    config::{AuthInfo, KubeConfigOptions, Kubeconfig},
    core::{ApiResource, GroupVersionKind},
};
use serde_json::{Value, json};

use crate::{Stage, same};

pub(crate) async fn a_member_touches_nothing_but_its_own_namespace(
    stage: Stage,
) -> anyhow::Result<()> {
    let fleet = stage.fleet().await?;
    let client = agent(&fleet, "member-1").await?;
    let record = |namespace: &str| {
        json!({
            "apiVersion": "fairlead.dev/v1alpha1", "kind": "ExportRecord",
            "metadata": { "name": "export-x", "namespace": namespace },
            "spec": { "serviceNamespace": "demo", "serviceName": "echo" },
        })
    };
    let claim = json!({
        "apiVersion": "fairlead.dev/v1alpha1", "kind": "MemberCluster",
        "metadata": { "name": "member-2" },
        "spec": { "trafficClaims": [ { "owner": "member-1", "permille": 0 } ] },
    });
    let import = json!({
        "apiVersion": "multicluster.x-k8s.io/v1beta1", "kind": "ServiceImport",
        "metadata": { "name": "echo", "namespace": "demo" },
        "spec": { "type": "ClusterSetIP", "ports": [] },
    });
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret",
        "metadata": { "name": "join-member-2", "namespace": "fairlead-system" },
    });
    let role = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role",
        "metadata": { "name": "more", "namespace": "fairlead-member-member-1" },
        "rules": [],
    });
    for object in [
        record("fairlead-member-member-2"),
        record("demo"),
        claim,
        import,
        secret,
        role,
    ] {
        let refused = apply(&client, &object).await;
        let Err(kube::Error::Api(status)) = refused else {
            anyhow::bail!("{object} is not refused: {refused:?}");
        };
        same!(status.code, 403);
        let who = "system:serviceaccount:fairlead-member-member-1:agent";
        ensure!(status.message.contains(who), "{}", status.message);
    }
    let others = Api::<ExportRecord>::all(client);
    let refused = others.list(&ListParams::default()).await;
    ensure!(matches!(refused, Err(kube::Error::Api(status)) if status.code == 403));
    Ok(())
}

pub(crate) async fn a_forged_export_is_refused_with_a_reason(stage: Stage) -> anyhow::Result<()> {
    let mut fleet = stage.fleet().await?;
    let client = agent(&fleet, "member-1").await?;
    // The agent would tidy up at once.
    fleet.kill("member-1")?;
    let namespace = "fairlead-member-member-1";
    let record = |name: &str, service: &str| {
        json!({
            "apiVersion": "fairlead.dev/v1alpha1", "kind": "ExportRecord",
            "metadata": {
                "name": name, "namespace": namespace,
                // Who it is from is not for it to say.
                "labels": { labels::MEMBER: "member-2", labels::SOURCE_CLUSTER: "member-2" },
            },
            "spec": {
                "serviceNamespace": "demo", "serviceName": service,
                "ports": [ { "name": "line", "port": 7000, "protocol": "TCP" } ],
                "exportedAt": "2001-01-01T00:00:00Z",
            },
        })
    };
    apply(&client, &record("export-of-another", "stolen")).await?;
    let why = export_condition(&fleet, "export-of-another", "Valid", "False").await?;
    ensure!(why.contains("only the agent makes records"), "{why}");
    told(&fleet, "member-1", "only the agent makes records").await?;

    let name = labels::export_record_name("demo", "aged");
    apply(&client, &record(&name, "aged")).await?;
    let why = export_condition(&fleet, &name, "AgePlausible", "False").await?;
    ensure!(
        why.contains("claims to be older than what the hub has seen"),
        "{why}"
    );
    let explained = fleet.must(&["explain", "service", "demo/aged"]).await?;
    ensure!(explained.contains("member-1"), "{explained}");
    ensure!(!explained.contains("member-2"), "{explained}");

    let name = labels::export_record_name("kube-system", "dns");
    let mut reserved = record(&name, "dns");
    reserved["spec"]["serviceNamespace"] = "kube-system".into();
    apply(&client, &reserved).await?;
    let why = export_condition(&fleet, &name, "Valid", "False").await?;
    ensure!(why.contains("kube-system"), "{why}");
    Ok(())
}

pub(crate) async fn addresses_that_are_not_a_members_own_are_left_out(
    stage: Stage,
) -> anyhow::Result<()> {
    let (own, foreign) = match &stage {
        Stage::Embedded => ("127.21.0.0/16", "127.22.0.1"),
        Stage::Real(_) => ("10.77.1.0/24", "10.77.2.1"),
    };
    let fleet = stage.fleet().await?;
    let members = Api::<MemberCluster>::all(fleet.hub().await?);
    let held = async |networks: Value| {
        let patch = json!({ "spec": { "endpointCIDRs": networks } });
        let (params, patch) = (PatchParams::default(), Patch::Merge(&patch));
        members.patch("member-1", &params, &patch).await
    };
    held(json!([own])).await?;
    let slices = Api::<EndpointSlice>::namespaced(fleet.member("member-1").await?, "demo");
    let service = ListParams::default().labels("kubernetes.io/service-name=echo");
    let all = slices.list(&service).await?;
    let ports = all.items.first().and_then(|slice| slice.ports.clone());
    let slice = |name: &str, address: &str| {
        serde_json::from_value::<EndpointSlice>(json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": { "name": name, "labels": { "kubernetes.io/service-name": "echo" } },
            "addressType": "IPv4", "ports": ports,
            "endpoints": [ { "addresses": [address], "conditions": { "ready": true } } ],
        }))
    };
    // The neighbour's pod, as if it were one's own.
    let params = PostParams::default();
    slices.create(&params, &slice("foreign", foreign)?).await?;
    let name = labels::export_record_name("demo", "echo");
    let why = export_condition(&fleet, &name, "Ready", "False").await?;
    ensure!(
        why.contains(foreign) && why.contains("endpointCIDRs"),
        "{why}"
    );
    let explained = fleet.must(&["explain", "service", "demo/echo"]).await?;
    ensure!(explained.contains("RefusedAddresses"), "{explained}");
    told(&fleet, "member-1", foreign).await?;

    // The address that clouds hand secrets out at.
    let metadata = slice("metadata", "169.254.169.254")?;
    let link_local = slices.create(&params, &metadata).await;
    let refused = matches!(link_local, Err(kube::Error::Api(status)) if status.code == 422);
    ensure!(refused, "the API server takes a link-local address");
    let page = fleet::page(&fleet.ready.proxy_admin, "/services").await?;
    let count = page.matches(&format!("{foreign}:")).count();
    // Member-2's own, for each of the two ports.
    same!(count, 2);

    // Real clusters outlive the case.
    slices.delete("foreign", &DeleteParams::default()).await?;
    held(Value::Null).await?;
    Ok(())
}

pub(crate) async fn an_invitation_is_good_once_and_for_one_cluster(
    stage: Stage,
) -> anyhow::Result<()> {
    let fleet = stage.fleet().await?;
    let address = hub_address(&fleet)?;
    let invite = ["join", "member-1", "--renew", "--hub-address", &address];
    let line = invitation(&fleet.must(&invite).await?)?;
    let state = fleet.folder().join("state");
    let state = state.to_str().context("a path in ASCII")?;
    let join = async |line: &str, member: &str| {
        let kubeconfig = fleet.member_file(member)?.kubeconfig.display().to_string();
        let arguments = [
            "join",
            "--invitation",
            line,
            "--state",
            state,
            "--member-kubeconfig",
        ];
        let arguments: Vec<&str> = arguments.into_iter().chain([&*kubeconfig]).collect();
        fleet.fairlead(&arguments).await
    };
    let taken = join(&line, "member-2").await?;
    same!(taken.code, Some(1));
    ensure!(
        taken.stderr.contains("member member-1 is another cluster"),
        "{taken:?}"
    );
    ensure!(
        taken.stderr.contains("join under another name"),
        "{taken:?}"
    );
    told(&fleet, "member-1", "is another cluster").await?;

    same!(join(&line, "member-1").await?.code, Some(0));
    let again = join(&line, "member-1").await?;
    same!(again.code, Some(1));
    ensure!(
        again.stderr.contains("unknown or was used already"),
        "{again:?}"
    );
    told(&fleet, "member-1", "used already").await?;
    let garbled = join("fairlead-nonsense", "member-1").await?;
    same!(garbled.code, Some(1));
    ensure!(
        garbled.stderr.contains("copy the whole line"),
        "{garbled:?}"
    );
    Ok(())
}

pub(crate) async fn a_stream_with_a_token_for_something_else_is_refused(
    stage: Stage,
) -> anyhow::Result<()> {
    let fleet = stage.fleet().await?;
    let folder = fleet_folder(&fleet);
    let token = folder.join("member-1/hub-credentials/kubernetes.token");
    let bundle = folder.join("proxy/bundle.pem");
    let xds = format!("https://{}", hub_address(&fleet)?);
    let mut command = fleet.command(&["up-proxy", "--xds", &xds, "--node", "thief"]);
    command.args(["--group", "edge", "--admin", "127.0.0.1:0"]);
    command
        .arg("--xds-token")
        .arg(token)
        .arg("--xds-ca")
        .arg(bundle);
    let log = fleet.folder().join("thief.log");
    let file = std::fs::File::create(&log)?;
    let _thief = command.stdout(file.try_clone()?).stderr(file).spawn()?;
    wait::until("the refusal", async || {
        let text = std::fs::read_to_string(&log)?;
        let told = text.contains("the token is not good for audience fairlead-xds");
        Ok(told.then_some(()).ok_or(text))
    })
    .await?;
    told(&fleet, "member-1", "not good for audience fairlead-xds").await
}

/// A client of the hub with the identity of a member's agent.
async fn agent(fleet: &Fleet, member: &str) -> anyhow::Result<Client> {
    let folder = fleet_folder(fleet).join(member);
    let token = std::fs::read_to_string(folder.join("hub-credentials/kubernetes.token"))?;
    let read = Kubeconfig::read_from(&fleet.ready.hub.kubeconfig)?;
    let options = KubeConfigOptions::default();
    let mut config = kube::Config::from_custom_kubeconfig(read, &options).await?;
    config.auth_info = AuthInfo {
        token: Some(token.into()),
        ..AuthInfo::default()
    };
    Ok(Client::try_from(config)?)
}

/// Where the fleet keeps everything.
fn fleet_folder(fleet: &Fleet) -> PathBuf {
    let entries = std::fs::read_dir(fleet.folder())
        .into_iter()
        .flatten()
        .flatten();
    let mut folders = entries.map(|entry| entry.path());
    let is_it = |path: &PathBuf| path.display().to_string().contains("/fairlead-up-");
    folders.find(is_it).unwrap_or_default()
}

/// Where agents and proxies reach the hub.
pub(crate) fn hub_address(fleet: &Fleet) -> anyhow::Result<String> {
    let file = fleet_folder(fleet).join("hub/ports.json");
    let ports: Value = serde_json::from_slice(&std::fs::read(file)?)?;
    Ok(format!("127.0.0.1:{}", ports["streams"]))
}

/// The line to hand over, out of what `join` printed.
pub(crate) fn invitation(printed: &str) -> anyhow::Result<String> {
    let mut words = printed.split_whitespace();
    words.find(|word| *word == "--invitation");
    Ok(words.next().context(printed.to_owned())?.to_owned())
}

pub(crate) async fn apply(client: &Client, object: &Value) -> Result<DynamicObject, kube::Error> {
    let made: DynamicObject =
        serde_json::from_value(object.clone()).map_err(kube::Error::SerdeError)?;
    let types = made.types.clone().unwrap_or_default();
    let gvk = GroupVersionKind::try_from(&types).expect("each object here has a kind");
    let resource = ApiResource::from_gvk(&gvk);
    let name = made.metadata.name.clone().unwrap_or_default();
    let api: Api<DynamicObject> = match &made.metadata.namespace {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource),
        None => Api::all_with(client.clone(), &resource),
    };
    api.patch(
        &name,
        &PatchParams::apply("attacker").force(),
        &Patch::Apply(object),
    )
    .await
}

/// Waits for a condition of an export record of member-1; its message.
async fn export_condition(
    fleet: &Fleet,
    name: &str,
    kind: &str,
    status: &str,
) -> anyhow::Result<String> {
    let records = Api::<ExportRecord>::namespaced(fleet.hub().await?, "fairlead-member-member-1");
    wait::until(&format!("{kind}={status} of {name}"), async || {
        let found = records.get(name).await?;
        let conditions = found.status.unwrap_or_default().conditions;
        let one = conditions
            .iter()
            .find(|one| one.type_ == kind && one.status == status);
        Ok(one.map(|one| one.message.clone()).ok_or(conditions))
    })
    .await
}

/// Waits until an event on the hub tells its operator.
pub(crate) async fn told(fleet: &Fleet, about: &str, note: &str) -> anyhow::Result<()> {
    told_in(fleet.hub().await?, about, note).await
}

/// Waits until an event of an object of this name tells so.
pub(crate) async fn told_in(client: Client, name: &str, note: &str) -> anyhow::Result<()> {
    let events = Api::<Event>::all(client);
    wait::until(&format!("an event {note:?}"), async || {
        let all = events.list(&ListParams::default()).await?;
        let notes = all.items.iter().filter_map(|event| {
            let about = event.regarding.as_ref()?.name.as_deref()?;
            (about == name).then(|| event.note.clone().unwrap_or_default())
        });
        let notes: Vec<String> = notes.collect();
        let found = notes.iter().any(|text| text.contains(note));
        Ok(found.then_some(()).ok_or(notes))
    })
    .await
}
