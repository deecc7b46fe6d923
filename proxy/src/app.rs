//! The process: starts everything, then turns events into calls of [`Control`] until it is over.
//!
//! Start-up is all or nothing: an address that can't be listened on ends it with every reason.
//! After that nothing that a source says ends the process; only a lost data thread does.

use std::{sync::Arc, time::Duration};

use anyhow::{Context as _, bail};
use fairlead_config::{problem::Problem, snapshot, yaml};
use fairlead_runtime::{
    clock::{Clock, Tick},
    drain::{Departure, Phase},
    logging::with_causes,
    ready::Readiness,
    signals::{Request, Signals},
    tasks::Tasks,
};
use tokio::sync::mpsc;

use crate::{
    access_log::sink::Sinks,
    admin::{self, Context as AdminContext, Desk, Question, Status},
    control::{Control, Options},
    directory::Signal,
    dns::{Looked, io::Resolver},
    health::io::Prober,
    metrics::{Metrics, ReloadResult},
    settings::{Flags, Settings},
    sockets::Budget,
    source::{
        self, Refusal, RefusalKind,
        feed::{Feed, Source},
        load,
    },
    tcp::Fleet,
    upgrade::{
        Inheritance, Offer,
        io::{HandOverError, Taking},
        systemd::Notifier,
    },
};

mod files;
mod pages;
pub mod process;
mod successor;
mod threads;
mod waits;

use files::FileTable;
use pages::AdminServer;
use successor::{Step, Takers};
use threads::Threads;
use waits::Waits;

/// A running proxy.
pub struct App {
    flags: Flags,
    settings: Settings,
    clock: Clock,
    metrics: Arc<Metrics>,
    fleet: Arc<Fleet>,
    control: Control,
    prober: Prober,
    resolver: Resolver,
    threads: Threads,
    tasks: Tasks,
    signals: Signals,
    feed: Feed,
    departure: Departure,
    readiness: Readiness,
    files: FileTable,
    /// Held until one round of probes is over, or its time is.
    waits: Waits,
    status: Status,
    questions: mpsc::Receiver<Question>,
    /// Held also where no page is served, so that its end means nothing.
    _desk: Desk,
    admin: Option<AdminServer>,
    takers: Takers,
    notifier: Notifier,
}

/// Something happened.
enum Event {
    Source(source::Event),
    /// A load report is due.
    Sampled(load::Asked),
    Signal(Request),
    /// Strikes, or a thread drained.
    Reports,
    /// Somebody looks at an admin page.
    Asked(Question),
    /// A name server answered.
    Looked(Looked),
    /// A probe was answered.
    Probed(Signal),
    /// A deadline came.
    Time,
    ThreadLost(String),
    Taker(Step),
}

// === impl App ===

impl App {
    /// Starts with what the file says; fails with every address that can't be listened on.
    pub fn start(
        flags: Flags,
        settings: Settings,
        source: Source,
        clock: Clock,
        mut inherited: Inheritance,
    ) -> anyhow::Result<Self> {
        // Before anybody can see that this process runs, and put another binary in place.
        let takers = Takers::new();
        let signals = Signals::listen().context("taking over signals")?;
        let files = FileTable::reserve();
        let metrics = Metrics::new(settings.workers);
        let fleet = Fleet::new(settings.workers, metrics.clone(), clock.clone())
            .context("creating the data threads' mailboxes")?;
        let sinks = Sinks::new(settings.workers, metrics.clone());
        let admin = open_admin(&settings, &mut inherited)?;
        let parcels = std::mem::take(&mut inherited.parcels);
        let seed = threads::seed();
        let options = Options {
            seed,
            budget: Budget::of_files(files::most()),
            inherited,
        };
        let mut control = Control::new(fleet.clone(), clock.clone(), sinks, options);
        let problems = apply_first(&mut control, &source)?;
        control.learn(&parcels);
        let threads = Threads::start(&fleet, seed).context("starting the data threads")?;
        let mut tasks = Tasks::new(clock.clone());
        let origin = source.origin();
        let with_file = source.is_strict();
        let feed = source.start(&mut tasks, &clock);
        let readiness = Readiness::new();
        let now = clock.now();
        let waits = Waits::new(&readiness, with_file, now);
        let context = AdminContext {
            metrics: metrics.clone(),
            readiness: readiness.clone(),
            board: tasks.board(),
        };
        let (desk, questions) = admin::desk();
        if let Some(admin) = &admin {
            admin.serve(admin::pages(&desk, &context), &mut tasks);
        }
        state_constants(&metrics, &clock);
        tracing::info!(workers = settings.workers, "serving");
        Ok(Self {
            takers,
            notifier: Notifier::from_env(),
            departure: Departure::new(settings.drain),
            flags,
            settings,
            prober: Prober::new(clock.clone()),
            resolver: Resolver::system(),
            clock,
            metrics,
            fleet,
            control,
            files,
            threads,
            tasks,
            signals,
            feed,
            readiness,
            waits,
            status: Status::first(origin, &problems, now),
            questions,
            _desk: desk,
            admin,
        })
    }

