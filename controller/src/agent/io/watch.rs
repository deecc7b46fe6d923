//! One watch of one kind: what it sees goes to the writer, in order.

use std::fmt::Debug;

use fairlead_runtime::tasks::TaskError;
use futures::{StreamExt, TryStreamExt};
use kube::{
    Api, Resource,
    runtime::{WatchStreamExt, watcher, watcher::Event},
};
use serde::de::DeserializeOwned;
use tokio::sync::{mpsc, watch};

use crate::agent::restored::HubStore;

/// What a watch saw.
#[derive(Debug)]
pub(super) enum Change<T, O> {
    /// A whole list, from the start or after a break, and in which store of the hub it was taken.
    Reset(T, Vec<O>, u64),
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
    /// The store it watches, for those on the hub: in another one it begins with a list again.
    pub(super) store: Option<watch::Receiver<HubStore>>,
    pub(super) wrap: F,
}

impl<K, T, F, O> Watch<K, T, F>
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
    T: Clone + Debug + Send + Sync + 'static,
    F: Fn(K) -> O + Send + Sync + 'static,
    O: Send + 'static,
{
    /// Runs until the writer is gone. A watch that breaks starts again with back-off, and what was
    /// known stays until the new list is whole.
    pub(super) async fn run(self, changes: mpsc::Sender<Change<T, O>>) -> Result<(), TaskError> {
        let Some(mut store) = self.store.clone() else {
            return self.follow(0, &changes).await;
        };
        loop {
            let generation = store.borrow_and_update().generation;
            tokio::select! {
                end = self.follow(generation, &changes) => return end,
                changed = store.wait_for(|store| store.generation != generation) => {
                    changed.map(drop)?;
                }
            }
        }
    }

    async fn follow(
        &self,
        generation: u64,
        changes: &mpsc::Sender<Change<T, O>>,
    ) -> Result<(), TaskError> {
        let mut settings = watcher::Config::default();
        if let Some(selector) = &self.selector {
            settings = settings.labels(selector);
        }
        let start = || watcher(self.api.clone(), settings.clone()).default_backoff();
        let mut events = start().boxed();
        let mut listed = Vec::new();
        loop {
            let change = match events.try_next().await {
                Ok(None) => return Err("the watch ended".into()),
                Err(error) => {
                    tracing::debug!(kind = ?self.kind, %error, "watch broken; trying again");
                    if self.store.is_some() {
                        // Going on from where it was would miss what a restored hub has.
                        tokio::time::sleep(AGAIN).await;
                        events = start().boxed();
                    }
                    continue;
                }
                Ok(Some(Event::Init)) => {
                    listed.clear();
                    continue;
                }
                Ok(Some(Event::InitApply(object))) => {
                    listed.push((self.wrap)(slim(object)));
                    continue;
                }
                Ok(Some(Event::InitDone)) => {
                    Change::Reset(self.kind.clone(), std::mem::take(&mut listed), generation)
                }
                Ok(Some(Event::Apply(object))) => Change::Apply((self.wrap)(slim(object))),
                Ok(Some(Event::Delete(object))) => Change::Delete((self.wrap)(object)),
            };
            if changes.send(change).await.is_err() {
                return Ok(());
            }
        }
    }
}

/// An object as it is kept: who manages it, but not which fields. Those take more memory than all the rest
/// of a small object, and nobody here asks for them.
pub(super) fn slim<K: Resource>(mut object: K) -> K {
    let managers = object.meta_mut().managed_fields.iter_mut().flatten();
    managers.for_each(|entry| entry.fields_v1 = None);
    object
}

/// Between a break of a watch on the hub and its next list.
const AGAIN: std::time::Duration = std::time::Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use k8s_openapi::api::discovery::v1::EndpointSlice;
    use serde_json::json;

    use super::*;

    #[test]
    fn an_object_is_kept_with_its_managers_and_without_their_fields() {
        let whole: EndpointSlice = serde_json::from_value(json!({
            "metadata": {
                "name": "web-1",
                "managedFields": [{
                    "manager": "fairlead-agent",
                    "operation": "Apply",
                    "subresource": "status",
                    "fieldsV1": { "f:addressType": {} },
                }],
            },
            "addressType": "IPv4",
            "endpoints": [],
        }))
        .unwrap();
        let slim = slim(whole.clone());
        let managers = slim.metadata.managed_fields.clone().unwrap();
        assert_eq!(managers[0].manager.as_deref(), Some("fairlead-agent"));
        assert_eq!(managers[0].subresource.as_deref(), Some("status"));
        assert_eq!(managers[0].fields_v1, None);
        assert_eq!(
            (slim.metadata.name, slim.address_type),
            (whole.metadata.name, whole.address_type)
        );
    }
}
