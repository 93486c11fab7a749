//! Bodies of steps and transactions whose types the compiler has to find by itself.
use conductor::StepValue;
use conductor::prelude::*;
use std::sync::Arc;

#[task]
async fn writes(ctx: &TaskContext, id: i64) -> anyhow::Result<()> {
    ctx.transaction("ignored", async |tx| {
        sqlx::query("select $1").bind(id).execute(tx).await
    })
    .await?;
    let (written, name) = tokio::try_join!(
        ctx.transaction("joined", async |tx| sqlx::query("select").execute(tx).await),
        ctx.step("beside", async || anyhow::Ok(id.to_string())),
    )?;
    let () = written;
    drop(name);
    ctx.transaction("last", async |tx| sqlx::query("select").execute(tx).await)
        .await
}

#[task]
async fn reads(ctx: &TaskContext) -> anyhow::Result<i64> {
    // The type of the column is that of the value.
    let n: i64 = ctx
        .transaction("typed outside", async |tx| {
            sqlx::query_scalar("select 1").fetch_one(tx).await
        })
        .await?;
    let m = ctx
        .transaction("typed inside", async |tx| {
            sqlx::query_scalar::<_, i64>("select 1").fetch_one(tx).await
        })
        .await?;
    ctx.transaction("returned", async |tx| {
        sqlx::query_scalar("select 1").fetch_one(tx).await
    })
    .await
}

#[task]
async fn only_fails(ctx: &TaskContext) -> anyhow::Result<()> {
    ctx.transaction("refuse", async |_tx| anyhow::bail!("no"))
        .await
}

#[task]
async fn does_not_borrow(ctx: &TaskContext) -> anyhow::Result<i32> {
    ctx.transaction("plain", |_tx: &mut conductor::Tx| async { anyhow::Ok(1) })
        .await
}

async fn with_any<T, Fut>(ctx: &TaskContext, body: impl FnOnce() -> Fut + Send) -> anyhow::Result<T>
where
    T: StepValue,
    Fut: Future<Output = anyhow::Result<T>> + Send,
{
    ctx.step("helper", body).await
}

async fn with_serde<T>(ctx: &TaskContext, value: T) -> anyhow::Result<T>
where
    T: serde::Serialize + serde::de::DeserializeOwned + Send + Sync + Clone,
{
    ctx.step("helper", async || anyhow::Ok(value.clone())).await
}

#[task]
async fn calls(ctx: &TaskContext, name: String) -> anyhow::Result<usize> {
    let length = with_any(ctx, async || Ok(name.len())).await?;
    with_serde(ctx, length).await
}

trait Mailer: Send + Sync {
    fn send(&self) -> u8;
}

#[task]
async fn injected(ctx: &TaskContext, mailer: State<Arc<dyn Mailer>>) -> anyhow::Result<u8> {
    Ok(mailer.send())
}
