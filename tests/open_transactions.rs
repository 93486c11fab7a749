//! No open transaction of a user holds up what others have done: each test leaves one open that has
//! cancelled something (`begin; select conductor.cancel(…)`), as a session in psql does.

use std::future::IntoFuture;
use std::time::Duration;

use conductor::prelude::*;
use conductor::testing::TestConductor;
use conductor::{Handle, Status};
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use uuid::Uuid;

use crate::support::{declare, eventually, info, narrow, number, run_sql, session, soon};

const HOUR: Duration = Duration::from_secs(3600);
const HEARTBEAT: Duration = Duration::from_millis(200);

#[task(name = "open.quick")]
async fn open_quick(_ctx: &TaskContext, n: i64) -> anyhow::Result<i64> {
    Ok(n)
}

#[task(name = "open.sleeper")]
async fn open_sleeper(ctx: &TaskContext) -> anyhow::Result<()> {
    Ok(ctx.sleep("long", 24 * HOUR).await?)
}

#[task(name = "open.child")]
async fn open_child(ctx: &TaskContext) -> anyhow::Result<()> {
    ctx.invoke::<OpenSleeper>("sleeper", ()).await?;
    Ok(())
}

/// Waits an hour for its child, which takes a day.
#[task(name = "open.parent", retry(max_attempts = 1))]
async fn open_parent(ctx: &TaskContext) -> anyhow::Result<String> {
    let child = ctx.invoke::<OpenChild>("child", ()).timeout(HOUR).await;
    Ok(child.map_or_else(|error| error.to_string(), |()| "done".to_owned()))
}

#[event(name = "open.paid")]
struct OpenPaid {
    n: i64,
}

#[event(name = "open.mail")]
struct OpenMail {
    n: i64,
}

#[task(name = "open.waiter", retry(max_attempts = 1))]
async fn open_waiter(ctx: &TaskContext) -> anyhow::Result<Vec<i64>> {
    let first = ctx.wait_for_event::<OpenPaid>("first").await?;
    let second = ctx.wait_for_event::<OpenPaid>("second").await?;
    Ok(vec![first.n, second.n])
}

#[task(name = "open.mailed", event(OpenMail))]
async fn open_mailed(_ctx: &TaskContext, payload: OpenMail) -> anyhow::Result<i64> {
    Ok(payload.n)
}

async fn start(test: &TestConductor) -> anyhow::Result<Handle> {
    let orchestrator = test
        .orchestrator()
        .worker(narrow(10))
        .allow_unserved_queues()
        .heartbeat(HEARTBEAT, Duration::from_secs(60))
        .build()?;
    Ok(orchestrator.start().await?)
}

/// An open transaction that has cancelled the execution; the session is to be dropped.
async fn open_cancel(test: &TestConductor, id: Uuid) -> anyhow::Result<PgConnection> {
    let mut open = session(test).await?;
    sqlx::raw_sql("begin").execute(&mut open).await?;
    let cancelled: bool = sqlx::query_scalar("select conductor.cancel($1)")
        .bind(id)
        .fetch_one(&mut open)
        .await?;
    assert!(cancelled, "there was none");
    Ok(open)
}

async fn roll_back(mut open: PgConnection) -> anyhow::Result<()> {
    sqlx::raw_sql("rollback").execute(&mut open).await?;
    Ok(open.close().await?)
}

async fn the_one(test: &TestConductor, sql: &'static str) -> anyhow::Result<Uuid> {
    Ok(sqlx::query_scalar(AssertSqlSafe(sql))
        .fetch_one(test.pool())
        .await?)
}

async fn is_so(test: &TestConductor, sql: &str) -> bool {
    number(test, sql).await > 0
}

