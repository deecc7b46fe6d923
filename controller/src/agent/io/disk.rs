//! What came down, on disk: written whole or not at all, checked when it is read.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
    time::Duration,
};

use fairlead_config::xds::saved;

use crate::{
    agent::received::{BYTES_MAX, Received},
    board::Resource,
};

/// Writes the state a while after it has changed, off the runtime's threads.
pub(super) struct Saver {
    path: PathBuf,
    due: Option<tokio::time::Instant>,
}

impl Saver {
    /// Into this folder.
    pub(super) fn new(folder: &Path) -> Self {
        Self {
            path: folder.join(FILE),
            due: None,
        }
    }

    /// Changes that follow each other are written once.
    pub(super) fn note_change(&mut self) {
        if self.due.is_none() {
            self.due = Some(tokio::time::Instant::now() + DELAY);
        }
    }

    /// Returns when the state has to be written; never, when it hasn't changed.
    pub(super) async fn due(&self) {
        match self.due {
            Some(due) => tokio::time::sleep_until(due).await,
            None => std::future::pending().await,
        }
    }

    /// Writes what is to be kept; a failure is logged and tried again with the next change.
    pub(super) async fn save(&mut self, kept: Option<Vec<(&'static str, Resource)>>) {
        self.due = None;
        let Some(kept) = kept else {
            return;
        };
        let path = self.path.clone();
        let written =
            tokio::task::spawn_blocking(move || write_whole(&path, &saved::encode(&kept)));
        let error = match written.await {
            Ok(Ok(())) => return,
            Ok(Err(error)) => error.to_string(),
            Err(error) => error.to_string(),
        };
        tracing::warn!(
            path = %self.path.display(),
            error,
            "what came down can't be kept: a restart without the hub would know less"
        );
    }
}

/// Fills `received` from the folder, which is made when missing. What is there and cannot be used
/// is put aside under another name and said: the agent then waits for its hub.
pub(super) fn load(folder: &Path, received: &mut Received) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    let path = folder.join(FILE);
    let size = match fs::metadata(&path) {
        Ok(meta) => meta.len(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    let fault = if size > FILE_BYTES_MAX {
        format!("it has {size} bytes, more than {FILE_BYTES_MAX}")
    } else {
        match saved::decode(&fs::read(&path)?) {
            Ok(resources) => {
                let resources = received.restore(resources);
                tracing::info!(resources, "went on with what came down before");
                return Ok(());
            }
            Err(error) => error.to_string(),
        }
    };
    let aside = folder.join(format!("{FILE}.unusable"));
    tracing::warn!(
        path = %path.display(),
        aside = %aside.display(),
        fault,
        "what came down before cannot be used; waiting for the hub"
    );
    fs::rename(&path, aside)
}

/// Writes a file that only this user may read, off the runtime's threads.
pub(super) async fn write(path: &Path, bytes: Vec<u8>) -> io::Result<()> {
    let path = path.to_owned();
    let written = tokio::task::spawn_blocking(move || write_whole(&path, &bytes));
    written.await.map_err(io::Error::other)?
}

/// The file has the old bytes or the new ones, also after a crash.
fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    let part = path.with_extension("part");
    let mut options = File::options();
    options.write(true).create(true).truncate(true).mode(0o600);
    let mut file = options.open(&part)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&part, path)?;
    match path.parent() {
        Some(folder) => File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

/// Long enough to gather a burst, short enough to lose little.
const DELAY: Duration = Duration::from_millis(500);
/// In the agent's folder.
const FILE: &str = "received.bin";
/// All that is ever held, and the names around it.
const FILE_BYTES_MAX: u64 = 2 * BYTES_MAX as u64;
