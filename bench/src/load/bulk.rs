//! Long writes on a few connections.

use std::{cell::Cell, net::SocketAddr, rc::Rc, time::Duration};

use tokio::{
    io::AsyncWriteExt,
    net::TcpStream,
    time::{Instant, sleep_until},
};

use super::client::{Options, Outcome};

/// Bytes a write.
const WRITE: usize = 256 * 1024;

pub(super) async fn run(options: &Options) -> anyhow::Result<Outcome> {
    let mut streams = Vec::new();
    for _ in 0..options.parallel {
        streams.push(TcpStream::connect(SocketAddr::V4(options.target)).await?);
    }
    let start = Instant::now();
    let end = start + options.duration();
    let sent = Rc::new(Cell::new(0u64));
    let errors = Rc::new(Cell::new(0u64));
    let gap = options
        .rate
        .map(|rate| Duration::from_secs_f64(WRITE as f64 * options.parallel as f64 / (rate * 1e6)));
    let mut tasks = Vec::new();
    for mut stream in streams {
        let (sent, errors) = (sent.clone(), errors.clone());
        tasks.push(tokio::task::spawn_local(async move {
            let chunk = vec![0; WRITE];
            let mut next = start;
            while Instant::now() < end {
                if let Some(gap) = gap {
                    sleep_until(next).await;
                    next += gap;
                }
                let Ok(result) = tokio::time::timeout_at(end, stream.write(&chunk)).await else {
                    return;
                };
                match result {
                    Ok(count) => sent.set(sent.get() + count as u64),
                    Err(_) => return errors.set(errors.get() + 1),
                }
            }
        }));
    }
    for task in tasks {
        task.await?;
    }
    let seconds = start.elapsed().as_secs_f64();
    Ok(Outcome {
        units: sent.get(),
        seconds,
        errors: errors.get(),
        ..Outcome::default()
    })
}
