//! Waiting for something that is coming up.

use std::time::Duration;

use anyhow::bail;
use tokio::time::{Instant, sleep};

/// Asks `probe` until it gives a value; what it saw instead is named when [`PATIENCE`] has run out.
pub(super) async fn until<T>(
    what: &str,
    mut probe: impl AsyncFnMut() -> anyhow::Result<Result<T, String>>,
) -> anyhow::Result<T> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match probe().await? {
            Ok(value) => return Ok(value),
            Err(seen) if Instant::now() > deadline => {
                bail!("waited {} s for {what}: {seen}", PATIENCE.as_secs());
            }
            Err(_) => sleep(AGAIN).await,
        }
    }
}

/// What takes longer has failed, even on a busy machine: a hub that finds its store restored gives its
/// members 60 s.
pub(super) const PATIENCE: Duration = Duration::from_secs(90);
const AGAIN: Duration = Duration::from_millis(10);
