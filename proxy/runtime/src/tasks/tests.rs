use std::sync::atomic::{AtomicU32, Ordering};

use tokio::sync::oneshot;

use super::*;

#[tokio::test(start_paused = true)]
async fn the_end_of_a_task_is_reported_with_its_reason() {
    let mut tasks = Tasks::new(Clock::manual(Tick(3)));
    tasks.spawn("good", async { Ok(()) });
    let exit = tasks.next_exit().await;
    assert_eq!((exit.name, exit.failure), ("good", None));
    tasks.spawn("bad", async { Err("no disk".into()) });
    assert_eq!(tasks.next_exit().await.to_string(), "bad ended: no disk");
    tasks.spawn("mad", async { panic!("at {}", 7) });
    assert_eq!(
        tasks.next_exit().await.to_string(),
        "mad ended: it panicked: at 7"
    );
    assert_eq!(tasks.board().stopped(), ["bad", "good", "mad"]);
}

#[tokio::test(start_paused = true)]
async fn a_supervised_task_is_made_again_after_errors_and_panics() {
    let mut tasks = Tasks::new(Clock::manual(Tick::ZERO));
    let runs = Arc::new(AtomicU32::new(0));
    let (done, third) = oneshot::channel();
    let mut done = Some(done);
    let counter = runs.clone();
    tasks.supervise("source", Backoff::default(), move || {
        let run = counter.fetch_add(1, Ordering::Relaxed);
        let done = done.take_if(|_| run == 2);
        async move {
            match run {
                0 => Err("refused".into()),
                1 => panic!("bug"),
                _ => {
                    done.expect("the third run is the first to get here")
                        .send(())
                        .unwrap();
                    std::future::pending().await
                }
            }
        }
    });
    third.await.unwrap();
    let states = tasks.board().states();
    assert!(states["source"].running);
    assert_eq!(states["source"].restarts, 2);
    assert_eq!(
        states["source"].last_failure.as_deref(),
        Some("it panicked: bug")
    );
    tasks.stop().await;
}

#[tokio::test(start_paused = true)]
async fn dropping_the_owner_stops_supervised_tasks() {
    let mut tasks = Tasks::new(Clock::manual(Tick::ZERO));
    let (alive, gone) = oneshot::channel::<()>();
    let mut alive = Some(alive);
    tasks.supervise("holder", Backoff::default(), move || {
        let held = alive.take();
        async move {
            let _held = held;
            std::future::pending().await
        }
    });
    tokio::task::yield_now().await;
    drop(tasks);
    assert!(gone.await.is_err());
}

#[test]
fn delays_double_up_to_the_maximum() {
    let backoff = Backoff::default();
    let delays = [0, 1, 2, 6, 7, 40].map(|failures| backoff.delay(failures).as_millis());
    assert_eq!(delays, [100, 200, 400, 6400, 10_000, 10_000]);
}
