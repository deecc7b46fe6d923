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

/// What a watch saw.
#[derive(Debug)]
pub(super) enum Change<T, O> {
    /// A whole list, from the start or after a break.
    Reset(T, Vec<O>),
    /// As it is now.
    Apply(O),
    /// Gone.
    Delete(O),
}

/// A watch that is to be run: objects of type `K` as kind `T`, wrapped by `F`.
pub(super) struct Watch<K, T, F> {
    pub(super) api: Api<K>,
    pub(super) kind: T,
    pub(super) selector: Option<String>,
    pub(super) wrap: F,
}

impl<K, T, F, O> Watch<K, T, F>
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
    T: Clone + Debug + Send + 'static,
    F: Fn(K) -> O + Send + 'static,
    O: Send + 'static,
{
    /// Runs until the writer is gone. A watch that breaks starts again with back-off, and what was
    /// known stays until the new list is whole.
    pub(super) async fn run(self, changes: mpsc::Sender<Change<T, O>>) -> Result<(), TaskError> {
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
