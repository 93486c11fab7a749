use std::fmt;

use serde::Serialize;
use uuid::Uuid;

/// Something that does not fit, or that a start of this binary would change.
///
/// `Display` is for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Finding {
    /// The database has no schema `conductor`; the first start creates it. A change.
    SchemaMissing {
        /// The schema version of this binary.
        binary: i32,
    },
    /// A start would apply migrations. A change.
    SchemaOlder {
        /// The database's version.
        database: i32,
        /// This binary's version.
        binary: i32,
        /// Whether running processes of older builds would be asked to end.
        breaking: bool,
    },
    /// The schema has a breaking migration that this binary does not know, so it would not start.
    SchemaNewer {
        /// The number of the migration.
        migration: i32,
        /// This binary's version.
        binary: i32,
    },
    /// A migration was applied with another text: binary and schema come from different builds.
    SchemaChanged {
        /// The number of the migration.
        migration: i32,
    },
    /// Live executions of a task that this binary does not have.
    UnknownTask {
        /// The task's name.
        task: String,
        /// How many there are.
        executions: u64,
        /// Whether a living process serves it.
        served: bool,
    },
    /// Live executions in a queue that no living process serves.
    Unserved {
        /// The queue's name.
        queue: String,
        /// How many there are.
        executions: u64,
    },
    /// Payloads that the task's type cannot read.
    Payload {
        /// The task's name.
        task: String,
        /// How many executions have such a payload.
        executions: u64,
        /// One of them.
        execution: Uuid,
        /// The error for that one.
        error: String,
    },
    /// Records that this binary cannot read.
    Record {
        /// The task's name.
        task: String,
        /// The kind of the record: `invoke`, `event` …
        step: String,
        /// How many there are of this task and kind.
        records: u64,
        /// The execution of one of them.
        execution: Uuid,
        /// The key of that one.
        key: String,
        /// The error for that one.
        error: String,
    },
    /// Executions in which a run gave a call something else than the run that recorded it.
    NewInput {
        /// The task's name.
        task: String,
        /// How many there are.
        executions: u64,
        /// One of them.
        execution: Uuid,
        /// The key of the call in that one.
        key: String,
    },
    /// Executions that no build could read so far. A start tries them again. A change.
    Left {
        /// The task's name.
        task: String,
        /// How many there are, counted up to 10,000.
        executions: u64,
        /// One of them.
        execution: Uuid,
        /// The error for that one.
        error: String,
    },
    /// A declared schedule that a start would change. A change.
    Schedule {
        /// The task's name.
        task: String,
        /// The schedule's name.
        schedule: String,
        /// The change.
        change: Change,
    },
    /// A dynamic schedule whose payload its task cannot read.
    ScheduledPayload {
        /// The task's name.
        task: String,
        /// The schedule's name.
        schedule: String,
        /// Why it cannot be read.
        error: String,
    },
    /// A dynamic schedule of a task that neither this binary nor a living process has.
    UnknownScheduledTask {
        /// The task's name.
        task: String,
        /// The schedule's name.
        schedule: String,
    },
    /// A task listens to a table or column that does not exist, so this binary would not start.
    RowSource {
        /// The task, its place in the source, and what is missing.
        error: String,
    },
    /// A table lacks the trigger that a task needs. A start creates it, unless it runs with
    /// `--no-ddl`. A change.
    RowTriggerMissing {
        /// The task's name.
        task: String,
        /// The table.
        table: String,
        /// `insert`, `update` or `delete`.
        op: String,
    },
    /// Row changes of the last seven days that could not be passed on.
    RowFault {
        /// The table.
        table: String,
        /// `insert`, `update` or `delete`.
        op: String,
        /// How many statements were affected.
        times: u64,
        /// The error of the last of them.
        error: String,
    },
    /// A subscription to an event that a start would change. A change.
    Subscription {
        /// The task's name.
        task: String,
        /// The event's name.
        event: String,
        /// The change.
        change: Change,
    },
}

/// What a start would do to a declaration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Change {
    /// It adds it.
    Added,
    /// It changes it; the text tells how.
    Changed(String),
    /// It removes it.
    Removed,
}

impl Finding {
    /// Returns whether this is only a change by the start of this binary, as a deploy intends.
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

    /// Returns the subject: a task, a queue, a table or the schema.
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
            | Self::NewInput { task, .. }
            | Self::Left { task, .. }
            | Self::Schedule { task, .. }
            | Self::ScheduledPayload { task, .. }
            | Self::UnknownScheduledTask { task, .. }
            | Self::Subscription { task, .. }
            | Self::RowTriggerMissing { task, .. } => task,
        }
    }

    /// Returns the text without the subject.
    pub fn text(&self) -> String {
        match self {
            Self::SchemaMissing { .. }
            | Self::SchemaOlder { .. }
            | Self::SchemaNewer { .. }
            | Self::SchemaChanged { .. } => self.schema_text(),
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
            Self::Payload { .. }
            | Self::Record { .. }
            | Self::NewInput { .. }
            | Self::Left { .. } => self.stored_text(),
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

    /// Returns the text of what is about the schema.
    fn schema_text(&self) -> String {
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
                match database == binary {
                    true => {
                        "its functions are those of another build; a start brings those of this one"
                            .to_owned()
                    }
                    false => format!("version {database}; a start brings it to {binary}{ends}"),
                }
            }
            Self::SchemaNewer { migration, binary } => format!(
                "version {migration} breaks with programs that do not know it, and this one knows {binary}: it would not start"
            ),
            Self::SchemaChanged { migration } => format!(
                "migration {migration} is not the one that was applied: this program would not start"
            ),
            _ => String::new(),
        }
    }

    /// Returns the text of what is about stored values.
    fn stored_text(&self) -> String {
        match self {
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
            Self::NewInput {
                executions,
                execution,
                key,
                ..
            } => format!(
                "{} in which a later run called with something else than the run that recorded it, such as {key:?} of \
                 {execution}: the handler does not do the same in each run",
                counted(*executions, "execution")
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
            _ => String::new(),
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
