//! Long writes on a few connections.
//!
//! A byte counts once it has arrived: each connection ends its stream and waits until the server
//! has read all of it and ends the other one. Else a proxy would be credited with what it left in
//! the buffers before and behind it, which are megabytes a connection.

use std::{cell::Cell, io, net::SocketAddr, rc::Rc, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, timeout, timeout_at},
};

use super::{
    alarm::Alarm,
    client::{Options, Outcome},
};

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
    for (index, stream) in streams.into_iter().enumerate() {
        let (sent, errors) = (sent.clone(), errors.clone());
        // Spread evenly, so that the streams don't all write at the same time.
        let first = start + gap.unwrap_or_default() * index as u32 / options.parallel as u32;
        tasks.push(tokio::task::spawn_local(async move {
            let pace = gap.map(|gap| (first, gap));
            match timeout((end - start) + PATIENCE, stream_out(stream, pace, end)).await {
                Ok(Ok(count)) => sent.set(sent.get() + count),
                _ => errors.set(errors.get() + 1),
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

/// Writes until `end`, one write every so often if there is a pace, then waits until all of it has
/// arrived. The bytes.
async fn stream_out(
    mut stream: TcpStream,
    pace: Option<(Instant, Duration)>,
    end: Instant,
) -> io::Result<u64> {
    let chunk = vec![0; WRITE];
    let alarm = Alarm::new()?;
    let mut sent = 0;
    let mut due = pace;
    while Instant::now() < end {
        if let Some((at, gap)) = &mut due {
            if *at >= end {
                break;
            }
            alarm.until(*at).await?;
            *at += *gap;
        }
        match timeout_at(end, stream.write(&chunk)).await {
            Ok(count) => sent += count? as u64,
            Err(_) => break,
        }
    }
    stream.shutdown().await?;
    match stream.read(&mut [0]).await? {
        0 => Ok(sent),
        _ => Err(io::Error::other("the server has nothing to say")),
    }
}

/// What is on its way arrives within this.
const PATIENCE: Duration = Duration::from_secs(10);
