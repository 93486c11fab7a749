//! The example `09_exactly_once` under SIGKILL: the books are balanced whatever dies.

use std::time::Duration;

use conductor::Status;
use conductor::testing::{TestConductor, run};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use uuid::Uuid;

use super::program::Program;
use crate::support::{eventually, number};

const TRANSFERS: i64 = 500;
const KILLS: usize = 6;

/// So many transfers done that a kill at this moment is neither the first thing nor the last.
fn some_more() -> i64 {
    i64::from(Uuid::now_v7().as_bytes()[15] % 64)
}

async fn recorded(test: &TestConductor) -> i64 {
    number(
        test,
        "select count(*) from conductor.steps where key = 'book'",
    )
    .await
}

/// Without waiting for the lease of the dead; its sessions may hold rows for a moment.
async fn bury(test: &TestConductor) {
    eventually("the burial", || async {
        sqlx::raw_sql(
            "update conductor.orchestrators set lease_until = '-infinity';
             select conductor.recover(99);",
        )
        .execute(test.pool())
        .await
        .unwrap();
        number(test, "select count(*) from conductor.orchestrators").await == 0
    })
    .await;
    // What has crashed twice is not due at once.
    test.advance(Duration::from_secs(600)).await.unwrap();
}

#[test]
fn kills_at_random_moments_leave_the_books_balanced() {
    run(|test: TestConductor| async move {
        let bank = Program::example("09_exactly_once", &test);
        let trade: Uuid = bank
            .ok(&["invoke", "trade", &format!("transfers={TRANSFERS}")])
            .parse()
            .unwrap();
        let mut killed_at = Vec::new();
        while killed_at.len() < KILLS {
            let worker = bank.worker();
            let moment = recorded(&test).await + some_more();
            eventually("some transfers", || async {
                let done = recorded(&test).await;
                done >= moment || done == TRANSFERS
            })
            .await;
            worker.signal(Signal::SIGKILL);
            assert_eq!(worker.end().code, None);
            bury(&test).await;
            killed_at.push(recorded(&test).await);
        }
        assert!(killed_at[0] < TRANSFERS, "{killed_at:?}");

        let worker = bank.worker();
        eventually("the end of all transfers", || async {
            let info = test.find(trade).await.unwrap().unwrap();
            info.state.is_final()
        })
        .await;
        let info = test.find(trade).await.unwrap().unwrap();
        assert_eq!(
            info.state,
            Status::Completed,
            "{killed_at:?}: {:?}",
            info.error
        );
        let books: Value = serde_json::from_str(info.output.unwrap().get()).unwrap();
        assert_eq!(books["transfers"], json!(TRANSFERS));
        assert_eq!(books["cents"], json!(10_000_000), "{killed_at:?}");
        assert_eq!(books["booked_twice"], json!(0), "{killed_at:?}");
        let booked = books["booked"].as_i64().unwrap() + books["declined"].as_i64().unwrap();
        assert_eq!(booked, TRANSFERS, "{killed_at:?}");

        // The records agree with the tables.
        let rows = number(&test, "select count(*) from bank.bookings").await;
        assert_eq!(rows, books["booked"].as_i64().unwrap());
        worker.signal(Signal::SIGTERM);
        assert_eq!(worker.end().code, Some(0));
    });
}
