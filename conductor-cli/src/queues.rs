//! `queues`: lists, pauses and resumes queues.

use anstyle::{AnsiColor, Style};
use conductor_core::nearest;
use conductor_runtime::client::{Conductor, QueueInfo};
use serde_json::json;

use super::arguments::{Queue, Queues, SteerQueue};
use super::fault::{Done, FAILED, Fault};
use super::output::{self, ERROR, STRONG, Table};

const PAUSED: Style = AnsiColor::Yellow.on_default();

pub(crate) async fn queues(command: Queues, conductor: &Conductor) -> Done {
    match command.command {
        Some(SteerQueue::Pause(queue)) => steer(conductor, queue, true).await,
        Some(SteerQueue::Resume(queue)) => steer(conductor, queue, false).await,
        None => list(command.json, conductor).await,
    }
}

async fn list(json: bool, conductor: &Conductor) -> Done {
    let queues = conductor.queues().await?;
    if queues.is_empty() {
        output::note("no queues; a worker declares those of its tasks when it starts");
        return Ok(());
    }
    if json {
        output::print_json(queues.iter().map(|queue| json!(queue).to_string()))?;
        return Ok(());
    }
    let mut table = Table::new(&["QUEUE", "STATE", "WAITING", "RUNNING", "PARKED", "WORKERS"]);
    for queue in &queues {
        let plain = |text: String| (text, Style::new());
        let unserved = queue.workers == 0 && queue.waiting + queue.parked > 0;
        table.row(vec![
            (output::line(&queue.name, 100), STRONG),
            if queue.paused {
                ("paused".to_owned(), PAUSED)
            } else {
                plain("open".to_owned())
            },
            plain(counted(queue.waiting)),
            plain(counted(queue.running)),
            plain(counted(queue.parked)),
            (
                queue.workers.to_string(),
                if unserved { ERROR } else { Style::new() },
            ),
        ]);
    }
    output::print(&table.render())?;
    Ok(())
}

fn counted(count: i64) -> String {
    let more = if count >= i64::from(QueueInfo::MOST) {
        "+"
    } else {
        ""
    };
    format!("{count}{more}")
}

async fn steer(conductor: &Conductor, Queue { name }: Queue, pause: bool) -> Done {
    let (found, done) = if pause {
        (conductor.queues().pause(&name).await?, "paused")
    } else {
        (conductor.queues().resume(&name).await?, "resumed")
    };
    if found {
        output::print(&format!("queue {name:?} {done}"))?;
        return Ok(());
    }
    let known = conductor.queues().await?;
    let hint = match nearest(&name, known.iter().map(|queue| queue.name.as_str())) {
        Some(near) => format!("; did you mean {near:?}?"),
        None => String::new(),
    };
    Err(Fault::new(
        FAILED,
        format!("there is no queue {name:?}{hint}"),
    ))
}
