//! What clients do, and what comes of their connects.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use fairlead_config::frontend::Protocol;
use fairlead_proxy::{
    balancer::{FlowKey, NoEndpoint},
    connect::{Action, Actions, AttemptId, Connecting, Event, Failure, GiveUp, Loser},
    health::note,
    registry::{EndpointState, Live, Outcome},
    view::{Entry, MemberView, ServiceView},
};

use super::{super::world::Behaviour, Happening, Session, Simulation};

impl Simulation {
    pub(super) fn arrive(&mut self) {
        let number = self.counts.arrived;
        self.counts.arrived += 1;
        let most = if self.is_over() { 400 } else { 24 };
        let pause = self
            .dice
            .between(Duration::from_millis(1), Duration::from_millis(most));
        self.after(pause, Happening::Arrive);
        let client = Ipv4Addr::from(0x0a80_0000 | self.dice.below(400) as u32);
        let session = Session {
            key: FlowKey {
                client: SocketAddr::from((client, 1024 + self.dice.below(60_000) as u16)),
                local: SocketAddr::from((Ipv4Addr::new(192, 0, 2, 1), 443)),
                protocol: Protocol::Tcp,
            },
            thread: self.dice.below(self.threads.len() as u64) as usize,
            began: self.now,
            connecting: Some(Connecting::new(&self.view().service.policy, self.now)),
            dialled: BTreeMap::new(),
            live: None,
        };
        self.sessions.insert(number, session);
        self.step(number, Event::Begin);
    }

    pub(super) fn step(&mut self, number: u64, event: Event) {
        let view = self.view();
        let now = self.now;
        let Some(session) = self.sessions.get_mut(&number) else {
            return;
        };
        let Some(connecting) = &mut session.connecting else {
            return;
        };
        let draw = &mut self.threads[session.thread];
        let (key, shadow) = (session.key, &self.shadow);
        let actions: Actions = connecting.step(event, now, &mut |tried| {
            let pick = view.pick(&key, draw, now, tried)?;
            shadow.check_pick(&view, &pick.endpoint);
            assert!(!tried.contains(pick.endpoint.id), "a candidate twice");
            let healthy = |(member, entry): (&MemberView, &Entry)| {
                may_be_used(&view, member) && entry.state.is_usable()
            };
            assert!(
                !shadow.is_dead(&pick.endpoint) || !view.endpoints().any(healthy),
                "picked {}, known dead, while somebody is healthy",
                pick.endpoint.addr
            );
            Ok(pick)
        });
        let wake = connecting.next_wake();
        for action in actions {
            self.act(number, action);
        }
        if let Some(wake) = wake {
            self.at(wake, Happening::Wake(number));
        }
        self.settle_attempts(number);
    }

    pub(super) fn act(&mut self, number: u64, action: Action) {
        match action {
            Action::Dial { attempt, endpoint } => {
                let session = self.sessions.get_mut(&number).expect("it acts");
                session.dialled.insert(attempt, endpoint.clone());
                self.shadow.begin(&endpoint);
                let way = self.world.distance(endpoint.addr);
                let took = self.dice.between(way, way + way / 5);
                match self.world.behaviours[&endpoint.addr] {
                    Behaviour::Good | Behaviour::Resetting | Behaviour::Failing => {
                        self.after(took, Happening::Connected(number, attempt));
                    }
                    Behaviour::Refusing => self.after(took, Happening::Refused(number, attempt)),
                    Behaviour::Silent => {}
                }
            }
            Action::Report { endpoint, outcome } => self.outcome(&endpoint, outcome),
            Action::Serve { attempt, live, .. } => self.serve(number, attempt, live),
            Action::GiveUp(reason) => self.give_up(number, reason),
        }
    }

    pub(super) fn serve(&mut self, number: u64, attempt: AttemptId, live: Live) {
        self.counts.served += 1;
        let behaviour = self.world.behaviours[&live.addr];
        let session = self.sessions.get_mut(&number).expect("it is served");
        assert!(
            self.now.since(session.began) <= Duration::from_secs(5),
            "served too late"
        );
        let connecting = session.connecting.take().expect("it connected");
        let summary = connecting.summary();
        self.slowest = self.slowest.max(self.now.since(session.began));
        self.counts.retries += u64::from(summary.retries);
        self.counts.hedges += u64::from(summary.hedges);
        session.dialled.remove(&attempt);
        session.live = Some(live);
        let losers = connecting.into_losers();
        for loser in &losers {
            session.dialled.remove(&loser.attempt);
        }
        for loser in losers {
            let (at, id) = (loser.next_wake(), loser.attempt);
            self.losers.insert((number, id), loser);
            self.at(at, Happening::LoserWakes(number, id));
        }
        let lasts = self
            .dice
            .between(Duration::from_millis(5), Duration::from_millis(800));
        if behaviour == Behaviour::Resetting {
            self.after(Duration::from_millis(2), Happening::Ends(number, true));
        } else {
            self.after(Duration::from_millis(3), Happening::FirstByte(number));
            self.after(lasts, Happening::Ends(number, false));
        }
    }

