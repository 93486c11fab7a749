//! What is large harms nobody else: inbox, claims, records, answers and memory are bounded in bytes.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use conductor::Execution;
use conductor::prelude::*;
use conductor::testing::TestConductor;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::support::{eventually, number, run_sql, session, soon};

#[task(name = "bytes_sleeps")]
async fn bytes_sleeps(ctx: &TaskContext) -> anyhow::Result<i64> {
    ctx.sleep("pause", Duration::from_secs(3600)).await?;
    for n in 1..=2 {
        let page = async || anyhow::Ok("x".repeat(10 * 1024 * 1024));
        ctx.step(format!("more {n}"), page).await?;
    }
    Ok(0)
}

#[event]
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
struct BytesSmall {
    n: i64,
}

#[task(event(BytesSmall))]
async fn bytes_heard(_ctx: &TaskContext, payload: BytesSmall) -> anyhow::Result<i64> {
    Ok(payload.n)
}

/// Large values of a test are stored quickly, where the server can.
async fn stored_quickly(test: &TestConductor) {
    for column in [
        "event_inbox alter payload",
        "events alter payload",
        "steps alter value",
        "live_executions alter payload",
        "finished_executions alter payload",
        "finished_executions alter output",
    ] {
        let _ = run_sql(
            test,
            &format!("alter table conductor.{column} set compression lz4"),
        )
        .await;
    }
}

/// An execution that has slept, with so many records of so many mebibytes; its sleep is over.
async fn with_records(
    test: &TestConductor,
    records: u32,
    mib: u32,
) -> anyhow::Result<Execution<BytesSleeps>> {
    stored_quickly(test).await;
    let large = test.invoke::<BytesSleeps>(()).await?;
    test.drain().await?;
    sqlx::query(
        "with page as materialized (select to_json(repeat('x', $3 * 1024 * 1024)) as value)
         insert into conductor.steps (execution_id, key, kind, value, recorded_at)
         select $1, 'page ' || n, 'step', p.value, conductor.now() from page p, generate_series(1, $2) n",
    )
    .bind(large.id())
    .bind(i32::try_from(records)?)
    .bind(i32::try_from(mib)?)
    .execute(test.pool())
    .await?;
    test.advance(Duration::from_secs(7200)).await?;
    Ok(large)
}

#[conductor::test]
async fn a_history_that_is_too_large_fails_alone(test: TestConductor) -> anyhow::Result<()> {
    let large = with_records(&test, 72, 15).await?;
    let small = test.invoke::<BytesHeard>(BytesSmall { n: 1 }).await?;
    let worker = test.orchestrator().build()?.start().await?;
    assert_eq!(soon("the small one", small.result()).await?, 1);
    let text = soon("the large one", large.result()).await.unwrap_err();
    let text = text.to_string();
    for part in ["72 records", "1080 MiB", "256 MiB", "pass a reference"] {
        assert!(text.contains(part), "{text}");
    }
    // Whoever looks at it is not given a gigabyte.
    let story = test.story(large.id()).await?.unwrap();
    assert_eq!(story.steps.len(), 72);
    let shown: usize = story.steps.iter().map(|step| step.value.get().len()).sum();
    assert!(shown < 40 * 1024 * 1024, "{shown} bytes");
    worker.stop().await?;
    Ok(())
}

#[conductor::test]
async fn a_history_of_less_is_loaded_and_may_not_grow_beyond_it(
    test: TestConductor,
) -> anyhow::Result<()> {
    let large = with_records(&test, 16, 15).await?;
    let worker = test.orchestrator().build()?.start().await?;
    let text = soon("its end", large.result()).await.unwrap_err();
    let text = text.to_string();
    // 240 MiB were loaded; the second page of this run is one too many.
    for part in ["\"more 2\"", "10 MiB", "256 MiB", "250 MiB", "a reference"] {
        assert!(text.contains(part), "{text}");
    }
    worker.stop().await?;
    Ok(())
}

/// What one claim of at most 2,000 brings: how many, and how many bytes.
async fn claimed(test: &TestConductor, bytes: i64) -> anyhow::Result<(i64, i64)> {
    let claimed = sqlx::query_as(
        "select count(*), coalesce(sum(octet_length(c.payload) + coalesce(octet_length(c.memo), 0)), 0)
           from conductor.orchestrators o, conductor.tasks t
          cross join lateral conductor.claim(o.id, t.queue_id, array[t.id], 2000, false, p_bytes => $1) c
          where t.name = 'bytes_sleeps' and c.id is not null",
    )
    .bind(bytes)
    .fetch_one(test.pool())
    .await?;
    Ok(claimed)
}

