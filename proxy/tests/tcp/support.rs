//! A proxy in this process, and servers behind it.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use fairlead_config::{name::MemberName, name::ServiceName, snapshot, yaml};
use fairlead_proxy::{
    access_log::{Reason, sink::Sinks},
    control::{Applied, Control, Options},
    metrics::{MemberMetrics, Metrics, ServiceMetrics},
    sockets::Budget,
    tcp::Fleet,
};
use fairlead_runtime::clock::Clock;

#[path = "pages.rs"]
pub(crate) mod pages;

/// Longer than anything here takes; only a failure waits for it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A proxy with its data threads.
pub(crate) struct Proxy {
    pub(crate) fleet: Arc<Fleet>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) control: Control,
    pub(crate) addr: SocketAddr,
    log: tempfile::NamedTempFile,
    threads: Vec<JoinHandle<std::io::Result<()>>>,
}

/// What lives in a process, by its own account, but for what answers the question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Holdings {
    pub(crate) files: u64,
    pub(crate) tasks: u64,
    pub(crate) flows: u64,
    /// Sessions, connects that lost their race, pipes.
    pub(crate) busy: u64,
}

impl Proxy {
    /// A proxy for the service `t/s:p`. In `text`, `$FRONT` is the frontend's address and `$LOG`
    /// the access log's path.
    pub(crate) fn start(workers: usize, text: &str) -> Self {
        let clock = Clock::system();
        let metrics = Metrics::new(workers);
        let fleet = Fleet::new(workers, metrics.clone(), clock.clone()).unwrap();
        let sinks = Sinks::new(workers, metrics.clone());
        let options = Options {
            seed: 7,
            budget: Budget::of_files(2000),
            ..Options::default()
        };
        let control = Control::new(fleet.clone(), clock, sinks, options);
        let threads = (0..workers).map(|index| {
            let fleet = fleet.clone();
            std::thread::spawn(move || fleet.run(index, index as u64))
        });
        let mut proxy = Self {
            threads: threads.collect(),
            fleet,
            metrics,
            control,
            addr: free_addr(),
            log: tempfile::NamedTempFile::new().unwrap(),
        };
        let applied = proxy.apply(text);
        assert!(applied.problems.is_empty(), "{:?}", applied.problems);
        proxy
    }

    /// Takes over another file.
    pub(crate) fn apply(&mut self, text: &str) -> Applied {
        let text = text
            .replace("$FRONT", &self.addr.to_string())
            .replace("$LOG", &self.log.path().display().to_string());
        let file = yaml::parse(text.as_bytes()).unwrap_or_else(|problems| panic!("{problems}"));
        let delta = snapshot::diff(self.control.snapshot(), &file.snapshot);
        self.control.apply(delta)
    }

    pub(crate) fn connect(&self) -> TcpStream {
        let client = TcpStream::connect(self.addr).unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        client
    }

    pub(crate) fn service(&self) -> Arc<ServiceMetrics> {
        self.metrics.service(&ServiceName::parse("t/s:p").unwrap())
    }

    pub(crate) fn member(&self, name: &str) -> Arc<MemberMetrics> {
        self.service().member(&MemberName::parse(name).unwrap())
    }

    /// Waits until the log has `count` lines, and returns them.
    pub(crate) fn log(&self, count: usize) -> Vec<serde_json::Value> {
        let mut lines = Vec::new();
        wait(&format!("{count} log lines"), || {
            let text = std::fs::read_to_string(self.log.path()).unwrap();
            let whole = text.rfind('\n').map_or("", |end| &text[..end]);
            lines = whole
                .lines()
                .map(|line| serde_json::from_str(line).unwrap())
                .collect();
            lines.len() >= count
        });
        assert_eq!(lines.len(), count, "{lines:#?}");
        lines
    }

    /// Waits until member `name` has closed `count` sessions for `reason`, and nothing is live.
    pub(crate) fn wait_closed(&self, name: &str, reason: Reason, count: u64) {
        let member = self.member(name);
        wait(&format!("{count} sessions closed as {reason:?}"), || {
            member.sessions_closed.value(reason) == count
        });
        assert_eq!(member.sessions_closed.sum(), count, "no other reason");
        wait("no live session", || self.fleet.sessions() == 0);
        assert_eq!(member.sessions_active.value(), 0);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.fleet.end();
        for thread in self.threads.drain(..) {
            let ended = thread.join();
            if !std::thread::panicking() {
                ended.unwrap().unwrap();
            }
        }
    }
}

