//! `fairlead join` and `fairlead leave`: one command on the hub, one in each member.

use std::{path::PathBuf, time::Duration};

use anyhow::{Context, bail, ensure};
use clap::Args;
use fairlead_api::{about::ClusterProperty, labels, member::MemberCluster};
use fairlead_config::name::MemberName;
use fairlead_controller::{
    agent::{self, AgentConfig, Credentials, invitation::Invitation},
    authority,
    hub::apply_manifest,
    join::io::{make_proxy_token, make_token},
    manifests,
};
use fairlead_runtime::clock::Clock;
use k8s_openapi::api::core::v1::Namespace;
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, Patch, PatchParams},
};
use serde_json::json;

use crate::connection::{self, HubFlags, block_on};

/// How to join.
#[derive(Args)]
pub(crate) struct JoinOptions {
    /// On the hub: invite a cluster under this name (a DNS label of at most 47 characters).
    #[arg(conflicts_with = "invitation", required_unless_present_any = ["invitation", "state"])]
    member: Option<String>,
    /// On the hub: where members reach it, HOST:PORT.
    #[arg(long, value_name = "HOST:PORT", requires = "member")]
    hub_address: Option<String>,
    /// In the member: the line that the hub printed.
    #[arg(long, value_name = "LINE")]
    invitation: Option<String>,
    /// In the member: its kubeconfig [default: $KUBECONFIG, then ~/.kube/config].
    #[arg(long, value_name = "FILE")]
    member_kubeconfig: Option<PathBuf>,
    /// In the member: run the agent here and now, until it is interrupted.
    #[arg(long, requires = "state")]
    foreground: bool,
    /// In the member: the folder of the agent's key, certificate and tokens.
    #[arg(long, value_name = "FOLDER")]
    state: Option<PathBuf>,
    /// In the member: print what would be applied (CRDs, rights), and apply nothing.
    #[arg(long)]
    dry_run: bool,
    /// In the member: list pods too, for the capacity that is left.
    #[arg(long)]
    properties_pods: bool,
    #[command(flatten)]
    hub: HubFlags,
}

/// Who leaves.
#[derive(Args)]
pub(crate) struct LeaveOptions {
    /// The member. Its workloads stay, its exports go, its streams close.
    member: String,
    /// Don't wait for its agent, which may be gone for good.
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    hub: HubFlags,
}

/// A token for standalone proxies.
#[derive(Args)]
pub(crate) struct TokenOptions {
    /// The proxy group.
    group: String,
    /// How long it is good.
    #[arg(long, default_value = "1h", value_parser = fairlead_duration)]
    life: Duration,
    #[command(flatten)]
    hub: HubFlags,
}

pub(crate) fn join(options: &JoinOptions) -> anyhow::Result<()> {
    block_on(async {
        match (&options.member, &options.invitation) {
            (Some(member), _) => invite(options, member).await,
            (None, _) => admit(options).await,
        }
    })
}

pub(crate) fn leave(options: &LeaveOptions) -> anyhow::Result<()> {
    block_on(async {
        let members = Api::<MemberCluster>::all(options.hub.client().await?);
        let name = &options.member;
        ensure!(
            members.get_opt(name).await?.is_some(),
            "there is no member {name}"
        );
        if options.force {
            let force = json!({ "metadata": { "annotations": { labels::FORCE_LEAVE: "true" } } });
            members
                .patch(name, &PatchParams::default(), &Patch::Merge(&force))
                .await?;
        }
        members.delete(name, &DeleteParams::default()).await?;
        println!("{name} leaves: its workloads stay, its exports go");
        Ok(())
    })
}

pub(crate) fn proxy_token(options: &TokenOptions) -> anyhow::Result<()> {
    block_on(async {
        let client = options.hub.client().await?;
        let token = make_proxy_token(&client, &options.group, options.life).await?;
        println!("{}", token.token);
        Ok(())
    })
}

/// On the hub.
async fn invite(options: &JoinOptions, member: &str) -> anyhow::Result<()> {
    let member = MemberName::parse(member)?;
    let hub = options
        .hub_address
        .clone()
        .context("say where members reach the hub: --hub-address HOST:PORT (its --listen port)")?;
    let client = options.hub.client().await?;
    let clock = Clock::system();
    let authority = authority::io::load(&client, &clock)
        .await
        .context("the hub's authority")?;
    let token = make_token(&client, &clock, &member).await?;
    let invitation = Invitation {
        hub,
        token,
        bundle: authority.bundle(),
    };
    println!("# In the cluster {member}, within 24 hours; the line admits one key, once:");
    println!(
        "fairlead join --foreground --state ./fairlead-{member} --invitation {}",
        invitation.encode()
    );
    Ok(())
}

