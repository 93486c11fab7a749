//! Batches: many invokes in one call, and a handler that runs many executions in one call.
//!
//! In one terminal, the worker:
//!
//!     cargo run --example 10_batches
//!
//! In another one, the command
//!
//!     cargo run --example 10_batches -- invoke import readings=2000 --wait
//!
//! prints `2000`, the number of readings invoked in one call. The worker stores them with a few
//! inserts and prints `stored 500 readings` for each. Every reading is an execution of its own, with
//! its own retries and result; `list --task record` shows the latest ones.
//!
//! A single reading waits for others, here for a second, and is then stored alone:
//!
//!     cargo run --example 10_batches -- invoke record sensor=roof minute=1 celsius=21.5 --wait
//!
//! An invalid reading fails alone, and its command exits with code 1. Other readings in the same batch
//! are stored:
//!
//!     cargo run --example 10_batches -- invoke record sensor=roof minute=2 celsius=-300 --wait
//!
//! The command line also invokes in batches. All of these are the same reading, which is stored once:
//!
//!     cargo run --example 10_batches -- invoke record sensor=roof minute=3 celsius=20 --batch 1000

use conductor::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A measurement of a sensor.
#[derive(Serialize, Deserialize, JsonSchema)]
struct Reading {
    sensor: String,
    minute: u32,
    celsius: f64,
}

/// Stores readings, up to 500 with one insert.
#[task(batch(max_size = 500, max_wait = "1s"))]
async fn record(
    _ctx: &BatchContext,
    items: Vec<Reading>,
    conductor: State<Conductor>,
) -> anyhow::Result<Vec<anyhow::Result<()>>> {
    let (mut sensors, mut minutes, mut celsius) = (Vec::new(), Vec::new(), Vec::new());
    let mut results = Vec::new();
    for reading in items {
        if reading.celsius < -273.15 {
            // Permanent, as a retry would not help.
            let refused = anyhow::anyhow!("{}°C is colder than cold can be", reading.celsius);
            results.push(Err(refused).permanent());
            continue;
        }
        sensors.push(reading.sensor);
        minutes.push(i64::from(reading.minute));
        celsius.push(reading.celsius);
        results.push(Ok(()));
    }
    // If this fails, all items fail, and each is retried by its own policy. After a crash they run again,
    // possibly in other batches. The primary key of the table makes that harmless.
    sqlx::query(
        "insert into readings (sensor, minute, celsius)
         select * from unnest($1::text[], $2::bigint[], $3::float8[])
             on conflict do nothing",
    )
    .bind(&sensors)
    .bind(&minutes)
    .bind(&celsius)
    .execute(conductor.pool())
    .await?;
    println!("stored {} readings", sensors.len());
    Ok(results)
}

/// Invokes [`record`] many times in one call, all or none.
#[task]
async fn import(
    ctx: &TaskContext,
    readings: u32,
    conductor: State<Conductor>,
) -> anyhow::Result<usize> {
    ctx.step("invoke", || async {
        let readings = (0..readings).map(|minute| Reading {
            sensor: "cellar".to_owned(),
            minute,
            celsius: 8.0 + f64::from(minute % 60) / 100.0,
        });
        let ids = conductor.invoke_batch::<Record>(readings).await?;
        anyhow::Ok(ids.len())
    })
    .await
}

conductor::main! {
    setup: async |app| {
        let conductor = app.conductor().clone();
        sqlx::raw_sql(
            "select pg_advisory_xact_lock(10);
             create table if not exists readings (
                 sensor text, minute bigint, celsius float8 not null, primary key (sensor, minute));",
        )
        .execute(conductor.pool())
        .await?;
        Ok(app.state(conductor))
    },
}
