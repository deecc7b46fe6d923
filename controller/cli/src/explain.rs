//! `fairlead explain service NAMESPACE/NAME`: each decision about a service, and its reason.

use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use fairlead_api::{
    export::ExportRecord, labels, mcs::ServiceImport, member::MemberCluster,
    service::MultiClusterService,
};
use kube::{Api, Client, ResourceExt, api::ListParams};
use serde::Serialize;

use crate::{
    connection::{HubFlags, block_on},
    output::{Output, table},
    status,
};

/// What to explain.
#[derive(Args)]
pub(crate) struct Options {
    #[command(subcommand)]
    subject: Subject,
}

#[derive(Subcommand)]
enum Subject {
    /// Why a service is served the way it is.
    Service(ServiceOptions),
}

#[derive(Args)]
struct ServiceOptions {
    /// The service, by its name in all clusters.
    #[arg(value_name = "NAMESPACE/NAME", value_parser = service_name)]
    name: (String, String),
    /// Only what concerns this member.
    #[arg(long, value_name = "MEMBER")]
    from: Option<String>,
    #[command(flatten)]
    hub: HubFlags,
    #[command(flatten)]
    output: Output,
}

/// All that the hub's objects say of a service.
#[derive(Serialize)]
struct Explanation {
    import: Option<ServiceImport>,
    service: Option<MultiClusterService>,
    exports: Vec<ExportRecord>,
    members: Vec<MemberCluster>,
}

fn service_name(text: &str) -> Result<(String, String), String> {
    match text.split_once('/') {
        Some((namespace, name))
            if !namespace.is_empty() && !name.is_empty() && !name.contains('/') =>
        {
            Ok((namespace.to_owned(), name.to_owned()))
        }
        _ => Err("that is no service; write NAMESPACE/NAME".to_owned()),
    }
}

pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    let Subject::Service(options) = &options.subject;
    let (namespace, name) = &options.name;
    block_on(async {
        let client = options.hub.client().await?;
        let mut found = gather(&client, namespace, name).await?;
        if found.exports.is_empty() && found.import.is_none() {
            bail!("no member exports {namespace}/{name}; make a ServiceExport of that name in one");
        }
        if let Some(member) = &options.from {
            found.restrict(member)?;
        }
        options.output.print(&found, text)
    })
}

async fn gather(client: &Client, namespace: &str, name: &str) -> anyhow::Result<Explanation> {
    let imports = Api::<ServiceImport>::namespaced(client.clone(), namespace);
    let services = Api::<MultiClusterService>::namespaced(client.clone(), namespace);
    let records = Api::<ExportRecord>::all(client.clone());
    let members = Api::<MemberCluster>::all(client.clone());
    let everything = ListParams::default();
    let (import, services, exports, members) = tokio::try_join!(
        imports.get_opt(name),
        services.list(&everything),
        records.list(&everything),
        members.list(&everything),
    )
    .context("the hub's objects cannot be read")?;
    let service = services
        .items
        .into_iter()
        .find(|one| one.spec.service_import.name == name);
    // By what they say, not by their labels: one that was forged is to be seen, too.
    let exports = exports.items.into_iter().filter(|record| {
        record.spec.service_namespace == namespace && record.spec.service_name == name
    });
    Ok(Explanation {
        import,
        service,
        exports: exports.collect(),
        members: members.items,
    })
}

impl Explanation {
    fn restrict(&mut self, member: &str) -> anyhow::Result<()> {
        if !self.members.iter().any(|one| one.name_any() == member) {
            bail!("there is no member {member}");
        }
        self.members.retain(|one| one.name_any() == member);
        let space = labels::member_namespace(member);
        self.exports
            .retain(|record| record.namespace().as_deref() == Some(space.as_str()));
        if let Some(status) = self
            .service
            .as_mut()
            .and_then(|service| service.status.as_mut())
        {
            status.members.retain(|one| one.member == member);
        }
        Ok(())
    }
}

fn text(found: &Explanation) -> String {
    let mut out = match &found.service {
        Some(service) => status::service(service),
        None => "no MultiClusterService names this import: no frontend is asked for\n".to_owned(),
    };
    let rows: Vec<_> = found
        .exports
        .iter()
        .flat_map(|record| {
            let member = record.namespace().unwrap_or_default();
            let member = labels::member_of_namespace(&member)
                .unwrap_or_default()
                .to_owned();
            let conditions = record.status.iter().flat_map(|status| &status.conditions);
            let rows = conditions.map(move |condition| {
                let (kind, status) = (condition.type_.clone(), condition.status.clone());
                [
                    member.clone(),
                    kind,
                    status,
                    condition.reason.clone(),
                    condition.message.clone(),
                ]
            });
            rows.collect::<Vec<_>>()
        })
        .collect();
    out.push_str("\nEXPORTS\n");
    out.push_str(&table(
        ["MEMBER", "CONDITION", "STATUS", "REASON", "MESSAGE"],
        &rows,
    ));
    let claims: Vec<_> = found
        .members
        .iter()
        .flat_map(|member| {
            member.spec.traffic_claims.iter().map(|claim| {
                let share = format!("{}‰", claim.permille);
                [
                    member.name_any(),
                    claim.owner.clone(),
                    share,
                    claim.reason.clone(),
                ]
            })
        })
        .collect();
    if !claims.is_empty() {
        out.push_str("\nCLAIMS (the smallest counts)\n");
        out.push_str(&table(["MEMBER", "OWNER", "KEEPS", "REASON"], &claims));
    }
    out
}