#[conductor::test]
async fn a_late_child_that_somebody_has_locked_stops_no_claim(
    test: TestConductor,
) -> anyhow::Result<()> {
    let worker = start(&test).await?;
    let parent = test.invoke::<OpenParent>(()).await?;
    let sleeping = "select count(*) from conductor.live_executions l
                      join conductor.tasks t on t.id = l.task_id
                     where t.name = 'open.sleeper' and l.state = 'suspended'";
    eventually("the grandchild sleeps", || is_so(&test, sleeping)).await;
    let grandchild = the_one(
        &test,
        "select l.id from conductor.live_executions l join conductor.tasks t on t.id = l.task_id
          where t.name = 'open.sleeper'",
    )
    .await?;
    let open = open_cancel(&test, grandchild).await?;
    test.advance(2 * HOUR).await?;
    let quick = test.invoke::<OpenQuick>(OpenQuick { n: 7 }).await?;
    assert_eq!(soon("a neighbour", quick.result()).await?, 7);
    let told = soon("the parent", parent.result()).await?;
    assert!(told.contains("did not end in time"), "{told}");
    let deferred = "select count(*) from conductor.deferred";
    assert_eq!(number(&test, deferred).await, 1);
    roll_back(open).await?;
    eventually("the child is cancelled", || async {
        info(&test, grandchild).await.unwrap().state == Status::Cancelled
    })
    .await;
    eventually("nothing is left", || async {
        number(&test, deferred).await == 0
    })
    .await;
    worker.stop().await?;
    Ok(())
}

#[conductor::test]
async fn a_waiter_that_somebody_has_locked_stops_no_event(
    test: TestConductor,
) -> anyhow::Result<()> {
    let worker = start(&test).await?;
    let locked = test.invoke::<OpenWaiter>(()).await?;
    let other = test.invoke::<OpenWaiter>(()).await?;
    let waiting = "select count(*) / 2 from conductor.waits w
                     join conductor.live_executions l on l.id = w.execution_id and l.state = 'suspended'";
    eventually("both wait", || is_so(&test, waiting)).await;
    let open = open_cancel(&test, locked.id()).await?;
    run_sql(&test, r#"select conductor.emit('open.paid', '{"n": 1}')"#).await?;
    run_sql(&test, r#"select conductor.emit('open.mail', '{"n": 1}')"#).await?;
    test.emit(OpenMail { n: 2 }).await?;
    let heard = "select count(*) from conductor.steps s where s.key = 'first'";
    eventually("the other hears", || is_so(&test, heard)).await;
    soon("to be emitted", test.emit(OpenPaid { n: 2 }).into_future()).await?;
    assert_eq!(soon("the other", other.result()).await?, [1, 2]);
    let mailed = "select count(*) / 2 from conductor.finished_executions f
                    join conductor.tasks t on t.id = f.task_id where t.name = 'open.mailed'";
    eventually("mails", || is_so(&test, mailed)).await;
    roll_back(open).await?;
    assert_eq!(soon("the locked one", locked.result()).await?, [1, 2]);
    assert_eq!(
        number(&test, "select count(*) from conductor.event_revisits").await,
        0
    );
    worker.stop().await?;
    Ok(())
}

/// A dead process's orchestrator, which runs these executions, children of a parent that waits.
struct Dead {
    parent: Uuid,
    sibling: Uuid,
    cancelled: Uuid,
    bystander: Uuid,
    orchestrator: i64,
}

async fn dead(test: &TestConductor, task: &str) -> anyhow::Result<Dead> {
    declare(test, task).await?;
    let orchestrator: i64 = sqlx::query_scalar(
        "select conductor.start_orchestrator('h', 1, array[t.queue_id], array[t.id], '1 hour')
           from conductor.tasks t where t.name = $1",
    )
    .bind(task)
    .fetch_one(test.pool())
    .await?;
    let made = Dead {
        parent: Uuid::now_v7(),
        sibling: Uuid::now_v7(),
        cancelled: Uuid::now_v7(),
        bystander: Uuid::now_v7(),
        orchestrator,
    };
    sqlx::query(
        "insert into conductor.live_executions (
                id, run_at, created_at, claimed_at, orchestrator_id, parent_id, parent_key, queue_id, task_id,
                priority, claim, state, cancelled, payload)
         select g.id, case g.state when 'suspended' then 'infinity' else now() end, now(), now(),
                case when g.state = 'running' then $6 end, g.parent, g.key, t.queue_id, t.id, 0, 1,
                g.state::conductor.execution_state, g.cancelled, 'null'
           from (values ($2::uuid, 'suspended', null, null, false), ($3, 'suspended', $2, 'a', false),
                        ($4, 'running', $2, 'b', true), ($5, 'running', null, null, false))
                as g(id, state, parent, key, cancelled)
           join conductor.tasks t on t.name = $1",
    )
    .bind(task)
    .bind(made.parent)
    .bind(made.sibling)
    .bind(made.cancelled)
    .bind(made.bystander)
    .bind(orchestrator)
    .execute(test.pool())
    .await?;
    Ok(made)
}

async fn states(test: &TestConductor, dead: &Dead) -> anyhow::Result<(Status, Status)> {
    let cancelled = info(test, dead.cancelled).await?.state;
    Ok((cancelled, info(test, dead.bystander).await?.state))
}

/// One of a dead process's executions is to end, and the parent that is to hear of it is locked.
#[conductor::test]
async fn a_parent_that_somebody_has_locked_stops_no_recovery(
    test: TestConductor,
) -> anyhow::Result<()> {
    let dead = dead(&test, "open.recovered").await?;
    let open = open_cancel(&test, dead.sibling).await?;
    run_sql(
        &test,
        "update conductor.orchestrators set lease_until = now() - interval '1 s'",
    )
    .await?;
    let recover = run_sql(&test, "select conductor.recover(5)");
    soon("recovery", recover).await?;
    assert_eq!(
        states(&test, &dead).await?,
        (Status::Running, Status::Pending)
    );
    roll_back(open).await?;
    run_sql(&test, "select conductor.recover_orphans(5)").await?;
    assert_eq!(
        states(&test, &dead).await?,
        (Status::Cancelled, Status::Pending)
    );
    Ok(())
}

#[conductor::test]
async fn a_parent_that_somebody_has_locked_stops_no_orderly_end(
    test: TestConductor,
) -> anyhow::Result<()> {
    let dead = dead(&test, "open.stopped").await?;
    let open = open_cancel(&test, dead.sibling).await?;
    let stop = format!("select conductor.stop_orchestrator({})", dead.orchestrator);
    soon("the end", run_sql(&test, &stop)).await?;
    assert_eq!(
        states(&test, &dead).await?,
        (Status::Running, Status::Pending)
    );
    roll_back(open).await?;
    run_sql(&test, "select conductor.recover_orphans(null)").await?;
    assert_eq!(
        states(&test, &dead).await?,
        (Status::Cancelled, Status::Pending)
    );
    Ok(())
}

#[conductor::test]
async fn whoever_disowns_claims_waits_for_nobody(test: TestConductor) -> anyhow::Result<()> {
    let dead = dead(&test, "open.disowned").await?;
    let open = open_cancel(&test, dead.bystander).await?;
    let disown = format!(
        "select conductor.disown({}, (select queue_id from conductor.tasks where name = 'open.disowned'),
                                 '{{}}', '{{}}', '{{}}', 1)",
        dead.orchestrator
    );
    soon("to disown", run_sql(&test, &disown)).await?;
    assert_eq!(
        states(&test, &dead).await?,
        (Status::Cancelled, Status::Running)
    );
    let look = "select conductor.do_deferred(10, 5)";
    assert_eq!(number(&test, &format!("{look}::bigint")).await, 0);
    roll_back(open).await?;
    assert_eq!(number(&test, &format!("{look}::bigint")).await, 1);
    assert_eq!(
        states(&test, &dead).await?,
        (Status::Cancelled, Status::Pending)
    );
    assert_eq!(
        number(&test, "select count(*) from conductor.deferred").await,
        0
    );
    Ok(())
}

