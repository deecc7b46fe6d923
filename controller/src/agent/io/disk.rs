//! What came down, on disk: written whole or not at all, checked when it is read.

use std::{fs, io, path::Path};

use fairlead_config::xds::saved;
use fairlead_runtime::files::{Saver, write_whole};

use crate::{
    agent::received::{BYTES_MAX, Received},
    board::Resource,
};

/// Of this folder.
pub(super) fn saver(folder: &Path) -> Saver {
    Saver::new(Some(folder.join(FILE)))
}

/// Writes what is to be kept, if there is anything; a failure is logged and tried again with the next
/// change.
pub(super) async fn save(saver: &mut Saver, kept: Option<Vec<(&'static str, Resource)>>) {
    let Some(kept) = kept else {
        return saver.forget();
    };
    let written = saver.save(move |mut out| saved::write(&kept, &mut out));
    if let Err(error) = written.await {
        tracing::warn!(
            path = ?saver.path(),
            %error,
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
    let written =
        tokio::task::spawn_blocking(move || write_whole(&path, |out| out.write_all(&bytes)));
    written.await.map_err(io::Error::other)?
}

/// In the agent's folder.
const FILE: &str = "received.bin";
/// All that is ever held, and the names around it.
const FILE_BYTES_MAX: u64 = 2 * BYTES_MAX as u64;
