//! Files that a process keeps for its next start.
//!
//! [`write_whole`] leaves the old bytes or the new ones, also after a crash; nobody but this user may read
//! them. A [`Saver`] gathers changes that follow each other into one write. What a file means, and what its
//! loss would, its owner knows and logs.

use std::{
    fs::{self, File},
    io::{self, BufWriter, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::time::Instant;

/// Writes a file a while after what it holds has changed, off the runtime's threads.
#[derive(Debug)]
pub struct Saver {
    path: Option<PathBuf>,
    due: Option<Instant>,
}

// === impl Saver ===

impl Saver {
    /// Into this file; where there is none, nothing is ever due.
    pub fn new(path: Option<PathBuf>) -> Self {
        Self { path, due: None }
    }

    /// The file.
    pub fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    /// Changes that follow each other within half a second are written once.
    pub fn note_change(&mut self) {
        if self.path.is_some() && self.due.is_none() {
            self.due = Some(Instant::now() + DELAY);
        }
    }

    /// Whether a change isn't written yet.
    pub fn is_pending(&self) -> bool {
        self.due.is_some()
    }

    /// Returns when it is time to write; never, when nothing has changed.
    pub async fn due(&self) {
        match self.due {
            Some(due) => tokio::time::sleep_until(due).await,
            None => std::future::pending().await,
        }
    }

    /// Writes what `fill` says; after a failure nothing is due before the next change.
    pub async fn save<F>(&mut self, fill: F) -> io::Result<()>
    where
        F: FnOnce(&mut dyn Write) -> io::Result<()> + Send + 'static,
    {
        self.due = None;
        let Some(path) = self.path.clone() else {
            return Ok(());
        };
        let written = tokio::task::spawn_blocking(move || write_whole(&path, fill));
        written.await.map_err(io::Error::other)?
    }

    /// There is nothing to write after all.
    pub fn forget(&mut self) {
        self.due = None;
    }
}

/// Writes a file that only this user may read. It has the old bytes or the new ones, also after a crash,
/// and the old ones when `fill` fails.
pub fn write_whole(
    path: &Path,
    fill: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".part");
    let part = path.with_file_name(name);
    let mut options = File::options();
    options.write(true).create(true).truncate(true).mode(0o600);
    let mut file = BufWriter::new(options.open(&part)?);
    fill(&mut file)?;
    file.into_inner()?.sync_all()?;
    fs::rename(&part, path)?;
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => File::open(folder)?.sync_all(),
        _ => File::open(".")?.sync_all(),
    }
}

/// Long enough to gather a burst, short enough to lose little.
const DELAY: Duration = Duration::from_millis(500);

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_file_has_the_old_bytes_until_it_has_the_new_ones_and_is_its_users_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state");
        write_whole(&path, |out| out.write_all(b"old and long")).unwrap();
        let failed = write_whole(&path, |out| {
            out.write_all(b"half")?;
            assert_eq!(fs::read(&path)?, b"old and long");
            Err(io::Error::other("the disk is full"))
        });
        assert!(failed.is_err());
        assert_eq!(fs::read(&path).unwrap(), b"old and long");
        write_whole(&path, |out| out.write_all(b"new")).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn changes_that_follow_each_other_are_written_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state");
        let mut saver = Saver::new(Some(path.clone()));
        assert!(!saver.is_pending());
        let began = Instant::now();
        saver.note_change();
        tokio::time::advance(DELAY / 2).await;
        saver.note_change();
        saver.due().await;
        // The timer counts whole milliseconds.
        assert!(began.elapsed() <= DELAY + Duration::from_millis(1));
        assert!(saver.is_pending());
        saver.save(|out| out.write_all(b"both")).await.unwrap();
        assert!(!saver.is_pending());
        assert_eq!(fs::read(&path).unwrap(), b"both");
    }

    #[tokio::test]
    async fn without_a_file_nothing_is_due() {
        let mut saver = Saver::new(None);
        saver.note_change();
        assert!(!saver.is_pending());
        saver.save(|_| panic!("nowhere to write")).await.unwrap();
    }
}
