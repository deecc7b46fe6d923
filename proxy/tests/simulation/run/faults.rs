//! What goes wrong, what is reconfigured, and how it heals.

use std::time::Duration;

use fairlead_config::{
    endpoint::ObjectState,
    snapshot::{Change, Delta},
};
use fairlead_runtime::clock::Tick;

use super::{super::world::Behaviour, FAULTS_LAST, Happening, Simulation};

impl Simulation {
    pub(super) fn fault(&mut self) {
        let pause = self
            .dice
            .between(Duration::from_millis(50), Duration::from_millis(2500));
        self.after(pause, Happening::Fault);
        if self.is_over() {
            return;
        }
        let behaviour = self.dice.of(&[
            Behaviour::Good,
            Behaviour::Good,
            Behaviour::Good,
            Behaviour::Refusing,
            Behaviour::Silent,
            Behaviour::Resetting,
            Behaviour::Failing,
        ]);
        let victim = self.world.any_addr(&mut self.dice);
        let member = self.world.rows[&victim].member;
        let whole_member = self.dice.one_in(6);
        for (addr, row) in &self.world.rows {
            if *addr == victim || whole_member && row.member == member {
                self.world.behaviours.insert(*addr, behaviour);
            }
        }
    }

    pub(super) fn reconfigure(&mut self) {
        let pause = self
            .dice
            .between(Duration::from_millis(100), Duration::from_secs(5));
        self.after(pause, Happening::Configure);
        if self.is_over() {
            return;
        }
        let addr = self.world.any_addr(&mut self.dice);
        let row = self.world.rows.get_mut(&addr).expect("one of them");
        let change = match self.dice.below(4) {
            0 => {
                let place = &mut self.world.members[row.member];
                place.points = self.dice.of(&[0, 10, 100, 1000]);
                self.world.service()
            }
            1 => {
                row.is_there = !row.is_there;
                self.world.endpoint(addr)
            }
            2 => {
                row.state = self.dice.of(&[
                    ObjectState::Ready,
                    ObjectState::NotReady,
                    ObjectState::Draining,
                ]);
                self.world.endpoint(addr)
            }
            _ => {
                row.weight = self.dice.of(&[1, 2, 10]);
                self.world.endpoint(addr)
            }
        };
        self.configure(vec![change]);
    }

    pub(super) fn configure(&mut self, changes: Vec<Change>) {
        self.counts.changes += 1;
        let (touched, problems) = self.snapshot.apply(Delta { changes });
        assert_eq!(problems, []);
        self.directory
            .apply(&self.snapshot, &touched.services, &|_| Vec::new(), self.now);
        self.after_directory(None);
    }

    pub(super) fn is_over(&self) -> bool {
        self.now > Tick::from_start(Duration::from_secs(1)).after(FAULTS_LAST)
    }

    pub(super) fn heal(&mut self) {
        for behaviour in self.world.behaviours.values_mut() {
            *behaviour = Behaviour::Good;
        }
        for place in &mut self.world.members {
            place.points = 100;
        }
        let mut changes = vec![self.world.service()];
        for row in self.world.rows.values_mut() {
            row.state = ObjectState::Ready;
            row.is_there = true;
        }
        changes.extend(
            self.world
                .rows
                .keys()
                .map(|&addr| self.world.endpoint(addr)),
        );
        self.configure(changes);
    }
}
