//! An embedded Kubernetes API server: the real REST API over an embedded store, in process or over
//! HTTPS.
//!
//! | module | what it owns |
//! |---|---|
//! | `server` | the builder, clients, listeners, kubeconfig |
//! | `http`, `rest` | paths, queries, content negotiation; the verbs |
//! | `store` | objects by key, one counter of revisions, history for watches |
//! | `resource` | which kinds are served |
//! | `schema`, `patch`, `crd` | fields of a kind; patches and field ownership; custom kinds |
//! | `auth`, `kinds`, `controllers` | who may; each kind's own rules; the controllers every cluster has |

pub mod audit;
pub mod auth;
pub mod clock;
pub mod controllers;
mod core;
pub mod crd;
mod discovery;
pub mod error;
pub mod faults;
mod http;
pub mod kinds;
mod openapi;
pub mod patch;
mod protobuf;
pub mod resource;
mod rest;
pub mod schema;
pub mod server;
pub mod store;

pub use auth::User;
pub use error::{ApiError, Cause, CauseReason};
pub use server::{
    ApiServer, Builder, ClientCertificate, Controllers, Handle, Security, ServerError,
};
