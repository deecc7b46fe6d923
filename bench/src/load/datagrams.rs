//! Datagrams and their echoes, one outstanding per flow. Each flow has at least one.

use std::{cell::Cell, net::SocketAddr, rc::Rc, time::Duration};

use tokio::{
    net::UdpSocket,
    time::{Instant, timeout},
};

use super::client::{Options, Outcome};

pub(super) async fn run(options: &Options, duration: Duration) -> anyhow::Result<Outcome> {
    let mut sockets = Vec::new();
    for index in 0..options.parallel {
        // The same ports in each row: flows that a proxy still has are used again.
        let port = PORT + u16::try_from(index)?;
        let socket = UdpSocket::bind(("0.0.0.0", port)).await?;
        socket.connect(SocketAddr::V4(options.target)).await?;
        sockets.push(socket);
    }
    let start = Instant::now();
    let end = start + duration;
    let units = Rc::new(Cell::new(0u64));
    let errors = Rc::new(Cell::new(0u64));
    let workers = options.parallel.min(WINDOW);
    let sockets = Rc::new(sockets);
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

/// Below those that connections leave from where no range is set.
const PORT: u16 = 20_000;
/// Datagrams in flight: enough to keep a core busy, too few to overflow a socket's buffer.
const WINDOW: usize = 64;
/// An echo that takes longer is lost.
const PATIENCE: Duration = Duration::from_millis(500);
