//! `fairlead leave`: a member goes.

use std::time::Duration;

use anyhow::Context;
use clap::Args;
use fairlead_api::{labels, member::MemberCluster};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, Patch, PatchParams, Preconditions},
};
use serde_json::json;
use tokio::time::{Instant, sleep};

use crate::connection::{HubFlags, block_on};

/// Who leaves.
#[derive(Args)]
#[command(after_help = "\
Its exports are withdrawn, its identity is revoked and its streams are closed at once, whoever uses them.
To take a member out only once nobody uses its exports, `kubectl delete membercluster NAME` on the hub:
it serves on until they are withdrawn, and its condition Leaving says which they are.

Exit codes: 0 it is gone (or nobody waited), 1 failed, 2 wrong command line, 3 not gone in time.")]
pub(crate) struct LeaveOptions {
    /// The member. Its workloads stay, its exports go, its streams close.
    member: String,
    /// Don't wait for its agent or for what is left of its namespace on the hub: the cluster may be
    /// gone for good.
    #[arg(long)]
    force: bool,
    /// How long to wait until it is gone (`90s`, `5m`).
    #[arg(long, default_value = "2m", value_name = "DURATION", value_parser = super::duration)]
    timeout: Duration,
    /// Don't wait.
    #[arg(long)]
    no_wait: bool,
    #[command(flatten)]
    hub: HubFlags,
}

/// How it ended.
pub(crate) enum Left {
    /// It is gone, or nobody waited.
    Done,
    /// It is there still.
    TimedOut,
}

pub(crate) fn leave(options: &LeaveOptions) -> anyhow::Result<Left> {
    block_on(async {
        let members = Api::<MemberCluster>::all(options.hub.client().await?);
        let name = &options.member;
        let member = members.get_opt(name).await?;
        let member = member
            .with_context(|| format!("there is no member {name}; `fairlead status` lists them"))?;
        // Whoever types this means it: nothing is checked first.
        let mut change = json!({ "spec": { "deleteOptions": { "validationMode": "Skip" } } });
        if options.force {
            change["metadata"] = json!({ "annotations": { labels::FORCE_LEAVE: "true" } });
        }
        members
            .patch(name, &PatchParams::default(), &Patch::Merge(&change))
            .await?;
        let uid = member.uid();
        let this = DeleteParams {
            preconditions: Some(Preconditions {
                uid: uid.clone(),
                resource_version: None,
            }),
            ..DeleteParams::default()
        };
        members.delete(name, &this).await?;
        println!("{name} leaves: its workloads stay, its exports go");
        if options.no_wait {
            return Ok(Left::Done);
        }
        let deadline = Instant::now() + options.timeout;
        loop {
            let have = members.get_opt(name).await?;
            if have.and_then(|have| have.uid()) != uid {
                println!("{name} is gone");
                return Ok(Left::Done);
            }
            if Instant::now() > deadline {
                eprintln!(
                    "fairlead: {name} is not gone after {:?}; is a hub running? `fairlead leave {name} --force` waits for nothing in its namespace",
                    options.timeout
                );
                return Ok(Left::TimedOut);
            }
            sleep(AGAIN).await;
        }
    })
}

const AGAIN: Duration = Duration::from_millis(200);
