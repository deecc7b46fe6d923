//! A server and the ways to talk to it: in process, or over a socket.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::audit::Audit;
use crate::auth::authorize::RbacAuthorizer;
use crate::auth::{AlwaysAllow, Authorizer, User};
use crate::clock::{Clock, Random, SystemClock, SystemRandom};
use crate::controllers;
use crate::core::Core;
use crate::faults::Faults;
use crate::kinds::{Settings, State};
use crate::resource::Registry;
use crate::store::{Limits, OpenError, Store};

mod certificate;
mod identity;
mod listener;
mod local;

pub use certificate::ClientCertificate;
use identity::Identity;
pub use listener::{Handle, Security};

/// An API server. Clones are handles to the same server; it stops with [`ApiServer::shutdown`] or
/// when the last handle, client and listener are gone.
#[derive(Debug, Clone)]
pub struct ApiServer(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    core: Arc<Core>,
    identity: Identity,
    stop: CancellationToken,
    tasks: Mutex<JoinSet<()>>,
}

/// How a server is put together. Every option has a default.
pub struct Builder {
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
    settings: Settings,
    limits: Limits,
    authorization: bool,
    data: Option<PathBuf>,
    durable: bool,
    faults: Option<Faults>,
    audit: Option<Audit>,
    controllers: Controllers,
}

/// The controllers that every cluster has, each with a switch, so that real ones can run instead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Controllers {
    /// Deletes what has lost its owners, and carries out the propagation policies.
    pub garbage_collection: bool,
    /// Empties and removes namespaces that are being deleted.
    pub namespaces: bool,
    /// Keeps a `default` ServiceAccount in every namespace.
    pub service_accounts: bool,
    /// Keeps the ConfigMap `kube-root-ca.crt` in every namespace.
    pub root_ca: bool,
    /// Fills ClusterRoles that aggregate others.
    pub cluster_roles: bool,
}

/// Why a server could not be built or a listener not be started.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    #[error("cannot use {path} for the server's keys and tokens")]
    Data {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("{path} does not hold what it should: {why}")]
    Content { path: PathBuf, why: String },
    #[error("cannot open the objects")]
    Objects(#[from] OpenError),
    #[error("cannot make keys or certificates: {0}")]
    Keys(String),
    #[error("cannot listen on {addr}")]
    Listen {
        addr: SocketAddr,
        source: std::io::Error,
    },
}

/// The database in the data folder.
const OBJECTS_FILE: &str = "objects.redb";

// === impl Controllers ===

impl Controllers {
    pub const ALL: Self = Self {
        garbage_collection: true,
        namespaces: true,
        service_accounts: true,
        root_ca: true,
        cluster_roles: true,
    };

    /// None at all: for a real controller manager, or tests of bare storage.
    pub const NONE: Self = Self {
        garbage_collection: false,
        namespaces: false,
        service_accounts: false,
        root_ca: false,
        cluster_roles: false,
    };
}

// === impl Builder ===

impl Default for Builder {
    fn default() -> Self {
        Self {
            clock: Arc::new(SystemClock),
            random: Arc::new(SystemRandom),
            settings: Settings::default(),
            limits: Limits::default(),
            authorization: true,
            data: None,
            durable: false,
            faults: None,
            audit: None,
            controllers: Controllers::ALL,
        }
    }
}

impl Builder {
    /// The wall clock: timestamps of objects, expiry of tokens.
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// UIDs, generated names and tokens.
    pub fn random(mut self, random: impl Random) -> Self {
        self.random = Arc::new(random);
        self
    }

    /// Which of the cluster's own controllers run.
    pub fn controllers(mut self, controllers: Controllers) -> Self {
        self.controllers = controllers;
        self
    }

    /// EndpointSlices may hold loopback addresses, which a real server refuses.
    pub fn allow_loopback_endpoints(mut self, allow: bool) -> Self {
        self.settings.allow_loopback_endpoints = allow;
        self
    }

    /// Where ClusterIPs come from; a second range is of the other family.
    pub fn service_cidrs(mut self, cidrs: impl IntoIterator<Item = ipnet::IpNet>) -> Self {
        self.settings.service_cidrs = cidrs.into_iter().collect();
        self
    }

