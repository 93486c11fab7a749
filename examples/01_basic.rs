//! Tasks, a worker and its command line.
//!
//! In one terminal, the worker:
//!
//!     cargo run --example 01_basic
//!
//! In another one, the command
//!
//!     cargo run --example 01_basic -- invoke greet name=Alice
//!
//! prints the id of the execution, and the worker prints `Hello, Alice!`. Then try
//!
//!     cargo run --example 01_basic -- invoke greet name=Bob --wait
//!     cargo run --example 01_basic -- invoke order item=tea quantity=3 size=large --wait
//!     cargo run --example 01_basic -- invoke order item=soup quantity=1 --wait
//!     cargo run --example 01_basic -- list
//!     cargo run --example 01_basic -- --help
//!
//! The results are printed as JSON. The first attempt of each order fails because the kitchen is busy.
//! The worker's log shows this, and `show ID` lists the attempts. There is no soup on the menu, so that
//! order fails at once, and its command exits with code 1.

use std::collections::HashMap;

use conductor::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Greets somebody.
#[task]
async fn greet(_ctx: &TaskContext, name: String) -> anyhow::Result<String> {
    let greeting = format!("Hello, {name}!");
    println!("{greeting}");
    Ok(greeting)
}

/// A value that `setup` passes to the handlers.
struct Menu {
    prices_in_cents: HashMap<&'static str, u32>,
}

impl Menu {
    async fn read() -> anyhow::Result<Menu> {
        let prices_in_cents = HashMap::from([("tea", 250), ("cake", 400)]);
        Ok(Menu { prices_in_cents })
    }
}

#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy)]
#[serde(rename_all = "lowercase")]
enum Size {
    Small,
    Large,
}

#[derive(Serialize, Deserialize, JsonSchema)]
struct Receipt {
    total_cents: u32,
    served_at_attempt: u32,
}

/// Takes an order. If the kitchen is busy, it retries after half a second.
#[task(retry(max_attempts = 5, backoff = "500ms..10s"))]
async fn order(
    ctx: &TaskContext,
    item: String,
    quantity: u32,
    size: Option<Size>,
    menu: State<Menu>,
) -> anyhow::Result<Receipt> {
    // Permanent, as a retry would not help.
    let unknown = || anyhow::anyhow!("there is no {item} on the menu");
    let prices = &menu.prices_in_cents;
    let price = prices.get(item.as_str()).ok_or_else(unknown).permanent()?;
    anyhow::ensure!(ctx.attempt() > 1, "the kitchen is busy");

    let factor = match size {
        Some(Size::Large) => 2,
        Some(Size::Small) | None => 1,
    };
    let total_cents = price.saturating_mul(quantity).saturating_mul(factor);
    println!("{quantity} {item}: {total_cents} cents");
    Ok(Receipt {
        total_cents,
        served_at_attempt: ctx.attempt(),
    })
}

conductor::main! {
    workers: [Worker::queue("default").concurrency(10)],
    setup: async |app| Ok(app.state(Menu::read().await?)),
}
