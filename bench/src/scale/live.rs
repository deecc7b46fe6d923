//! Endpoints that say who they are, and clients that ask.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::Context;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    runtime::LocalRuntime,
};

use super::record::{Latencies, Spread};

/// Every endpoint there is: one listener for all addresses of the host.
pub(crate) struct Endpoints {
    port: u16,
}

/// Live sessions: requests on open connections, and new connections with one request each.
pub(crate) struct Load {
    over: Arc<AtomicBool>,
    requests: Vec<Client>,
    connects: Vec<Client>,
}

type Client = JoinHandle<anyhow::Result<Vec<Duration>>>;

impl Endpoints {
    /// Serves until the process ends.
    pub(crate) fn start() -> anyhow::Result<Self> {
        let listener = std::net::TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        listener.set_nonblocking(true)?;
        let port = listener.local_addr()?.port();
        let serve = move || {
            ask_for_short_slices();
            let served = LocalRuntime::new().map(|runtime| runtime.block_on(serve(listener)));
            if let Ok(Err(error)) | Err(error) = served {
                eprintln!("the endpoints ended: {error}");
            }
        };
        std::thread::Builder::new()
            .name("endpoints".to_owned())
            .spawn(serve)?;
        Ok(Self { port })
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }
}

async fn serve(listener: std::net::TcpListener) -> std::io::Result<()> {
    let listener = TcpListener::from_std(listener)?;
    loop {
        let (mut stream, _) = listener.accept().await?;
        tokio::task::spawn_local(async move {
            stream.set_nodelay(true)?;
            let SocketAddr::V4(own) = stream.local_addr()? else {
                return Ok(());
            };
            let mut request = [0; REQUEST];
            while stream.read_exact(&mut request).await.is_ok() {
                request[..4].copy_from_slice(&own.ip().octets());
                stream.write_all(&request).await?;
            }
            std::io::Result::Ok(())
        });
    }
}

/// Connects and asks once: which endpoint answered. Ends by a reset, so that ports don't run out.
pub(crate) fn ask(front: SocketAddr) -> anyhow::Result<Ipv4Addr> {
    let mut client = connect(front)?;
    exchange(&mut client)
}

fn connect(front: SocketAddr) -> anyhow::Result<TcpStream> {
    let client = TcpStream::connect(front)?;
    client.set_nodelay(true)?;
    client.set_read_timeout(Some(Duration::from_secs(10)))?;
    socket2::SockRef::from(&client).set_linger(Some(Duration::ZERO))?;
    Ok(client)
}

fn exchange(client: &mut TcpStream) -> anyhow::Result<Ipv4Addr> {
    let mut answer = [0; REQUEST];
    client.write_all(&answer)?;
    client.read_exact(&mut answer)?;
    let octets: [u8; 4] = answer[..4].try_into().context("four bytes")?;
    Ok(Ipv4Addr::from(octets))
}

impl Load {
    /// Starts asking at `front`.
    pub(crate) fn start(front: SocketAddr) -> anyhow::Result<Self> {
        let over = Arc::new(AtomicBool::new(false));
        let start = |number: u32, clients: u32, rate: u32, fresh: bool| {
            let over = over.clone();
            let period = Duration::from_secs(1) / rate * clients;
            let offset = period / clients * number;
            std::thread::Builder::new()
                .name("client".to_owned())
                .spawn(move || run(front, (offset, period), fresh, &over))
        };
        let requests = (0..4).map(|number| start(number, 4, REQUESTS_PER_SECOND, false));
        let connects = (0..2).map(|number| start(number, 2, CONNECTS_PER_SECOND, true));
        Ok(Self {
            requests: requests.collect::<Result<_, _>>()?,
            connects: connects.collect::<Result<_, _>>()?,
            over: over.clone(),
        })
    }

    /// Ends; what it noticed.
    pub(crate) fn stop(self) -> anyhow::Result<Latencies> {
        self.over.store(true, Ordering::Relaxed);
        Ok(Latencies {
            request_milliseconds: Spread::of(&gather(self.requests)?),
            connect_milliseconds: Spread::of(&gather(self.connects)?),
        })
    }
}

fn gather(clients: Vec<Client>) -> anyhow::Result<Vec<Duration>> {
    let mut all = Vec::new();
    for client in clients {
        let latencies = client.join().ok().context("a client panicked")?;
        all.extend(latencies.context("a live session failed")?);
    }
    Ok(all)
}

/// One client: an exchange each period, on time whatever became of the one before.
fn run(
    front: SocketAddr,
    (offset, period): (Duration, Duration),
    fresh: bool,
    over: &AtomicBool,
) -> anyhow::Result<Vec<Duration>> {
    ask_for_short_slices();
    let mut latencies = Vec::new();
    let mut kept = if fresh { None } else { Some(connect(front)?) };
    let mut next = Instant::now() + offset;
    while !over.load(Ordering::Relaxed) {
        while let Some(left) = next.checked_duration_since(Instant::now()) {
            std::thread::park_timeout(left);
        }
        match &mut kept {
            Some(client) => exchange(client)?,
            None => ask(front)?,
        };
        latencies.push(next.elapsed());
        next += period;
    }
    Ok(latencies)
}

/// The clients and endpoints of a real fleet are on other machines: here they wait for nobody's turn.
fn ask_for_short_slices() {
    if let Err(error) = fairlead_proxy::sys::slice::ask(SHORTEST) {
        eprintln!("latencies show the turns of others: {error}");
    }
}

const REQUEST: usize = 64;
const REQUESTS_PER_SECOND: u32 = 1000;
const CONNECTS_PER_SECOND: u32 = 200;
const SHORTEST: Duration = Duration::from_micros(100);
