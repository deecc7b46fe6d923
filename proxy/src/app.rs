//! The process: starts everything, then turns events into calls of [`Control`] until it is over.
//!
//! Start-up is all or nothing: an address that can't be listened on ends it with every reason.
//! After that nothing that a source says ends the process; only a lost data thread does.

use std::{sync::Arc, time::Duration};

use anyhow::{Context as _, bail};
use fairlead_config::{snapshot, yaml};
use fairlead_runtime::{
    clock::{Clock, Tick},
    drain::{Departure, Phase},
    signals::{Request, Signals},
    tasks::{Backoff, Tasks},
};
use tokio::sync::{mpsc, watch};

use crate::{
    access_log::sink::Sinks,
    control::Control,
    directory::Signal,
    health::io::Prober,
    metrics::{Metrics, ReloadResult},
    settings::{Flags, Settings},
    source::{self, Refusal, file::FileSource},
    tcp::Fleet,
};

mod threads;

use threads::Threads;

/// A running proxy.
pub struct App {
    flags: Flags,
    settings: Settings,
    clock: Clock,
    metrics: Arc<Metrics>,
    fleet: Arc<Fleet>,
    control: Control,
    prober: Prober,
    threads: Threads,
    tasks: Tasks,
    signals: Signals,
    events: mpsc::Receiver<source::Event>,
    reload: watch::Sender<u64>,
    departure: Departure,
}

/// Something happened.
enum Event {
    Source(source::Event),
    Signal(Request),
    /// Strikes, or a thread drained.
    Reports,
    /// A probe was answered.
    Probed(Signal),
    /// A deadline came.
    Time,
    ThreadLost(String),
}

// === impl App ===

impl App {
    /// Starts with what the file says; fails with every address that can't be listened on.
    pub fn start(
        flags: Flags,
        settings: Settings,
        source: FileSource,
        clock: Clock,
    ) -> anyhow::Result<Self> {
        let signals = Signals::listen().context("taking over signals")?;
        let metrics = Metrics::new(settings.workers);
        let fleet = Fleet::new(settings.workers, metrics.clone(), clock.clone())
            .context("creating the data threads' mailboxes")?;
        let sinks = Sinks::new(settings.workers, metrics.clone());
        let seed = threads::seed();
        let budget = threads::listener_budget();
        let mut control = Control::new(fleet.clone(), clock.clone(), sinks, seed, budget);
        let first = snapshot::diff(control.snapshot(), &source.current().snapshot);
        let applied = control.apply(first);
        if !applied.problems.is_empty() {
            let problems: Vec<String> = applied.problems.iter().map(ToString::to_string).collect();
            bail!("{}", problems.join("\n"));
        }
        let threads = Threads::start(&fleet, seed).context("starting the data threads")?;
        let mut tasks = Tasks::new(clock.clone());
        let (sender, events) = mpsc::channel(source::EVENTS_MAX);
        let (reload, reloads) = watch::channel(0);
        tasks.supervise("file", Backoff::default(), move || {
            source.clone().run(reloads.clone(), sender.clone())
        });
        tracing::info!(workers = settings.workers, "serving");
        Ok(Self {
            departure: Departure::new(settings.drain),
            flags,
            settings,
            prober: Prober::new(clock.clone()),
            clock,
            metrics,
            fleet,
            control,
            threads,
            tasks,
            signals,
            events,
            reload,
        })
    }

    /// Runs until the process has left in order, or a data thread is lost.
    pub async fn run(mut self) -> anyhow::Result<()> {
        let lost = loop {
            match self.next_event().await {
                Event::Source(event) => self.take(event),
                Event::Signal(request) => self.obey(request),
                Event::Reports => {
                    let reports = self.fleet.reports.take().into_iter();
                    self.control.observe(reports.map(Signal::Report));
                }
                Event::Probed(answer) => self.control.observe([answer]),
                Event::Time => self.control.advance(),
                Event::ThreadLost(reason) => break Some(reason),
            }
            for job in self.control.take_probes() {
                self.prober.start(job);
            }
            if self.advance_departure() == Phase::Over {
                break None;
            }
        };
        self.fleet.end();
        self.threads.join();
        self.tasks.stop().await;
        match lost {
            Some(reason) => bail!("a data thread was lost: {reason}"),
            None => Ok(()),
        }
    }

