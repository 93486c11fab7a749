//! Batches of any size: all or nothing, ids in the order of the items, options for each.

use std::time::{Duration, Instant};

use conductor::prelude::*;
use conductor::testing::TestConductor;
use conductor::{Error, Invocation, Invoked};
use sqlx::Row;
use uuid::Uuid;

use crate::support::{info, number, run_sql, size};

#[task(priority = 2)]
async fn batch_item(_ctx: &TaskContext, payload: i64) -> anyhow::Result<i64> {
    Ok(payload)
}

const ROWS: &str = "select count(*) from conductor.live_executions";

fn many() -> i64 {
    size(20_000, 100_000)
}

/// Which payload each id has, in the order of the ids as given.
async fn payloads(test: &TestConductor, ids: &[Uuid]) -> anyhow::Result<Vec<i64>> {
    let rows = sqlx::query(
        "select l.payload::text::bigint as payload
           from unnest($1::uuid[]) with ordinality as g(id, n)
           join conductor.live_executions l on l.id = g.id
          order by g.n",
    )
    .bind(ids)
    .fetch_all(test.pool())
    .await?;
    Ok(rows.iter().map(|row| row.get("payload")).collect())
}

#[conductor::test]
async fn very_many_come_in_their_order(test: TestConductor) -> anyhow::Result<()> {
    let ids = test.invoke_batch::<BatchItem>(0..many()).await?;
    assert_eq!(number(&test, ROWS).await, many());
    assert_eq!(
        payloads(&test, &ids).await?,
        (0..many()).collect::<Vec<i64>>()
    );
    assert!(ids.is_sorted());
    // In one transaction.
    let transactions = "select count(distinct xmin::text) from conductor.live_executions";
    assert_eq!(number(&test, transactions).await, 1);
    Ok(())
}

#[conductor::test]
async fn very_many_with_keys_keep_their_order(test: TestConductor) -> anyhow::Result<()> {
    let key = |n: i64| format!("key {}", n * 7919 % many());
    let items = |from: i64| {
        (0..many()).map(move |n| Invocation::<BatchItem>::new(from + n).dedupe_key(key(n)))
    };
    let first = test.invoke_batch_with(items(0)).came_of().await?;
    let (ids, came_of): (Vec<_>, Vec<_>) = first.into_iter().unzip();
    assert!(came_of.iter().all(|it| *it == Invoked::Created));
    assert_eq!(
        payloads(&test, &ids).await?,
        (0..many()).collect::<Vec<i64>>()
    );
    let second = test.invoke_batch_with(items(many())).came_of().await?;
    let (again, came_of): (Vec<_>, Vec<_>) = second.into_iter().unzip();
    assert!(came_of.iter().all(|it| *it == Invoked::Replaced));
    assert_eq!(again, ids);
    assert_eq!(
        payloads(&test, &ids).await?,
        (many()..2 * many()).collect::<Vec<i64>>()
    );
    Ok(())
}

/// 5,000 in one statement, whose settings those of the functions that it calls inherit.
#[conductor::test]
async fn a_batch_that_replaces_is_about_as_quick_as_one_that_makes(
    test: TestConductor,
) -> anyhow::Result<()> {
    let items = |from: i64| {
        (0..5000)
            .map(move |n| Invocation::<BatchItem>::new(from + n).dedupe_key(format!("key {n}")))
    };
    test.invoke_batch_with(items(0)).await?;
    let began = Instant::now();
    let replaced = test.invoke_batch_with(items(5000)).came_of().await?;
    let took = began.elapsed();
    assert!(replaced.iter().all(|(_, it)| *it == Invoked::Replaced));
    // A nested loop over both sides takes 18 s, and a hash 0.8 s.
    assert!(took < Duration::from_secs(8), "{took:?}");
    Ok(())
}

