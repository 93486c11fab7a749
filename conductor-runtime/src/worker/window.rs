use std::collections::HashMap;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use conductor_postgres::store::WindowColumns;
use conductor_schedule::Window;

use crate::task::TaskDefinition;

/// The windows of a worker's tasks.
#[derive(Debug, Clone, Default)]
pub(super) struct Windows(Arc<HashMap<i32, Window>>);

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
