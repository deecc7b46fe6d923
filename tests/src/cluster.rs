//! A Kubernetes API server to test against.

use kube::Client;

use crate::real::RealServer;

/// One API server: the embedded one, or the real one with its controller manager.
pub enum Cluster {
    /// In this process.
    Embedded(fairlead_apiserver::ApiServer),
    /// Processes of their own.
    Real(Box<RealServer>),
}

impl Cluster {
    /// An embedded server with its built-in controllers.
    pub async fn embedded() -> anyhow::Result<Self> {
        Ok(Self::Embedded(
            fairlead_apiserver::ApiServer::builder().build().await?,
        ))
    }

    /// The real ones, where `KUBEBUILDER_ASSETS` names their folder.
    pub async fn real() -> anyhow::Result<Option<Self>> {
        match RealServer::start_from_environment().await? {
            Some(server) => Ok(Some(Self::Real(Box::new(server)))),
            None => Ok(None),
        }
    }

    /// The administrator's client.
    pub fn client(&self) -> Client {
        match self {
            Self::Embedded(server) => server.client(),
            Self::Real(server) => server.client(),
        }
    }

    /// A client that acts as `user`, in `groups`, and may only do what RBAC grants them.
    pub fn client_as(&self, user: &str, groups: &[&str]) -> anyhow::Result<Client> {
        match self {
            Self::Embedded(server) => Ok(server.client_as(user, groups.iter().copied())),
            Self::Real(server) => server.client_as(user, groups),
        }
    }

    /// Whether it is the real one.
    pub fn is_real(&self) -> bool {
        matches!(self, Self::Real(_))
    }
}
