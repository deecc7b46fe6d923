//! Hand-overs as the process sees them: who comes to take over, one at a time.

use std::{
    collections::{BTreeMap, VecDeque},
    path::{Path, PathBuf},
};

use fairlead_runtime::logging::with_causes;
use tokio::task::{JoinError, JoinSet};

use crate::{
    tcp::FrozenFlow,
    upgrade::{
        Offer,
        io::{Channel, Door, HandOverError, Successor},
    },
};

/// Takers, found at the door or started as a child.
pub(super) struct Takers {
    /// The binary, where it was when this process started.
    program: Option<PathBuf>,
    door: Option<Door>,
    giving: JoinSet<Outcome>,
    /// Attempts that have ended and were not told yet.
    ended: VecDeque<Step>,
}

/// A taker that accepts connections, and the child if it is one.
pub(super) struct Ready {
    channel: Channel,
    child: Option<Successor>,
    places: BTreeMap<u32, u32>,
}

/// What there is to do.
pub(super) enum Step {
    /// A taker is here and wants an offer.
    Knocked(Channel),
    /// It accepts now; this process must not any more.
    Ready(Ready),
    /// It failed; this process serves on.
    Failed(HandOverError),
}

type Outcome = Result<Ready, HandOverError>;

// === impl Takers ===

impl Takers {
    /// None yet.
    pub(super) fn new() -> Self {
        Self {
            program: std::env::current_exe().ok(),
            door: None,
            giving: JoinSet::new(),
            ended: VecDeque::new(),
        }
    }

    /// Lets takers find this process at `path`.
    pub(super) fn open_door(&mut self, path: &Path) -> Result<(), HandOverError> {
        self.door = Some(Door::open(path)?);
        Ok(())
    }

    /// Starts the binary on disk as a taker.
    pub(super) fn start_child(&mut self, offer: Offer) -> Result<(), HandOverError> {
        if std::process::id() == 1 {
            return Err(HandOverError::Refused(
                "this process is PID 1 of its container, which would end with it; start the new \
                 version beside it with --takeover and a path that both can see"
                    .to_owned(),
            ));
        }
        let program = self
            .program
            .clone()
            .unwrap_or_else(|| "fairlead-proxy".into());
        let (child, channel) = Successor::start(&program)?;
        tracing::info!(pid = child.pid(), program = %program.display(), "started a successor");
        self.give(channel, Some(child), offer);
        Ok(())
    }

    /// Begins to hand over to a taker, unless that is under way with another one.
    pub(super) fn give(&mut self, channel: Channel, child: Option<Successor>, offer: Offer) {
        while let Some(ended) = self.giving.try_join_next() {
            self.ended.push_back(Step::of(ended));
        }
        if !self.giving.is_empty() {
            tracing::warn!("a second taker came while a hand-over is under way; it is sent away");
            return;
        }
        self.giving.spawn(async move {
            channel.give(&offer).await?;
            Ok(Ready {
                channel,
                child,
                places: offer.places,
            })
        });
    }

    /// The next step.
    pub(super) async fn next(&mut self) -> Step {
        if let Some(step) = self.ended.pop_front() {
            return step;
        }
        let knock = async {
            match &self.door {
                Some(door) => door.knock().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            Some(given) = self.giving.join_next() => Step::of(given),
            knocked = knock => match knocked {
                Ok(channel) => Step::Knocked(channel),
                Err(error) => Step::Failed(error),
            },
        }
    }
}

// === impl Step ===

impl Step {
    fn of(given: Result<Outcome, JoinError>) -> Self {
        match given {
            Ok(Ok(ready)) => Self::Ready(ready),
            Ok(Err(error)) => Self::Failed(error),
            Err(_) => Self::Failed(HandOverError::Gone("been told everything")),
        }
    }
}

// === impl Ready ===

impl Ready {
    /// Passes flows on; on failure they come back.
    pub(super) async fn pass(
        &self,
        frozen: Vec<FrozenFlow>,
    ) -> Result<(), (HandOverError, Vec<FrozenFlow>)> {
        let mut flows = Vec::with_capacity(frozen.len());
        let mut listeners = Vec::with_capacity(frozen.len());
        for (listener, mut row, socket) in frozen {
            // A listener that is newer than the offer stays here, and its flows end here.
            if let Some(place) = self.places.get(&listener) {
                row.socket = *place;
                flows.push((row, socket));
                listeners.push(listener);
            }
        }
        let passed = self.channel.pass(&flows).await;
        passed.map_err(|error| {
            let back = listeners.into_iter().zip(flows);
            let back = back.map(|(listener, (row, socket))| (listener, row, socket));
            (error, back.collect())
        })
    }

    /// Tells it to end, since this process serves on: two would answer one client. A child is
    /// killed.
    pub(super) async fn refuse(self, error: &HandOverError) {
        let reason = with_causes(error);
        // It may be gone, which is as good.
        self.channel.refuse(reason).await.ok();
    }

    /// Tells it that this process accepts no more.
    pub(super) async fn release(self) {
        if let Some(child) = self.child {
            child.release();
        }
        // It serves already, and needs no answer to go on.
        if let Err(error) = self.channel.release().await {
            tracing::debug!(%error, "the successor did not wait for our last word");
        }
    }
}