/// The file of a service with one member `m` and these endpoints; `policy` is inserted.
pub(crate) fn file(policy: &str, endpoints: &[SocketAddr]) -> String {
    let rows: Vec<String> = endpoints
        .iter()
        .map(|addr| format!("{{ address: \"{addr}\" }}"))
        .collect();
    format!(
        r#"
services:
  - name: t/s:p
    frontends: [ {{ protocol: tcp, address: "$FRONT" }} ]
    policy: {{ accessLog: "$LOG", {policy} }}
    tiers: [ {{ members: [ {{ name: m, endpoints: [ {} ] }} ] }} ]
"#,
        rows.join(", ")
    )
}

/// An address that nobody listens on.
pub(crate) fn free_addr() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], free_ports(1)))
}

/// The first of `count` ports in a row that are free at every address. They lie below those that
/// the kernel gives to clients, so that no other test's connection takes one meanwhile.
pub(crate) fn free_ports(count: u16) -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    loop {
        let nth = NEXT.fetch_add(u32::from(count), Ordering::Relaxed);
        let place = std::process::id().wrapping_mul(1_009).wrapping_add(nth) % 20_000;
        let first = 11_000 + u16::try_from(place).unwrap();
        let free = |port| {
            TcpListener::bind(("0.0.0.0", port)).is_ok()
                && std::net::UdpSocket::bind(("0.0.0.0", port)).is_ok()
        };
        if (first..first + count).all(free) {
            return first;
        }
    }
}

/// Looks again and again until `done`, with patience.
pub(crate) fn wait(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < PATIENCE, "waited in vain for {what}");
        // Leaves the processor to what is waited for; nobody ever unparks this thread.
        std::thread::park_timeout(Duration::from_millis(1));
    }
}

/// A server that gives each connection to `serve` on a thread of its own.
pub(crate) struct Server {
    pub(crate) addr: SocketAddr,
    stop: Arc<AtomicBool>,
}

impl Server {
    pub(crate) fn start(serve: impl Fn(TcpStream) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let (serve, stopped) = (Arc::new(serve), stop.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if stopped.load(Ordering::Relaxed) {
                    return;
                }
                let (serve, stream) = (serve.clone(), stream.unwrap());
                std::thread::spawn(move || serve(stream));
            }
        });
        Self { addr, stop }
    }

    /// Answers each byte with itself until the client has finished.
    pub(crate) fn echo() -> Self {
        Self::start(|mut stream| {
            let mut buffer = [0; 4096];
            while let Ok(len @ 1..) = stream.read(&mut buffer) {
                if stream.write_all(&buffer[..len]).is_err() {
                    return;
                }
            }
        })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        TcpStream::connect(self.addr).ok();
    }
}

/// Sends and reads the same number of bytes back.
pub(crate) fn exchange(stream: &mut TcpStream, bytes: &[u8]) -> std::io::Result<Vec<u8>> {
    stream.write_all(bytes)?;
    let mut answer = vec![0; bytes.len()];
    stream.read_exact(&mut answer)?;
    Ok(answer)
}

/// Closes with a RST.
pub(crate) fn reset(stream: TcpStream) {
    let socket = socket2::Socket::from(stream);
    socket.set_linger(Some(Duration::ZERO)).unwrap();
}

impl Holdings {
    /// From a page of metrics.
    fn of(page: &str) -> Self {
        let sum = |families: &[&str]| -> u64 {
            let is_asked = |line: &&str| {
                let name = line.split(['{', ' ']).next();
                name.is_some_and(|name| families.contains(&name))
            };
            let values = page.lines().filter(is_asked);
            let values = values.map(|line| line.rsplit(' ').next().unwrap());
            values.map(|value| value.parse::<u64>().unwrap()).sum()
        };
        let holdings = Self {
            files: sum(&["fairlead_fds_open"]),
            tasks: sum(&["fairlead_control_tasks"]),
            flows: sum(&["fairlead_thread_flows"]),
            busy: sum(&[
                "fairlead_thread_sessions",
                "fairlead_thread_stragglers",
                "fairlead_thread_pipes",
            ]),
        };
        assert!(holdings.files > 0 && holdings.tasks > 0, "{page}");
        holdings
    }

    /// Nothing but flows is under way. A first look may come before the last session's pipe or loser has
    /// gone, or the former question's connection has: what two looks agree on has settled.
    pub(crate) fn at_rest(page: impl Fn() -> String) -> Self {
        let mut last = Self::of(&page());
        wait("it to be at rest", || {
            let now = Self::of(&page());
            let is_settled = now == last && now.busy == 0;
            last = now;
            is_settled
        });
        last
    }

    /// Waits until the process holds what it did then: no more, and no less either, for then it was
    /// not at rest.
    pub(crate) fn wait_for(&self, page: impl Fn() -> String) {
        let mut now = Self::of(&page());
        let start = Instant::now();
        while now != *self {
            assert!(start.elapsed() < PATIENCE, "{self:?} before, {now:?} now");
            now = Self::of(&page());
        }
    }
}
