//! Executions that changes of one row start run in the order of the changes (`ordered_by`).

use std::time::Duration;

use conductor::Registry;
use conductor::prelude::*;

use super::Listening;
use super::tables::prepared;
use crate::support::run_sql;

#[derive(Debug, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
struct Follow {
    id: i32,
    n: i32,
}

/// Notes what it was told; each second change fails at first.
#[task(
    linked = false,
    name = "rows.follows",
    on_update("public.followed", columns = [n], row = Follow),
    ordered_by = payload.new?.id,
    retry(max_attempts = 3, backoff = "1ms..1ms"),
)]
async fn follows(ctx: &TaskContext, payload: RowChange<Follow>) -> anyhow::Result<()> {
    let Some(row) = payload.new else {
        anyhow::bail!("an update has a row");
    };
    anyhow::ensure!(row.n % 2 == 0 || ctx.attempt() > 1, "not yet");
    sqlx::query("insert into follows (id, n) values ($1, $2)")
        .bind(row.id)
        .bind(row.n)
        .execute(ctx.state::<Conductor>().pool())
        .await?;
    Ok(())
}

pub(super) fn add(registry: Registry) -> Registry {
    registry.task::<Follows>()
}

#[conductor::test]
async fn the_changes_of_a_row_are_followed_in_their_order(test: Listening) -> anyhow::Result<()> {
    prepared(&test).await?;
    let conductor = (*test).clone();
    let test = test.0.state(conductor);
    run_sql(
        &test,
        "insert into followed select id, 0 from generate_series(1, 4) as id",
    )
    .await?;
    for _ in 0..4 {
        run_sql(
            &test,
            "update followed set n = n + 1; update followed set n = n + 1 where id < 3",
        )
        .await?;
    }
    for _ in 0..8 {
        test.drain().await?;
        test.advance(Duration::from_secs(1)).await?;
    }
    let rows: Vec<(i32, Vec<i32>)> =
        sqlx::query_as("select id, array_agg(n order by at) from follows group by id order by id")
            .fetch_all(test.pool())
            .await?;
    let of = |last| (1..=last).collect::<Vec<i32>>();
    assert_eq!(rows, [(1, of(8)), (2, of(8)), (3, of(4)), (4, of(4))]);
    Ok(())
}
