//! Tasks that changes of a table start, and one that waits for a change.
//!
//! In one terminal, the worker. It makes the table `public.users` where there is none, and the triggers on
//! it:
//!
//!     cargo run --example 11_row_changes
//!
//! In another one, wait for Ada for two minutes at most:
//!
//!     cargo run --example 11_row_changes -- invoke greet name=Ada --wait
//!
//! And in a third one, let her sign up; the one that waits prints her address, and the worker what it has
//! noted:
//!
//!     cargo run --example 11_row_changes -- invoke sign_up name=Ada
//!
//! Any client will do, as it is the table that tells. `cargo run --example 11_row_changes -- db` opens psql:
//!
//!     insert into users (name, email) select 'guest ' || n, n || '@example.com' from generate_series(1, 5) n;
//!     update users set plan = 'pro' where name = 'Ada';
//!     begin; delete from users; rollback;
//!
//! The second one is also told to `celebrate`, and of the third nothing is heard. What the tables have to
//! tell, and what went wrong in doing so, is listed by
//!
//!     cargo run --example 11_row_changes -- triggers

use std::time::Duration;

use conductor::Field;
use conductor::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sqlx::PgPool;

/// The columns that are wanted; the others never leave the table.
#[derive(Serialize, Deserialize, JsonSchema)]
struct User {
    id: i64,
    name: String,
    email: String,
    plan: String,
}

const NAME: Field<User, String> = Field::new(&["name"]);

/// Notes who comes, who goes, and who has another address.
#[task(
    on_insert("public.users"),
    on_update("public.users", columns = [email]),
    on_delete("public.users")
)]
async fn audit(_ctx: &TaskContext, payload: RowChange<User>) -> anyhow::Result<()> {
    match (&payload.old, &payload.new) {
        (None, Some(user)) => println!("{} has come", user.name),
        (Some(user), None) => println!("{} has gone", user.name),
        (Some(old), Some(new)) => println!("{}: {} is {} now", new.name, old.email, new.email),
        (None, None) => {}
    }
    Ok(())
}

/// Runs when somebody begins to pay.
#[task(on_update("public.users", when = new.plan == "pro" && old.plan != new.plan))]
async fn celebrate(_ctx: &TaskContext, payload: RowChange<User>) -> anyhow::Result<()> {
    if let Some(user) = payload.new {
        println!("{} pays!", user.name);
    }
    Ok(())
}

/// Waits until somebody of this name has signed up, and returns the address.
#[task]
async fn greet(ctx: &TaskContext, name: String) -> anyhow::Result<String> {
    let joined = ctx
        .wait_for_insert::<User>("joined", "public.users")
        .when(NAME.eq(name))
        .timeout(Duration::from_secs(120))
        .await?;
    Ok(joined
        .into_row()
        .map_or_else(String::new, |user| user.email))
}

/// Adds a user; what hears of it knows nothing of this task.
#[task]
async fn sign_up(ctx: &TaskContext, name: String) -> anyhow::Result<i64> {
    ctx.transaction("insert", async |tx| {
        let email = format!("{}@example.com", name.to_lowercase());
        let insert = "insert into users (name, email) values ($1, $2) returning id";
        let id: i64 = sqlx::query_scalar(insert)
            .bind(&name)
            .bind(email)
            .fetch_one(&mut *tx)
            .await?;
        Ok::<_, anyhow::Error>(id)
    })
    .await
}

async fn create_table(pool: &PgPool) -> anyhow::Result<()> {
    sqlx::query(
        "create table if not exists public.users (
             id bigint primary key generated always as identity,
             name text not null,
             email text not null,
             plan text not null default 'free',
             password text)",
    )
    .execute(pool)
    .await?;
    Ok(())
}

conductor::main! {
    setup: async |app| {
        create_table(app.conductor().pool()).await?;
        Ok(app)
    },
}