/// In the member.
async fn admit(options: &JoinOptions) -> anyhow::Result<()> {
    let crds = fairlead_api::crds::member_crds();
    let rights = manifests::agent(options.properties_pods);
    if options.dry_run {
        for crd in &crds {
            print!("---\n{}", serde_saphyr::to_string(crd)?);
        }
        for object in &rights {
            print!("---\n{}", serde_saphyr::to_string(object)?);
        }
        return Ok(());
    }
    let local = connection::client(options.member_kubeconfig.as_ref())
        .await
        .context("the member")?;
    let state = options
        .state
        .as_ref()
        .context("name a folder for the agent's keys: --state FOLDER")?;
    let credentials = match (Credentials::open(state).await?, &options.invitation) {
        (Some(credentials), None) => credentials,
        (_, Some(line)) => {
            let invitation = Invitation::decode(line)?;
            let system = Api::<Namespace>::all(local.clone())
                .get("kube-system")
                .await?;
            prepare(&local, invitation.member(), &crds, &rights).await?;
            let uid = system.uid().unwrap_or_default();
            let credentials = Credentials::join(state, &invitation, &uid).await?;
            std::fs::write(state.join("member"), invitation.member())?;
            credentials
        }
        (None, None) => bail!(
            "{} holds no membership; give an --invitation",
            state.display()
        ),
    };
    credentials.exchange_first(JOIN_PATIENCE).await?;
    let member = std::fs::read_to_string(state.join("member"))?
        .trim()
        .to_owned();
    println!("{member} has joined");
    if options.foreground {
        return serve(options, &member, local, credentials).await;
    }
    println!(
        "run its agent with: fairlead join --foreground --state {}",
        state.display()
    );
    Ok(())
}

/// CRDs, rights and the cluster's id. CRDs that are newer, or somebody else's, are kept.
async fn prepare(
    local: &Client,
    member: &str,
    crds: &[k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition],
    rights: &[serde_json::Value],
) -> anyhow::Result<()> {
    let definitions = Api::all(local.clone());
    for crd in crds {
        let name = crd.name_any();
        let have: Option<k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition> =
            definitions.get_opt(&name).await?;
        let owner = have.as_ref().and_then(|have| {
            let managers = have
                .managed_fields()
                .iter()
                .filter_map(|entry| entry.manager.clone());
            managers
                .into_iter()
                .find(|manager| manager != MANAGER && manager != "kube-apiserver")
        });
        match owner {
            Some(owner) => println!("CRD {name} is kept as it is: it belongs to {owner}"),
            None => {
                let params = PatchParams::apply(MANAGER).force();
                definitions
                    .patch(&name, &params, &Patch::Apply(crd))
                    .await?;
            }
        }
    }
    for object in rights {
        apply_manifest(local, object).await?;
    }
    let properties = Api::<ClusterProperty>::all(local.clone());
    let id = labels::CLUSTER_ID_PROPERTY;
    match properties.get_opt(id).await? {
        Some(have) if have.spec.value != member => bail!(
            "this cluster's id is {:?} already (ClusterProperty {id}); join as that name, or delete the property",
            have.spec.value
        ),
        Some(_) => {}
        None => {
            let property = json!({
                "apiVersion": "about.k8s.io/v1beta1", "kind": "ClusterProperty",
                "metadata": { "name": id }, "spec": { "value": member },
            });
            apply_manifest(local, &property).await?;
        }
    }
    Ok(())
}

async fn serve(
    options: &JoinOptions,
    member: &str,
    local: Client,
    credentials: Credentials,
) -> anyhow::Result<()> {
    let mut agent = agent::run(AgentConfig {
        member: member.to_owned(),
        local,
        hub: credentials.client().await?,
        properties_pods: options.properties_pods,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        clock: Clock::system(),
        downward: options
            .state
            .as_deref()
            .map(|state| credentials.downward(state)),
    });
    let outcome = tokio::select! {
        ended = credentials.keep() => ended.map_err(|error| anyhow::anyhow!("{error}")),
        exit = agent.ended() => {
            Err(anyhow::anyhow!("{} ended: {}", exit.name, exit.failure.unwrap_or_default()))
        }
        interrupted = tokio::signal::ctrl_c() => interrupted.map_err(Into::into),
    };
    agent.stop().await;
    outcome
}

fn fairlead_duration(text: &str) -> Result<Duration, String> {
    fairlead_config::rule::parse_duration(text).ok_or_else(|| "write 30m, 1h or 24h".to_owned())
}

const MANAGER: &str = "fairlead-join";
/// How long the hub may take to prepare a member.
const JOIN_PATIENCE: Duration = Duration::from_secs(30);
