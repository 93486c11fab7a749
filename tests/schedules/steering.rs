//! Pause, resume and trigger of schedules that code declares; ticks that must not overlap.

use std::sync::Arc;

use conductor::prelude::*;
use conductor::{Error, Overlap};

use super::{Given, HOUR, Ticking, outputs, ticks};
use crate::support::{Gate, count, eventually, to_half_past};

#[conductor::test]
async fn a_static_schedule_rests_over_starts_until_it_is_resumed(
    test: Ticking,
) -> anyhow::Result<()> {
    to_half_past(&test).await?;
    test.drain().await?;
    assert!(test.pause_schedule("from_tick", "default").await?);
    test.advance(HOUR * 5).await?;
    test.drain().await?;
    assert!(outputs(&test, "from_tick").await?.is_empty());
    let all = test.schedules().await?;
    let paused = all.iter().find(|s| s.task == "from_tick").unwrap();
    assert!(paused.paused && paused.next_at.is_none(), "{paused:?}");
    // A pause is not a time that was missed.
    assert!(test.resume_schedule("from_tick", "default").await?);
    test.drain().await?;
    assert!(outputs(&test, "from_tick").await?.is_empty());
    test.advance(HOUR).await?;
    test.drain().await?;
    assert_eq!(outputs(&test, "from_tick").await?.len(), 1);
    Ok(())
}

#[conductor::test]
async fn a_static_schedule_is_triggered_with_the_payload_of_its_code(
    test: Ticking,
) -> anyhow::Result<()> {
    test.drain().await?;
    let id = test
        .trigger_schedule("from_tick", "default")
        .await?
        .unwrap();
    test.trigger_schedule("given", "evening").await?.unwrap();
    test.drain().await?;
    assert_eq!(test.find(id).await?.unwrap().output.unwrap().get(), "true");
    assert_eq!(outputs(&test, "given").await?, ["evening: good evening"]);
    match test.trigger_schedule("panics", "default").await {
        Err(Error::Payload { task, reason }) => {
            assert_eq!(task, "panics");
            assert!(reason.starts_with("its code panicked at "), "{reason}");
        }
        other => panic!("{other:?}"),
    }
    Ok(())
}

#[conductor::test]
async fn a_static_and_a_dynamic_schedule_of_one_name_are_two(test: Ticking) -> anyhow::Result<()> {
    to_half_past(&test).await?;
    let by_hand = Given {
        word: "by hand".to_owned(),
    };
    test.schedule::<Given>("evening", "0 * * * *", by_hand)
        .await?;
    // Each start declares those of the code again.
    for _ in 0..24 {
        test.drain().await?;
        test.advance(HOUR).await?;
    }
    test.drain().await?;
    let words = outputs(&test, "given").await?;
    let by_hand = words.iter().filter(|word| *word == "evening: by hand");
    assert_eq!((by_hand.count(), words.len()), (24, 26), "{words:?}");
    let id = test.trigger_schedule("given", "evening").await?.unwrap();
    test.drain().await?;
    let run = test.execution::<Given>(id);
    assert_eq!(run.result().await?, "evening: by hand");
    assert!(test.unschedule::<Given>("evening").await?);
    assert!(!test.unschedule::<Given>("evening").await?);
    let all = test.schedules().await?;
    let evening: Vec<_> = all.iter().filter(|s| s.name == "evening").collect();
    assert!(matches!(evening[..], [left] if !left.dynamic), "{all:?}");
    Ok(())
}

#[task(linked = false)]
pub(super) async fn gated(ctx: &TaskContext) -> anyhow::Result<()> {
    ctx.state::<Arc<Gate>>().pass().await;
    Ok(())
}

#[conductor::test]
async fn a_tick_is_left_out_while_the_one_before_runs(test: Ticking) -> anyhow::Result<()> {
    let gate = Gate::new();
    let test = test.0.state(Arc::clone(&gate));
    to_half_past(&test).await?;
    test.schedule::<Gated>("alone", "0 * * * *", ())
        .overlap(Overlap::Skip)
        .await?;
    let worker = test.orchestrator().build()?.start().await?;
    let next = async || {
        let all = test.schedules().await.unwrap();
        all.iter().find(|s| s.name == "alone").unwrap().next_at
    };
    test.advance(HOUR).await?;
    gate.entered(1).await;
    for _ in 0..3 {
        let before = next().await.unwrap();
        test.advance(HOUR).await?;
        eventually("the next tick", async || next().await.unwrap() > before).await;
    }
    assert_eq!(ticks(&test, "alone").await?.len(), 1);
    gate.open(1);
    let condition = "trigger->>'name' = 'alone' and state = 'completed'";
    eventually("its end", async || {
        count(&test, condition).await.unwrap() == 1
    })
    .await;
    test.advance(HOUR).await?;
    gate.entered(1).await;
    gate.open(1);
    worker.stop().await?;
    assert_eq!(ticks(&test, "alone").await?.len(), 2);
    Ok(())
}
