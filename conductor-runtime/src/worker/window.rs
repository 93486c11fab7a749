use std::collections::HashMap;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use conductor_schedule::Window;

use crate::task::TaskDefinition;

/// The windows of a worker's tasks.
#[derive(Debug, Clone, Default)]
pub(super) struct Windows(Arc<HashMap<i32, Window>>);

/// The windows as the columns of a statement: for each task the one that is open, or else the next
/// one.
#[derive(Debug, Clone, Default)]
pub(super) struct WindowColumns {
    pub(super) tasks: Vec<i32>,
    pub(super) opens: Vec<DateTime<Utc>>,
    pub(super) closes: Vec<DateTime<Utc>>,
}

impl Windows {
    /// Returns the windows of these tasks. Invalid windows were refused before the worker started.
    pub(super) fn of(tasks: &HashMap<i32, &'static TaskDefinition>) -> Self {
        let windows = tasks.iter().filter_map(|(id, task)| {
            let window = task.window?.read().ok()?;
            Some((*id, window))
        });
        Self(Arc::new(windows.collect()))
    }

    pub(super) fn get(&self, task: i32) -> Option<Window> {
        self.0.get(&task).cloned()
    }

    pub(super) fn columns(&self, now: DateTime<Utc>) -> WindowColumns {
        let mut columns = WindowColumns::default();
        for (task, window) in self.0.iter() {
            columns.tasks.push(*task);
            // This clock may be ahead of the database's, by which the window may still be closed.
            let opens = window.open_since(now);
            columns
                .opens
                .push(opens.unwrap_or_else(|| window.opens_after(now)));
            columns.closes.push(window.closes_after(now));
        }
        columns
    }
}