#[conductor::test]
async fn a_claim_brings_so_many_bytes_and_always_one(test: TestConductor) -> anyhow::Result<()> {
    stored_quickly(&test).await;
    test.invoke::<BytesSleeps>(()).await?;
    test.drain().await?;
    // The process that claims by hand serves no task.
    run_sql(
        &test,
        "insert into conductor.orchestrators (host, pid, queue_ids, task_ids, started_at, lease_until)
         values ('test', 1, '{}', '{}', now(), now() + interval '1 hour');
         -- Twenty payloads of a mebibyte each, which compress to nothing.
         insert into conductor.live_executions (id, run_at, created_at, queue_id, task_id, priority, payload, bytes)
         select gen_random_uuid(), now() - n * interval '1 s', now(), t.queue_id, t.id, 0,
                to_json(repeat('x', 1024 * 1024 - 2)), 1024 * 1024
           from conductor.tasks t, generate_series(1, 20) n where t.name = 'bytes_sleeps'",
    )
    .await?;
    let mib = 1024 * 1024;
    assert_eq!(claimed(&test, 0).await?, (1, mib));
    assert_eq!(claimed(&test, 4 * mib).await?, (4, 4 * mib));
    assert_eq!(claimed(&test, 64 * mib).await?, (15, 15 * mib));
    // And three with forty mebibytes of records each, between them one with none.
    run_sql(
        &test,
        "insert into conductor.live_executions (id, run_at, created_at, queue_id, task_id, priority, claim, payload, bytes)
         select ('00000000-0000-0000-0000-00000000000' || n)::uuid, now() - interval '1 s', now(), t.queue_id, t.id,
                0, case when n = 2 then 0 else 1 end, '{}', 2
           from conductor.tasks t, generate_series(1, 4) n where t.name = 'bytes_sleeps';
         insert into conductor.steps (execution_id, key, kind, value, recorded_at)
         select l.id, 'page ' || n, 'step', to_json(repeat('x', 10 * 1024 * 1024)), now()
           from conductor.live_executions l, generate_series(1, 4) n where l.claim = 1 and l.state = 'pending'",
    )
    .await?;
    for expected in [2, 1, 1] {
        let (count, bytes) = claimed(&test, 64 * mib).await?;
        assert_eq!((count, bytes / (40 * mib)), (expected, 1), "{bytes}");
    }
    assert_eq!(claimed(&test, 64 * mib).await?, (0, 0));
    Ok(())
}

/// A claim weighs payloads by a column that each statement which writes one writes as well.
#[conductor::test]
async fn whatever_writes_a_payload_writes_its_size(test: TestConductor) -> anyhow::Result<()> {
    let functions: Vec<(String, String)> = sqlx::query_as(
        "select p.proname::text, p.prosrc from pg_proc p
          where p.pronamespace = 'conductor'::regnamespace
            and p.prosrc ~ '(insert into|update) conductor.live_executions'",
    )
    .fetch_all(test.pool())
    .await?;
    let mut writers = 0;
    for (name, source) in functions {
        for statement in source.split(';') {
            let inserts = statement.contains("insert into conductor.live_executions");
            if !inserts && !statement.contains("set payload =") {
                continue;
            }
            writers += 1;
            let written = if inserts {
                "payload, bytes"
            } else {
                "bytes = octet_length("
            };
            let words: Vec<_> = statement.split_whitespace().collect();
            assert!(words.join(" ").contains(written), "{name}: {statement}");
        }
    }
    assert_eq!(writers, 12);
    Ok(())
}

/// Executions whose payloads are large: how many of them run, by the one's own look.
#[task(name = "bytes_weighs")]
async fn bytes_weighs(ctx: &TaskContext, text: String) -> anyhow::Result<i64> {
    if text.is_empty() {
        return Ok(0);
    }
    ctx.transaction("look", async |tx| {
        sqlx::query_scalar(
            "select count(*) from conductor.live_executions l
              where l.state = 'running' and l.bytes > 100",
        )
        .fetch_one(tx)
        .await
    })
    .await
}

#[conductor::test]
async fn a_worker_claims_no_more_bytes_than_it_has_room_for(
    test: TestConductor,
) -> anyhow::Result<()> {
    stored_quickly(&test).await;
    // Quick ones first, so that it claims thousands ahead.
    let quick = (0..2000).map(|_| BytesWeighs {
        text: String::new(),
    });
    test.invoke_batch::<BytesWeighs>(quick).await?;
    run_sql(
        &test,
        "insert into conductor.live_executions (id, run_at, created_at, queue_id, task_id, priority, payload, bytes)
         select conductor.uuid7(), now(), now(), t.queue_id, t.id, 0, p.payload, octet_length(p.payload::text)
           from (select json_build_object('text', repeat('x', 2 * 1024 * 1024)) as payload) p,
                conductor.tasks t, generate_series(1, 48) n where t.name = 'bytes_weighs'",
    )
    .await?;
    let worker = test
        .orchestrator()
        .worker(Worker::queue("default").concurrency(4));
    let worker = worker.allow_unserved_queues().build()?.start().await?;
    let left = "select count(*) from conductor.live_executions";
    eventually("the end of all", async || number(&test, left).await == 0).await;
    let most = "select max((output::text)::bigint) from conductor.finished_executions";
    let most = number(&test, most).await;
    assert!(
        most <= 32 + 4 + 1,
        "{most} of 2 MiB each were claimed at once"
    );
    worker.stop().await?;
    Ok(())
}

