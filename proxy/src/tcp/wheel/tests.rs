use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone)]
enum Step {
    Arm(u32, u64),
    Disarm(u32),
    Pass(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0_u32..40, 0_u64..2_000).prop_map(|(index, millis)| Step::Arm(index, millis)),
        (0_u32..40, 0_u64..5_000_000).prop_map(|(index, millis)| Step::Arm(index, millis)),
        (0_u32..40).prop_map(Step::Disarm),
        (0_u64..50).prop_map(Step::Pass),
        (0_u64..400_000).prop_map(Step::Pass),
    ]
}

fn millis(millis: u64) -> Tick {
    Tick(millis * 1_000_000)
}

proptest! {
    #[test]
    fn entries_fire_once_never_late_and_the_wait_is_never_too_long(
        start in 0_u64..1_000_000, steps in proptest::collection::vec(step(), 0..200)
    ) {
        let mut now = millis(start);
        let mut wheel = Wheel::new(now);
        let mut armed = BTreeMap::new();
        for step in steps {
            match step {
                Step::Arm(index, after) => {
                    let at = now + Duration::from_millis(after);
                    wheel.arm(index, at);
                    armed.insert(index, at);
                }
                Step::Disarm(index) => {
                    wheel.disarm(index);
                    armed.remove(&index);
                }
                Step::Pass(after) => {
                    now = now + Duration::from_millis(after);
                    let mut due = Vec::new();
                    wheel.fire(now, &mut due);
                    for index in due {
                        let at = armed.remove(&index);
                        prop_assert!(at.is_some(), "{index} fired and was not armed");
                        // Early fires are for far deadlines only.
                        let early = at.unwrap_or_default() - now;
                        if early > Duration::ZERO {
                            wheel.arm(index, at.unwrap_or_default());
                            armed.insert(index, at.unwrap_or_default());
                        }
                    }
                }
            }
            let late = Duration::from_millis(4);
            for (index, at) in &armed {
                prop_assert!(now <= *at + late, "{index} should have fired");
            }
            match wheel.wait(now) {
                None => prop_assert!(armed.is_empty()),
                Some(wait) => {
                    let first = armed.values().min().copied();
                    prop_assert!(first.is_some(), "nothing is armed");
                    prop_assert!(now + wait <= first.unwrap_or_default() + late);
                }
            }
        }
    }
}

#[test]
fn a_near_deadline_fires_within_its_slot_and_not_before() {
    let mut wheel = Wheel::new(Tick::ZERO);
    wheel.arm(3, millis(21));
    let mut due = Vec::new();
    wheel.fire(millis(20), &mut due);
    assert!(due.is_empty());
    assert_eq!(wheel.wait(millis(20)), Some(Duration::from_millis(4)));
    wheel.fire(millis(24), &mut due);
    assert_eq!(due, [3]);
    assert_eq!(wheel.wait(millis(24)), None);
}