/// One key in several statements of a batch.
#[conductor::test]
async fn one_key_for_all_makes_one_execution(test: TestConductor) -> anyhow::Result<()> {
    let ids = test
        .invoke_batch::<BatchItem>(0..12_000)
        .dedupe_key("k")
        .await?;
    assert_eq!(ids.len(), 12_000);
    assert!(ids.iter().all(|id| *id == ids[0]));
    assert_eq!(payloads(&test, &ids[..1]).await?, [11_999]);
    let slot = Duration::from_secs(60);
    let ids = test
        .invoke_batch::<BatchItem>(0..12_000)
        .throttle(slot)
        .await?;
    assert!(ids.iter().all(|id| *id == ids[0]));
    assert_eq!(payloads(&test, &ids[..1]).await?, [0]);
    assert_eq!(number(&test, ROWS).await, 2);
    Ok(())
}

#[conductor::test]
async fn a_bad_item_in_the_middle_leaves_nothing(test: TestConductor) -> anyhow::Result<()> {
    let middle = many() * 3 / 5;
    let refuse = format!(
        "alter table conductor.live_executions add constraint odd check (payload::text <> '{middle}')"
    );
    run_sql(&test, &refuse).await?;
    for keyed in [false, true] {
        let items = (0..many()).map(|n| match keyed {
            true => Invocation::<BatchItem>::new(n).dedupe_key(n.to_string()),
            false => Invocation::new(n),
        });
        let refused = test.invoke_batch_with(items).await;
        assert!(matches!(refused, Err(Error::Database(_))), "{refused:?}");
        assert_eq!(number(&test, ROWS).await, 0);
    }
    // What the client refuses by itself.
    let items = (0..many()).map(|n| match n {
        n if n == middle => Invocation::<BatchItem>::new(n).delay(Duration::MAX),
        _ => Invocation::new(n),
    });
    let refused = test.invoke_batch_with(items).await;
    assert!(matches!(refused, Err(Error::Invalid(_))), "{refused:?}");
    assert_eq!(number(&test, ROWS).await, 0);
    Ok(())
}

#[conductor::test]
async fn each_has_its_own_options(test: TestConductor) -> anyhow::Result<()> {
    let at: chrono::DateTime<chrono::Utc> = "2040-05-06T07:08:09Z".parse()?;
    let ids = test
        .invoke_batch_with::<BatchItem>([
            Invocation::new(0),
            Invocation::new(1).priority(-1),
            Invocation::new(2).run_at(at),
            Invocation::new(3).delay(Duration::from_secs(60)),
            Invocation::new(4).dedupe_key("k"),
        ])
        .await?;
    let mut infos = Vec::new();
    for id in &ids {
        infos.push(info(&test, *id).await?);
    }
    let priorities: Vec<i32> = infos.iter().map(|info| info.priority).collect();
    assert_eq!(priorities, [2, -1, 2, 2, 2]);
    assert_eq!(infos[2].run_at, Some(at));
    let wait = infos[3].run_at.unwrap() - infos[3].created_at;
    assert_eq!(wait.num_seconds(), 60);
    let keys: Vec<Option<&str>> = infos
        .iter()
        .map(|info| info.dedupe_key.as_deref())
        .collect();
    assert_eq!(keys, [None, None, None, None, Some("k")]);
    let none: [Invocation<BatchItem>; 0] = [];
    assert!(test.invoke_batch_with(none).await?.is_empty());
    Ok(())
}

#[conductor::test]
async fn a_batch_comes_with_the_callers_commit(test: TestConductor) -> anyhow::Result<()> {
    let mut tx = test.pool().begin().await?;
    test.invoke_batch::<BatchItem>(0..5000)
        .in_transaction(&mut tx)
        .await?;
    tx.rollback().await?;
    assert_eq!(number(&test, ROWS).await, 0);

    let mut tx = test.pool().begin().await?;
    let ids = test
        .invoke_batch::<BatchItem>(0..5000)
        .in_transaction(&mut tx)
        .await?;
    assert_eq!(number(&test, ROWS).await, 0);
    tx.commit().await?;
    assert_eq!(
        payloads(&test, &ids).await?,
        (0..5000).collect::<Vec<i64>>()
    );
    Ok(())
}