    async fn next_event(&mut self) -> Event {
        let deadlines = [
            self.control.next_deadline(),
            self.departure.next_deadline(),
            Some(self.clock.now() + ROUND),
        ];
        let deadline = deadlines.into_iter().flatten().min().unwrap_or(Tick::MAX);
        let wait = deadline - self.clock.now();
        tokio::select! {
            Some(event) = self.events.recv() => Event::Source(event),
            request = self.signals.next() => Event::Signal(request),
            () = self.fleet.reports.wait() => Event::Reports,
            answer = self.prober.answer() => Event::Probed(answer),
            reason = self.threads.lost() => Event::ThreadLost(reason),
            () = tokio::time::sleep(wait) => Event::Time,
        }
    }

    fn take(&mut self, event: source::Event) {
        match event {
            source::Event::Whole(file) => self.reload(&file),
            source::Event::Delta(delta) => {
                let applied = self.control.apply(delta);
                self.note_applied(&applied.problems);
            }
            source::Event::Refused(refusal) => self.note_refusal(&refusal),
        }
    }

    fn reload(&mut self, file: &yaml::File) {
        let wanted = Settings::resolve(&self.flags, &file.settings);
        for setting in self.settings.restart_needed(&wanted) {
            tracing::warn!(setting, "changed in the file; takes effect after a restart");
        }
        let delta = snapshot::diff(self.control.snapshot(), &file.snapshot);
        let applied = self.control.apply(delta);
        self.note_applied(&applied.problems);
    }

    fn note_applied(&self, problems: &[fairlead_config::problem::Problem]) {
        let process = &self.metrics.process;
        process.reloads.inc(ReloadResult::Applied);
        process.config_problems.set(problems.len() as i64);
        for problem in problems {
            tracing::error!(%problem, "part of the configuration is not in effect");
        }
        tracing::info!(problems = problems.len(), "configuration applied");
    }

    fn note_refusal(&self, refusal: &Refusal) {
        let process = &self.metrics.process;
        process.reloads.inc(ReloadResult::Invalid);
        let count = refusal.problems.len() + refusal.more;
        process.config_problems.set(count as i64);
        tracing::error!(%refusal, "configuration refused; the one before it stays in force");
    }

    fn obey(&mut self, request: Request) {
        match request {
            Request::Leave => {
                tracing::info!(sessions = self.fleet.sessions(), "asked to leave");
                let before = self.departure.phase();
                let phase = self.departure.leave(self.clock.now());
                self.note_phase(before, phase);
            }
            Request::Reload => self.reload.send_modify(|count| *count += 1),
            Request::Upgrade => tracing::warn!("upgrade by signal is not available yet"),
        }
    }

    fn advance_departure(&mut self) -> Phase {
        let before = self.departure.phase();
        let phase = self.departure.step(self.clock.now(), self.fleet.is_idle());
        self.note_phase(before, phase);
        phase
    }

    fn note_phase(&mut self, before: Phase, phase: Phase) {
        if before == phase {
            return;
        }
        self.metrics.process.ready.set(0);
        match phase {
            Phase::Draining => self.control.close_listeners(),
            Phase::Over => {
                let sessions = self.fleet.sessions();
                tracing::info!(sessions, "leaving; the remaining sessions are reset");
            }
            Phase::Serving | Phase::Announced => {}
        }
    }
}

/// How often to look at things that nobody tells of.
const ROUND: Duration = Duration::from_secs(1);
