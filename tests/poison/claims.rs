//! One row never fails a claim, whatever is in it.

use conductor::Status;
use conductor::testing::TestConductor;
use sqlx::AssertSqlSafe;

use super::{ODD, Parcel, PoisonKeyed, PoisonPlain, UNREADABLE, declared, poisons, put, raw};
use crate::support::{info, number, run_sql};

const LIMITED: [&str; 2] = ["poison-keyed", "poison-twice"];

#[conductor::test]
async fn poison_in_payloads_stops_no_other_of_the_queue(test: TestConductor) -> anyhow::Result<()> {
    declared(&test).await?;
    let (mut unreadable, mut others) = (Vec::new(), Vec::new());
    for json in UNREADABLE {
        for task in LIMITED {
            unreadable.push(put(&test, task, json).await?);
        }
        for task in ["poison-whole", "poison-plain"] {
            others.push(put(&test, task, json).await?);
        }
    }
    let mut odd = Vec::new();
    for json in ODD {
        for task in LIMITED {
            odd.push(put(&test, task, json).await?);
        }
        for task in ["poison-whole", "poison-plain"] {
            others.push(put(&test, task, json).await?);
        }
    }
    let plain = test.invoke::<PoisonPlain>(raw("7")).await?;
    let keyed = test
        .invoke::<PoisonKeyed>(Parcel { tenant: "a".into() })
        .await?;
    test.drain().await?;

    assert_eq!(plain.result().await?, 1);
    assert_eq!(keyed.result().await?, "a");
    for id in unreadable {
        let info = info(&test, id).await?;
        let error = info.error.unwrap_or_default();
        assert_eq!((info.state, info.failures), (Status::Failed, 1), "{error}");
        assert!(
            error.contains("Postgres cannot read its payload"),
            "{error}"
        );
        assert!(error.contains("nicode"), "{error}");
    }
    for id in odd {
        let info = info(&test, id).await?;
        // One that is no payload of this build's is left for another build.
        assert!(
            info.state.is_final() || info.unreadable.is_some(),
            "{:?}",
            info.payload.get().get(..100)
        );
    }
    for id in others {
        let info = info(&test, id).await?;
        assert_eq!(info.state, Status::Completed, "{:?}", info.error);
    }
    Ok(())
}

#[conductor::test]
async fn poison_that_is_parked_at_a_limit_fails_alone(test: TestConductor) -> anyhow::Result<()> {
    declared(&test).await?;
    let mut bad = Vec::new();
    for _ in 0..7 {
        bad.push(put(&test, "poison-keyed", UNREADABLE[0]).await?);
    }
    // In the lane of that which cannot be read, as if two had been running when the claim came.
    run_sql(
        &test,
        "insert into conductor.lanes (limit_id, task_id, key, holders, parked, due_at)
         select c.id, c.task_id, conductor.unreadable_key(), '{}', true, conductor.now()
           from conductor.limits c join conductor.tasks t on t.id = c.task_id where t.name = 'poison-keyed';
         update conductor.live_executions l set queue_id = -a.id
           from conductor.lanes a where a.key = conductor.unreadable_key()",
    )
    .await?;
    let keyed = test
        .invoke::<PoisonKeyed>(Parcel { tenant: "a".into() })
        .await?;
    test.drain().await?;
    assert_eq!(keyed.result().await?, "a");
    for id in bad {
        assert_eq!(info(&test, id).await?.state, Status::Failed);
    }
    Ok(())
}

#[conductor::test]
async fn whoever_asks_about_poison_is_answered(test: TestConductor) -> anyhow::Result<()> {
    declared(&test).await?;
    let mut ids = Vec::new();
    for json in poisons() {
        for task in ["poison-keyed", "poison-plain"] {
            let id = put(&test, task, json).await?;
            // Its lane is full, so that `why` names the key.
            sqlx::query(
                "insert into conductor.lanes (limit_id, task_id, key, holders)
                 select c.id, c.task_id, case when octet_length(k.key) > 200 then md5(k.key) else k.key end, '{\"0\": 2}'
                   from conductor.live_executions l
                   join conductor.limits c on c.task_id = l.task_id
                  cross join lateral (select coalesce(conductor.lane_key(l.payload, c.path), 'null') as key) k
                  where l.id = $1
                     on conflict do nothing",
            )
            .bind(id)
            .execute(test.pool())
            .await?;
            let limited: Option<String> =
                sqlx::query_scalar("select conductor.why_limited($1, conductor.now()) ->> 'text'")
                    .bind(id)
                    .fetch_one(test.pool())
                    .await?;
            assert_eq!(limited.is_some(), task == "poison-keyed", "{limited:?}");
            ids.push(id);
        }
    }
    for id in &ids {
        test.why(*id).await?;
        test.story(*id).await?;
    }
    assert_eq!(
        test.list(&conductor::Filter::default()).await?.len(),
        ids.len()
    );
    test.queues().await?;
    test.check().await?;
    // Retried while they are pending, which makes them due; then cancelled, and repeated.
    for id in ids {
        assert_eq!(test.retry(id).await?, Some(id));
        test.cancel(id).await?;
        assert!(test.retry(id).await?.is_some());
        test.story(id).await?;
    }
    test.check().await?;
    Ok(())
}

#[conductor::test]
async fn odd_triggers_and_schedules_stop_nobody(test: TestConductor) -> anyhow::Result<()> {
    declared(&test).await?;
    let (mut ids, mut n) = (Vec::new(), 0);
    for json in poisons() {
        let id = put(&test, "poison-plain", "'1'").await?;
        let sql =
            format!("update conductor.live_executions set trigger = ({json})::json where id = $1");
        sqlx::query(AssertSqlSafe(sql))
            .bind(id)
            .execute(test.pool())
            .await?;
        ids.push(id);
        for task in ["poison-keyed", "poison-plain"] {
            n += 1;
            let sql = format!(
                "insert into conductor.schedules (task_id, name, dynamic, owner, cron, timezone, missed, overlap,
                                                  payload, planned_from)
                 select t.id, $2, true, '', '0 * * * *', 'UTC', 'once', 'allow', ({json})::json,
                        conductor.now() - interval '2 hours'
                   from conductor.tasks t where t.name = $1"
            );
            sqlx::query(AssertSqlSafe(sql))
                .bind(task)
                .bind(format!("n{n}"))
                .execute(test.pool())
                .await?;
        }
    }
    let plain = test.invoke::<PoisonPlain>(raw("7")).await?;
    test.drain().await?;
    assert_eq!(plain.result().await?, 1);
    for id in ids {
        assert_eq!(info(&test, id).await?.state, Status::Completed);
    }
    let all = i64::try_from(poisons().count())?;
    let ticked = "select count(*) from conductor.finished f
                   where f.task = 'poison-plain' and f.state = 'completed'
                     and conductor.json_field(f.trigger, 'kind') = 'schedule'";
    assert_eq!(number(&test, ticked).await, all);
    // Those that are no payload of this build's are left for another build.
    let left = "select count(*) from conductor.live_executions l
                 where not exists (select from conductor.unreadable u where u.execution_id = l.id)";
    assert_eq!(number(&test, left).await, 0);
    test.schedules().await?;
    Ok(())
}
