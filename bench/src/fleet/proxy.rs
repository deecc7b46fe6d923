//! The proxy of the fleet: the real xDS client, snapshot and views, without sockets and probes.

use std::{
    collections::HashMap,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use anyhow::{Context, bail};
use fairlead_config::{
    endpoint::Target,
    snapshot::{Change, Delta, Snapshot},
};
use fairlead_proxy::{
    directory::Directory,
    source::{
        Event,
        xds::{Options, XdsSource},
    },
};
use fairlead_runtime::clock::{Clock, Tick};
use tokio::sync::{mpsc, oneshot};

/// A running proxy; clones share it.
#[derive(Clone)]
pub(crate) struct Proxy(Arc<Mutex<State>>);

struct State {
    snapshot: Snapshot,
    directory: Directory,
    waiting: HashMap<SocketAddr, oneshot::Sender<Tick>>,
}

impl Proxy {
    pub(crate) fn start(number: usize, hub: SocketAddr, clock: &Clock) -> Self {
        let options = Options {
            server: format!("http://{hub}"),
            node_id: format!("bench-{number}"),
            group: "edge".to_owned(),
            ..Options::default()
        };
        let (source, _) = XdsSource::open(options, clock.clone());
        let (events, taken) = mpsc::channel(64);
        let state = State {
            snapshot: Snapshot::default(),
            directory: Directory::new(1),
            waiting: HashMap::new(),
        };
        let proxy = Self(Arc::new(Mutex::new(state)));
        tokio::spawn(source.run(events));
        tokio::spawn(proxy.clone().take(taken, clock.clone()));
        proxy
    }

    /// Waits until it has so many endpoints.
    pub(crate) async fn has(&self, count: usize) -> anyhow::Result<()> {
        let mut last = 0;
        let mut idle = 0;
        loop {
            let seen = self.lock().count();
            if seen == count {
                return Ok(());
            }
            idle = if seen == last { idle + 1 } else { 0 };
            last = seen;
            if idle > 6000 {
                bail!("the proxy has {seen} of {count} endpoints and gets no more");
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// When an endpoint takes sessions.
    pub(crate) fn expect(
        &self,
        ip: Ipv4Addr,
    ) -> impl Future<Output = anyhow::Result<Tick>> + use<> {
        let (seen, told) = oneshot::channel();
        self.lock().waiting.insert((ip, 8080).into(), seen);
        async { told.await.context("the proxy ended") }
    }

    async fn take(self, mut events: mpsc::Receiver<Event>, clock: Clock) {
        while let Some(event) = events.recv().await {
            if let Event::Delta(delta) = event {
                self.lock().apply(delta, &clock);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("no holder panics")
    }
}

impl State {
    fn apply(&mut self, delta: Delta, clock: &Clock) {
        let waiting = &self.waiting;
        let come: Vec<SocketAddr> = delta
            .changes
            .iter()
            .flat_map(|change| match change {
                Change::Endpoint(_, endpoint) => std::slice::from_ref(endpoint),
                Change::Endpoints(_, endpoints) => endpoints,
                _ => &[],
            })
            .filter_map(|endpoint| match &endpoint.key.target {
                Target::Addr(addr) => Some(*addr),
                _ => None,
            })
            .filter(|addr| waiting.contains_key(addr))
            .collect();
        let (touched, problems) = self.snapshot.apply(delta);
        assert!(problems.is_empty(), "{problems:?}");
        let now = clock.now();
        self.directory
            .apply(&self.snapshot, &touched.services, &|_| Vec::new(), now);
        for name in &touched.services {
            let Some(state) = self.directory.service(name) else {
                continue;
            };
            let view = state.view();
            let Some(view) = view.as_ref().filter(|_| !come.is_empty()) else {
                continue;
            };
            for (_, entry) in view.endpoints() {
                if entry.state.is_usable()
                    && come.contains(&entry.state.addr)
                    && let Some(seen) = self.waiting.remove(&entry.state.addr)
                {
                    // Whoever waited may have given up.
                    let _: Result<(), Tick> = seen.send(clock.now());
                }
            }
        }
        drop(self.directory.take_changes());
    }

    fn count(&self) -> usize {
        self.snapshot
            .endpoints
            .values()
            .map(|rows| rows.len())
            .sum()
    }
}
