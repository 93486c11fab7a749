#![allow(unused)]
use conductor::prelude::*;

#[event]
enum Either {
    A,
}

#[event]
struct Pair(i64, i64);

#[event]
struct Generic<T> {
    value: T,
}

#[event(nam = "a", version = 0)]
struct Keys {
    id: i64,
}

#[event]
#[serde(into = "i64")]
struct Stored {
    #[serde(rename(serialize = "a", deserialize = "b"))]
    id: i64,
    name: &'static str,
}

#[event]
fn function() {}

#[task(event, event(Either, whn = a == 1), event(when = a == 1))]
async fn forms(ctx: &TaskContext) -> anyhow::Result<()> {
    Ok(())
}

#[task(event(Pair, batch = 100), event(Keys), event(Keys, when = id == 1))]
async fn batches(ctx: &TaskContext) -> anyhow::Result<()> {
    Ok(())
}

#[task(event(Keys, when = is_big(id) && id.abs() > 3 && id == other && id > now()))]
async fn calls(ctx: &TaskContext) -> anyhow::Result<()> {
    Ok(())
}

fn main() {}