static GROWN: AtomicUsize = AtomicUsize::new(0);

/// Small in, large out.
#[task(name = "bytes_grows")]
async fn bytes_grows(_ctx: &TaskContext, mib: usize) -> anyhow::Result<String> {
    if mib > 0 {
        GROWN.fetch_add(1, Ordering::SeqCst);
    }
    Ok("y".repeat(mib * 1024 * 1024))
}

#[conductor::test]
async fn outputs_that_wait_to_be_written_hold_up_the_next_handlers(
    test: TestConductor,
) -> anyhow::Result<()> {
    stored_quickly(&test).await;
    let worker = test
        .orchestrator()
        .worker(Worker::queue("default").concurrency(4));
    let worker = worker.allow_unserved_queues().build()?.start().await?;
    let left = "select count(*) from conductor.live_executions";
    // Quick ones first, so that it claims thousands ahead.
    let quick = (0..2000).map(|_| BytesGrows { mib: 0 });
    test.invoke_batch::<BytesGrows>(quick).await?;
    eventually("the quick ones", async || number(&test, left).await == 0).await;
    // Nothing is written for a while.
    let mut holder = session(&test).await?;
    let lock = "begin; lock table conductor.finished_executions in share mode";
    sqlx::raw_sql(lock).execute(&mut holder).await?;
    let large = (0..48).map(|_| BytesGrows { mib: 2 });
    test.invoke_batch::<BytesGrows>(large).await?;
    let (mut grown, mut since) = (0, Instant::now());
    while grown == 0 || since.elapsed() < Duration::from_secs(2) {
        tokio::time::sleep(Duration::from_millis(20)).await;
        let now = GROWN.load(Ordering::SeqCst);
        if now != grown {
            (grown, since) = (now, Instant::now());
        }
    }
    // 64 MiB, and what was running when they were there.
    assert!(grown <= 32 + 4, "{grown} outputs of 2 MiB each are held");
    sqlx::raw_sql("commit").execute(&mut holder).await?;
    eventually("the end of all", async || number(&test, left).await == 0).await;
    assert_eq!(GROWN.load(Ordering::SeqCst), 48);
    worker.stop().await?;
    Ok(())
}

#[conductor::test]
async fn more_than_a_gigabyte_in_the_inbox_is_dispatched(
    test: TestConductor,
) -> anyhow::Result<()> {
    stored_quickly(&test).await;
    // Each may have 16 MiB, and an array ends at a gigabyte.
    run_sql(
        &test,
        "with large as materialized (select to_json(repeat('x', 15 * 1024 * 1024)) as payload)
         insert into conductor.event_inbox (id, name, payload)
         select gen_random_uuid(), 'bytes_other', l.payload from large l, generate_series(1, 75) n",
    )
    .await?;
    run_sql(&test, "select conductor.emit('bytes_small', '{\"n\": 7}')").await?;
    // One portion has no more than one that passes 16 MiB, whatever is there.
    run_sql(&test, "select conductor.dispatch(1000)").await?;
    assert_eq!(
        number(&test, "select count(*) from conductor.event_inbox").await,
        74
    );
    // What is oldest comes first, so that the next ones take the rest.
    run_sql(
        &test,
        "delete from conductor.event_inbox where n > 4 and name = 'bytes_other'",
    )
    .await?;
    let worker = test.orchestrator().build()?.start().await?;
    let heard = "select count(*) from conductor.finished_executions where output::text = '7'";
    eventually("the small event", async || number(&test, heard).await == 1).await;
    worker.stop().await?;
    Ok(())
}

