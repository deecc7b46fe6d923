//! Clients of an endpoint: each request is a connection or a flow of its own, and is answered with
//! `MEMBER POD TEXT`.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::Context;
use parking_lot::Mutex;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{TcpStream, UdpSocket},
    task::JoinSet,
    time::{Instant, timeout},
};

/// How many requests each member answered.
pub type Counts = BTreeMap<String, usize>;

/// A session that is held open.
pub struct Session {
    stream: BufReader<TcpStream>,
    /// Who answered first.
    pub member: String,
}

/// Clients that ask again and again until they are told to stop.
pub struct Load {
    stop: Arc<AtomicBool>,
    log: Arc<Mutex<Vec<Answer>>>,
    tasks: JoinSet<()>,
}

/// What came of one request.
#[derive(Debug, Clone)]
pub struct Answer {
    /// When it was sent.
    pub began: Instant,
    /// When it ended.
    pub ended: Instant,
    /// Who answered, or what went wrong.
    pub by: Result<String, String>,
}

/// Who answers one line over a new connection.
pub async fn ask_tcp(addr: SocketAddr) -> io::Result<String> {
    Ok(Session::open(addr).await?.member)
}

/// What a client does about a datagram that is not answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// It has failed: where nobody dies, none may be lost.
    Fails,
    /// It is sent again, as clients do: one may be lost with the endpoint it was for.
    SentAgain,
}

/// Who answers a datagram of a new flow from `from`.
pub async fn ask_udp(
    from: Ipv4Addr,
    addr: SocketAddr,
    loss: Loss,
) -> io::Result<(String, SocketAddr)> {
    let socket = UdpSocket::bind((from, 0)).await?;
    socket.connect(addr).await?;
    let mut buffer = [0; 256];
    let (datagrams, patience) = match loss {
        Loss::Fails => (1, PATIENCE),
        Loss::SentAgain => (DATAGRAMS, FLOW_PATIENCE),
    };
    for _ in 0..datagrams {
        socket.send(b"hello").await?;
        if let Ok(received) = timeout(patience, socket.recv(&mut buffer)).await {
            let text = String::from_utf8_lossy(&buffer[..received?]).into_owned();
            return Ok((member(&text)?, socket.local_addr()?));
        }
    }
    let from = socket.local_addr()?;
    let why = format!("{datagrams} datagrams from {from}, and no answer");
    Err(io::Error::new(io::ErrorKind::TimedOut, why))
}

/// Asks `count` times over TCP, [`CLIENTS`] at a time. Fails with the first failure.
pub async fn count_tcp(addr: SocketAddr, count: usize) -> anyhow::Result<Counts> {
    let mut clients = JoinSet::new();
    for client in 0..CLIENTS {
        let share = (count + client) / CLIENTS;
        clients.spawn(async move {
            let mut counts = Counts::new();
            for _ in 0..share {
                *counts.entry(ask_tcp(addr).await?).or_default() += 1;
            }
            io::Result::Ok(counts)
        });
    }
    let mut all = Counts::new();
    while let Some(counts) = clients.join_next().await {
        for (member, count) in counts?.context("a client failed")? {
            *all.entry(member).or_default() += count;
        }
    }
    Ok(all)
}

/// Asks by `count` flows, no two from the same address and port.
pub async fn count_udp(addr: SocketAddr, count: usize) -> anyhow::Result<Counts> {
    let mut used = BTreeSet::new();
    let mut counts = Counts::new();
    while used.len() < count {
        let host = u8::try_from(used.len() / 250 % 200)? + 2;
        let (member, from) = ask_udp(Ipv4Addr::new(127, 0, 1, host), addr, Loss::SentAgain)
            .await
            .context("a flow failed")?;
        if used.insert(from) {
            *counts.entry(member).or_default() += 1;
        }
    }
    Ok(counts)
}

impl Session {
    /// Connects and asks once.
    pub async fn open(addr: SocketAddr) -> io::Result<Self> {
        let opened = async {
            let mut session = Self {
                stream: BufReader::new(TcpStream::connect(addr).await?),
                member: String::new(),
            };
            session.member = session.ask().await?;
            Ok(session)
        };
        timeout(PATIENCE, opened).await?
    }

    /// Asks once more, over the same connection.
    pub async fn ask(&mut self) -> io::Result<String> {
        self.stream.write_all(b"hello\n").await?;
        let mut line = String::new();
        let count = timeout(PATIENCE, self.stream.read_line(&mut line)).await??;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        member(&line)
    }
}

impl Load {
    /// Starts clients of the TCP endpoint.
    pub fn tcp(addr: SocketAddr) -> Self {
        Self::start(move || ask_tcp(addr))
    }

    /// Starts clients of the UDP endpoint. A flow from a port that was used a moment ago is an old
    /// flow; the kernel's choice makes that rare.
    pub fn udp(addr: SocketAddr, loss: Loss) -> Self {
        let from = Ipv4Addr::new(127, 0, 2, 2);
        Self::start(move || async move { Ok(ask_udp(from, addr, loss).await?.0) })
    }

    fn start<A, F>(ask: A) -> Self
    where
        A: Fn() -> F + Clone + Send + 'static,
        F: Future<Output = io::Result<String>> + Send,
    {
        let (stop, log) = (Arc::new(AtomicBool::new(false)), Arc::default());
        let mut tasks = JoinSet::new();
        for _ in 0..CLIENTS {
            let (stop, log, ask) = (
                stop.clone(),
                Arc::<Mutex<Vec<Answer>>>::clone(&log),
                ask.clone(),
            );
            tasks.spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    let began = Instant::now();
                    let by = ask().await.map_err(|error| error.to_string());
                    let ended = Instant::now();
                    log.lock().push(Answer { began, ended, by });
                }
            });
        }
        Self { stop, log, tasks }
    }

    /// What came of all requests so far.
    pub fn answers(&self) -> Vec<Answer> {
        self.log.lock().clone()
    }

    /// Stops the clients; everything that came of them.
    pub async fn stop(mut self) -> Vec<Answer> {
        self.stop.store(true, Ordering::Relaxed);
        while self.tasks.join_next().await.is_some() {}
        std::mem::take(&mut *self.log.lock())
    }
}

/// The requests that failed.
pub fn failures(answers: &[Answer]) -> Vec<&str> {
    let failed = answers.iter().filter_map(|answer| answer.by.as_ref().err());
    failed.map(String::as_str).collect()
}

fn member(answer: &str) -> io::Result<String> {
    let word = answer.split(' ').next().filter(|word| !word.is_empty());
    word.map(str::to_owned)
        .ok_or_else(|| io::Error::other(format!("{answer:?} is no answer")))
}

/// At a time.
pub const CLIENTS: usize = 8;
/// A datagram may be lost, with its endpoint or in a full buffer.
const DATAGRAMS: usize = 5;
const FLOW_PATIENCE: Duration = Duration::from_secs(4);
/// A request that takes longer has failed.
pub const PATIENCE: Duration = Duration::from_secs(30);
