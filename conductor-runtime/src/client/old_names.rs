//! Names that calls had before they were grouped. Each only forwards.

use std::time::Duration;

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::{
    Child, Conductor, ExecutionInfo, FailedAttempt, Filter, InvokeBatch, Schedule, Story, Why,
};
use crate::error::Result;
use crate::event::{EventEffect, EventInfo};
use crate::row::{RowFault, RowTriggerInfo};

/// Defines methods of [`Conductor`] that forward to a group, and hides them from the docs.
macro_rules! forward {
    ($(fn $name:ident($($arg:ident: $of:ty),*) -> $returned:ty => $group:ident . $call:ident;)*) => {
        #[allow(missing_docs)]
        impl Conductor {
            $(
                #[doc(hidden)]
                pub async fn $name(&self $(, $arg: $of)*) -> Result<$returned> {
                    self.$group().$call($($arg),*).await
                }
            )*
        }
    };
}

forward! {
    fn find(id: Uuid) -> Option<ExecutionInfo> => inspect.find;
    fn list(filter: &Filter) -> Vec<ExecutionInfo> => inspect.list;
    fn failures(id: Uuid) -> Vec<FailedAttempt> => inspect.failures;
    fn now() -> DateTime<Utc> => inspect.now;
    fn is_served(task: &str) -> bool => inspect.is_served;
    fn task_names() -> Vec<String> => inspect.task_names;
    fn payload_schema(task: &str) -> Option<serde_json::Value> => inspect.payload_schema;
    fn event_schema(name: &str) -> serde_json::Value => inspect.event_schema;
    fn story(id: Uuid) -> Option<Story> => inspect.story;
    fn children(parents: &[Uuid], limit: u32) -> Vec<Child> => inspect.children;
    fn why(id: Uuid) -> Why => inspect.why;
    fn events(name: Option<&str>, limit: u32) -> Vec<EventInfo> => inspect.events;
    fn row_triggers() -> Vec<RowTriggerInfo> => inspect.row_triggers;
    fn row_faults() -> Vec<RowFault> => inspect.row_faults;
    fn pause_queue(queue: &str) -> bool => queues.pause;
    fn resume_queue(queue: &str) -> bool => queues.resume;
    fn pause_schedule(task: &str, name: &str) -> bool => schedules.pause;
    fn resume_schedule(task: &str, name: &str) -> bool => schedules.resume;
    fn trigger_schedule(task: &str, name: &str) -> Option<Uuid> => schedules.trigger;
    fn invoke_json(task: &str, payload: &str) -> Uuid => untyped.invoke;
    fn outcome(id: Uuid) -> String => untyped.outcome;
    fn emit_json(name: &str, payload: &str) -> Uuid => untyped.emit;
    fn emit_json_watched(name: &str, payload: &str, budget: Duration) -> EventEffect => untyped.emit_watched;
    fn unschedule_named(task: &str, name: &str) -> bool => untyped.unschedule;
}

#[allow(missing_docs)]
impl Conductor {
    #[doc(hidden)]
    pub fn invoke_batch_json<'a>(
        &self,
        task: &str,
        payloads: impl IntoIterator<Item = &'a str>,
    ) -> InvokeBatch<'_> {
        self.untyped().invoke_batch(task, payloads)
    }

    #[doc(hidden)]
    pub async fn schedule_json(
        &self,
        task: &str,
        name: &str,
        cron: &str,
        payload: &str,
        say: impl FnOnce(Schedule<'_>) -> Schedule<'_> + Send,
    ) -> Result<()> {
        say(self.untyped().schedule(task, name, cron, payload)).await
    }
}
