#![allow(unused)]
use conductor::prelude::*;

#[task]
async fn moved(ctx: &TaskContext, id: i64) -> anyhow::Result<()> {
    ctx.transaction("save", |tx| async move {
        sqlx::query("select $1").bind(id).execute(tx).await?;
        anyhow::Ok(())
    })
    .await
}

#[task]
async fn in_a_block(context: &TaskContext) -> anyhow::Result<u64> {
    let rows = {
        context
            .transaction(format!("save {}", 1), |connection: &mut conductor::Tx| async {
                anyhow::Ok(sqlx::query("select").execute(connection).await?.rows_affected())
            })
            .await?
    };
    Ok(rows)
}

fn main() {}