    /// How much history watches can resume from.
    pub fn history(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Switches RBAC off: every authenticated user may do everything.
    pub fn authorization(mut self, on: bool) -> Self {
        self.authorization = on;
        self
    }

    /// Where CA, keys and tokens live, so that a kubeconfig outlives a restart. Without it they
    /// last as long as the server.
    pub fn data_dir(mut self, path: impl Into<PathBuf>) -> Self {
        self.data = Some(path.into());
        self
    }

    /// Keeps the objects in the data folder too, each change made safe before it is acknowledged:
    /// a restart goes on with the same objects and resourceVersions. Without it they are in memory.
    pub fn durable(mut self, on: bool) -> Self {
        self.durable = on;
        self
    }

    fn store(&self) -> Result<Store, ServerError> {
        match &self.data {
            Some(data) if self.durable => {
                let path = data.join(OBJECTS_FILE);
                Ok(Store::open(&path, self.limits)?)
            }
            None if self.durable => Err(ServerError::Content {
                path: PathBuf::new(),
                why: "a durable server needs a data folder: name one".to_owned(),
            }),
            _ => Ok(Store::new(self.limits)),
        }
    }

    /// Exposes the server to the faults that a test injects.
    pub fn faults(mut self, faults: &Faults) -> Self {
        self.faults = Some(faults.clone());
        self
    }

    /// Keeps a log of requests that a test can read.
    pub fn audit(mut self, audit: &Audit) -> Self {
        self.audit = Some(audit.clone());
        self
    }

    /// Builds and starts the server; must be called within a tokio runtime.
    pub async fn build(self) -> Result<ApiServer, ServerError> {
        let identity = Identity::open(self.data.clone(), &*self.random)?;
        let store = self.store()?;
        let state = State::default();
        let authorizer: Arc<dyn Authorizer> = if self.authorization {
            Arc::new(RbacAuthorizer::new(Arc::clone(&state.rbac), store.clone()))
        } else {
            Arc::new(AlwaysAllow)
        };
        let stop = CancellationToken::new();
        let core = Arc::new(Core {
            stop: stop.clone(),
            store,
            registry: Registry::default(),
            clock: self.clock,
            random: self.random,
            settings: self.settings,
            state,
            authorizer,
            authentication: identity.authentication()?,
            faults: self.faults,
            audit: self.audit,
        });
        controllers::bootstrap::install(&core).await;
        core.serve_crds();
        let mut tasks = JoinSet::new();
        let ca_pem = Arc::from(identity.ca_pem.as_str());
        tasks.spawn(controllers::run(
            Arc::clone(&core),
            self.controllers,
            ca_pem,
            stop.clone(),
        ));
        Ok(ApiServer(Arc::new(Inner {
            core,
            identity,
            stop,
            tasks: Mutex::new(tasks),
        })))
    }
}

// === impl ApiServer ===

impl ApiServer {
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// A client in this process that may do everything.
    pub fn client(&self) -> kube::Client {
        self.client_of(User::admin())
    }

    /// A client in this process bound to the rights of that user. Like every authenticated user it
    /// is in the group `system:authenticated` too.
    pub fn client_as<G: Into<String>>(
        &self,
        user: &str,
        groups: impl IntoIterator<Item = G>,
    ) -> kube::Client {
        let mut user = User::new(user, groups);
        let authenticated = "system:authenticated";
        if !user.groups.iter().any(|group| group == authenticated) {
            user.groups.push(authenticated.to_owned());
        }
        self.client_of(user)
    }

    /// The state that this server has reached: the resourceVersion of its last change.
    pub fn revision(&self) -> u64 {
        self.0.core.store.revision()
    }

    /// Forgets the history of changes, as etcd does when it compacts: watches and lists from
    /// before now get `410 Gone`.
    pub fn compact(&self) {
        self.0.core.store.compact(self.0.core.store.revision());
    }

    /// Answers on a socket until the handle is dropped or the server shut down.
    pub async fn serve(&self, addr: SocketAddr, security: Security) -> Result<Handle, ServerError> {
        listener::serve(self, addr, security).await
    }

    /// A kubeconfig for the administrator at a listener's address (`https`; for a plain listener
    /// use [`Handle::kubeconfig`]).
    pub fn kubeconfig(&self, addr: SocketAddr) -> String {
        self.0.identity.kubeconfig(addr, Security::Tls)
    }

    /// A certificate with which a client of the HTTPS listeners is that user, in that group.
    pub fn client_certificate(
        &self,
        user: &str,
        group: Option<&str>,
    ) -> Result<ClientCertificate, ServerError> {
        let issued = certificate::issue(self.0.identity.ca(), user, group);
        issued.map_err(|error| ServerError::Keys(error.to_string()))
    }

    /// The certificate authority of the HTTPS listeners, PEM.
    pub fn ca_pem(&self) -> &str {
        &self.0.identity.ca_pem
    }

    /// Stops listeners, watches and controllers.
    pub async fn shutdown(&self) {
        self.0.stop.cancel();
        let mut tasks = std::mem::take(&mut *self.0.tasks.lock());
        while tasks.join_next().await.is_some() {}
        let store = self.0.core.store.clone();
        // The end of a blocking call that can't panic.
        drop(tokio::task::spawn_blocking(move || store.close()).await);
    }

    fn client_of(&self, user: User) -> kube::Client {
        let service = local::LocalService::new(Arc::clone(&self.0.core), user);
        kube::Client::new(service, "default")
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}
