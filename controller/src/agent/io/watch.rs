//! One watch of one kind: what it sees goes to the writer, in order.

use std::fmt::Debug;

use fairlead_runtime::tasks::TaskError;
use futures::{StreamExt, TryStreamExt};
use kube::{
    Api, Resource,
    runtime::{WatchStreamExt, watcher, watcher::Event},
};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;

use crate::agent::local::{Kind, Object};

/// What a watch saw.
#[derive(Debug)]
pub(super) enum Change {
    /// A whole list, from the start or after a break.
    Reset(Kind, Vec<Object>),
    /// As it is now.
    Apply(Object),
    /// Gone.
    Delete(Object),
}

/// A watch that is to be run.
pub(super) struct Watch<K, F> {
    pub(super) api: Api<K>,
    pub(super) kind: Kind,
    pub(super) selector: Option<String>,
    pub(super) wrap: F,
}

impl<K, F> Watch<K, F>
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
    F: Fn(K) -> Object + Send + 'static,
{
    /// Runs until the writer is gone. A watch that breaks starts again with back-off, and what was
    /// known stays until the new list is whole.
    pub(super) async fn run(self, changes: mpsc::Sender<Change>) -> Result<(), TaskError> {
        let mut settings = watcher::Config::default();
        if let Some(selector) = &self.selector {
            settings = settings.labels(selector);
        }
        let mut events = watcher(self.api, settings).default_backoff().boxed();
        let mut listed = Vec::new();
        loop {
            let change = match events.try_next().await {
                Ok(None) => return Err("the watch ended".into()),
                Err(error) => {
                    tracing::debug!(kind = ?self.kind, %error, "watch broken; trying again");
                    continue;
                }
                Ok(Some(Event::Init)) => {
                    listed.clear();
                    continue;
                }
                Ok(Some(Event::InitApply(object))) => {
                    listed.push((self.wrap)(object));
                    continue;
                }
                Ok(Some(Event::InitDone)) => {
                    Change::Reset(self.kind.clone(), std::mem::take(&mut listed))
                }
                Ok(Some(Event::Apply(object))) => Change::Apply((self.wrap)(object)),
                Ok(Some(Event::Delete(object))) => Change::Delete((self.wrap)(object)),
            };
            if changes.send(change).await.is_err() {
                return Ok(());
            }
        }
    }
}
