//! What the control thread does: reports, probes, deadlines.

use std::time::Duration;

use fairlead_proxy::{
    directory::Signal,
    health::{
        Report,
        probe::{Answer, Job, ProbeError},
    },
    registry::{EndpointId, Flags},
};

use super::{super::world::Behaviour, Happening, Simulation};

impl Simulation {
    pub(super) fn report(&mut self, report: Report) {
        // A trial's failure ejects again although it is one strike.
        let was_out = report.endpoint.flags().has(Flags::EJECTED);
        let strikes = if was_out { 3 } else { report.strikes };
        let struck = (report.endpoint.id, strikes);
        self.directory.observe([Signal::Report(report)], self.now);
        self.after_directory(Some(struck));
    }

    pub(super) fn probe_answered(&mut self, answer: Answer) {
        match answer.result {
            Err(ProbeError::Ours) => {}
            result => self.shadow.probe(&answer.job.endpoint, result.err()),
        }
        self.directory.observe([Signal::Answer(answer)], self.now);
        self.after_directory(None);
    }

    pub(super) fn deadline(&mut self) {
        self.deadline = None;
        self.directory.advance(self.now);
        self.after_directory(None);
    }

    pub(super) fn after_directory(&mut self, struck: Option<(EndpointId, u32)>) {
        for job in self.directory.take_probes(self.now) {
            self.probe(job);
        }
        for change in self.directory.take_changes() {
            let flags = change.endpoint.flags();
            self.counts.ejections += u64::from(flags.has(Flags::EJECTED));
            self.counts.probes_down += u64::from(flags.has(Flags::PROBE_DOWN));
            if flags.has(Flags::REMOVED) {
                self.shadow.forget(&change.endpoint);
            }
        }
        let view = self.view();
        self.shadow.check_transitions(&view, struck);
        self.note_deadline();
    }

    pub(super) fn probe(&mut self, job: Job) {
        let way = self.world.distance(job.endpoint.addr);
        let took = self.dice.between(way, way + way / 5);
        let (took, result) = if self.dice.one_in(50) {
            (took, Err(ProbeError::Ours))
        } else {
            match self.world.behaviours[&job.endpoint.addr] {
                // A reset before data comes after what a TCP probe asks.
                Behaviour::Good | Behaviour::Resetting => (took, Ok(Some(took))),
                Behaviour::Refusing => (took, Err(ProbeError::Refused)),
                Behaviour::Silent => (Duration::from_millis(500), Err(ProbeError::Unanswered)),
                Behaviour::Failing => (took, Err(ProbeError::Status(503))),
            }
        };
        self.after(
            took,
            Happening::ProbeAnswered(Box::new(Answer { job, result })),
        );
    }

    pub(super) fn note_deadline(&mut self) {
        let next = self
            .directory
            .next_deadline(self.now)
            .filter(|&next| self.deadline.is_none_or(|known| next < known));
        if let Some(next) = next {
            self.deadline = Some(next);
            self.at(next, Happening::Deadline);
        }
    }
}