    pub(super) fn give_up(&mut self, number: u64, reason: GiveUp) {
        self.counts.gave_up += 1;
        let session = &self.sessions[&number];
        let tried = session
            .connecting
            .as_ref()
            .map_or(0, |connecting| connecting.summary().attempts);
        let view = self.view();
        // A refused session tried all it might: six candidates, or everything that takes sessions.
        if matches!(reason, GiveUp::Refused | GiveUp::Unreachable) && tried < 6 {
            let full = view
                .service
                .policy
                .limits
                .connections_per_endpoint
                .unwrap_or(u32::MAX);
            let left = view.endpoints().filter(|(member, entry)| {
                let open = entry.state.is_usable() && entry.state.inflight() < full;
                may_be_used(&view, member)
                    && open
                    && !session
                        .dialled
                        .values()
                        .any(|dialled| dialled.id == entry.state.id)
            });
            assert_eq!(left.count(), 0, "gave up after {tried} with others left");
        }
        if reason == GiveUp::TimedOut {
            assert_eq!(self.now.since(session.began), Duration::from_secs(5));
        }
        if let GiveUp::NoEndpoint(NoEndpoint::Unusable) = reason {
            let usable = view
                .endpoints()
                .any(|(member, entry)| may_be_used(&view, member) && entry.state.is_usable());
            assert!(!usable, "an endpoint was usable");
        }
    }

    /// Ends the bookkeeping of attempts that the policy has let go of.
    pub(super) fn settle_attempts(&mut self, number: u64) {
        let Some(session) = self.sessions.get_mut(&number) else {
            return;
        };
        let over = session
            .connecting
            .as_ref()
            .is_some_and(|connecting| connecting.next_wake().is_none());
        if over && session.live.is_none() {
            let session = self.sessions.remove(&number).expect("looked at above");
            for endpoint in session.dialled.into_values() {
                // Those that failed before were ended then; what the counters say decides.
                while self.shadow.live[&endpoint.id] > endpoint.inflight() {
                    self.shadow.end(&endpoint);
                }
            }
        }
    }

    pub(super) fn answered(&mut self, number: u64, attempt: AttemptId, failure: Option<Failure>) {
        if let Some(loser) = self.losers.remove(&(number, attempt)) {
            let outcome = match failure {
                None => Some(loser.connected(self.now)),
                Some(failure) => loser.failed(failure),
            };
            self.end_loser(loser, outcome);
            return;
        }
        let Some(session) = self.sessions.get_mut(&number) else {
            return;
        };
        let Some(endpoint) = session.dialled.get(&attempt).cloned() else {
            return;
        };
        if let Some(failure) = failure {
            self.shadow.end(&endpoint);
            self.step(number, Event::Failed(attempt, failure));
        } else {
            self.step(number, Event::Connected(attempt));
        }
    }

    pub(super) fn wake(&mut self, number: u64) {
        let due = self
            .sessions
            .get(&number)
            .and_then(|session| session.connecting.as_ref()?.next_wake());
        if due.is_some_and(|due| due <= self.now) {
            self.step(number, Event::Woken);
        }
    }

    pub(super) fn wake_loser(&mut self, number: u64, attempt: AttemptId) {
        let Some(mut loser) = self.losers.remove(&(number, attempt)) else {
            return;
        };
        let (outcome, over) = loser.woken(self.now);
        if over {
            self.end_loser(loser, outcome);
            return;
        }
        let (at, endpoint) = (loser.next_wake(), Arc::clone(&loser.live));
        self.losers.insert((number, attempt), loser);
        self.at(at, Happening::LoserWakes(number, attempt));
        if let Some(outcome) = outcome {
            self.outcome(&endpoint, outcome);
        }
    }

    pub(super) fn end_loser(&mut self, loser: Loser, outcome: Option<Outcome>) {
        let endpoint = Arc::clone(&loser.live);
        self.shadow.end(&endpoint);
        drop(loser);
        if let Some(outcome) = outcome {
            self.outcome(&endpoint, outcome);
        }
    }

    pub(super) fn end(&mut self, number: u64, reset: bool) {
        let Some(session) = self.sessions.remove(&number) else {
            return;
        };
        let live = session.live.expect("only served sessions end");
        let endpoint = Arc::clone(&live);
        self.shadow.end(&endpoint);
        drop(live);
        if reset {
            self.outcome(&endpoint, Outcome::ResetBeforeData);
        }
    }

    pub(super) fn outcome(&mut self, endpoint: &Arc<EndpointState>, outcome: Outcome) {
        let expected = self.shadow.outcome(endpoint, outcome);
        if let Some(report) = note(endpoint, outcome, self.now) {
            assert_eq!(
                report.strikes, expected,
                "strikes of {} after {outcome:?}",
                endpoint.addr
            );
            let delay = self.dice.between(Duration::ZERO, Duration::from_millis(2));
            self.after(delay, Happening::Report(report));
        } else {
            assert_eq!(expected, 0, "an unreported strike");
        }
    }
}

fn may_be_used(view: &ServiceView, member: &MemberView) -> bool {
    member.weight > 0 && (member.tier == 0 || !view.service.policy.no_fallback)
}
