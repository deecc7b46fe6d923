//! `fairlead drain` and `fairlead undrain`: a traffic claim of owner `user`, never an edit of weights.

use std::time::Duration;

use anyhow::Context;
use clap::Args;
use fairlead_api::{member::MemberCluster, service::MultiClusterService};
use k8s_openapi::jiff::Timestamp;
use kube::{
    Api, Client,
    api::{ListParams, Patch, PatchParams},
};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::connection::{HubFlags, block_on};

/// Whom to drain.
#[derive(Args)]
pub(crate) struct DrainOptions {
    /// The member that shall take no new sessions.
    member: String,
    /// Why, for the others.
    #[arg(long, default_value = "drained by hand")]
    reason: String,
    /// What it keeps of its traffic, in thousandths.
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u16).range(0..=999))]
    permille: u16,
    /// How long to wait for its sessions to finish, in seconds, minutes or hours (`90s`, `5m`).
    #[arg(long, default_value = "5m", value_parser = duration)]
    timeout: Duration,
    /// Don't wait.
    #[arg(long)]
    no_wait: bool,
    #[command(flatten)]
    hub: HubFlags,
}

/// Whom to give its traffic back.
#[derive(Args)]
pub(crate) struct UndrainOptions {
    /// The member.
    member: String,
    #[command(flatten)]
    hub: HubFlags,
}

/// How a drain ended.
pub(crate) enum Drained {
    /// No session is left, or nobody waited.
    Done,
    /// Sessions are left after the time.
    TimedOut,
}

pub(crate) fn drain(options: &DrainOptions) -> anyhow::Result<Drained> {
    block_on(async {
        let client = options.hub.client().await?;
        let claim = json!({
            "owner": OWNER,
            "permille": options.permille,
            "reason": options.reason,
            "since": Timestamp::now().to_string(),
        });
        claim_traffic(&client, &options.member, json!([claim])).await?;
        println!(
            "{} keeps {}‰ of its traffic",
            options.member, options.permille
        );
        if options.no_wait {
            return Ok(Drained::Done);
        }
        wait(&client, &options.member, options.timeout).await
    })
}

pub(crate) fn undrain(options: &UndrainOptions) -> anyhow::Result<()> {
    block_on(async {
        let client = options.hub.client().await?;
        claim_traffic(&client, &options.member, json!([])).await?;
        println!(
            "{} takes its traffic again, unless others claim it",
            options.member
        );
        Ok(())
    })
}

/// Server-side apply under a manager of our own: it owns this claim and no other.
async fn claim_traffic(client: &Client, member: &str, claims: Value) -> anyhow::Result<()> {
    let members = Api::<MemberCluster>::all(client.clone());
    let known = members
        .get_opt(member)
        .await
        .context("the hub's members cannot be read")?;
    anyhow::ensure!(
        known.is_some(),
        "there is no member {member}; `fairlead status` lists them"
    );
    let object = json!({
        "apiVersion": "fairlead.dev/v1alpha1",
        "kind": "MemberCluster",
        "metadata": { "name": member },
        "spec": { "trafficClaims": claims },
    });
    members
        .patch(
            member,
            &PatchParams::apply(MANAGER).force(),
            &Patch::Apply(&object),
        )
        .await?;
    Ok(())
}

/// Waits until the proxies report no session on the member, and shows how many are left.
async fn wait(client: &Client, member: &str, patience: Duration) -> anyhow::Result<Drained> {
    let services = Api::<MultiClusterService>::all(client.clone());
    let deadline = Instant::now() + patience;
    let mut shown = None;
    loop {
        let list = services.list(&ListParams::default()).await?;
        let left = sessions(&list.items, member);
        if shown != Some(left) {
            match left {
                Some(count) => println!("{count} sessions left"),
                None => println!("sessions unknown: a proxy has not reported yet"),
            }
            shown = Some(left);
        }
        if left == Some(0) {
            return Ok(Drained::Done);
        }
        if Instant::now() > deadline {
            eprintln!(
                "fairlead: sessions are still live after {patience:?}; the claim stays, `fairlead undrain {member}` takes it back"
            );
            return Ok(Drained::TimedOut);
        }
        sleep(POLL).await;
    }
}

/// Sessions on the member over all services; `None` while any of them is unknown or not yet drained.
fn sessions(services: &[MultiClusterService], member: &str) -> Option<i64> {
    services
        .iter()
        .filter_map(|service| service.status.as_ref())
        .flat_map(|status| &status.members)
        .filter(|one| one.member == member)
        .map(|one| one.active_sessions)
        .sum()
}

fn duration(text: &str) -> Result<Duration, String> {
    fairlead_config::rule::parse_duration(text).ok_or_else(|| "write 90s, 5m or 1h".to_owned())
}

/// The owner of claims made by hand.
const OWNER: &str = "user";
const MANAGER: &str = "fairlead-drain";
const POLL: Duration = Duration::from_millis(500);
