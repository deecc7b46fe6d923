//! Exchanges on open connections, closed loop or at a fixed rate.

use std::{cell::RefCell, net::SocketAddr, rc::Rc, time::Duration};

use tokio::{net::TcpStream, time::Instant};

use super::{
    alarm::Alarm,
    client::{Options, Outcome, histogram, quantiles},
    connections::ping,
};

pub(super) async fn run(options: &Options) -> anyhow::Result<Outcome> {
    let mut streams = Vec::new();
    for _ in 0..options.parallel {
        let stream = TcpStream::connect(SocketAddr::V4(options.target)).await?;
        stream.set_nodelay(true)?;
        streams.push(stream);
    }
    let start = Instant::now();
    let end = start + options.duration();
    let tally = Rc::new(RefCell::new((0u64, 0u64, histogram())));
    let gap = options
        .rate
        .map(|rate| Duration::from_secs_f64(options.parallel as f64 / rate));
    let mut tasks = Vec::new();
    for (index, mut stream) in streams.into_iter().enumerate() {
        let (tally, options) = (tally.clone(), options.clone());
        let offset = gap.unwrap_or_default() * index as u32 / options.parallel as u32;
        let alarm = Alarm::new()?;
        tasks.push(tokio::task::spawn_local(async move {
            let mut intended = start + offset;
            loop {
                if gap.is_none() {
                    intended = Instant::now();
                }
                if intended >= end {
                    return;
                }
                let due = match gap {
                    Some(_) => alarm.until(intended).await,
                    None => Ok(()),
                };
                let result = match due {
                    Ok(()) => ping(&mut stream, options.size).await,
                    failed => failed,
                };
                let (units, errors, latency) = &mut *tally.borrow_mut();
                if result.is_err() {
                    *errors += 1;
                    return;
                }
                *units += 1;
                latency.saturating_record(intended.elapsed().as_micros() as u64);
                intended += gap.unwrap_or_default();
            }
        }));
    }
    for task in tasks {
        task.await?;
    }
    let (units, errors, latency) = &*tally.borrow();
    Ok(Outcome {
        units: *units,
        seconds: start.elapsed().as_secs_f64(),
        errors: *errors,
        latency: quantiles(latency),
        trouble: None,
    })
}
