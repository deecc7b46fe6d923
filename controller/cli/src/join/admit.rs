//! In the member: an invitation becomes a standing with the hub.

use std::{path::Path, time::Duration};

use anyhow::{Context, bail};
use fairlead_controller::{
    agent::{Credentials, invitation::Invitation, io::credentials::CredentialsError},
    app,
    hub::apply_manifest,
    manifests,
    settings::MemberFlags,
};
use fairlead_runtime::clock::Clock;
use k8s_openapi::api::core::v1::Namespace;
use kube::{Api, Client, ResourceExt};

use super::{
    JoinOptions,
    prepare::{self, Preparation},
    workload,
};
use crate::connection;

pub(super) async fn run(options: &JoinOptions) -> anyhow::Result<()> {
    let invitation = options.invitation.as_deref().map(Invitation::decode);
    let invitation = invitation.transpose()?;
    let member = invitation.as_ref().map(Invitation::member);
    let preparation = Preparation::new(member, options.properties_pods);
    if options.dry_run {
        let mut text = preparation.yaml()?;
        if let (Some(image), Some(invitation)) = (&options.image, &invitation) {
            for object in workload::objects(image, invitation, options.properties_pods) {
                text += &format!("---\n{}", serde_saphyr::to_string(&object)?);
            }
        }
        print!("{text}");
        return Ok(());
    }
    let local = connection::client(options.member_kubeconfig.as_ref())
        .await
        .context("the member")?;
    if let (Some(image), Some(invitation)) = (&options.image, &invitation) {
        return deploy(&local, &preparation, invitation, (image, options)).await;
    }
    let state = options.state.as_deref().context(
        "say where the agent runs: in the cluster with --image IMAGE, or here with --state FOLDER",
    )?;
    let credentials = match (&invitation, Credentials::open(state).await?) {
        (Some(invitation), _) => take(state, &local, &preparation, invitation).await?,
        (None, Some(credentials)) => credentials,
        (None, None) => bail!(
            "{} holds no membership; give an --invitation",
            state.display()
        ),
    };
    match &invitation {
        // The hub may still be preparing the member.
        Some(_) => drop(credentials.exchange_first(JOIN_PATIENCE).await?),
        None => match credentials.exchange().await {
            Err(error @ CredentialsError::Unreachable { .. }) if options.foreground => {
                eprintln!("fairlead: {error}; the agent goes on trying");
            }
            exchanged => drop(exchanged?),
        },
    }
    let member = std::fs::read_to_string(state.join(MEMBER_FILE))?;
    let member = member.trim().to_owned();
    if options.renew && invitation.is_none() {
        credentials.renew().await?;
        println!("{member} has a new key and certificate");
    } else {
        println!("{member} has joined");
    }
    if options.foreground {
        return serve(options, state).await;
    }
    println!(
        "run its agent with: fairlead join --foreground --state {}",
        state.display()
    );
    Ok(())
}

/// Joins first: a cluster that the hub refuses is left as it was.
async fn take(
    state: &Path,
    local: &Client,
    preparation: &Preparation,
    invitation: &Invitation,
) -> anyhow::Result<Credentials> {
    preparation.check(local).await?;
    let system = Api::<Namespace>::all(local.clone())
        .get("kube-system")
        .await
        .context("the member's API server")?;
    let uid = system.uid().unwrap_or_default();
    let credentials = Credentials::join(state, invitation, &uid).await?;
    std::fs::write(state.join(MEMBER_FILE), invitation.member())?;
    preparation.apply(local).await.with_context(|| {
        format!(
            "{} is admitted, but its cluster is not prepared; once it can be, run `fairlead join --invitation` with a new line",
            invitation.member()
        )
    })?;
    Ok(credentials)
}

/// The agent takes the invitation itself, in the cluster.
async fn deploy(
    local: &Client,
    preparation: &Preparation,
    invitation: &Invitation,
    (image, options): (&str, &JoinOptions),
) -> anyhow::Result<()> {
    preparation.check(local).await?;
    preparation.apply(local).await?;
    for object in workload::objects(image, invitation, options.properties_pods) {
        apply_manifest(local, &object)
            .await
            .with_context(|| prepare::title(&object))?;
    }
    println!(
        "the agent of {} is on its way: kubectl -n fairlead-system get pods; `fairlead status` on the hub shows it once it has joined. Its own proxies find it at {}",
        invitation.member(),
        manifests::xds_url()
    );
    Ok(())
}

/// The agent, here and now, as `fairlead-controller member` runs it, with the rights of its account.
async fn serve(options: &JoinOptions, state: &Path) -> anyhow::Result<()> {
    let flags = MemberFlags {
        data: state.to_owned(),
        kubeconfig: options.member_kubeconfig.clone(),
        as_agent: true,
        properties_pods: options.properties_pods,
        ..MemberFlags::default()
    };
    let admin = ([127, 0, 0, 1], 0).into();
    app::run_member(&flags, admin, Clock::system()).await
}

/// In the state folder: whose it is.
const MEMBER_FILE: &str = "member";
/// How long the hub may take to prepare a member.
const JOIN_PATIENCE: Duration = Duration::from_secs(30);
