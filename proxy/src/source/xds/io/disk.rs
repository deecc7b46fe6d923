//! The last good state on disk.

use std::{
    fs::{self, File},
    io::{self, BufWriter},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use fairlead_config::xds::proto::discovery::Resource;

use super::neighbour;
use crate::source::xds::saved;

/// Writes the state a while after it has changed, off the runtime's thread.
pub(super) struct Saver {
    path: Option<PathBuf>,
    due: Option<tokio::time::Instant>,
}

impl Saver {
    pub(super) fn new(path: Option<PathBuf>) -> Self {
        Self { path, due: None }
    }

    /// Changes that follow each other are written once.
    pub(super) fn note_change(&mut self) {
        if self.path.is_some() && self.due.is_none() {
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

    /// Writes; a failure is logged and tried again with the next change.
    pub(super) async fn save(&mut self, resources: Vec<(&'static str, Arc<Resource>)>) {
        self.due = None;
        let Some(path) = self.path.clone() else {
            return;
        };
        let shown = path.display().to_string();
        let written = tokio::task::spawn_blocking(move || write_whole(&path, &resources));
        let error = match written.await {
            Ok(Ok(())) => return,
            Ok(Err(error)) => error.to_string(),
            Err(error) => error.to_string(),
        };
        tracing::warn!(
            path = shown,
            error,
            "the last good state can't be written: a restart without a control plane would serve an older one"
        );
    }
}

/// Reads the state; `None` when there is none yet.
pub(super) fn load(path: &Path) -> Result<Option<Vec<(String, Resource)>>, String> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(format!("the last good state can't be read: {error}")),
    };
    let resources = saved::decode(&bytes)
        .map_err(|error| format!("the last good state is unusable: {error}; remove the file"))?;
    Ok(Some(resources))
}

/// The file has the old bytes or the new ones, also after a crash.
fn write_whole(path: &Path, resources: &[(&'static str, Arc<Resource>)]) -> io::Result<()> {
    let new = neighbour(path);
    let mut file = BufWriter::new(File::create(&new)?);
    saved::write(resources, &mut file)?;
    file.into_inner()?.sync_all()?;
    fs::rename(&new, path)?;
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => File::open(folder)?.sync_all(),
        _ => Ok(()),
    }
}

/// Long enough to gather a burst, short enough to lose little.
const DELAY: Duration = Duration::from_millis(500);
