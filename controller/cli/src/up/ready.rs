//! The ready file, and what is printed once all is serving.

use std::{fmt::Write as _, path::Path};

use anyhow::Context;
use serde::Serialize;

use super::{
    hub::{Endpoint, Hub},
    members::Members,
    objects::{NAMESPACE, SERVICE},
    proxy::Proxy,
};

/// Where everything is.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Ready {
    service: String,
    endpoint: Addresses,
    hub: Cluster,
    members: Vec<Member>,
    proxy_admin: String,
}

#[derive(Serialize)]
struct Addresses {
    tcp: String,
    udp: String,
}

#[derive(Serialize)]
struct Cluster {
    kubeconfig: String,
}

#[derive(Serialize)]
struct Member {
    name: String,
    kubeconfig: String,
    pid: u32,
}

impl Ready {
    pub(super) fn new(hub: &Hub, members: &Members, proxy: &Proxy, endpoint: &Endpoint) -> Self {
        let members = members.iter().map(|member| Member {
            name: member.name.clone(),
            kubeconfig: member.kubeconfig.display().to_string(),
            pid: member.pid,
        });
        Self {
            service: format!("{NAMESPACE}/{SERVICE}"),
            endpoint: Addresses {
                tcp: endpoint.tcp.to_string(),
                udp: endpoint.udp.to_string(),
            },
            hub: Cluster {
                kubeconfig: hub.kubeconfig.display().to_string(),
            },
            members: members.collect(),
            proxy_admin: format!("http://{}", proxy.admin),
        }
    }

    /// Whole or not at all: who waits for the file may read it at once.
    pub(super) fn write(&self, path: &Path) -> anyhow::Result<()> {
        let part = path.with_extension("part");
        std::fs::write(&part, serde_json::to_string_pretty(self)? + "\n")
            .and_then(|()| std::fs::rename(&part, path))
            .with_context(|| format!("cannot write {}", path.display()))
    }

    /// For people: where everything is, and what to try.
    pub(super) fn text(&self, folder: &Path) -> String {
        let mut out = format!(
            "{} is served at one address by {} members:\n\n  TCP  {}\n  UDP  {}\n\n",
            self.service,
            self.members.len(),
            self.endpoint.tcp,
            self.endpoint.udp
        );
        let _ = writeln!(out, "  {:<10} {:>8}  kubeconfig", "cluster", "pid");
        let _ = writeln!(out, "  {:<10} {:>8}  {}", "hub", "-", self.hub.kubeconfig);
        for member in &self.members {
            let _ = writeln!(
                out,
                "  {:<10} {:>8}  {}",
                member.name, member.pid, member.kubeconfig
            );
        }
        let admin = &self.proxy_admin;
        let _ = writeln!(out, "\n  proxy      {admin}/services  {admin}/metrics");
        let _ = writeln!(out, "  logs       {}", folder.join("logs").display());
        out.push_str(&self.next_steps());
        out
    }

    fn next_steps(&self) -> String {
        let (ip, port) = self
            .endpoint
            .tcp
            .rsplit_once(':')
            .unwrap_or(("127.0.0.1", ""));
        let hub = &self.hub.kubeconfig;
        let Some(member) = self.members.first() else {
            return String::new();
        };
        format!(
            "\nTry, in another terminal:\n\n\
             \x20 while sleep 0.2; do echo hello | nc -N {ip} {port}; done     watch who answers\n\
             \x20 kill -9 {}                                        a dead cluster\n\
             \x20 kubectl --kubeconfig {hub} get memberclusters,multiclusterservices -A\n\
             \x20 kubectl --kubeconfig {} annotate -n {NAMESPACE} serviceexport {SERVICE} fairlead.dev/weight=10\n\n\
             Here: `blackhole {}` and `heal {}`; Ctrl-C ends the fleet.\n\n",
            member.pid, member.kubeconfig, member.name, member.name
        )
    }
}
