//! The kinds a server serves: a table of built-ins shared by all servers of a process, and the
//! custom ones of each server.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, LazyLock};

use parking_lot::RwLock;

mod builtin;

pub(crate) use builtin::READ_WRITE;

/// One served resource in one version.
#[derive(Debug, Clone)]
pub struct Resource {
    pub group: String,
    pub version: String,
    /// The plural, as in paths.
    pub resource: String,
    pub kind: String,
    pub list_kind: String,
    pub singular: String,
    pub short_names: Vec<String>,
    pub categories: Vec<String>,
    pub namespaced: bool,
    pub verbs: Verbs,
    pub subresources: Vec<Subresource>,
    /// The name of the store's table: the same for all versions of a resource.
    pub table: Arc<str>,
    /// Set for the resources of CRDs.
    pub custom: Option<Arc<crate::crd::Custom>>,
}

/// What may follow an object's name in a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subresource {
    pub name: String,
    /// Group and version of its kind where they differ from the parent's.
    pub group: String,
    pub version: String,
    pub kind: String,
    pub verbs: &'static [&'static str],
}

/// Which requests a resource answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verbs {
    /// create, delete, deletecollection, get, list, patch, update, watch.
    All,
    /// Everything except deletecollection (services, namespaces).
    NoCollection,
    /// create only: reviews, which are questions and are never stored.
    Create,
    /// get and list only (component statuses).
    Read,
}

/// What one server serves.
#[derive(Debug, Default)]
pub struct Registry {
    custom: RwLock<Custom>,
}

#[derive(Debug, Default)]
struct Custom {
    by_crd: BTreeMap<String, Vec<Arc<Resource>>>,
    by_path: HashMap<(String, String, String), Arc<Resource>>,
    /// Moves with each change, for caches of discovery and OpenAPI documents.
    revision: u64,
}

// === impl Resource ===

impl Resource {
    /// `v1`, or `apps/v1`.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() {
            return self.version.clone();
        }
        format!("{}/{}", self.group, self.version)
    }

    /// How an object of this resource starts in JSON.
    pub(crate) fn head(&self) -> Vec<u8> {
        let (kind, version) = (&self.kind, self.api_version());
        format!("{{\"kind\":\"{kind}\",\"apiVersion\":\"{version}\",").into_bytes()
    }

    /// How an object of this resource starts in a list: built-in kinds leave out what the list says.
    pub(crate) fn item_head(&self) -> Vec<u8> {
        if self.custom.is_some() {
            self.head()
        } else {
            b"{".to_vec()
        }
    }

    pub fn subresource(&self, name: &str) -> Option<&Subresource> {
        self.subresources
            .iter()
            .find(|subresource| subresource.name == name)
    }

    pub fn has_status(&self) -> bool {
        self.subresource("status").is_some()
    }

    pub fn is(&self, group: &str, resource: &str) -> bool {
        self.group == group && self.resource == resource
    }
}

// === impl Verbs ===

impl Verbs {
    /// In the order of discovery documents.
    pub fn names(self) -> &'static [&'static str] {
        match self {
            Self::All => &[
                "create",
                "delete",
                "deletecollection",
                "get",
                "list",
                "patch",
                "update",
                "watch",
            ],
            Self::NoCollection => &[
                "create", "delete", "get", "list", "patch", "update", "watch",
            ],
            Self::Create => &["create"],
            Self::Read => &["get", "list"],
        }
    }

    pub fn contains(self, verb: &str) -> bool {
        self.names().contains(&verb)
    }
}

// === impl Registry ===

impl Registry {
    /// The resource at `/api/VERSION/RESOURCE` or `/apis/GROUP/VERSION/RESOURCE`.
    pub fn find(&self, group: &str, version: &str, resource: &str) -> Option<Arc<Resource>> {
        if let Some(found) = BUILTINS.find(group, version, resource) {
            return Some(found);
        }
        let key = (group.to_owned(), version.to_owned(), resource.to_owned());
        self.custom.read().by_path.get(&key).cloned()
    }

    /// Is anything of that group served?
    pub fn is_builtin_group(group: &str) -> bool {
        BUILTINS.list.iter().any(|served| served.group == group)
    }

    /// Any served version of a resource, the preferred one first.
    pub fn find_any_version(&self, group: &str, resource: &str) -> Option<Arc<Resource>> {
        self.all()
            .into_iter()
            .find(|served| served.is(group, resource))
    }

    pub fn find_kind(&self, group: &str, version: &str, kind: &str) -> Option<Arc<Resource>> {
        let wanted = |served: &Arc<Resource>| {
            served.group == group && served.version == version && served.kind == kind
        };
        if let Some(found) = BUILTINS.list.iter().find(|served| wanted(served)) {
            return Some(Arc::clone(found));
        }
        self.custom
            .read()
            .by_path
            .values()
            .find(|served| wanted(served))
            .cloned()
    }

    /// Everything served: the built-ins in their fixed order, then custom ones by CRD name.
    pub fn all(&self) -> Vec<Arc<Resource>> {
        let custom = self.custom.read();
        BUILTINS
            .list
            .iter()
            .chain(custom.by_crd.values().flatten())
            .cloned()
            .collect()
    }

    /// Serves exactly these versions for a CRD from now on; an empty list stops serving it.
    pub fn set_custom(&self, crd: &str, resources: Vec<Resource>) {
        let mut custom = self.custom.write();
        custom.revision += 1;
        custom.by_crd.remove(crd);
        if !resources.is_empty() {
            custom.by_crd.insert(
                crd.to_owned(),
                resources.into_iter().map(Arc::new).collect(),
            );
        }
        let by_path = custom
            .by_crd
            .values()
            .flatten()
            .map(|served| {
                let key = (
                    served.group.clone(),
                    served.version.clone(),
                    served.resource.clone(),
                );
                (key, Arc::clone(served))
            })
            .collect();
        custom.by_path = by_path;
    }

    /// Moves whenever what is served changes.
    pub fn revision(&self) -> u64 {
        self.custom.read().revision
    }
}

struct Builtins {
    list: Vec<Arc<Resource>>,
    by_path: HashMap<&'static str, Vec<Arc<Resource>>>,
}

static BUILTINS: LazyLock<Builtins> = LazyLock::new(|| {
    let list: Vec<_> = builtin::resources().into_iter().map(Arc::new).collect();
    let mut by_path: HashMap<&'static str, Vec<Arc<Resource>>> = HashMap::new();
    for (row, resource) in builtin::ROWS.iter().zip(&list) {
        by_path
            .entry(row.resource)
            .or_default()
            .push(Arc::clone(resource));
    }
    Builtins { list, by_path }
});

impl Builtins {
    fn find(&self, group: &str, version: &str, resource: &str) -> Option<Arc<Resource>> {
        let candidates = self.by_path.get(resource)?;
        candidates
            .iter()
            .find(|served| served.group == group && served.version == version)
            .cloned()
    }
}

/// The store's table of a resource.
pub fn table_name(group: &str, resource: &str) -> Arc<str> {
    Arc::from(crate::error::qualified(resource, group))
}
