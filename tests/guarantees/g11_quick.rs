//! G11 for executions that are so quick that a claim does not look at their lanes.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use conductor::prelude::*;
use conductor::testing::TestConductor;

use crate::support::{eventually, number, run_sql, start_with};

const LIMIT: usize = 3;
const JOBS: u32 = 6000;

/// How many run now, and how many ran at most, of each key; and how many ran in all.
#[derive(Default)]
struct Tally {
    of: Mutex<HashMap<u32, (usize, usize)>>,
}

impl Tally {
    fn enter(&self, key: u32) {
        let mut of = self.of.lock().unwrap();
        let (now, most) = of.entry(key).or_default();
        *now += 1;
        *most = (*most).max(*now);
    }

    fn leave(&self, key: u32) {
        self.of.lock().unwrap().entry(key).or_default().0 -= 1;
    }
}

#[task(name = "g11-quick", concurrency(limit = 3, key = payload.key))]
async fn g11_quick(ctx: &TaskContext, key: u32, n: u32) -> anyhow::Result<u32> {
    let tally = ctx.state::<Arc<Tally>>();
    tally.enter(key);
    // Long enough to meet others, and far shorter than any wait would be.
    let began = Instant::now();
    while began.elapsed() < Duration::from_micros(10) {
        std::hint::spin_loop();
    }
    tally.leave(key);
    Ok(n)
}

#[conductor::test]
async fn quick_ones_stay_within_their_limits(test: TestConductor) -> anyhow::Result<()> {
    let tally = Arc::new(Tally::default());
    let first = start_with(&test, 50, Arc::clone(&tally)).await?;
    let second = start_with(&test, 50, Arc::clone(&tally)).await?;
    // Half of all are of one key.
    let key = |n: u32| {
        if n.is_multiple_of(2) {
            0
        } else {
            1 + n / 2 % 20
        }
    };
    test.invoke_batch::<G11Quick>((0..JOBS).map(|n| G11Quick { key: key(n), n }))
        .await?;
    let completed = "select count(*) from conductor.finished_executions where state = 'completed'";
    eventually("all have run", || async {
        number(&test, completed).await == i64::from(JOBS)
    })
    .await;
    let most = tally.of.lock().unwrap().clone();
    assert!(most.values().all(|(_, most)| *most <= LIMIT), "{most:?}");
    let left = "select count(*) from conductor.lanes where holders <> '{}' or parked";
    eventually("the end of all slots", || async {
        number(&test, left).await == 0
    })
    .await;
    first.stop().await?;
    second.stop().await?;
    Ok(())
}

/// A claim of so many by a worker that says it has room in a lane of key 7, of the task's limit or another;
/// gives how many it got, and the slots of each key afterwards.
async fn claim(
    test: &TestConductor,
    many: i32,
    another: i32,
) -> anyhow::Result<(i64, Vec<(String, i32)>)> {
    let claimed = sqlx::query_scalar(
        "select count(c.id) from conductor.tasks t
           join conductor.limits l on l.task_id = t.id
           join conductor.lanes a on a.limit_id = l.id and a.key = '7'
          cross join conductor.orchestrators o
          cross join lateral conductor.claim(
                o.id, t.queue_id, array[t.id], $1, false, p_most => 9, p_lanes => array[a.id], p_used => '{0}',
                p_roomy => array[a.id], p_roomy_limits => array[l.id + $2], p_roomy_keys => '{7}') c
          where t.name = 'g11-quick'",
    )
    .bind(many)
    .bind(another)
    .fetch_one(test.pool())
    .await?;
    let slots = sqlx::query_as(
        "select a.key, h.value::integer from conductor.lanes a, jsonb_each(a.holders) h order by a.id",
    )
    .fetch_all(test.pool())
    .await?;
    Ok((claimed, slots))
}

#[conductor::test]
async fn a_claim_looks_at_no_lane_in_which_its_worker_has_room(
    test: TestConductor,
) -> anyhow::Result<()> {
    // Declares the limits.
    let worker = start_with(&test, 1, Arc::new(Tally::default())).await?;
    worker.stop().await?;
    let keys = [7, 7, 7, 7, 7, 8];
    test.invoke_batch::<G11Quick>(keys.map(|key| G11Quick { key, n: 0 }))
        .await?;
    run_sql(
        &test,
        "with o as (
             insert into conductor.orchestrators (host, pid, queue_ids, task_ids, started_at, lease_until)
             values ('here', 1, '{}', '{}', now(), now() + interval '1 hour')
             returning id)
         insert into conductor.lanes (limit_id, task_id, key, holders)
         select l.id, l.task_id, '7', jsonb_build_object(o.id::text, 1)
           from o, conductor.limits l join conductor.tasks t on t.id = l.task_id and t.name = 'g11-quick'",
    )
    .await?;
    let seven = |slots| ("7".to_owned(), slots);
    assert_eq!(claim(&test, 2, 0).await?, (2, vec![seven(1)]));
    // The lane of another limit, such as an earlier one of this task, says nothing.
    assert_eq!(claim(&test, 2, 1).await?, (2, vec![seven(2)]));
    // One of a lane that the worker does not have: all are looked at.
    let eight = ("8".to_owned(), 1);
    assert_eq!(claim(&test, 2, 0).await?, (2, vec![seven(2), eight]));
    Ok(())
}

/// A limit that is declared while a claim has begun: its first statement has seen none.
#[conductor::test]
async fn a_claim_that_knows_no_limit_keeps_it(test: TestConductor) -> anyhow::Result<()> {
    let worker = start_with(&test, 1, Arc::new(Tally::default())).await?;
    worker.stop().await?;
    test.invoke_batch::<G11Quick>([7; 6].map(|key| G11Quick { key, n: 0 }))
        .await?;
    run_sql(
        &test,
        "insert into conductor.orchestrators (host, pid, queue_ids, task_ids, started_at, lease_until)
         values ('here', 1, '{}', '{}', now(), now() + interval '1 hour')",
    )
    .await?;
    let claimed = "select count(c.id) from conductor.tasks t cross join conductor.orchestrators o
                    cross join lateral conductor.claim_plain(
                          o.id, t.queue_id, array[t.id], 100, false, false, 1000000, '{}', '{}') c
                    where t.name = 'g11-quick'";
    assert_eq!(usize::try_from(number(&test, claimed).await)?, LIMIT);
    Ok(())
}
