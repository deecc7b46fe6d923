//! The look-ups themselves: hickory-resolver with this host's configuration, and no cache, for
//! [`super::Names`] keeps the time.

use std::time::Duration;

use futures::{StreamExt, future::BoxFuture, stream::FuturesUnordered};
use hickory_resolver::{TokioResolver, config::LookupIpStrategy, net::NetError};

use super::{Failure, Found, Host, Looked};

/// The look-ups under way. Whoever polls it drives them; dropping it ends them.
pub struct Resolver {
    source: Source,
    resolver: Option<TokioResolver>,
    running: FuturesUnordered<BoxFuture<'static, Looked>>,
}

/// Where the name servers are from.
enum Source {
    /// `/etc/resolv.conf` and `/etc/hosts`.
    System,
    #[cfg(test)]
    Server(std::net::SocketAddr),
}

// === impl Resolver ===

impl Resolver {
    /// A resolver that reads this host's configuration when it is first needed.
    pub fn system() -> Self {
        Self {
            source: Source::System,
            resolver: None,
            running: FuturesUnordered::new(),
        }
    }

    /// A resolver that asks one server only.
    #[cfg(test)]
    fn at(server: std::net::SocketAddr) -> Self {
        Self {
            source: Source::Server(server),
            ..Self::system()
        }
    }

    /// Asks for a name.
    pub fn start(&mut self, host: Host) {
        let lookup: BoxFuture<'static, Looked> = match self.resolver() {
            Ok(resolver) => Box::pin(look_up(resolver, host)),
            Err(error) => {
                let result = Err(Failure::Other(error.to_string()));
                Box::pin(async { Looked { host, result } })
            }
        };
        self.running.push(lookup);
    }

    /// The next answer; waits for ever while nothing is asked. Cancel safe.
    pub async fn answer(&mut self) -> Looked {
        match self.running.next().await {
            Some(looked) => looked,
            None => std::future::pending().await,
        }
    }

    /// One that couldn't be made is tried again with the next name.
    fn resolver(&mut self) -> Result<TokioResolver, NetError> {
        if let Some(resolver) = &self.resolver {
            return Ok(resolver.clone());
        }
        let mut builder = match &self.source {
            Source::System => TokioResolver::builder_tokio()?,
            #[cfg(test)]
            Source::Server(addr) => tests::builder(*addr),
        };
        let options = builder.options_mut();
        options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
        options.cache_size = 0;
        options.timeout = SERVER_TIMEOUT;
        options.attempts = SERVER_ATTEMPTS;
        let resolver = builder.build()?;
        Ok(self.resolver.insert(resolver).clone())
    }
}

impl std::fmt::Debug for Resolver {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "Resolver({} look-ups)", self.running.len())
    }
}

async fn look_up(resolver: TokioResolver, host: Host) -> Looked {
    let asked = tokio::time::timeout(LOOKUP_TIMEOUT, resolver.lookup_ip(&*host)).await;
    let result = match asked {
        Err(_) => Err(Failure::TimedOut),
        Ok(Err(error)) => Err(failure(&error)),
        Ok(Ok(found)) => {
            let records = found.as_lookup().answers();
            let ttl = records
                .iter()
                .map(|record| record.ttl)
                .min()
                .unwrap_or_default();
            let addresses: Vec<_> = found.iter().collect();
            if addresses.is_empty() {
                Err(Failure::NoName)
            } else {
                let ttl = Duration::from_secs(ttl.into());
                Ok(Found { addresses, ttl })
            }
        }
    };
    Looked { host, result }
}

fn failure(error: &NetError) -> Failure {
    match error {
        NetError::Timeout => Failure::TimedOut,
        error if error.is_no_records_found() => Failure::NoName,
        error => Failure::Other(error.to_string()),
    }
}

/// One question to one server.
const SERVER_TIMEOUT: Duration = Duration::from_secs(2);
const SERVER_ATTEMPTS: usize = 2;
/// A look-up with all its questions, over search domains and servers.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(15);

#[cfg(test)]
mod tests;
