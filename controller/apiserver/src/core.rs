//! What one server is made of, shared by its requests and controllers.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use crate::audit::Audit;
use crate::auth::authenticate::Authentication;
use crate::auth::authorize::changes;
use crate::auth::{Authorizer, User};
use crate::clock::{Clock, Random};
use crate::faults::Faults;
use crate::kinds::{Changed, Ctx, Lookup, Settings, State};
use crate::resource::{Registry, Resource, table_name};
use crate::store::{Key, Object, Range, Store};

/// One server without its listeners.
pub(crate) struct Core {
    pub store: Store,
    pub registry: Registry,
    pub clock: Arc<dyn Clock>,
    pub random: Arc<dyn Random>,
    pub settings: Settings,
    pub state: State,
    pub authorizer: Arc<dyn Authorizer>,
    pub authentication: Authentication,
    pub faults: Option<Faults>,
    pub audit: Option<Audit>,
    /// Cancelled when the server shuts down: watches end.
    pub stop: CancellationToken,
}

impl Core {
    pub(crate) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    pub(crate) fn ctx<'a>(
        &'a self,
        user: &'a User,
        resource: &'a Resource,
        subresource: &'a str,
        namespace: &'a str,
        dry_run: bool,
    ) -> Ctx<'a> {
        Ctx {
            now: self.now(),
            user,
            resource,
            subresource,
            namespace,
            dry_run,
            settings: &self.settings,
            random: &*self.random,
            lookup: self,
            state: &self.state,
        }
    }

    /// Serves what the CRDs in the store ask for.
    pub(crate) fn serve_crds(&self) {
        let all = self.list("apiextensions.k8s.io", "customresourcedefinitions", "");
        let now = crate::clock::rfc3339(self.now());
        for crd in &all {
            // One that was stored but not yet established when the server stopped.
            let settled = crate::crd::settled(crd, &all, &now);
            self.serve_crd(settled.as_ref().unwrap_or(crd));
        }
    }

    pub(crate) fn serve_crd(&self, crd: &Value) {
        let name = crd["metadata"]["name"].as_str().unwrap_or_default();
        self.registry.set_custom(name, crate::crd::resources(crd));
    }

    fn any_version(&self, group: &str, resource: &str) -> Option<Arc<Resource>> {
        self.registry
            .find(group, "v1", resource)
            .or_else(|| self.registry.find_any_version(group, resource))
    }
}

impl std::fmt::Debug for Core {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Core")
            .field("revision", &self.store.revision())
            .finish_non_exhaustive()
    }
}

impl Lookup for Core {
    fn one(&self, group: &str, resource: &str, namespace: &str, name: &str) -> Option<Value> {
        let table = table_name(group, resource);
        let object = self.store.read(&table, &Key::new(namespace, name))?;
        let served = self.any_version(group, resource)?;
        Some(object.value(&served.head()))
    }

    fn list(&self, group: &str, resource: &str, namespace: &str) -> Vec<Value> {
        let Some(served) = self.any_version(group, resource) else {
            return Vec::new();
        };
        let range = Range {
            namespace: (!namespace.is_empty()).then(|| namespace.to_owned()),
            ..Range::default()
        };
        let head = served.head();
        let values = |objects: Vec<Arc<Object>>| objects.iter().map(|o| o.value(&head)).collect();
        let listing = self.store.list(&served.table, &range, &|_| true);
        listing
            .map(|listing| values(listing.objects))
            .unwrap_or_default()
    }

    fn changes(&self, group: &str, resource: &str, since: u64) -> Option<Vec<Changed>> {
        changes(&self.store, &table_name(group, resource), since)
    }

    fn revision(&self, group: &str, resource: &str) -> u64 {
        self.store.table_revision(&table_name(group, resource))
    }
}
