//! `fairlead status`: members and services, and why they are as they are.

use clap::Args;
use fairlead_api::{conditions, member::MemberCluster, service::MultiClusterService};
use kube::{Api, ResourceExt, api::ListParams};
use serde::Serialize;

use crate::{
    connection::{HubFlags, block_on},
    output::{Output, table},
};

/// What to show.
#[derive(Args)]
pub(crate) struct Options {
    #[command(flatten)]
    hub: HubFlags,
    #[command(flatten)]
    output: Output,
}

/// The fleet at a glance.
#[derive(Serialize)]
struct Status {
    members: Vec<MemberCluster>,
    services: Vec<MultiClusterService>,
}

pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    block_on(async {
        let client = options.hub.client().await?;
        let everything = ListParams::default();
        let members = Api::<MemberCluster>::all(client.clone());
        let services = Api::<MultiClusterService>::all(client);
        let (members, services) =
            tokio::try_join!(members.list(&everything), services.list(&everything))?;
        let status = Status {
            members: members.items,
            services: services.items,
        };
        options.output.print(&status, text)
    })
}

fn text(status: &Status) -> String {
    let mut out = members(&status.members);
    for service in &status.services {
        out.push('\n');
        out.push_str(&self::service(service));
    }
    out
}

fn members(members: &[MemberCluster]) -> String {
    if members.is_empty() {
        return "no cluster has joined; `fairlead join NAME --hub-address HOST:PORT` invites one\n"
            .to_owned();
    }
    let row = |member: &MemberCluster| {
        let seen = member.status.as_ref();
        let conditions = seen
            .map(|seen| seen.conditions.as_slice())
            .unwrap_or_default();
        let healthy = conditions::find(conditions, conditions::kind::HEALTHY);
        let leaving = conditions::find(conditions, conditions::kind::LEAVING);
        let why = [leaving, healthy].into_iter().flatten();
        let why: Vec<&str> = why.map(|one| one.message.as_str()).collect();
        let claims = member.spec.traffic_claims.iter();
        let claims =
            claims.map(|claim| format!("{}: {}‰ {}", claim.owner, claim.permille, claim.reason));
        [
            member.name_any(),
            healthy
                .map_or("unknown", |found| match found.status.as_str() {
                    "True" => "yes",
                    "False" => "no",
                    _ => "unknown",
                })
                .to_owned(),
            seen.and_then(|seen| seen.kubernetes_version.clone())
                .unwrap_or_default(),
            seen.and_then(|seen| seen.agent_version.clone())
                .unwrap_or_default(),
            claims.collect::<Vec<_>>().join("; "),
            why.join("; "),
        ]
    };
    let rows: Vec<_> = members.iter().map(row).collect();
    table(
        ["MEMBER", "HEALTHY", "KUBERNETES", "AGENT", "CLAIMS", "WHY"],
        &rows,
    )
}

/// One service: where it is served, and each member's part in it.
pub(crate) fn service(service: &MultiClusterService) -> String {
    let name = format!(
        "{}/{}",
        service.namespace().unwrap_or_default(),
        service.name_any()
    );
    let Some(status) = &service.status else {
        return format!("SERVICE {name}: the hub has not looked at it yet\n");
    };
    let frontends = status.frontends.iter();
    let frontends =
        frontends.map(|one| format!("{} {} ({})", one.protocol, one.endpoint, one.service_port));
    let mut out = format!(
        "SERVICE {name}  {}\n",
        frontends.collect::<Vec<_>>().join(", ")
    );
    for wrong in status
        .conditions
        .iter()
        .filter(|condition| condition.status != "True")
    {
        out.push_str(&format!("  {}: {}\n", wrong.type_, wrong.message));
    }
    let rows: Vec<_> = status
        .members
        .iter()
        .map(|member| {
            let effective = f64::from(member.effective_weight_thousandths) / 1000.0;
            [
                format!("  {}", member.member),
                member
                    .tier
                    .map_or_else(|| "none".to_owned(), |tier| tier.to_string()),
                member.configured_weight.to_string(),
                effective.to_string(),
                format!("{}/{}", member.ready_endpoints, member.endpoints),
                member
                    .active_sessions
                    .map_or_else(|| "unknown".to_owned(), |count| count.to_string()),
                format!("{:?}", member.state),
                member.reason.clone(),
            ]
        })
        .collect();
    let head = [
        "  MEMBER",
        "TIER",
        "WEIGHT",
        "EFFECTIVE",
        "READY",
        "SESSIONS",
        "STATE",
        "WHY",
    ];
    out.push_str(&table(head, &rows));
    out
}
