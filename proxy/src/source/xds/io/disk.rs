//! The last good state on disk.

use std::{fs, io, path::Path, sync::Arc};

use fairlead_config::xds::proto::discovery::Resource;
use fairlead_runtime::files::Saver;

use crate::source::xds::saved;

/// Writes the state; a failure is logged and tried again with the next change.
pub(super) async fn save(saver: &mut Saver, resources: Vec<(&'static str, Arc<Resource>)>) {
    let written = saver.save(move |mut out| saved::write(&resources, &mut out));
    if let Err(error) = written.await {
        tracing::warn!(
            path = ?saver.path(),
            %error,
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
