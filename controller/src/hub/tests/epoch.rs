//! When a list taken anew is trusted.

use tokio::sync::{
    mpsc,
    oneshot::{self, error::TryRecvError},
};

use super::*;
use crate::{
    epoch::Life,
    hub::{
        engine::Command,
        epoch::{self, Keeper, Shown},
    },
    leader::{self, Record},
};

#[tokio::test]
async fn a_new_list_is_trusted_once_the_lease_was_looked_at_after_it_and_had_not_gone_back() {
    let server = store().await;
    let client = server.client();
    let clock = Clock::system();
    let (epoch, made) = epoch::load(&client).await.unwrap();
    let life = Life::new(epoch.clone(), 1, made, clock.now());
    let (leadership, seat) = leader::io::new("a".into(), clock.clone());
    let at = |renewal| Record {
        holder: "b".into(),
        renewal,
        ..Record::default()
    };
    seat.election.send_modify(|election| {
        election.note_look(clock.now());
        election.observe(Some(at(2)), clock.now());
    });
    let (engine, mut commands) = mpsc::channel(1);
    let (shown, asked) = mpsc::channel(1);
    let keeper = Keeper {
        client,
        leadership,
        board: Arc::new(RwLock::new(Board::new(epoch.id.clone()))),
        engine,
        relist: watch::channel(0).0,
        vouched: watch::channel(String::new()).0,
        clock: clock.clone(),
    };
    tokio::spawn(keeper.run(life, asked));
    let ask = async |answer| {
        let one = Shown {
            epoch: epoch.id.clone(),
            as_of: 1,
            went_back: false,
            answer: Some(answer),
        };
        shown.send(one).await.unwrap();
        seat.asked.notified().await;
    };
    let look = |renewal| {
        seat.election.send_modify(|election| {
            election.note_look(clock.now());
            election.observe(Some(at(renewal)), clock.now());
        });
    };

    let ((to_first, mut first), (to_second, second)) = (oneshot::channel(), oneshot::channel());
    ask(to_first).await;
    // It has gone round once before it takes the next question.
    ask(to_second).await;
    assert_eq!(first.try_recv(), Err(TryRecvError::Empty), "nobody looked");
    look(3);
    assert_eq!((first.await, second.await), (Ok(true), Ok(true)));

    let (to_third, mut third) = oneshot::channel();
    ask(to_third).await;
    look(1);
    let held = commands.recv().await.unwrap();
    let Command::Hold(done) = held else {
        panic!("{held:?}");
    };
    let early = third.try_recv();
    assert_eq!(early, Err(TryRecvError::Empty), "the engine does not hold");
    done.send(()).unwrap();
    assert_eq!(third.await, Ok(true));
}
