//! `fairlead join`, `fairlead leave` and `fairlead proxy token`: one command on the hub, one in each
//! member.
//!
//! | module | what it does |
//! |---|---|
//! | [`invite`] | on the hub: makes an invitation |
//! | [`admit`] | in the member: takes it, and runs or renews what came of it |
//! | [`prepare`] | CRDs, rights and id of the member |
//! | [`workload`] | the agent in the member, as Kubernetes objects |
//! | [`leave`] | takes a member out |

use std::{path::PathBuf, time::Duration};

use anyhow::ensure;
use clap::{ArgGroup, Args};
use fairlead_api::proxy::ProxyGroup;
use fairlead_controller::join::io::make_proxy_token;
use kube::Api;

use crate::{
    connection::{HubFlags, block_on},
    output::Output,
};

mod admit;
mod invite;
pub(crate) mod leave;
mod prepare;
mod workload;

/// How to join.
#[derive(Args)]
#[command(after_help = JOIN_HELP)]
#[command(group = ArgGroup::new("side").args(["member", "invitation", "state", "dry_run"]).required(true).multiple(true))]
pub(crate) struct JoinOptions {
    /// On the hub: invite a cluster under this name (a DNS label of at most 47 characters).
    #[arg(requires = "hub_address", conflicts_with_all = ["invitation", "state", "dry_run", "image"])]
    member: Option<String>,
    /// On the hub: where members reach it, HOST:PORT.
    #[arg(long, value_name = "HOST:PORT", requires = "member", value_parser = host_and_port)]
    hub_address: Option<String>,
    /// On the hub: invite the cluster of an existing member again. In the member, with --state: a
    /// new key and certificate now.
    #[arg(long)]
    renew: bool,
    /// In the member: the line that the hub printed.
    #[arg(
        long,
        value_name = "LINE",
        env = "FAIRLEAD_INVITATION",
        hide_env_values = true
    )]
    invitation: Option<String>,
    /// In the member: its kubeconfig [default: $KUBECONFIG, then ~/.kube/config].
    #[arg(long, value_name = "FILE")]
    member_kubeconfig: Option<PathBuf>,
    /// In the member: run the agent there, from this image (it must have `fairlead-controller`).
    #[arg(long, value_name = "IMAGE", requires = "invitation", conflicts_with_all = ["foreground", "state"])]
    image: Option<String>,
    /// In the member: run the agent here and now, until it is interrupted.
    #[arg(long, requires = "state")]
    foreground: bool,
    /// In the member: the folder of the agent's key, certificate and tokens.
    #[arg(long, value_name = "FOLDER")]
    state: Option<PathBuf>,
    /// In the member: print what would be applied as YAML, and apply nothing.
    #[arg(long)]
    dry_run: bool,
    /// In the member: list pods too, for the capacity that is left.
    #[arg(long)]
    properties_pods: bool,
    #[command(flatten)]
    hub: HubFlags,
    #[command(flatten)]
    output: Output,
}

/// A token for standalone proxies.
#[derive(Args)]
pub(crate) struct TokenOptions {
    /// The proxy group.
    group: String,
    /// How long it is good.
    #[arg(long, default_value = "1h", value_name = "DURATION", value_parser = duration)]
    life: Duration,
    #[command(flatten)]
    hub: HubFlags,
    #[command(flatten)]
    output: Output,
}

pub(crate) fn join(options: &JoinOptions) -> anyhow::Result<()> {
    block_on(async {
        match &options.member {
            Some(member) => invite::run(options, member).await,
            None => admit::run(options).await,
        }
    })
}

pub(crate) fn proxy_token(options: &TokenOptions) -> anyhow::Result<()> {
    block_on(async {
        let client = options.hub.client().await?;
        let groups = Api::<ProxyGroup>::all(client.clone());
        let group = &options.group;
        ensure!(
            groups.get_opt(group).await?.is_some(),
            "there is no proxy group {group}; make a ProxyGroup of that name first"
        );
        let token = make_proxy_token(&client, group, options.life).await?;
        options
            .output
            .print(&token, |token| format!("{}\n", token.token))
    })
}

fn duration(text: &str) -> Result<Duration, String> {
    fairlead_config::rule::parse_duration(text).ok_or_else(|| "write 90s, 30m or 24h".to_owned())
}

fn host_and_port(text: &str) -> Result<String, String> {
    let port = text
        .rsplit_once(':')
        .map(|(host, port)| (host, port.parse::<u16>()));
    match port {
        Some((host, Ok(1..))) if !host.is_empty() => Ok(text.to_owned()),
        _ => Err("write HOST:PORT, such as hub.example:15010".to_owned()),
    }
}

const JOIN_HELP: &str = "\
A cluster joins by one command on the hub and one in the cluster:
  fairlead join eu-1 --hub-address hub.example:15010        prints the second one
  fairlead join --invitation LINE --image IMAGE             runs the agent in the cluster, or
  fairlead join --invitation LINE --state DIR --foreground  runs it here
With --dry-run the second prints everything that it would apply, the agent's Deployment included.

The agent in the cluster serves its member's own proxies (https://fairlead-agent.fairlead-system.svc:15011), as
the Helm chart's does.

CRDs of the MCS and About APIs that are newer, or that somebody else keeps, stay as they are.

Exit codes: 0 done, 1 failed (standard error says why and what to do), 2 wrong command line.
";
