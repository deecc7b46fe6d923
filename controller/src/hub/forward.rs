//! Hands on to the leader what proxies tell this replica, for as long as it follows.
//!
//! One stream of load reports over mutual TLS, to the address in the leader's Lease: first all that
//! is known of the proxies here, then the news. When it breaks, or the leader changes, it begins
//! anew; the leader counts those proxies as not heard from meanwhile.

use std::{sync::Arc, time::Duration};

use fairlead_config::xds::{
    proto::{
        core::Node,
        load_stats::{LoadStatsRequest, LoadStatsResponse},
    },
    service::Client as XdsClient,
};
use parking_lot::RwLock;
use tokio::sync::{broadcast::error::RecvError, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Streaming,
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity},
};

use super::reports::Reports;
use crate::{
    authority::{self, Authority},
    leader::io::Leadership,
    time,
};

/// What is needed to hand on.
pub(super) struct Forwarder {
    pub(super) reports: Reports,
    pub(super) leadership: Leadership,
    /// Absent on a plain port.
    pub(super) authority: Option<Arc<RwLock<Authority>>>,
    pub(super) replica: String,
}

/// Why nothing is handed on.
#[derive(Debug, thiserror::Error)]
enum Unable {
    #[error("the leader's address {url} cannot be used: {reason}")]
    Address { url: String, reason: String },
    #[error("no certificate can be made: {0}")]
    Certificate(#[from] authority::CertificateError),
    #[error("the leader at {url} cannot be reached: {reason}")]
    Connect { url: String, reason: String },
    #[error("the leader ended the stream: {0}")]
    Ended(String),
}

impl Forwarder {
    /// Hands on until the hub ends.
    pub(super) async fn run(self) {
        let mut leadership = self.leadership.clone();
        loop {
            let Some(url) = self.leadership.hand_on_to() else {
                leadership.changed().await;
                continue;
            };
            match self.hand_on(&url).await {
                Ok(()) => {}
                Err(error) => {
                    tracing::warn!(%error, "what proxies say here does not reach the leader; trying again");
                    tokio::time::sleep(AGAIN).await;
                }
            }
        }
    }

    /// One stream, until the leader is another.
    async fn hand_on(&self, url: &str) -> Result<(), Unable> {
        let channel = self.connect(url).await?;
        let (to, taken) = mpsc::channel(REQUESTS_QUEUE);
        let (all, mut news) = self.reports.hand_on();
        // The queue is empty.
        drop(to.try_send(self.hello()));
        let mut client = XdsClient::new(channel);
        let opened = client
            .stream_load_stats(tonic::Request::new(ReceiverStream::new(taken)))
            .await;
        let opened = opened.map_err(|status| Unable::Ended(status.to_string()))?;
        tracing::info!(
            url,
            proxies = all.len(),
            "proxies' reports are handed on to the leader"
        );
        let ended = || Unable::Ended("it takes no more".to_owned());
        let mut answers = opened.into_inner();
        for message in all {
            to.send(message).await.map_err(|_| ended())?;
        }
        let mut leadership = self.leadership.clone();
        loop {
            tokio::select! {
                message = news.recv() => match message {
                    Ok(message) => to.send(message).await.map_err(|_| ended())?,
                    Err(RecvError::Lagged(missed)) => {
                        tracing::info!(missed, "the leader is slow; it is told everything anew");
                        return Ok(());
                    }
                    Err(RecvError::Closed) => return Ok(()),
                },
                () = leadership.changed() => {
                    if leadership.hand_on_to().as_deref() != Some(url) {
                        return Ok(());
                    }
                }
                end = end_of(&mut answers) => return Err(end),
            }
        }
    }

    fn hello(&self) -> LoadStatsRequest {
        LoadStatsRequest {
            node: Some(Node {
                id: self.replica.clone(),
                cluster: format!("{REPLICA_CLUSTER}{}", self.replica),
                ..Node::default()
            }),
            ..LoadStatsRequest::default()
        }
    }

    async fn connect(&self, url: &str) -> Result<Channel, Unable> {
        let address = |error: tonic::transport::Error| Unable::Address {
            url: url.to_owned(),
            reason: error.to_string(),
        };
        let mut endpoint = Endpoint::from_shared(url.to_owned())
            .map_err(address)?
            .connect_timeout(TIMEOUT)
            .http2_keep_alive_interval(TIMEOUT)
            .keep_alive_timeout(TIMEOUT)
            .keep_alive_while_idle(true);
        if let Some(authority) = &self.authority {
            let authority = authority.read().clone();
            let key = authority::io::key()?;
            let now = time::timestamp(&self.leadership.clock());
            let certificate = authority.sign_replica(&self.replica, &key, now)?;
            let tls = ClientTlsConfig::new()
                .ca_certificate(Certificate::from_pem(authority.bundle()))
                .identity(Identity::from_pem(certificate, key.serialize_pem()));
            endpoint = endpoint.tls_config(tls).map_err(address)?;
        }
        endpoint.connect().await.map_err(|error| {
            let cause = std::error::Error::source(&error)
                .map_or_else(String::new, |cause| cause.to_string());
            Unable::Connect {
                url: url.to_owned(),
                reason: format!("{error}: {cause}"),
            }
        })
    }
}

/// The leader says what it watches, which this replica knows; only the end is news.
async fn end_of(answers: &mut Streaming<LoadStatsResponse>) -> Unable {
    loop {
        match answers.message().await {
            Ok(Some(_)) => {}
            Ok(None) => return Unable::Ended("without a reason".to_owned()),
            Err(status) => return Unable::Ended(status.message().to_owned()),
        }
    }
}

/// What `node.cluster` of a replica starts with; its name follows.
pub(super) const REPLICA_CLUSTER: &str = "hub/";
const AGAIN: Duration = Duration::from_secs(1);
const TIMEOUT: Duration = Duration::from_secs(3);
/// Messages on their way; further ones wait among the news.
const REQUESTS_QUEUE: usize = 64;
