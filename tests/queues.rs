//! Queues with odd names. Their tasks are in a registry of their own, as each orchestrator must serve the queues of all
//! its tasks.

use conductor::prelude::*;
use conductor::testing::TestConductor;
use conductor::{Error, Filter, Registry, Status};

macro_rules! queues {
    ($($function:ident $task:ident $queue:tt)*) => {
        $(
            #[task(queue = $queue, linked = false)]
            async fn $function(_ctx: &TaskContext) -> anyhow::Result<String> {
                Ok($queue.to_owned())
            }
        )*
        fn registry() -> Registry {
            Registry::new()$(.task::<$task>())*
        }

        const QUEUES: &[(&str, &str)] = &[$((stringify!($function), $queue)),*];
    };
}

queues! {
    dash Dash "a-b"
    score Score "a_b"
    quote Quote "it's"
    double Double "\"double\" \"more\""
    path Path "a::b"
    upper Upper "UPPER"
    lower Lower "upper"
    space Space "two words"
    unicode Unicode "größe 🦀"
    backslash Backslash "back\\slash"
    sql Sql "'; drop schema conductor cascade; --"
}

#[conductor::test]
async fn a_queue_may_have_an_odd_name(test: TestConductor) -> anyhow::Result<()> {
    let test = test.tasks(registry());
    test.drain().await?;
    for (task, _) in QUEUES {
        test.invoke_json(task, "null").await?;
        sqlx::query("select conductor.invoke($1)")
            .bind(task)
            .execute(test.pool())
            .await?;
    }
    test.drain().await?;
    for (task, name) in QUEUES {
        let queue = Some((*name).to_owned());
        let found = test
            .list(&Filter {
                queue,
                ..Filter::default()
            })
            .await?;
        assert_eq!(found.len(), 2, "{name}");
        for info in found {
            assert_eq!((info.task.as_str(), info.state), (*task, Status::Completed));
            assert_eq!(info.output.unwrap().get(), serde_json::to_string(name)?);
        }
    }
    Ok(())
}

#[conductor::test]
async fn a_worker_serves_its_queue_and_not_the_one_that_looks_alike(
    test: TestConductor,
) -> anyhow::Result<()> {
    let test = test.tasks(registry());
    for (queue, mine, other) in [("a-b", "dash", "score"), ("UPPER", "upper", "lower")] {
        let worker = test
            .orchestrator()
            .worker(Worker::queue(queue))
            .allow_unserved_queues()
            .build()?
            .start()
            .await?;
        let other = test.invoke_json(other, "null").await?;
        let mine = test.invoke_json(mine, "null").await?;
        assert_eq!(test.outcome(mine).await?, format!("{queue:?}"));
        worker.drained().await?;
        assert_eq!(test.find(other).await?.unwrap().state, Status::Pending);
        worker.stop().await?;
    }
    Ok(())
}

#[conductor::test]
async fn a_pause_is_of_one_queue_and_of_none_that_looks_alike(
    test: TestConductor,
) -> anyhow::Result<()> {
    let test = test.tasks(registry());
    test.drain().await?;
    for (task, name) in QUEUES {
        assert!(test.pause_queue(name).await?, "{name}");
        let paused: Vec<String> = test
            .queues()
            .await?
            .into_iter()
            .filter(|queue| queue.paused)
            .map(|queue| queue.name)
            .collect();
        assert_eq!(paused, [*name]);
        let run = test.invoke_json(task, "null").await?;
        test.drain().await?;
        assert_eq!(test.find(run).await?.unwrap().state, Status::Pending);
        assert!(test.resume_queue(name).await?);
        test.drain().await?;
        assert_eq!(test.find(run).await?.unwrap().state, Status::Completed);
    }
    assert!(!test.pause_queue("A-B").await?);
    Ok(())
}

#[conductor::test]
async fn a_queue_that_nobody_serves_is_named(test: TestConductor) -> anyhow::Result<()> {
    let test = test.tasks(registry());
    let served = QUEUES.iter().filter(|(task, _)| *task != "double");
    let refused = test
        .orchestrator()
        .workers(served.map(|(_, queue)| Worker::queue(*queue)))
        .build()?
        .start()
        .await;
    match refused {
        Err(Error::Refused(faults)) => {
            assert_eq!(faults.len(), 1, "{faults:#?}");
            assert!(faults[0].contains(r#"\"double\" \"more\""#), "{faults:#?}");
            assert!(faults[0].contains("queues.rs:"), "{faults:#?}");
        }
        other => panic!("{other:?}"),
    }
    Ok(())
}

#[conductor::test]
async fn names_that_cannot_be_used_are_refused(test: TestConductor) {
    for name in ["", " a", "a ", "a\nb", "a\0b"] {
        let refused = test.orchestrator().worker(Worker::queue(name)).build();
        assert!(matches!(refused, Err(Error::Refused(_))), "{name:?}");
    }
}
