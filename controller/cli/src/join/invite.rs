//! On the hub: an invitation for a cluster.

use anyhow::{Context, bail};
use fairlead_api::member::MemberCluster;
use fairlead_config::name::MemberName;
use fairlead_controller::{agent::invitation::Invitation, authority, join::io::make_token};
use fairlead_runtime::clock::Clock;
use kube::Api;
use serde::Serialize;

use super::JoinOptions;

/// What is printed.
#[derive(Serialize)]
struct Made {
    member: String,
    /// For `--invitation`.
    invitation: String,
}

pub(super) async fn run(options: &JoinOptions, member: &str) -> anyhow::Result<()> {
    let member = MemberName::parse(member)?;
    let hub = options
        .hub_address
        .clone()
        .context("say where members reach the hub: --hub-address HOST:PORT (its --listen port)")?;
    let client = options.hub.client().await?;
    let members = Api::<MemberCluster>::all(client.clone());
    let known = members.get_opt(member.as_str()).await?;
    let cluster = known.and_then(|known| known.status?.cluster_uid);
    if let (Some(uid), false) = (cluster, options.renew) {
        bail!(
            "member {member} has joined already (kube-system UID {uid}); take another name, or invite the same cluster again with --renew"
        );
    }
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
    let made = Made {
        member: member.to_string(),
        invitation: invitation.encode(),
    };
    options.output.print(&made, |made| {
        format!(
            "# In the cluster {}, within 24 hours; the line admits one key, once. With --image IMAGE instead of\n\
             # --foreground and --state the agent runs in the cluster.\n\
             fairlead join --foreground --state ./fairlead-{} --invitation {}\n",
            made.member, made.member, made.invitation
        )
    })
}
