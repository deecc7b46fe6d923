//! Clients that may lose nothing, and whose loss it was where they do.

use anyhow::bail;
use fairlead_tests::{
    clients::{Answer, Load, Loss, failures},
    fleet::{self, Fleet},
};

/// New connections, new flows and long flows at once; none asks again.
pub(crate) struct Strict {
    pub(crate) tcp: Load,
    new_flows: Load,
    long_flows: Load,
}

impl Strict {
    pub(crate) async fn start(fleet: &Fleet) -> anyhow::Result<Self> {
        let endpoint = fleet.ready.endpoint;
        Ok(Self {
            tcp: Load::tcp(endpoint.tcp),
            new_flows: Load::udp(endpoint.udp, Loss::Fails),
            long_flows: Load::flows(endpoint.udp).await?,
        })
    }

    /// Stops them and returns the answers of each kind; fails if any is missing.
    pub(crate) async fn stop(
        self,
        fleet: &Fleet,
    ) -> anyhow::Result<[(&'static str, Vec<Answer>); 3]> {
        let all = [
            ("connections", self.tcp.stop().await),
            ("new flows", self.new_flows.stop().await),
            (LONG_FLOWS, self.long_flows.stop().await),
        ];
        let mut failed = Vec::new();
        for (kind, answers) in &all {
            println!("{} of {kind}", answers.len());
            let these = failures(answers);
            if !these.is_empty() {
                failed.push(format!("{} of {kind} failed: {these:?}", these.len()));
            }
        }
        if !failed.is_empty() {
            bail!("{}\n{}", failed.join("\n"), counters(fleet).await);
        }
        Ok(all)
    }
}

/// What the proxy and the kernel count as lost: one of them knows.
pub(crate) async fn counters(fleet: &Fleet) -> String {
    let page = fleet::page(&fleet.ready.proxy_admin, "/metrics").await;
    let page = page.unwrap_or_else(|error| format!("no metrics: {error:#}"));
    let told = |line: &&str| !line.starts_with('#') && !line.ends_with(" 0");
    let mut lines: Vec<String> = page.lines().filter(told).map(str::to_owned).collect();
    let kernel = std::fs::read_to_string("/proc/net/snmp").unwrap_or_default();
    let udp = kernel.lines().filter(|line| line.starts_with("Udp:"));
    lines.extend(udp.map(|line| format!("kernel {line}")));
    // The last column is what the kernel dropped at a socket.
    let sockets = std::fs::read_to_string("/proc/net/udp").unwrap_or_default();
    let dropped = sockets.lines().skip(1);
    let dropped = dropped.filter(|line| !line.trim_end().ends_with(" 0"));
    lines.extend(dropped.map(|line| format!("kernel socket {line}")));
    lines.join("\n")
}

/// What [`Strict::stop`] calls flows that go on for as long as it runs.
pub(crate) const LONG_FLOWS: &str = "long flows";
