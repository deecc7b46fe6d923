//! Where things run: three network namespaces joined by veth pairs when root, loopback otherwise;
//! the proxy alone on core 0, clients and servers together on core 1.

use std::{
    net::Ipv4Addr,
    process::{Command, Stdio},
};

use anyhow::{Context, bail};

/// Who runs there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Client,
    Proxy,
    Server,
}

/// The stage of one run; its namespaces go with it.
pub(crate) struct Place {
    /// The namespaces' common prefix; none on loopback.
    prefix: Option<String>,
}

impl Place {
    /// Builds the stage.
    pub(crate) fn build() -> anyhow::Result<Self> {
        if !is_root() {
            return Ok(Self { prefix: None });
        }
        let prefix = format!("flb{}", std::process::id());
        let place = Self {
            prefix: Some(prefix.clone()),
        };
        let ns = |role: &str| format!("{prefix}{role}");
        let (client, proxy, server) = (ns("c"), ns("p"), ns("s"));
        for name in [&client, &proxy, &server] {
            ip(&["netns", "add", name])?;
            ip(&["-n", name, "link", "set", "lo", "up"])?;
        }
        for (outer, outer_ip, inner_ip) in [
            (&client, "10.201.1.1/24", "10.201.1.2/24"),
            (&server, "10.201.2.1/24", "10.201.2.2/24"),
        ] {
            let (near, far) = (format!("{outer}0"), format!("{outer}1"));
            ip(&[
                "-n", outer, "link", "add", &near, "type", "veth", "peer", "name", &far, "netns",
                &proxy,
            ])?;
            ip(&["-n", outer, "addr", "add", outer_ip, "dev", &near])?;
            ip(&["-n", &proxy, "addr", "add", inner_ip, "dev", &far])?;
            ip(&["-n", outer, "link", "set", &near, "up"])?;
            ip(&["-n", &proxy, "link", "set", &far, "up"])?;
        }
        ip(&[
            "-n",
            &client,
            "route",
            "add",
            "default",
            "via",
            "10.201.1.2",
        ])?;
        ip(&[
            "-n",
            &server,
            "route",
            "add",
            "default",
            "via",
            "10.201.2.2",
        ])?;
        for name in [&client, &proxy, &server] {
            for setting in SETTINGS {
                let mut command = Command::new("ip");
                command.args(["netns", "exec", name, "sysctl", "-qw", setting]);
                run(command)?;
            }
        }
        // The way from clients to servers without a proxy in between.
        let mut command = Command::new("ip");
        command.args([
            "netns",
            "exec",
            &proxy,
            "sysctl",
            "-qw",
            "net.ipv4.ip_forward=1",
        ]);
        run(command)?;
        Ok(place)
    }

    /// The address of the proxy (as clients see it) or of the server.
    pub(crate) fn ip(&self, role: Role) -> Ipv4Addr {
        match (self.prefix.is_some(), role) {
            (false, _) => Ipv4Addr::LOCALHOST,
            (true, Role::Client) => Ipv4Addr::new(10, 201, 1, 1),
            (true, Role::Proxy) => Ipv4Addr::new(10, 201, 1, 2),
            (true, Role::Server) => Ipv4Addr::new(10, 201, 2, 1),
        }
    }

    /// A command that will run at its place and on its core.
    pub(crate) fn command(&self, role: Role, program: &std::path::Path) -> Command {
        let core = if role == Role::Proxy { "0" } else { "1" };
        let mut command = match &self.prefix {
            Some(prefix) => {
                let mut command = Command::new("ip");
                command.args(["netns", "exec", &format!("{prefix}{}", role.suffix())]);
                command.args(["nice", "-n", NICE, "taskset"]);
                command
            }
            None => Command::new("taskset"),
        };
        command.args(["-c", core]).arg(program).stdin(Stdio::null());
        command
    }

    /// Where a second server can be, in trials.
    pub(crate) fn second_ip(&self) -> Ipv4Addr {
        match self.prefix {
            Some(_) => Ipv4Addr::new(10, 201, 2, 3),
            None => Ipv4Addr::new(127, 0, 0, 2),
        }
    }

    /// Whether an address can be made to fall silent here.
    pub(crate) fn can_cut(&self) -> bool {
        self.prefix.is_some()
    }

    /// Gives the servers' place the second address. The proxy's side never has to ask who holds it,
    /// so that it falls silent, not unreachable, when it is cut.
    pub(crate) fn add_second(&self) -> anyhow::Result<()> {
        let Some(prefix) = &self.prefix else {
            return Ok(());
        };
        let (server, proxy) = (format!("{prefix}s"), format!("{prefix}p"));
        let (near, far) = (format!("{server}0"), format!("{server}1"));
        let second = self.second_ip().to_string();
        ip(&[
            "-n",
            &server,
            "addr",
            "add",
            &format!("{second}/24"),
            "dev",
            &near,
        ])?;
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &server, "cat"]);
        let output = command
            .arg(format!("/sys/class/net/{near}/address"))
            .output()?;
        let address = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        ip(&[
            "-n",
            &proxy,
            "neigh",
            "replace",
            &second,
            "lladdr",
            &address,
            "dev",
            &far,
            "nud",
            "permanent",
        ])
    }

    /// Lets the second address fall silent.
    pub(crate) fn cut_second(&self) {
        if let Some(prefix) = &self.prefix {
            let (server, near) = (format!("{prefix}s"), format!("{prefix}s0"));
            let second = format!("{}/24", self.second_ip());
            // It may be cut already.
            let _cut = ip(&["-n", &server, "addr", "del", &second, "dev", &near]);
        }
    }

    /// What the stage is, for the record.
    pub(crate) fn describe(&self) -> &'static str {
        if self.prefix.is_some() {
            "three network namespaces joined by veth; proxy alone on core 0, clients and servers on core 1"
        } else {
            "loopback; proxy on core 0, clients and servers on core 1"
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let Some(prefix) = &self.prefix else { return };
        for role in [Role::Client, Role::Proxy, Role::Server] {
            if let Err(error) = ip(&["netns", "del", &format!("{prefix}{}", role.suffix())]) {
                eprintln!("{error:#}");
            }
        }
    }
}

impl Role {
    fn suffix(self) -> char {
        match self {
            Self::Client => 'c',
            Self::Proxy => 'p',
            Self::Server => 's',
        }
    }
}

fn is_root() -> bool {
    std::fs::read_to_string("/proc/self/status").is_ok_and(|status| {
        let uid = status.lines().find_map(|line| line.strip_prefix("Uid:"));
        uid.is_some_and(|uids| uids.split_whitespace().nth(1) == Some("0"))
    })
}

fn ip(args: &[&str]) -> anyhow::Result<()> {
    let mut command = Command::new("ip");
    command.args(args);
    run(command)
}

fn run(mut command: Command) -> anyhow::Result<()> {
    let output = command.output().with_context(|| format!("{command:?}"))?;
    if !output.status.success() {
        bail!(
            "{command:?}: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(())
}

/// Ahead of whatever else runs on the machine; the same for all who take part.
const NICE: &str = "-15";
/// Without these a benchmark of new connections measures TIME_WAIT.
const SETTINGS: [&str; 3] = [
    "net.ipv4.tcp_tw_reuse=1",
    "net.ipv4.ip_local_port_range=10000 65000",
    "net.core.somaxconn=8192",
];