/// The queue's row has a flag that workers and invokes write.
#[conductor::test]
async fn a_pause_that_is_not_committed_stops_nothing(test: TestConductor) -> anyhow::Result<()> {
    let worker = start(&test).await?;
    let mut open = session(&test).await?;
    sqlx::raw_sql("begin; select conductor.pause_queue('default')")
        .execute(&mut open)
        .await?;
    for n in 0..3 {
        let quick = test.invoke::<OpenQuick>(OpenQuick { n }).await?;
        assert_eq!(soon("it runs", quick.result()).await?, n);
    }
    roll_back(open).await?;
    worker.stop().await?;
    Ok(())
}

/// Calls with the keys `k0` to `k19` are held up, those of other keys are not.
#[conductor::test]
async fn a_dedupe_key_that_somebody_holds_holds_up_no_other(
    test: TestConductor,
) -> anyhow::Result<()> {
    let keyed = |key: String| {
        let client = Conductor::clone(&test);
        let payload = OpenQuick { n: 1 };
        tokio::spawn(async move { client.invoke::<OpenQuick>(payload).dedupe_key(key).await })
    };
    keyed("first".to_owned()).await??;
    let mut open = session(&test).await?;
    sqlx::raw_sql("begin").execute(&mut open).await?;
    for n in 0..20 {
        sqlx::query("select conductor.invoke('open.quick', '{\"n\": 2}', dedupe_key => $1)")
            .bind(format!("k{n}"))
            .execute(&mut open)
            .await?;
    }
    let mut held_up = Vec::new();
    for n in 0..40 {
        held_up.push(keyed(format!("k{}", n % 20)));
        let free = keyed(format!("free {n}"));
        tokio::time::timeout(Duration::from_secs(20), free).await???;
    }
    assert!(held_up.iter().all(|call| !call.is_finished()));
    sqlx::raw_sql("commit").execute(&mut open).await?;
    for call in held_up {
        soon("its turn", call).await??;
    }
    let made = "select count(*) from conductor.live_executions where payload->>'n' = '1'";
    assert_eq!(number(&test, made).await, 61);
    Ok(())
}

