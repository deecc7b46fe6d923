//! Datagrams and their echoes: one outstanding per flow, or one flow after the other at a steady rate.
//! Each flow has at least one.

use std::{cell::Cell, net::SocketAddr, rc::Rc, time::Duration};

use tokio::{
    net::UdpSocket,
    time::{Instant, sleep, timeout},
};

use super::{
    alarm::Alarm,
    client::{Options, Outcome},
};

pub(super) async fn run(options: &Options, duration: Duration) -> anyhow::Result<Outcome> {
    let mut sockets = Vec::new();
    for index in 0..options.parallel {
        // The same ports in each row: flows that a proxy still has are used again.
        let port = PORT + u16::try_from(index)?;
        let socket = UdpSocket::bind(("0.0.0.0", port)).await?;
        socket.connect(SocketAddr::V4(options.target)).await?;
        sockets.push(socket);
    }
    let sockets = Rc::new(sockets);
    match options.rate {
        Some(rate) => at_rate(options, sockets, (rate, duration)).await,
        None => saturated(options, sockets, duration).await,
    }
}

/// As fast as it goes, with [`WINDOW`] in flight. What comes back together is sent together again, so
/// a proxy sees batches, which real traffic isn't made of.
async fn saturated(
    options: &Options,
    sockets: Rc<Vec<UdpSocket>>,
    duration: Duration,
) -> anyhow::Result<Outcome> {
    let start = Instant::now();
    let end = start + duration;
    let units = Rc::new(Cell::new(0u64));
    let errors = Rc::new(Cell::new(0u64));
    let workers = options.parallel.min(WINDOW);
    let mut tasks = Vec::new();
    for worker in 0..workers {
        let (units, errors) = (units.clone(), errors.clone());
        let (sockets, size) = (sockets.clone(), options.size.min(2048));
        tasks.push(tokio::task::spawn_local(async move {
            let mut buffer = [0; 2048];
            // Each worker walks its own share of the flows, so that all of them stay in use.
            let walk = (worker..sockets.len()).step_by(workers);
            let once = walk.len();
            for (turn, index) in walk.cycle().enumerate() {
                if turn >= once && Instant::now() >= end {
                    return;
                }
                let socket = &sockets[index];
                let sent = socket.send(&[7; 2048][..size]).await;
                let echo = timeout(PATIENCE, socket.recv(&mut buffer)).await;
                if sent.is_ok() && matches!(echo, Ok(Ok(count)) if count == size) {
                    units.set(units.get() + 1);
                } else {
                    errors.set(errors.get() + 1);
                }
            }
        }));
    }
    for task in tasks {
        task.await?;
    }
    let seconds = start.elapsed().as_secs_f64();
    Ok(Outcome {
        units: units.get(),
        seconds,
        errors: errors.get(),
        ..Outcome::default()
    })
}

/// One datagram at a time, evenly spaced, on one flow after the other, whatever becomes of those
/// before.
async fn at_rate(
    options: &Options,
    sockets: Rc<Vec<UdpSocket>>,
    (rate, duration): (f64, Duration),
) -> anyhow::Result<Outcome> {
    let echoes = Rc::new(Cell::new(0u64));
    let size = options.size.min(2048);
    let receive = |index: usize| {
        let (sockets, echoes) = (sockets.clone(), echoes.clone());
        tokio::task::spawn_local(async move {
            let mut buffer = [0; 2048];
            while let Ok(count) = sockets[index].recv(&mut buffer).await {
                echoes.set(echoes.get() + u64::from(count == size));
            }
        })
    };
    let receivers: Vec<_> = (0..sockets.len()).map(receive).collect();
    let gap = Duration::from_secs_f64(1.0 / rate);
    let alarm = Alarm::new()?;
    let start = Instant::now();
    let mut due = start;
    let mut sent = 0u64;
    let mut unsent = 0u64;
    while due < start + duration {
        alarm.until(due).await?;
        let socket = &sockets[sent as usize % sockets.len()];
        unsent += u64::from(socket.try_send(&[7; 2048][..size]).is_err());
        sent += 1;
        due += gap;
        if sent.is_multiple_of(YIELD) {
            // Late after a pause: echoes have their turn all the same.
            tokio::task::yield_now().await;
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    let deadline = Instant::now() + PATIENCE;
    while echoes.get() + unsent < sent && Instant::now() < deadline {
        sleep(Duration::from_millis(1)).await;
    }
    for receiver in receivers {
        receiver.abort();
    }
    Ok(Outcome {
        units: echoes.get(),
        seconds,
        errors: sent - echoes.get(),
        ..Outcome::default()
    })
}

/// Below those that connections leave from where no range is set.
const PORT: u16 = 20_000;
/// Datagrams in flight: enough to keep a core busy, too few to overflow a socket's buffer.
const WINDOW: usize = 64;
/// An echo that takes longer is lost.
const PATIENCE: Duration = Duration::from_millis(500);
/// Datagrams a turn at the most.
const YIELD: u64 = 16;