#[conductor::test]
async fn many_busy_names_do_not_keep_the_first_one_waiting(
    test: TestConductor,
) -> anyhow::Result<()> {
    // Names are taken sixteen at a time: those that came first, and not by what they are called.
    for n in 0..24 {
        run_sql(
            &test,
            &format!("select conductor.emit('bytes_{n}', '{{}}')"),
        )
        .await?;
    }
    for n in (0..24).rev() {
        run_sql(
            &test,
            &format!("select conductor.emit('bytes_{n}', '{{}}')"),
        )
        .await?;
    }
    run_sql(&test, "select conductor.dispatch(1)").await?;
    let first = "select count(*) from conductor.events where name = 'bytes_0'";
    assert_eq!(number(&test, first).await, 1);
    run_sql(&test, "select conductor.dispatch(40)").await?;
    let left = "select count(distinct name) from conductor.event_inbox";
    assert_eq!(number(&test, left).await, 8);
    for n in 1..=16 {
        let of = format!("select count(*) from conductor.event_inbox where name = 'bytes_{n}'");
        assert_eq!(number(&test, &of).await, 0, "bytes_{n}");
    }
    Ok(())
}

#[conductor::test]
async fn a_dispatch_that_fails_keeps_no_worker_from_starting(
    test: TestConductor,
) -> anyhow::Result<()> {
    run_sql(
        &test,
        "create or replace function conductor.dispatch(p_limit integer) returns boolean language plpgsql as $$
         begin raise exception 'refused by the test'; end $$",
    )
    .await?;
    let worker = test.orchestrator().build()?.start().await?;
    let heard = test.invoke::<BytesHeard>(BytesSmall { n: 3 }).await?;
    assert_eq!(heard.result().await?, 3);
    worker.stop().await?;
    Ok(())
}

/// A table of whose new rows somebody waits to hear.
async fn watched_table(test: &TestConductor) -> anyhow::Result<()> {
    stored_quickly(test).await;
    run_sql(
        test,
        "create table bytes_docs (id integer primary key, body json);
         select conductor.watch_rows('bytes_docs', 'insert', array['id', 'body'], null, true, '1 s')",
    )
    .await?;
    let _ = run_sql(
        test,
        "alter table bytes_docs alter body set compression lz4",
    )
    .await;
    Ok(())
}

#[conductor::test]
#[ignore = "writes four gigabytes, which takes a minute"]
async fn a_statement_that_changes_more_than_a_gigabyte_is_not_broken(
    test: TestConductor,
) -> anyhow::Result<()> {
    watched_table(&test).await?;
    run_sql(
        &test,
        "with b as materialized (select to_json(repeat('x', 30 * 1024 * 1024)) as body)
         insert into bytes_docs select n, b.body from b, generate_series(1, 36) n",
    )
    .await?;
    let heard = "select count(*) from conductor.event_inbox";
    assert_eq!(number(&test, heard).await, 36);
    let faults = "select count(*) from conductor.list_row_faults()";
    assert_eq!(number(&test, faults).await, 0);
    Ok(())
}

#[conductor::test]
async fn a_change_that_is_too_large_is_left_out_and_noted(
    test: TestConductor,
) -> anyhow::Result<()> {
    watched_table(&test).await?;
    run_sql(
        &test,
        "insert into bytes_docs
         select n, to_json(repeat('x', case n when 2 then 129 * 1024 * 1024 else 1 end)) from generate_series(1, 3) n",
    )
    .await?;
    assert_eq!(number(&test, "select count(*) from bytes_docs").await, 3);
    let heard = "select sum((payload->'new'->>'id')::bigint)::bigint from conductor.event_inbox";
    assert_eq!(number(&test, heard).await, 4);
    let noted =
        "select count(*) from conductor.list_row_faults() where message like '%more than 128 MiB%'";
    assert_eq!(number(&test, noted).await, 1);
    Ok(())
}

#[conductor::test]
async fn a_statement_takes_one_subtransaction_however_many_listen(
    test: TestConductor,
) -> anyhow::Result<()> {
    watched_table(&test).await?;
    run_sql(
        &test,
        "select conductor.watch_rows('bytes_docs', 'insert', array['id'], null, true, '1 s');
         select conductor.watch_rows('bytes_docs', 'insert', array['body'], null, true, '1 s');
         do $$ begin for n in 1..100 loop insert into bytes_docs values (n, '1'); end loop; end $$",
    )
    .await?;
    let heard = "select count(*) from conductor.event_inbox";
    assert_eq!(number(&test, heard).await, 300);
    // A number each, which is what snapshots of all others have to look up.
    let used = "select count(distinct xmin::text) from conductor.event_inbox";
    assert_eq!(number(&test, used).await, 100);
    // Where one rule fails, the others are served all the same, and the fault is noted once.
    run_sql(
        &test,
        "update conductor.row_watches set columns = array['gone'] where event like '%(id)';
         insert into bytes_docs values (0, '2')",
    )
    .await?;
    assert_eq!(number(&test, heard).await, 302);
    let noted = "select sum(times)::bigint from conductor.list_row_faults()";
    assert_eq!(number(&test, noted).await, 1);
    Ok(())
}