/// Any role may take an advisory lock, and for as long as it likes.
#[conductor::test]
async fn a_stranger_with_the_lock_of_a_name_holds_up_no_other(
    test: TestConductor,
) -> anyhow::Result<()> {
    let mut stranger = session(&test).await?;
    sqlx::raw_sql("select pg_advisory_lock(hashtextextended('conductor.event open.paid', 0))")
        .execute(&mut stranger)
        .await?;
    let worker = start(&test).await?;
    for n in 0..3 {
        soon("to be emitted", test.emit(OpenPaid { n }).into_future()).await?;
        run_sql(&test, r#"select conductor.emit('open.paid', '{"n": 9}')"#).await?;
        run_sql(&test, r#"select conductor.emit('open.mail', '{"n": 1}')"#).await?;
    }
    let mailed = "select count(*) / 3 from conductor.finished_executions f
                    join conductor.tasks t on t.id = f.task_id where t.name = 'open.mailed'";
    eventually("mails", || is_so(&test, mailed)).await;
    let inbox = "select count(*) from conductor.event_inbox";
    assert_eq!(number(&test, inbox).await, 6);
    stranger.close().await?;
    eventually("all is emitted", || async {
        number(&test, inbox).await == 0
    })
    .await;
    worker.stop().await?;
    Ok(())
}

/// Two that recover, two that cancel, and a worker that brings what it holds, all of one family: whoever
/// locks a parent and a child locks the parent first, or waits for neither.
#[conductor::test]
async fn whoever_locks_parents_and_children_waits_in_no_circle(
    test: TestConductor,
) -> anyhow::Result<()> {
    for round in 0..40 {
        let dead = dead(&test, "open.circle").await?;
        let expired = format!(
            "update conductor.orchestrators set lease_until = now() - interval '1 s' where id = {}",
            dead.orchestrator
        );
        run_sql(&test, &expired).await?;
        let (parent, sibling, child) = (dead.parent, dead.sibling, dead.cancelled);
        let suspend = format!(
            "select conductor.suspend(array['{child}'::uuid], array[1], array['{child}'::uuid], array['s'],
                array['sleep'], array['s'], array[1::bigint], array[null::timestamptz], array[null::uuid],
                array[null::text], array[null::text], array[false], array[null::text], array[null::text])"
        );
        let release = format!("select conductor.release(array['{child}'::uuid], array[1])");
        let recover = "select conductor.recover(5)".to_owned();
        let statements = [
            recover.clone(),
            format!("select conductor.cancel('{sibling}')"),
            if round % 2 == 0 { suspend } else { release },
            format!("select conductor.cancel('{parent}')"),
            recover,
        ];
        let mut all = tokio::task::JoinSet::new();
        for statement in statements {
            let client = Conductor::clone(&test);
            all.spawn(async move { run_sql(&client, &statement).await });
        }
        for ended in soon("all of them", all.join_all()).await {
            ended?;
        }
        let orphans =
            format!("select count(*) from conductor.live_executions where id = '{child}'");
        eventually("the child ends", || async {
            run_sql(&test, "select conductor.recover_orphans(5)")
                .await
                .unwrap();
            number(&test, &orphans).await == 0
        })
        .await;
    }
    Ok(())
}