    /// Tells the process that this one takes over from, if any, and the service manager that it
    /// accepts connections now. Fails when the former process serves on after all.
    pub async fn announce(&mut self, taking: Option<Taking>) -> anyhow::Result<()> {
        if let Some(taking) = taking {
            let control = &self.control;
            match taking.ready(|flows| control.adopt_flows(flows)).await {
                Ok(()) => {}
                Err(HandOverError::Refused(reason)) => {
                    bail!("the former process serves on: {reason}");
                }
                Err(error) => {
                    let error = with_causes(&error);
                    tracing::warn!(error, "the former process said no last word");
                }
            }
            self.fleet.release_datagrams();
        }
        self.notifier.ready();
        if let Some(path) = &self.flags.takeover
            && let Err(error) = self.takers.open_door(path)
        {
            tracing::error!(
                error = with_causes(&error),
                "no successor can take over by --takeover"
            );
        }
        Ok(())
    }

    /// Runs until the process has left in order, or a data thread is lost.
    pub async fn run(mut self) -> anyhow::Result<()> {
        let lost = loop {
            match self.next_event().await {
                Event::Source(event) => self.take(event),
                Event::Sampled(asked) => self.sample(asked),
                Event::Signal(request) => self.obey(request),
                Event::Reports => {
                    let reports = self.fleet.reports.take().into_iter();
                    self.control.observe(reports.map(Signal::Report));
                }
                Event::Asked(question) => {
                    self.status.control_plane = self.feed.status();
                    self.feed
                        .count(&self.metrics.control_plane, self.clock.now());
                    question.answer(&mut self.control, &self.status, &self.clock);
                }
                Event::Looked(looked) => self.control.looked(looked),
                Event::Probed(answer) => self.control.observe([answer]),
                Event::Time => {
                    self.control.advance();
                    self.retry_listeners();
                }
                Event::ThreadLost(reason) => break Some(reason),
                Event::Taker(step) => self.hand_over(step).await,
            }
            self.tell_verdicts();
            for job in self.control.take_probes() {
                self.prober.start(job);
            }
            for host in self.control.take_lookups() {
                self.resolver.start(host);
            }
            let now = self.clock.now();
            self.files.keep_room(now);
            self.waits.step(&mut self.control, &self.feed, now);
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

    /// Wakes the load reports when an endpoint's verdict has changed.
    fn tell_verdicts(&self) {
        let changes = self.control.changes();
        self.feed.verdicts.send_if_modified(|told| {
            let differs = *told != changes;
            *told = changes;
            differs
        });
    }

    async fn next_event(&mut self) -> Event {
        let deadlines = [
            self.control.next_deadline(),
            self.departure.next_deadline(),
            Some(self.clock.now() + ROUND),
            self.waits.next_deadline(),
        ];
        let deadline = deadlines.into_iter().flatten().min().unwrap_or(Tick::MAX);
        let wait = deadline - self.clock.now();
        tokio::select! {
            Some(event) = self.feed.events.recv() => Event::Source(event),
            Some(asked) = self.feed.samples.recv() => Event::Sampled(asked),
            request = self.signals.next() => Event::Signal(request),
            () = self.fleet.reports.wait() => Event::Reports,
            Some(question) = self.questions.recv() => Event::Asked(question),
            answer = self.prober.answer() => Event::Probed(answer),
            looked = self.resolver.answer() => Event::Looked(looked),
            reason = self.threads.lost() => Event::ThreadLost(reason),
            step = self.takers.next() => Event::Taker(step),
            () = tokio::time::sleep(wait) => Event::Time,
        }
    }

    /// Answers who reports load; one that is gone meanwhile needs no answer.
    fn sample(&mut self, asked: load::Asked) {
        let leaving = self.departure.phase() != Phase::Serving;
        let proxy = self.feed.proxy_state(leaving);
        let now = self.clock.wall(self.clock.now());
        asked.send(self.control.sample(proxy, now)).ok();
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
        self.status.restart_needed = self.settings.restart_needed(&wanted);
        for setting in &self.status.restart_needed {
            tracing::warn!(setting, "changed in the file; takes effect after a restart");
        }
        let delta = snapshot::diff(self.control.snapshot(), &file.snapshot);
        let applied = self.control.apply(delta);
        self.note_applied(&applied.problems);
    }

    fn note_applied(&mut self, problems: &[Problem]) {
        let process = &self.metrics.process;
        process.reloads.inc(ReloadResult::Applied);
        self.status.applied(problems, self.clock.now());
        let applied = unix_seconds(&self.clock, self.clock.now());
        process.config_applied_seconds.set(applied);
        process.config_problems.set(problems.len() as i64);
        for problem in problems {
            tracing::error!(%problem, "part of the configuration is not in effect");
        }
        tracing::info!(problems = problems.len(), "configuration applied");
    }

    fn note_refusal(&mut self, refusal: &Refusal) {
        let process = &self.metrics.process;
        process.reloads.inc(match refusal.kind {
            RefusalKind::Invalid => ReloadResult::Invalid,
            RefusalKind::Unreadable => ReloadResult::Unreadable,
            RefusalKind::MassRemoval => ReloadResult::MassRemoval,
        });
        let count = refusal.problems.len() + refusal.more;
        process.config_problems.set(count as i64);
        tracing::error!(%refusal, "configuration refused; the one before it stays in force");
        self.status.refused = Some((self.clock.now(), refusal.clone()));
    }

    /// A port that was in use may be free now.
    fn retry_listeners(&mut self) {
        if self.control.failed_listeners() > 0 && self.control.retry_listeners().is_empty() {
            tracing::info!("every frontend listens now");
        }
    }

    fn obey(&mut self, request: Request) {
        match request {
            Request::Leave => {
                tracing::info!(sessions = self.fleet.sessions(), "asked to leave");
                self.notifier.stopping();
                let before = self.departure.phase();
                let phase = self.departure.leave(self.clock.now());
                self.note_phase(before, phase);
            }
            Request::Reload => {
                self.control.reopen_logs();
                self.feed.reload.send_modify(|count| *count += 1);
            }
            Request::Upgrade if self.departure.phase() != Phase::Serving => {
                tracing::warn!("this process is leaving already and starts no successor");
            }
            Request::Upgrade => {
                if let Err(error) = self.takers.start_child(self.offer()) {
                    self.takers_failed(&error);
                }
            }
        }
    }

    /// Ready once every endpoint with a health check has been probed and every DNS name was asked
    /// for, or there was time enough.
    async fn hand_over(&mut self, step: Step) {
        match step {
            Step::Knocked(channel) => self.takers.give(channel, None, self.offer()),
            Step::Failed(error) => self.takers_failed(&error),
            Step::Ready(taker) => {
                let flows = self.fleet.freeze_flows().await;
                let count = flows.len();
                if let Err((error, flows)) = taker.pass(flows).await {
                    taker.refuse(&error).await;
                    self.control.take_back(flows);
                    return self.takers_failed(&error);
                }
                self.metrics.process.ready.set(0);
                self.readiness.leave();
                if let Some(admin) = &self.admin {
                    admin.close();
                }
                self.control.release_listeners();
                self.departure.hand_over(self.clock.now());
                taker.release().await;
                let sessions = self.fleet.sessions();
                tracing::info!(
                    sessions,
                    flows = count,
                    "handed over; live sessions finish here"
                );
            }
        }
    }

    fn offer(&self) -> Offer {
        let mut offer = self.control.offer();
        offer
            .sockets
            .extend(self.admin.as_ref().and_then(AdminServer::offer));
        offer
    }

    fn takers_failed(&self, error: &HandOverError) {
        let error = with_causes(error);
        tracing::warn!(error, "no hand-over took place; this process serves on");
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
        self.readiness.leave();
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

/// Binds the admin address, if there is one, and serves its pages.
/// Binds the admin address, if there is one, or takes it over.
fn open_admin(
    settings: &Settings,
    inherited: &mut Inheritance,
) -> anyhow::Result<Option<AdminServer>> {
    let Some(addr) = settings.admin else {
        return Ok(None);
    };
    let socket = inherited.take_admin(addr);
    Ok(Some(AdminServer::open(
        addr,
        settings.admin_allow_remote,
        socket,
    )?))
}

/// With a file all or nothing: what can't be had ends the start. What a control plane asks for and
/// can't be had comes back as problems, and the rest serves.
fn apply_first(control: &mut Control, source: &Source) -> anyhow::Result<Vec<Problem>> {
    let first = snapshot::diff(control.snapshot(), &source.snapshot());
    let problems = control.apply(first).problems;
    if source.is_strict() && !problems.is_empty() {
        let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
        bail!("{}", problems.join("\n"));
    }
    for refusal in source.refusals() {
        tracing::error!(%refusal, "a part of the first configuration was refused");
    }
    for problem in &problems {
        tracing::error!(%problem, "part of the configuration is not in effect");
    }
    if source.is_strict() {
        control.drop_inherited();
    }
    Ok(problems)
}

/// Gauges that stay as they are.
fn state_constants(metrics: &Metrics, clock: &Clock) {
    let process = &metrics.process;
    process
        .fds_max
        .set(i64::try_from(files::most()).unwrap_or(i64::MAX));
    let started = unix_seconds(clock, clock.started());
    process.start_seconds.set(started);
}

fn unix_seconds(clock: &Clock, at: Tick) -> i64 {
    let since = clock.wall(at).duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs() as i64)
}

/// How often to look at things that nobody tells of.
const ROUND: Duration = Duration::from_secs(1);
