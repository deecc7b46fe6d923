//! The one source of a process, whichever it is, and what runs of it.

use std::path::Path;

use fairlead_config::{snapshot::Snapshot, xds::proto::fairlead::ProxyState, yaml};
use fairlead_runtime::{
    clock::{Clock, Tick},
    tasks::{Backoff, Tasks},
};
use tokio::sync::{mpsc, watch};

use super::{
    EVENTS_MAX, Event, Refusal,
    file::FileSource,
    load::{Asked, LoadReporter},
    xds::{Options, XdsSource, XdsStatus},
};
use crate::metrics::ControlPlaneMetrics;

/// A source that has been opened, with what it starts from.
pub struct Source {
    kind: Kind,
    first: Vec<Event>,
}

enum Kind {
    File(FileSource),
    Xds(XdsSource, Options),
}

/// The ends that the control thread holds of a source that runs.
pub struct Feed {
    /// What the source says.
    pub events: mpsc::Receiver<Event>,
    /// A new number reads the file again, and confirms what needs confirmation.
    pub reload: watch::Sender<u64>,
    /// Who wants a sample for a load report. Nobody does without a control plane.
    pub samples: mpsc::Receiver<Asked>,
    /// To be changed whenever an endpoint's verdict has.
    pub verdicts: watch::Sender<u64>,
    /// The state of the control plane's connection, where there is one.
    pub xds: Option<XdsSource>,
}

// === impl Source ===

impl Source {
    /// A file, all of whose problems refuse it.
    pub fn file(path: &Path, clock: Clock) -> Result<Self, Refusal> {
        let source = FileSource::open(path, clock)?;
        let first = vec![Event::Whole(source.current())];
        Ok(Self {
            kind: Kind::File(source),
            first,
        })
    }

    /// A control plane; starts from the last good state on disk, or from nothing.
    pub fn xds(options: Options, clock: Clock) -> Self {
        let (source, first) = XdsSource::open(options.clone(), clock);
        Self {
            kind: Kind::Xds(source, options),
            first,
        }
    }

    /// The file's path or the control plane's address.
    pub fn origin(&self) -> String {
        match &self.kind {
            Kind::File(source) => source.path().display().to_string(),
            Kind::Xds(_, options) => options.server.clone(),
        }
    }

    /// The settings of the process that the source states.
    pub fn settings(&self) -> yaml::Settings {
        match &self.kind {
            Kind::File(source) => source.current().settings.clone(),
            Kind::Xds(..) => yaml::Settings::default(),
        }
    }

    /// What to serve at first.
    pub fn snapshot(&self) -> Snapshot {
        let mut snapshot = Snapshot::default();
        for event in &self.first {
            match event {
                Event::Whole(file) => snapshot.clone_from(&file.snapshot),
                Event::Delta(delta) => {
                    // The decoder has refused what an apply would.
                    snapshot.apply(delta.clone());
                }
                Event::Refused(_) => {}
            }
        }
        snapshot
    }

    /// What was refused while opening; the process starts nevertheless.
    pub fn refusals(&self) -> impl Iterator<Item = &Refusal> {
        self.first.iter().filter_map(|event| match event {
            Event::Refused(refusal) => Some(refusal),
            Event::Whole(_) | Event::Delta(_) => None,
        })
    }

    /// Whether a start that can't do everything must not be one: a person reads what a file's
    /// start says, while a control plane is told and the rest serves.
    pub fn is_strict(&self) -> bool {
        matches!(self.kind, Kind::File(_))
    }

    /// Runs the source as tasks.
    pub fn start(self, tasks: &mut Tasks, clock: &Clock) -> Feed {
        let (sender, events) = mpsc::channel(EVENTS_MAX);
        let (reload, reloads) = watch::channel(0);
        let (asking, samples) = mpsc::channel(1);
        let (verdicts, changed) = watch::channel(0);
        let xds = match self.kind {
            Kind::File(source) => {
                tasks.supervise("file", Backoff::default(), move || {
                    source.clone().run(reloads.clone(), sender.clone())
                });
                None
            }
            Kind::Xds(source, options) => {
                let handle = source.clone();
                tasks.supervise("control plane", Backoff::default(), move || {
                    source.clone().run(sender.clone())
                });
                let reporter = LoadReporter::new(options, clock.clone(), asking, changed);
                tasks.supervise("load reports", Backoff::default(), move || {
                    reporter.clone().run()
                });
                Some(handle)
            }
        };
        Feed {
            events,
            reload,
            samples,
            verdicts,
            xds,
        }
    }
}

// === impl Feed ===

impl Feed {
    /// The state of the control plane's connection, where there is one.
    pub fn status(&self) -> Option<XdsStatus> {
        self.xds.as_ref().map(XdsSource::status)
    }

    /// Brings the cells up to date; nothing without a control plane.
    pub fn count(&self, cells: &ControlPlaneMetrics, now: Tick) {
        let Some(status) = self.status() else {
            return;
        };
        let number = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        let (link, counts) = (&status.link, &status.counts);
        cells.configured.set(1);
        cells.connected.set(link.connected.into());
        let heard = link.heard.unwrap_or(Tick::ZERO);
        cells.silent_seconds.set(number(now.since(heard).as_secs()));
        cells.as_of.set(number(status.as_of));
        cells.streams_ended.set(number(link.ends));
        cells.accepted.set(number(counts.accepted));
        cells.refused.set(number(counts.refused));
        cells.fitted_later.set(number(counts.fitted_later));
        cells.unchanged.set(number(counts.unchanged));
        cells.held_back.set(number(counts.deferred));
        cells.accepted_stale.set(number(counts.accepted_stale));
        cells.removed.set(number(counts.removed));
        cells
            .services_waiting
            .set(number(status.waiting.len() as u64));
    }

    /// The part of a load report that the source knows; totals are added by the sample.
    pub fn proxy_state(&self, leaving: bool) -> ProxyState {
        let stamp = self.xds.as_ref().map(XdsSource::stamp).unwrap_or_default();
        ProxyState {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            epoch: stamp.epoch,
            as_of: stamp.as_of,
            leaving,
            ..ProxyState::default()
        }
    }
}
