#![allow(unused)]
use conductor::prelude::*;

#[task(on_insert, on_update(""), on_delete(users), on_insert("public.\"users"))]
async fn forms(ctx: &TaskContext) -> anyhow::Result<()> {
    Ok(())
}

#[task(on_insert("users", columns = [email]), on_update("users", columns = [], whn = new.id == 1))]
async fn options(ctx: &TaskContext) -> anyhow::Result<()> {
    Ok(())
}

#[task(on_insert("users", when = old.id == 1), on_delete("users", when = new.id == 1))]
async fn sides(ctx: &TaskContext) -> anyhow::Result<()> {
    Ok(())
}

#[task(on_update("users"), on_update("users", columns = [id]), on_update("a", when = new.id < old.id))]
async fn twice(ctx: &TaskContext) -> anyhow::Result<()> {
    Ok(())
}

#[task(on_update("users", when = is_big(new.id) && new.id.abs() > 3))]
async fn calls(ctx: &TaskContext) -> anyhow::Result<()> {
    Ok(())
}

fn main() {}
