//! `fairlead drain` and `fairlead undrain`: a traffic claim of owner `user`, never an edit of weights.

use std::time::Duration;

use anyhow::Context;
use clap::Args;
use fairlead_api::{
    member::MemberCluster,
    proxy::ProxyGroup,
    service::{MemberState, MemberStatus, MultiClusterService},
};
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
#[command(after_help = "\
Waits for TCP sessions on every proxy; UDP flows move by themselves.

Exit codes: 0 no session is left (or nobody waited), 1 failed, 2 wrong command line, 3 sessions are left after the time; the claim stays.")]
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
    #[arg(long, default_value = "5m", value_name = "DURATION", value_parser = duration)]
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
        // A member that keeps some of its traffic keeps sessions.
        if options.no_wait || options.permille > 0 {
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

/// Waits until the proxies report no session on the member, and shows how many are left. A number
/// counts only once the proxies run on the new weights, and have had time to report since.
async fn wait(client: &Client, member: &str, patience: Duration) -> anyhow::Result<Drained> {
    let services = Api::<MultiClusterService>::all(client.clone());
    let groups = Api::<ProxyGroup>::all(client.clone());
    let everything = ListParams::default();
    let started = Instant::now();
    let mut settled_at = None;
    let mut shown = None;
    loop {
        let (list, groups) =
            tokio::try_join!(services.list(&everything), groups.list(&everything))?;
        let now = Instant::now();
        let in_sync = groups.items.iter().all(is_in_sync) || now - started > SYNC_PATIENCE;
        settled_at = if in_sync && list.items.iter().all(|one| takes_nothing(one, member)) {
            settled_at.or(Some(now))
        } else {
            None
        };
        let left = sessions(&list.items, member);
        if shown != Some(left) {
            match left {
                Some(1) => println!("1 session left"),
                Some(count) => println!("{count} sessions left"),
                None => println!("sessions unknown: a proxy has not reported yet"),
            }
            shown = Some(left);
        }
        if left == Some(0) && settled_at.is_some_and(|at| now - at >= REPORTED_WITHIN) {
            return Ok(Drained::Done);
        }
        if now - started > patience {
            eprintln!(
                "fairlead: sessions are still live after {patience:?}; the claim stays, `fairlead undrain {member}` takes it back"
            );
            return Ok(Drained::TimedOut);
        }
        sleep(POLL).await;
    }
}

/// Sessions on the member over all services; `None` while any of them is unknown.
fn sessions(services: &[MultiClusterService], member: &str) -> Option<i64> {
    services
        .iter()
        .flat_map(|service| parts(service, member))
        .map(|one| one.active_sessions)
        .sum()
}

/// Whether the hub gives the member no new sessions of this service.
fn takes_nothing(service: &MultiClusterService, member: &str) -> bool {
    parts(service, member)
        .all(|one| one.effective_weight_thousandths == 0 || one.state == MemberState::NotSelected)
}

fn parts<'s>(
    service: &'s MultiClusterService,
    member: &'s str,
) -> impl Iterator<Item = &'s MemberStatus> {
    let members = service.status.iter().flat_map(|status| &status.members);
    members.filter(move |one| one.member == member)
}

/// Whether all proxies of a group that are connected run on what was published last.
fn is_in_sync(group: &ProxyGroup) -> bool {
    group
        .status
        .as_ref()
        .is_none_or(|status| status.in_sync >= status.connected)
}

fn duration(text: &str) -> Result<Duration, String> {
    fairlead_config::rule::parse_duration(text).ok_or_else(|| "write 90s, 5m or 1h".to_owned())
}

/// The owner of claims made by hand.
const OWNER: &str = "user";
const MANAGER: &str = "fairlead-drain";
const POLL: Duration = Duration::from_millis(500);
/// Services under drain are reported every second.
const REPORTED_WITHIN: Duration = Duration::from_secs(2);
/// A proxy that refuses something is never in sync; it has the weights all the same.
const SYNC_PATIENCE: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use fairlead_api::service::MultiClusterServiceStatus;

    use super::*;

    fn service(weight: i32, sessions: Option<i64>) -> MultiClusterService {
        let one = |member: &str| MemberStatus {
            member: member.to_owned(),
            effective_weight_thousandths: weight,
            active_sessions: sessions,
            ..MemberStatus::default()
        };
        let mut service = MultiClusterService::new("echo", Default::default());
        service.status = Some(MultiClusterServiceStatus {
            members: vec![one("a"), one("b")],
            ..MultiClusterServiceStatus::default()
        });
        service
    }

    #[test]
    fn sessions_are_known_only_when_those_of_every_service_are() {
        let (two, three) = (service(0, Some(2)), service(0, Some(3)));
        assert_eq!(sessions(&[two.clone(), three], "a"), Some(5));
        assert_eq!(sessions(&[two, service(0, None)], "a"), None);
        assert_eq!(sessions(&[], "a"), Some(0));
    }

    #[test]
    fn a_member_with_weight_left_is_not_drained_yet() {
        assert!(takes_nothing(&service(0, None), "a"));
        assert!(!takes_nothing(&service(1, Some(0)), "a"));
        assert!(takes_nothing(&service(1, Some(0)), "stranger"));
    }
}
