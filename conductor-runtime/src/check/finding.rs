use std::fmt;

use serde::Serialize;
use uuid::Uuid;

/// Something that does not fit, or that a start of this binary would change. Its text is for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Finding {
    /// The database has no schema of ours; the first start makes it. A change.
    SchemaMissing {
        /// The schema version that this binary brings.
        binary: i32,
    },
    /// A start would apply migrations. A change.
    SchemaOlder {
        /// The database's version.
        database: i32,
        /// This binary's version.
        binary: i32,
        /// Whether running processes of older builds would be told to end.
        breaking: bool,
    },
    /// The schema has a breaking migration that this binary does not know: it would not start.
    SchemaNewer {
        /// Its number.
        migration: i32,
        /// This binary's version.
        binary: i32,
    },
    /// A migration was applied with another text: binary and schema come from different builds.
    SchemaChanged {
        /// Its number.
        migration: i32,
    },
    /// Executions of a task that this binary does not have.
    UnknownTask {
        /// The task's name.
        task: String,
        /// How many have not ended.
        executions: u64,
        /// Whether a living process has it.
        served: bool,
    },
    /// Executions that wait in a queue for which no process lives.
    Unserved {
        /// The queue's name.
        queue: String,
        /// How many have not ended.
        executions: u64,
    },
    /// Payloads that the task's type cannot read.
    Payload {
        /// The task's name.
        task: String,
        /// How many executions have such.
        executions: u64,
        /// One of them.
        execution: Uuid,
        /// What is wrong with that one.
        error: String,
    },
    /// Records that this binary cannot read.
    Record {
        /// The task's name.
        task: String,
        /// `invoke`, `event` …
        step: String,
        /// How many there are of this task and kind.
        records: u64,
        /// The execution of one of them.
        execution: Uuid,
        /// The key of that one.
        key: String,
        /// What is wrong with that one.
        error: String,
    },
    /// Executions that no build could read that has tried: a start tries them again. A change.
    Left {
        /// The task's name.
        task: String,
        /// How many there are, counted up to 10,000.
        executions: u64,
        /// One of them.
        execution: Uuid,
        /// What is wrong with that one.
        error: String,
    },
    /// A schedule of the code's that a start would change. A change.
    Schedule {
        /// The task's name.
        task: String,
        /// The schedule's name.
        schedule: String,
        /// What would come of it.
        change: Change,
    },
    /// A schedule that was made at run time, whose payload its task cannot read.
    ScheduledPayload {
        /// The task's name.
        task: String,
        /// The schedule's name.
        schedule: String,
        /// What is wrong.
        error: String,
    },
    /// A schedule that was made at run time, of a task that neither this binary nor a living process
    /// has.
    UnknownScheduledTask {
        /// The task's name.
        task: String,
        /// The schedule's name.
        schedule: String,
    },
    /// A task listens to a table or column that does not exist: this binary would not start.
    RowSource {
        /// Which task, where in the source, and what is missing.
        error: String,
    },
    /// A table has not the trigger that a task needs. A start makes it, unless it may not
    /// (`--no-ddl`). A change.
    RowTriggerMissing {
        /// The task's name.
        task: String,
        /// The table.
        table: String,
        /// `insert`, `update` or `delete`.
        op: String,
    },
    /// Changes of a table's rows that could not be passed on, in the last seven days.
    RowFault {
        /// The table.
        table: String,
        /// `insert`, `update` or `delete`.
        op: String,
        /// How many statements.
        times: u64,
        /// What was wrong with the last of them.
        error: String,
    },
    /// A subscription to an event that a start would change. A change.
    Subscription {
        /// The task's name.
        task: String,
        /// The event's name.
        event: String,
        /// What would come of it.
        change: Change,
    },
}

/// What a start would do to something that code declares.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Change {
    /// It is new.
    Added,
    /// It becomes another one; how, in words.
    Changed(String),
    /// It goes.
    Removed,
}

