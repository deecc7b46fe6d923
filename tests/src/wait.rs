//! Waiting for values.

use std::{fmt::Debug, time::Duration};

use anyhow::{Context, bail};
use tokio::time::{Instant, sleep};

/// Asks `probe` again and again until it gives a value. A test that waits longer than
/// [`PATIENCE`] has failed, and says what it saw last.
pub async fn until<T, S: Debug>(
    what: &str,
    mut probe: impl AsyncFnMut() -> anyhow::Result<Result<T, S>>,
) -> anyhow::Result<T> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let seen = match probe()
            .await
            .with_context(|| format!("while waiting for {what}"))?
        {
            Ok(value) => return Ok(value),
            Err(seen) => seen,
        };
        if Instant::now() > deadline {
            bail!("waited {PATIENCE:?} for {what}; last seen: {seen:?}");
        }
        // The interval of the polling, not what the test waits for.
        sleep(Duration::from_millis(20)).await;
    }
}

/// Long enough for a busy machine, and for what is waited for to say first why it failed.
pub const PATIENCE: Duration = Duration::from_secs(120);
