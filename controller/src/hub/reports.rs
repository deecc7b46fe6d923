//! What is heard of proxies here, at a replica of the hub or at a member's agent: into its fleet, and
//! to whoever hands it on.
//!
//! News that nobody hands on costs nothing. Whoever falls behind is told so, and begins anew with
//! everything.

use std::{collections::BTreeMap, sync::Arc};

use fairlead_api::proxy::Refusal;
use fairlead_config::xds::proto::load_stats::{HandedReport, LoadStatsRequest};
use fairlead_runtime::clock::Clock;
use parking_lot::Mutex;
use tokio::sync::broadcast;

use crate::{
    fleet::{Fleet, ProxyId, Source},
    time,
};

/// The fleet as this replica hears of it; clones share it.
#[derive(Clone)]
pub struct Reports {
    fleet: Arc<Mutex<Fleet>>,
    here: Arc<Mutex<Here>>,
    news: broadcast::Sender<LoadStatsRequest>,
    clock: Clock,
}

/// Streams that proxies have open at this replica: configuration, reports.
type Here = BTreeMap<ProxyId, [u32; 2]>;

impl Reports {
    /// Of proxies that are heard of in `fleet`.
    pub fn new(fleet: Arc<Mutex<Fleet>>, clock: Clock) -> Self {
        Self {
            fleet,
            here: Arc::default(),
            news: broadcast::channel(NEWS_MAX).0,
            clock,
        }
    }

    /// A proxy opened its configuration stream.
    pub fn connected(&self, id: &ProxyId, version: &str) {
        let mut here = self.here.lock();
        here.entry(id.clone()).or_default()[0] += 1;
        self.fleet.lock().connected(id, version);
        self.tell(id, true);
    }

    /// It closed it.
    pub fn disconnected(&self, id: &ProxyId) {
        let mut here = self.here.lock();
        let connected = leave(&mut here, id, 0);
        self.fleet.lock().disconnected(id, self.clock.now());
        self.tell(id, connected);
    }

    /// It answered an update.
    pub fn answered(
        &self,
        id: &ProxyId,
        applied: Option<&str>,
        settled: bool,
        refused: Vec<Refusal>,
    ) {
        let here = self.here.lock();
        let connected = is_connected(&here, id);
        let changed = self.fleet.lock().answered(id, applied, settled, refused);
        if changed {
            self.tell(id, connected);
        }
    }

    /// It opened a stream of reports.
    pub fn reports(&self, id: &ProxyId) {
        self.here.lock().entry(id.clone()).or_default()[1] += 1;
    }

    /// It closed it.
    pub fn reports_no_more(&self, id: &ProxyId) {
        leave(&mut self.here.lock(), id, 1);
    }

    /// It reported; the first report of a stream holds everything.
    pub fn reported(&self, id: &ProxyId, report: &LoadStatsRequest, first: bool) {
        let here = self.here.lock();
        let (now, time) = (self.clock.now(), time::time(&self.clock));
        let mut fleet = self.fleet.lock();
        fleet.reported(id, report, first, now, &time);
        if self.news.receiver_count() == 0 {
            return;
        }
        let mut message = fleet.handed(id, is_connected(&here, id));
        if let Some(handed) = &mut message.handed {
            handed.report = match first {
                true => HandedReport::Whole.into(),
                false => HandedReport::Change.into(),
            };
        }
        message.proxy.clone_from(&report.proxy);
        message.cluster_stats.clone_from(&report.cluster_stats);
        message.verdicts.clone_from(&report.verdicts);
        drop(self.news.send(message));
    }

    /// Everything known of the proxies that are here, and from then on the news.
    pub fn hand_on(&self) -> (Vec<LoadStatsRequest>, broadcast::Receiver<LoadStatsRequest>) {
        let here = self.here.lock();
        let fleet = self.fleet.lock();
        let all = here
            .iter()
            .map(|(id, streams)| fleet.handed_whole(id, streams[0] > 0));
        (all.collect(), self.news.subscribe())
    }

    /// Takes what another replica hands on.
    pub fn take_handed(&self, source: &mut Source, message: &LoadStatsRequest) {
        let (now, time) = (self.clock.now(), time::time(&self.clock));
        let mut fleet = self.fleet.lock();
        fleet.take_handed(source, message, now, &time);
    }

    /// It hands on no more.
    pub fn end_handed(&self, source: Source) {
        self.fleet.lock().end_handed(source, self.clock.now());
    }

    /// Called with `here` locked, so that whoever starts to hand on misses nothing.
    fn tell(&self, id: &ProxyId, connected: bool) {
        if self.news.receiver_count() > 0 {
            let message = self.fleet.lock().handed(id, connected);
            drop(self.news.send(message));
        }
    }
}

fn is_connected(here: &Here, id: &ProxyId) -> bool {
    here.get(id).is_some_and(|streams| streams[0] > 0)
}

/// Counts one stream less; whether the proxy is still connected.
fn leave(here: &mut Here, id: &ProxyId, kind: usize) -> bool {
    let Some(streams) = here.get_mut(id) else {
        return false;
    };
    streams[kind] = streams[kind].saturating_sub(1);
    let connected = streams[0] > 0;
    if *streams == [0, 0] {
        here.remove(id);
    }
    connected
}

/// News that wait for whoever hands them on: a second of a thousand proxies under drain.
const NEWS_MAX: usize = 1024;
