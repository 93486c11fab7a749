//! The payload on a command line, as fields or as JSON.

use std::ffi::{OsStr, OsString};
use std::io::{self, Read};

use conductor_runtime::client::Conductor;
use conductor_runtime::registry::Registry;
use serde_json::Value;
use serde_json::value::RawValue;

use super::arguments::PayloadArguments;
use super::fault::{Done, FAILED, Fault, USAGE};
use super::{fields, tasks};

/// A payload, as far as it can be read without a database.
pub(crate) struct Payload<'a> {
    task: &'a str,
    /// The part of the usage line before the fields.
    call: &'a str,
    fields: &'a [OsString],
    json: Option<String>,
}

impl<'a> Payload<'a> {
    /// Reads the payload by the schema of this program's task, if this program has the task.
    pub(crate) fn of(task: &'a str, given: &'a PayloadArguments, call: &'a str) -> Done<Self> {
        let mut payload = Self {
            task,
            call,
            fields: &given.fields,
            json: given.json.as_deref().map(whole).transpose()?,
        };
        if let Some(task) = Registry::global().get(task) {
            let schema = task.payload_schema();
            payload.json = Some(match payload.json.take() {
                Some(json) => payload.checked(json, &schema)?,
                None => payload.read(&schema)?,
            });
        }
        Ok(payload)
    }

    /// Returns the payload as JSON. For a task that this program does not have, reads it by the stored schema.
    pub(crate) async fn json(self, conductor: &Conductor) -> Done<String> {
        let known = Registry::global().get(self.task).is_some();
        match self.json {
            Some(json) if known => Ok(json),
            given => match (conductor.inspect().payload_schema(self.task).await?, given) {
                (None, _) => Err(tasks::unknown(conductor, self.task).await?.into()),
                (Some(schema), given) => {
                    let payload = Self { json: None, ..self };
                    match given {
                        Some(json) => payload.checked(json, &schema),
                        None => payload.read(&schema),
                    }
                }
            },
        }
    }

    fn checked(&self, json: String, schema: &Value) -> Done<String> {
        let of = format!("task {:?}", self.task);
        checked(json, &of, self.call, schema)
    }

    /// Returns the fields as JSON, or an error with everything that is wrong with them.
    fn read(&self, schema: &Value) -> Done<String> {
        fields::payload(schema, self.fields).map_err(|problems| {
            let problems: Vec<String> = problems.iter().map(|p| format!("\n  - {p}")).collect();
            Fault::new(
                USAGE,
                format!(
                    "the payload does not fit task {:?}:{}\n  Usage: {} {}",
                    self.task,
                    problems.concat(),
                    self.call,
                    fields::usage(schema)
                ),
            )
        })
    }
}

/// Returns the text given as `--json` if it is valid JSON. The library checks whether it fits the task.
pub(crate) fn checked(json: String, of: &str, call: &str, schema: &Value) -> Done<String> {
    let Err(error) = serde_json::from_str::<&RawValue>(&json) else {
        return Ok(json);
    };
    let wanted = match fields::usage(schema) {
        wanted if wanted.is_empty() => "null".to_owned(),
        wanted => wanted,
    };
    Err(Fault::new(
        USAGE,
        format!(
            "--json wants the payload of {of} as JSON, and this is none: {error}\n  The payload: {wanted}\n  \
             Usage: {call} --json '{}'",
            fields::sample_json(schema)
        ),
    ))
}

/// Returns the payload given as `--json`, read from standard input for `-`.
pub(crate) fn whole(json: &OsStr) -> Done<String> {
    let not_text = || Fault::new(USAGE, "the payload of --json is not valid UTF-8");
    if json != "-" {
        return Ok(json.to_str().ok_or_else(not_text)?.to_owned());
    }
    let mut bytes = Vec::new();
    io::stdin()
        .lock()
        .read_to_end(&mut bytes)
        .map_err(|error| Fault::new(FAILED, format!("cannot read standard input: {error}")))?;
    String::from_utf8(bytes).map_err(|_| not_text())
}