impl Finding {
    /// Whether this is only what a start of this binary would change, as a deploy is meant to.
    pub fn is_change(&self) -> bool {
        matches!(
            self,
            Self::SchemaMissing { .. }
                | Self::SchemaOlder { .. }
                | Self::Left { .. }
                | Self::Schedule { .. }
                | Self::Subscription { .. }
                | Self::RowTriggerMissing { .. }
        )
    }

    /// What it is about: a task, a queue, the schema.
    pub fn subject(&self) -> &str {
        match self {
            Self::SchemaMissing { .. }
            | Self::SchemaOlder { .. }
            | Self::SchemaNewer { .. }
            | Self::SchemaChanged { .. } => "schema",
            Self::Unserved { queue, .. } => queue,
            Self::RowSource { .. } => "rows",
            Self::RowFault { table, .. } => table,
            Self::UnknownTask { task, .. }
            | Self::Payload { task, .. }
            | Self::Record { task, .. }
            | Self::Left { task, .. }
            | Self::Schedule { task, .. }
            | Self::ScheduledPayload { task, .. }
            | Self::UnknownScheduledTask { task, .. }
            | Self::Subscription { task, .. }
            | Self::RowTriggerMissing { task, .. } => task,
        }
    }

    /// What is wrong, without the subject.
    pub fn text(&self) -> String {
        match self {
            Self::SchemaMissing { binary } => {
                format!("there is none; a start makes it, at version {binary}")
            }
            Self::SchemaOlder {
                database,
                binary,
                breaking,
            } => {
                let ends = if *breaking {
                    ", for which running processes of older builds are told to end"
                } else {
                    ""
                };
                format!("version {database}; a start brings it to {binary}{ends}")
            }
            Self::SchemaNewer { migration, binary } => format!(
                "version {migration} breaks with programs that do not know it, and this one knows {binary}: it would not start"
            ),
            Self::SchemaChanged { migration } => format!(
                "migration {migration} is not the one that was applied: this program would not start"
            ),
            Self::UnknownTask {
                executions, served, ..
            } => {
                let others = if *served {
                    "a running process has it"
                } else {
                    "nor does a running process"
                };
                format!(
                    "{} of a task that this program does not have; {others}",
                    counted(*executions, "execution")
                )
            }
            Self::Unserved { executions, .. } => format!(
                "{} in this queue, which no running process serves",
                counted(*executions, "execution")
            ),
            Self::Payload {
                executions,
                execution,
                error,
                ..
            } => format!(
                "{} with a payload that it cannot read, such as {execution}: {error}",
                counted(*executions, "execution")
            ),
            Self::Record {
                step,
                records,
                execution,
                key,
                error,
                ..
            } => format!(
                "{} of the kind {step:?} that it cannot read, such as {key:?} of {execution}: {error}",
                counted(*records, "record")
            ),
            Self::Left {
                executions,
                execution,
                error,
                ..
            } => format!(
                "{} left for a build that can read what others could not, such as {execution} ({error}); a start tries again",
                counted(*executions, "execution")
            ),
            Self::Schedule {
                schedule, change, ..
            } => format!("the schedule {schedule:?} {change}"),
            Self::ScheduledPayload {
                schedule, error, ..
            } => format!("the schedule {schedule:?} has a payload that it cannot read: {error}"),
            Self::UnknownScheduledTask { schedule, .. } => format!(
                "the schedule {schedule:?} is of a task that neither this program nor a running process has"
            ),
            Self::RowSource { error } => error.clone(),
            Self::RowTriggerMissing { table, op, .. } => format!(
                "the table {table} has no trigger for {op}s; a start makes it, or `triggers --sql` prints it"
            ),
            Self::RowFault {
                op, times, error, ..
            } => format!(
                "{} started nothing, as their trigger met a fault: {error}",
                counted(*times, op)
            ),
            Self::Subscription { event, change, .. } => {
                format!("the subscription to {event:?} {change}")
            }
        }
    }
}

fn counted(count: u64, one: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {one}{plural}")
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.subject(), self.text())
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Added => f.write_str("is added"),
            Self::Changed(how) => write!(f, "changes: {how}"),
            Self::Removed => f.write_str("is removed"),
        }
    }
}
