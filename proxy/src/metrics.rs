//! What the proxy counts.
//!
//! Counters are plain fields of a few structs, reached through handles that are resolved once, when
//! a view is built or a thread starts: the data path adds to an atomic and never looks up a label.
//! A session writes to its member's cells a handful of times in its life; a flow gathers its
//! datagrams in itself and hands them over at each sweep and at its end.
//!
//! | module | what it holds |
//! |---|---|
//! | [`cell`] | counters, gauges, histograms, counters by a closed enum |
//! | [`handles`] | the structs of cells: process, thread, service, member |
//! | [`names`] | name, help, kind and labels of every series, in one table |
//! | [`text`] | the Prometheus text format, written straight into the answer |
//!
//! Series are per service and member. Those of an endpoint are opt-in and capped, and come from
//! its slab entry. A service's or member's series end when nothing holds its handle any more: no
//! view and no live session. The text is written directly from the cells: at 10,000 services a
//! tree of label pairs built for each scrape would cost more memory than the cells do.

use std::{
    collections::BTreeMap,
    ops::Bound,
    sync::{Arc, Weak},
};

use fairlead_config::name::ServiceName;
use parking_lot::Mutex;

pub(crate) use cell::label_enum;
pub use cell::{Counter, CounterBy, Gauge, Histogram, LabelValue};
pub use handles::{
    ConnectResult, ControlPlaneMetrics, DatagramDrop, DnsResult, Fault, Handoff, MemberMetrics,
    ProcessMetrics, ReloadResult, ServiceMetrics, ThreadMetrics,
};

pub mod cell;
pub mod handles;
pub mod names;
pub mod text;

#[cfg(test)]
mod tests;

/// Everything that is counted in this process.
#[derive(Debug)]
pub struct Metrics {
    /// What belongs to no service and no thread.
    pub process: ProcessMetrics,
    /// What is known of the control plane.
    pub control_plane: ControlPlaneMetrics,
    threads: Box<[ThreadMetrics]>,
    services: Mutex<BTreeMap<ServiceName, Weak<ServiceMetrics>>>,
}

// === impl Metrics ===

impl Metrics {
    /// All zero, for `threads` data threads.
    pub fn new(threads: usize) -> Arc<Self> {
        Arc::new(Self {
            process: ProcessMetrics::default(),
            control_plane: ControlPlaneMetrics::default(),
            threads: (0..threads.max(1))
                .map(|_| ThreadMetrics::default())
                .collect(),
            services: Mutex::default(),
        })
    }

    /// The cells of data thread `index`.
    pub fn thread(&self, index: usize) -> &ThreadMetrics {
        &self.threads[index % self.threads.len()]
    }

    /// The cells of every data thread, in order.
    pub fn threads(&self) -> &[ThreadMetrics] {
        &self.threads
    }

    /// The cells of a service: the same ones for as long as somebody holds them. For the control
    /// thread, not for the data path.
    pub fn service(&self, name: &ServiceName) -> Arc<ServiceMetrics> {
        let mut services = self.services.lock();
        if let Some(live) = services.get(name).and_then(Weak::upgrade) {
            return live;
        }
        let fresh = Arc::new(ServiceMetrics::default());
        services.insert(name.clone(), Arc::downgrade(&fresh));
        fresh
    }

    /// The first `count` services after `last` that are still counted, by name.
    pub fn services_after(
        &self,
        last: Option<&ServiceName>,
        count: usize,
    ) -> Vec<(ServiceName, Arc<ServiceMetrics>)> {
        let services = self.services.lock();
        let start = last.map_or(Bound::Unbounded, Bound::Excluded);
        services
            .range::<ServiceName, _>((start, Bound::Unbounded))
            .filter_map(|(name, service)| Some((name.clone(), service.upgrade()?)))
            .take(count)
            .collect()
    }

    /// Forgets services that nobody counts any more.
    fn forget_services(&self) {
        let mut services = self.services.lock();
        services.retain(|_, service| service.strong_count() > 0);
    }
}
