#![allow(unused)]
use conductor::prelude::*;

async fn no_bounds<T>(ctx: &TaskContext, body: impl AsyncFnOnce() -> anyhow::Result<T>) -> anyhow::Result<T> {
    ctx.step("make", body).await
}

async fn one_type(ctx: &TaskContext, body: impl AsyncFnOnce() -> anyhow::Result<i64> + Send) -> anyhow::Result<i64> {
    ctx.step("make", body).await
}

async fn often(ctx: &TaskContext, body: impl AsyncFn() -> anyhow::Result<i64> + Send) -> anyhow::Result<i64> {
    ctx.retry_step("make", RetryPolicy::attempts(3), body).await
}

fn main() {}
