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
    time::{Instant, Interval, MissedTickBehavior, interval, timeout},
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
    /// Datagrams that were lost before the one that was answered.
    pub lost: usize,
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

/// What came of a datagram of a new flow.
struct Heard {
    member: String,
    from: SocketAddr,
    /// Datagrams that nobody answered before.
    lost: usize,
}

/// Who answers a datagram of a new flow from `from`.
async fn ask_udp(from: Ipv4Addr, addr: SocketAddr, loss: Loss) -> io::Result<Heard> {
    let socket = UdpSocket::bind((from, 0)).await?;
    socket.connect(addr).await?;
    let mut buffer = [0; 256];
    let (datagrams, patience) = match loss {
        Loss::Fails => (1, PATIENCE),
        Loss::SentAgain => (DATAGRAMS, FLOW_PATIENCE),
    };
    for number in 0..datagrams {
        socket.send(format!("hello {number}").as_bytes()).await?;
        if let Ok(received) = timeout(patience, socket.recv(&mut buffer)).await {
            let text = String::from_utf8_lossy(&buffer[..received?]).into_owned();
            return Ok(Heard {
                member: member(&text)?,
                from: socket.local_addr()?,
                lost: number_of(&text)?,
            });
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
    let mut turns = turns();
    while used.len() < count {
        turns.tick().await;
        let host = u8::try_from(used.len() / 250 % 200)? + 2;
        let heard = ask_udp(Ipv4Addr::new(127, 0, 1, host), addr, Loss::Fails)
            .await
            .context("a flow failed")?;
        if used.insert(heard.from) {
            *counts.entry(heard.member).or_default() += 1;
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
        Self::start(move || async move { Ok((ask_tcp(addr).await?, 0)) })
    }

    /// Starts clients of the UDP endpoint. A flow from a port that was used a moment ago is an old
    /// flow; the kernel's choice makes that rare.
    pub fn udp(addr: SocketAddr, loss: Loss) -> Self {
        let from = Ipv4Addr::new(127, 0, 2, 2);
        let turns = Arc::new(tokio::sync::Mutex::new(turns()));
        Self::start(move || {
            let turns = turns.clone();
            async move {
                turns.lock().await.tick().await;
                let heard = ask_udp(from, addr, loss).await?;
                Ok((heard.member, heard.lost))
            }
        })
    }

    /// Starts clients of the UDP endpoint with one long flow each, that ask [`AT_ONCE`] questions at a
    /// time and send none again.
    pub async fn flows(addr: SocketAddr) -> io::Result<Self> {
        let mut load = Self::new();
        for _ in 0..CLIENTS {
            let socket = UdpSocket::bind((Ipv4Addr::new(127, 0, 3, 3), 0)).await?;
            socket.connect(addr).await?;
            let (stop, log) = (load.stop.clone(), load.log.clone());
            load.tasks.spawn(async move {
                let mut first = 0;
                while !stop.load(Ordering::Relaxed) {
                    let answers = ask_at_once(&socket, first).await;
                    log.lock().extend(answers);
                    first += AT_ONCE;
                }
            });
        }
        Ok(load)
    }

    fn new() -> Self {
        Self {
            stop: Arc::default(),
            log: Arc::default(),
            tasks: JoinSet::new(),
        }
    }

    fn start<A, F>(ask: A) -> Self
    where
        A: Fn() -> F + Clone + Send + 'static,
        F: Future<Output = io::Result<(String, usize)>> + Send,
    {
        let mut load = Self::new();
        for _ in 0..CLIENTS {
            let (stop, log, ask) = (load.stop.clone(), load.log.clone(), ask.clone());
            load.tasks.spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    let began = Instant::now();
                    let outcome = ask().await.map_err(|error| error.to_string());
                    let lost = outcome.as_ref().map_or(0, |(_, lost)| *lost);
                    log.lock().push(Answer {
                        began,
                        ended: Instant::now(),
                        by: outcome.map(|(member, _)| member),
                        lost,
                    });
                }
            });
        }
        load
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

/// Sends [`AT_ONCE`] numbered questions and waits for the answer to each.
async fn ask_at_once(socket: &UdpSocket, first: usize) -> Vec<Answer> {
    let began = Instant::now();
    let mut missing: BTreeSet<usize> = (first..first + AT_ONCE).collect();
    let mut answers = Vec::new();
    let outcome = timeout(PATIENCE, async {
        for number in &missing.clone() {
            socket.send(format!("hello {number}").as_bytes()).await?;
            // Others have their turn in between.
            tokio::task::yield_now().await;
        }
        let mut buffer = [0; 256];
        while !missing.is_empty() {
            let count = socket.recv(&mut buffer).await?;
            let text = String::from_utf8_lossy(&buffer[..count]).into_owned();
            if missing.remove(&number_of(&text)?) {
                answers.push(Answer {
                    began,
                    ended: Instant::now(),
                    by: Ok(member(&text)?),
                    lost: 0,
                });
            }
        }
        io::Result::Ok(())
    })
    .await;
    let why = match outcome {
        Ok(Ok(())) => return answers,
        Ok(Err(error)) => error.to_string(),
        Err(_) => "no answer".to_owned(),
    };
    answers.extend(missing.into_iter().map(|number| Answer {
        began,
        ended: Instant::now(),
        by: Err(format!(
            "question {number} of {:?}: {why}",
            socket.local_addr()
        )),
        lost: 0,
    }));
    answers
}

/// Turns of new flows. Of 20,000 files a proxy has 5,000 for flows, and one that was answered keeps its
/// place for a second: faster newcomers are turned away, and that is counted as `table-full`.
fn turns() -> Interval {
    let mut turns = interval(TURN);
    turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
    turns
}

/// The number at the end of an answer to a numbered question.
fn number_of(answer: &str) -> io::Result<usize> {
    let word = answer.trim_end().rsplit(' ').next();
    word.and_then(|word| word.parse().ok())
        .ok_or_else(|| io::Error::other(format!("{answer:?} has no number")))
}

fn member(answer: &str) -> io::Result<String> {
    let word = answer.split(' ').next().filter(|word| !word.is_empty());
    word.map(str::to_owned)
        .ok_or_else(|| io::Error::other(format!("{answer:?} is no answer")))
}

/// At a time.
pub const CLIENTS: usize = 8;
/// Questions of a long flow that wait for their answers together.
const AT_ONCE: usize = 4;
/// From one new flow to the next.
const TURN: Duration = Duration::from_millis(1);
/// A datagram may be lost with its endpoint.
const DATAGRAMS: usize = 5;
const FLOW_PATIENCE: Duration = Duration::from_secs(4);
/// A request that takes longer has failed.
pub const PATIENCE: Duration = Duration::from_secs(30);
