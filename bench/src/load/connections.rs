//! New connections: connect, one exchange, reset; and idle ones.

use std::{cell::RefCell, io, net::SocketAddr, rc::Rc, time::Duration};

use anyhow::Context;
use hdrhistogram::Histogram;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, sleep_until, timeout},
};

use super::client::{Options, Outcome, PATIENCE, Trouble, histogram, quantiles};

struct Tally {
    units: u64,
    errors: u64,
    latency: Histogram<u64>,
    trouble: Trouble,
}

pub(super) async fn run(options: &Options) -> anyhow::Result<Outcome> {
    if options.announce {
        println!("started");
    }
    let start = Instant::now();
    let end = start + options.duration();
    let latency = histogram();
    let tally = Rc::new(RefCell::new(Tally {
        units: 0,
        errors: 0,
        latency,
        trouble: Trouble::default(),
    }));
    let gap = options
        .rate
        .map(|rate| Duration::from_secs_f64(options.parallel as f64 / rate));
    let mut tasks = Vec::new();
    for index in 0..options.parallel {
        let (tally, options) = (tally.clone(), options.clone());
        let offset = gap.unwrap_or_default() * index as u32 / options.parallel as u32;
        tasks.push(tokio::task::spawn_local(async move {
            let mut intended = start + offset;
            loop {
                match gap {
                    Some(_) => sleep_until(intended).await,
                    None => intended = Instant::now(),
                }
                if intended >= end {
                    return;
                }
                let began = start.elapsed();
                let result = timeout(PATIENCE, exchange(&options)).await;
                let took = matches!(result, Ok(Ok(()))).then(|| intended.elapsed());
                let mut tally = tally.borrow_mut();
                tally.trouble.note(intended - start, began, took);
                if let Some(took) = took {
                    tally.units += 1;
                    tally.latency.saturating_record(took.as_micros() as u64);
                } else {
                    tally.errors += 1;
                }
                intended += gap.unwrap_or_default();
            }
        }));
    }
    for task in tasks {
        task.await?;
    }
    let mut tally = tally.borrow_mut();
    Ok(Outcome {
        units: tally.units,
        seconds: start.elapsed().as_secs_f64(),
        errors: tally.errors,
        latency: quantiles(&tally.latency),
        trouble: Some(std::mem::take(&mut tally.trouble)),
    })
}

/// Opens connections with one exchange each, prints `holding`, and keeps them until standard input
/// ends.
pub(super) async fn hold(options: &Options) -> anyhow::Result<Outcome> {
    let start = Instant::now();
    let mut held = Vec::new();
    for _ in 0..options.parallel {
        let mut stream = TcpStream::connect(SocketAddr::V4(options.target)).await?;
        ping(&mut stream, options.size)
            .await
            .context("exchange on an idle connection")?;
        held.push(stream);
    }
    println!("holding");
    tokio::task::spawn_blocking(|| io::copy(&mut io::stdin(), &mut io::sink())).await??;
    let seconds = start.elapsed().as_secs_f64();
    Ok(Outcome {
        units: held.len() as u64,
        seconds,
        ..Outcome::default()
    })
}

async fn exchange(options: &Options) -> io::Result<()> {
    let mut stream = TcpStream::connect(SocketAddr::V4(options.target)).await?;
    stream.set_nodelay(true)?;
    ping(&mut stream, options.size).await?;
    // A reset leaves no TIME_WAIT behind, which would soon be what is measured.
    stream.set_zero_linger()
}

/// Sends `size` bytes and waits for as many.
pub(super) async fn ping(stream: &mut TcpStream, size: usize) -> io::Result<()> {
    let mut buffer = [0; 2048];
    let bytes = &mut buffer[..size.min(2048)];
    stream.write_all(bytes).await?;
    stream.read_exact(bytes).await?;
    Ok(())
}
