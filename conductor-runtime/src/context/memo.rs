mod beside;
mod branches;
mod errors;
mod wait;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::{Mutex, PoisonError};
use std::task::Waker;

use chrono::{DateTime, Utc};
use serde::Deserialize;
use serde_json::value::RawValue;
use uuid::Uuid;

use super::input::Input;
use crate::codec::MAX_RECORDS_BYTES;
use crate::error::{Error, Result};
use crate::failure::Failure;
use crate::unreadable::Unreadable;

pub(crate) use branches::Decided;
pub(super) use branches::{Given, Micros};
use errors::{GivenError, Unrecorded};
pub(crate) use wait::{Awaited, Child, Stands, Wait, Waiting, Wake};

/// The longest key of a step, in bytes.
const MAX_KEY_BYTES: usize = 500;
/// Separates a key from the index of one of its parts. Keys of users cannot contain it.
pub(crate) const PART: char = '\u{1f}';
/// The kind of the record that a call was given something else in a replay.
pub(crate) const NEW_INPUT: &str = "new input";
/// The kind of a key that has parts.
pub(super) const WHOLE: &str = "invoke_all";

/// All kinds of records and waits.
pub(crate) const KINDS: &[&str] = &[
    "step",
    "transaction",
    "race",
    "failed step",
    "failed transaction",
    "sleep",
    "invoke",
    "event",
    "row",
    "emit",
    "schedule",
    "unschedule",
    NEW_INPUT,
];

/// What an attempt knows of its execution's records, and what it currently does.
#[derive(Debug, Default)]
pub(crate) struct Memo(Mutex<Present>);

#[derive(Debug, Default)]
struct Present {
    /// Records and waits of earlier claims, by key.
    entries: HashMap<String, Entry>,
    /// Keys used in this run, with their kinds.
    met: HashMap<String, &'static str>,
    /// The errors that the handler received and that are not recorded, and the number of all errors so far.
    unrecorded: Vec<Unrecorded>,
    errors: usize,
    /// The errors that are recorded.
    recorded: Vec<GivenError>,
    /// The failures of children that failed.
    children: HashMap<Uuid, Failure>,
    /// The waits that this run is blocked on.
    waits: BTreeMap<String, Wait>,
    /// Waits and sleeps whose futures are alive, or whose results the handler has received.
    asked: HashMap<String, Asked>,
    /// The race branches that are being polled, outermost first, and what each has received.
    branches: Vec<Given>,
    /// How many races are in their first round, in which nothing new may begin.
    looking: usize,
    /// Futures that wait for the end of these rounds.
    held: Vec<Waker>,
    /// Futures that wait for results, by the first of their keys.
    blocked: HashMap<String, Waker>,
    /// The number of step bodies in progress.
    busy: usize,
    /// The kinds and numbers of the bodies that are being polled, outermost first, and the number of all bodies so
    /// far.
    inside: Vec<(&'static str, usize)>,
    bodies: usize,
    stop: Option<Stop>,
    /// The bodies in progress that met an unreadable record and will never end.
    stuck: HashSet<usize>,
    /// The texts of recorded errors of children: the next attempt would receive the same.
    ended_badly: HashSet<String>,
    /// The size of all records, including those of this run.
    bytes: usize,
    /// How many records this run has used.
    records_met: usize,
    /// The key of the first call that was given something else than in the run that recorded it.
    new_input: NewInput,
}

/// What is known of a call that was given something else than in the run that recorded it.
#[derive(Debug, Default)]
enum NewInput {
    #[default]
    None,
    /// It is to be recorded under this key.
    Key(String),
    /// It is recorded. One for each execution is enough.
    Recorded,
}

/// What `conductor.memo` returns if there are too many records to load.
#[derive(Debug, Deserialize)]
struct TooMany {
    records: u64,
    bytes: usize,
}

/// The progress of a wait or a sleep in this run. One whose future was dropped before its result has no entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    Wanted,
    Had,
}

/// Why the records of an execution cannot be loaded.
#[derive(Debug)]
pub(crate) enum Unloadable {
    /// They exceed the limit of one execution.
    TooMany(String),
    /// This build cannot parse them.
    Unreadable(String),
}

/// The result of using a key: its record, if there is one.
pub(super) type Met = Result<Option<Recorded>>;

/// What is recorded under a key.
#[derive(Debug)]
pub(super) struct Recorded {
    value: Box<RawValue>,
    /// Whether the value is a failure, after which the handler continued.
    pub(super) failed: bool,
}

impl Recorded {
    pub(super) fn get(&self) -> &str {
        self.value.get()
    }
}

/// The prefix of the kind of a step that failed.
const FAILED: &str = "failed ";

/// An entry as it was loaded with the claim.
#[derive(Debug)]
struct Entry {
    kind: String,
    /// The fingerprint of what the call was given.
    input: Option<Input>,
    /// `None` while it is still awaited.
    value: Option<Box<RawValue>>,
    /// When it ended.
    at: Option<Micros>,
    /// A wait or a sleep that is not over, or a result that no earlier run has received. It is withdrawn if the
    /// handler no longer asks for it.
    loose: bool,
    /// Whether it belongs to a wait that this run began.
    anew: bool,
    /// Whether it arrived while this run was in progress.
    brought: bool,
}

/// Why a run ends although its handler has not returned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Stop {
    /// A wrong use of keys. Permanent, even if the handler ignores the error.
    Fatal(String),
    /// The claim is lost; nothing may be written any more.
    Lost,
    /// The process shuts down.
    Released,
    /// The task's window has closed; it opens again at this time.
    Closed(DateTime<Utc>),
    /// Something stored cannot be read by this build; another build may continue.
    Unreadable(Unreadable),
}

/// What the worker finds when a handler makes no progress by itself.
#[derive(Debug)]
pub(crate) enum Blocked {
    Stopped(Stop),
    /// Every branch waits.
    Waiting(Waiting),
}

impl Memo {
    /// Parses the result of `conductor.memo`, or returns why that is not possible.
    pub(crate) fn load(json: Option<&str>) -> std::result::Result<Self, Unloadable> {
        let Some(json) = json else {
            return Ok(Self::default());
        };
        let too_many = json
            .starts_with('{')
            .then(|| serde_json::from_str::<TooMany>(json));
        match too_many {
            Some(Ok(too_many)) => Err(Unloadable::TooMany(format!(
                "its {} records have {} together, and one execution may have {}, so they cannot be loaded. Let its \
                 steps, children and events bring less: store the data elsewhere and pass a reference",
                too_many.records,
                size(too_many.bytes),
                size(MAX_RECORDS_BYTES)
            ))),
            _ => Self::read(json).map_err(|error| Unloadable::Unreadable(error.to_string())),
        }
    }

    /// Parses an array of `[key, kind]` or `[key, kind, value, fresh, at]`.
    fn read(json: &str) -> serde_json::Result<Self> {
        let rows: Vec<Vec<Box<RawValue>>> = serde_json::from_str(json)?;
        let mut entries = HashMap::with_capacity(rows.len());
        let mut new_input = NewInput::None;
        for row in rows {
            let mut columns = row.into_iter();
            if let (Some(key), Some(kind)) = (columns.next(), columns.next()) {
                let kind: String = serde_json::from_str(kind.get())?;
                if kind == NEW_INPUT {
                    new_input = NewInput::Recorded;
                    continue;
                }
                let (kind, input) = match kind.split_once('#') {
                    Some((kind, input)) => (kind.to_owned(), input.parse().ok().map(Input)),
                    None => (kind, None),
                };
                let value = columns.next();
                let fresh = columns.next().is_some_and(|fresh| fresh.get() == "true");
                let at = columns.next().and_then(|at| at.get().parse().ok());
                let entry = Entry {
                    loose: is_loose(&kind) && (value.is_none() || fresh),
                    kind,
                    input,
                    value,
                    at,
                    anew: false,
                    brought: false,
                };
                let key: String = serde_json::from_str(key.get())?;
                if let Some((whole, _)) = key.split_once(PART) {
                    // Only the parts are stored, but the whole has a kind of its own.
                    entries.entry(whole.to_owned()).or_insert(Entry {
                        kind: WHOLE.to_owned(),
                        input: None,
                        value: None,
                        at: None,
                        loose: false,
                        anew: false,
                        brought: false,
                    });
                }
                entries.insert(key, entry);
            }
        }
        Ok(Self(Mutex::new(Present {
            entries,
            bytes: json.len(),
            new_input,
            ..Present::default()
        })))
    }

    /// Counts a value that is about to be recorded. Returns an error if the next claim could then not load all
    /// records.
    pub(super) fn count(&self, key: &str, bytes: usize) -> Result<()> {
        let mut present = self.present();
        // As the column `bytes` of `conductor.steps` counts it, which includes what surrounds a value.
        let total = present.bytes + bytes + key.len() + 60;
        if total > MAX_RECORDS_BYTES {
            return Err(Error::Step {
                key: shown(key),
                reason: format!(
                    "its value has {}, with which the records of this execution pass the {} that one may have; they \
                     have {} by now. Store the data elsewhere and record a reference",
                    size(bytes),
                    size(MAX_RECORDS_BYTES),
                    size(present.bytes)
                ),
            });
        }
        present.bytes = total;
        Ok(())
    }

    /// Marks a key as used in this run, and returns its record, if there is one.
    ///
    /// If the key is used twice, was recorded with another kind, or is not a valid key, the execution fails, whatever
    /// the handler does with the error.
    pub(super) fn meet(&self, key: &str, kind: &'static str) -> Met {
        self.meet_unless(check_key(key).err(), key, kind)
    }

    /// Does the same for a part of a key that is marked itself.
    pub(super) fn meet_part(&self, part: &str, kind: &'static str) -> Met {
        self.meet_unless(None, part, kind)
    }

    fn meet_unless(&self, refused: Option<Error>, key: &str, kind: &'static str) -> Met {
        let mut present = self.present();
        let refused = refused.or_else(|| {
            if let Some(first) = present.met.get(key) {
                return Some(Error::KeyUsedTwice {
                    key: shown(key),
                    first,
                    second: kind,
                });
            }
            let recorded = &present.entries.get(key)?.kind;
            let recorded = recorded.strip_prefix(FAILED).unwrap_or(recorded);
            (recorded != kind).then(|| Error::KeyChanged {
                key: shown(key),
                recorded: recorded.to_owned(),
                now: kind,
            })
        });
        if let Some(error) = refused {
            present.stop.get_or_insert(Stop::Fatal(error.to_string()));
            return Err(error);
        }
        debug_assert!(
            kind == WHOLE || KINDS.contains(&kind),
            "{kind} is in no list"
        );
        present.met.insert(key.to_owned(), kind);
        let Some(entry) = present.entries.get_mut(key) else {
            return Ok(None);
        };
        let failed = entry.kind.starts_with(FAILED);
        let Some(value) = entry.value.take() else {
            return Ok(None);
        };
        present.records_met += 1;
        Ok(Some(Recorded { value, failed }))
    }

    /// Compares what a call is given with what it was given in the run that recorded it. Returns its kind if that was
    /// something else and it is the first such call of the execution.
    pub(super) fn note_input(&self, key: &str, input: Option<Input>) -> Option<String> {
        let mut present = self.present();
        let entry = present.entries.get(key)?;
        if entry.input? == input? || !matches!(present.new_input, NewInput::None) {
            return None;
        }
        let kind = entry.kind.clone();
        present.new_input = NewInput::Key(shown(key));
        Some(kind)
    }

    /// Returns the key of that call once.
    pub(super) fn take_new_input(&self) -> Option<String> {
        let new = &mut self.present().new_input;
        match std::mem::replace(new, NewInput::Recorded) {
            NewInput::Key(key) => Some(key),
            other => {
                *new = other;
                None
            }
        }
    }

    /// Does the same as [`meet`](Self::meet) for calls without a key: repeated names are numbered.
    pub(super) fn meet_unnamed(&self, name: String, kind: &'static str) -> (String, Met) {
        let taken = |key: &str| self.present().met.contains_key(key);
        let mut key = name.clone();
        let mut number = 1;
        while taken(&key) {
            number += 1;
            key = format!("{name} ({number})");
        }
        let met = self.meet(&key, kind);
        (key, met)
    }

    /// Registers a wait. A wait inside a body is an error: the body prevents suspension, so neither would end.
    pub(super) fn wait(&self, key: &str, wait: Wait) {
        let mut present = self.present();
        if let Some((within, _)) = present.inside.last() {
            let error = Error::Nested {
                key: shown(key),
                kind: wait.kind,
                within,
            };
            present.stop.get_or_insert(Stop::Fatal(error.to_string()));
        }
        present.waits.insert(key.to_owned(), wait);
    }

    /// Polls the body of a step or a transaction; `number` identifies it.
    pub(super) async fn inside<F: Future>(
        &self,
        kind: &'static str,
        number: usize,
        body: F,
    ) -> F::Output {
        let mut body = pin!(body);
        let _body = Body { memo: self, number };
        poll_fn(|cx| {
            self.present().inside.push((kind, number));
            let polled = body.as_mut().poll(cx);
            self.present().inside.pop();
            polled
        })
        .await
    }

    /// Returns the number for the next body.
    pub(super) fn next_body(&self) -> usize {
        let mut present = self.present();
        present.bodies += 1;
        present.bodies
    }

    /// Returns whether the caller is being polled by a body.
    pub(super) fn is_inside(&self) -> bool {
        !self.present().inside.is_empty()
    }

    /// Returns an error if the key is used in a body of its own kind. Permanent.
    pub(super) fn outside(&self, key: &str, kind: &'static str) -> Result<()> {
        let mut present = self.present();
        if !present.inside.iter().any(|(inside, _)| *inside == kind) {
            return Ok(());
        }
        let error = Error::Nested {
            key: shown(key),
            kind,
            within: kind,
        };
        present.stop.get_or_insert(Stop::Fatal(error.to_string()));
        Err(error)
    }

    pub(super) fn note_bad_end(&self, error: &Error) {
        self.present().ended_badly.insert(error.to_string());
    }

    /// Returns whether this is the error of a child whose end is recorded, which the handler passes on.
    pub(crate) fn is_recorded(&self, error: &anyhow::Error) -> bool {
        let present = self.present();
        if present.ended_badly.is_empty() {
            return false;
        }
        // The text names the child, and is found even if a wrapper hides the type. Only the root cause is searched:
        // the error of a child as context of another cause is not passed on.
        let root = error.root_cause().to_string();
        (present.ended_badly.iter()).any(|recorded| root.contains(recorded))
    }

    pub(super) fn withdraw(&self, key: &str) {
        let mut present = self.present();
        present.waits.remove(key);
        present.blocked.remove(key);
    }

    fn ask(&self, key: &str, asked: Asked) {
        let mut present = self.present();
        present.asked.insert(key.to_owned(), asked);
        if asked == Asked::Had {
            for branch in &mut present.branches {
                branch.keys.push(key.to_owned());
            }
        }
    }

    fn no_longer(&self, key: &str) {
        let mut present = self.present();
        if present.asked.get(key) == Some(&Asked::Wanted) {
            present.asked.remove(key);
        }
    }

    pub(super) fn stop(&self, stop: Stop) {
        let mut present = self.present();
        // A lost claim forbids the writes that other reasons still allow; otherwise the first reason wins.
        if stop == Stop::Lost || present.stop.is_none() {
            present.stop = Some(stop);
        }
    }

    /// Ends the run without an outcome. The caller waits forever, so that its handler cannot continue.
    pub(super) async fn leave<T>(&self, unreadable: Unreadable) -> T {
        {
            let mut present = self.present();
            let Present { inside, stuck, .. } = &mut *present;
            stuck.extend(inside.iter().map(|(_, number)| *number));
        }
        self.stop(Stop::Unreadable(unreadable));
        std::future::pending().await
    }

    /// Returns whether the run has met a record that this build cannot read.
    pub(super) fn is_left(&self) -> bool {
        matches!(self.present().stop, Some(Stop::Unreadable(_)))
    }

    /// Prevents suspension while the guard is alive.
    pub(crate) fn busy(&self) -> Busy<'_> {
        self.present().busy += 1;
        Busy(self)
    }

    /// Checked after each poll of the handler, whether it returned `Pending` or ended.
    pub(crate) fn blocked(&self) -> Option<Blocked> {
        let present = self.present();
        match &present.stop {
            // A step that has begun may end first. Stuck ones never will, so they do not count.
            Some(Stop::Released | Stop::Closed(_) | Stop::Unreadable(_))
                if present.busy > present.stuck.len() =>
            {
                return None;
            }
            Some(stop) => return Some(Blocked::Stopped(stop.clone())),
            None => {}
        }
        if present.busy == 0 && !present.waits.is_empty() {
            return Some(Blocked::Waiting(Waiting {
                waits: present.waits.clone(),
                withdrawn: present.unwanted(),
                had: present.had_in_place(),
                met: present.records_met,
                astray: present.astray(),
            }));
        }
        None
    }

    pub(crate) fn stopped(&self) -> Option<Stop> {
        self.present().stop.clone()
    }

    fn present(&self) -> std::sync::MutexGuard<'_, Present> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entry {
    /// An entry for a wait that has no result yet.
    fn awaited(kind: &str) -> Self {
        Self {
            kind: kind.to_owned(),
            input: None,
            value: None,
            at: None,
            loose: is_loose(kind),
            anew: true,
            brought: false,
        }
    }
}

/// Returns whether a record of this kind is withdrawn if the handler does not ask for it.
fn is_loose(kind: &str) -> bool {
    matches!(kind, "event" | "row" | "sleep")
}

impl Present {
    fn standing(&self, stands: Stands) -> impl Iterator<Item = (&String, &Wait)> {
        (self.waits.iter()).filter(move |(_, wait)| wait.stands == stands)
    }

    fn give_at(&mut self, at: Option<Micros>) {
        for branch in &mut self.branches {
            branch.at = branch.at.max(at);
        }
    }

    /// Returns the first key of an earlier result that this run did not ask for, if the run waits for something new.
    fn astray(&self) -> Option<String> {
        let known = |key: &String| self.entries.get(key).is_some_and(|entry| !entry.anew);
        if self.waits.keys().all(known) {
            return None;
        }
        let waited_for = |entry: &Entry| is_loose(&entry.kind) || entry.kind == "invoke";
        (self.entries.iter())
            .filter(|(key, entry)| {
                entry.value.is_some() && waited_for(entry) && !self.met.contains_key(*key)
            })
            .map(|(key, _)| shown(key))
            .min()
    }

    /// Returns the keys of results that arrived during this run and that the handler has received.
    fn had_in_place(&self) -> Vec<String> {
        (self.entries.iter())
            .filter(|(key, entry)| {
                entry.brought && entry.loose && self.asked.get(*key) == Some(&Asked::Had)
            })
            .map(|(key, _)| key.clone())
            .collect()
    }

    /// Returns the keys that are stored and that the handler does not ask for: waits of branches that lost a race or
    /// were dropped, and keys that the code no longer has. Complete only once every branch waits.
    fn unwanted(&self) -> Vec<String> {
        (self.entries.iter())
            .filter(|(key, entry)| entry.loose && !self.asked.contains_key(*key))
            .map(|(key, _)| key.clone())
            .collect()
    }
}

/// A wait or a sleep that the handler asks for until this is dropped.
#[derive(Debug)]
pub(super) struct Wanted<'m> {
    memo: &'m Memo,
    key: String,
}

impl<'m> Wanted<'m> {
    pub(super) fn new(memo: &'m Memo, key: &str) -> Self {
        memo.ask(key, Asked::Wanted);
        Self {
            memo,
            key: key.to_owned(),
        }
    }

    /// Notes that the handler receives the result.
    pub(super) fn had(&self) {
        self.memo.ask(&self.key, Asked::Had);
        self.memo.give(&self.key);
    }
}

impl Drop for Wanted<'_> {
    fn drop(&mut self) {
        self.memo.no_longer(&self.key);
    }
}

/// A body in progress. A body that was dropped is no longer stuck.
#[derive(Debug)]
struct Body<'m> {
    memo: &'m Memo,
    number: usize,
}

impl Drop for Body<'_> {
    fn drop(&mut self) {
        self.memo.present().stuck.remove(&self.number);
    }
}

/// A guard for a step body in progress.
#[derive(Debug)]
pub(crate) struct Busy<'m>(&'m Memo);

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.present().busy -= 1;
    }
}

/// Formats a number of bytes for people.
pub(crate) fn size(bytes: usize) -> String {
    match bytes {
        0..10_240 => format!("{bytes} bytes"),
        10_240..10_485_760 => format!("{} KiB", bytes / 1024),
        _ => format!("{} MiB", bytes / (1024 * 1024)),
    }
}

fn check_key(key: &str) -> Result<()> {
    let reason = if key.is_empty() {
        "it is empty".to_owned()
    } else if key.len() > MAX_KEY_BYTES {
        format!("it has {} bytes; {MAX_KEY_BYTES} are allowed", key.len())
    } else if key.chars().any(char::is_control) {
        "it contains a control character".to_owned()
    } else {
        return Ok(());
    };
    Err(Error::Key {
        key: key.chars().take(40).collect(),
        reason,
    })
}

/// Formats a key for people: parts of `invoke_all` have an index.
fn shown(key: &str) -> String {
    match key.split_once(PART) {
        Some((whole, part)) => format!("{whole}[{part}]"),
        None => key.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_key_is_met_once_and_keeps_its_kind() {
        let memo = Memo::load(Some(
            r#"[["a","step",0],["b","sleep",null],["c","invoke"]]"#,
        ))
        .unwrap();
        assert_eq!(memo.meet("a", "step").unwrap().unwrap().get(), "0");
        assert_eq!(memo.meet("b", "sleep").unwrap().unwrap().get(), "null");
        assert!(memo.meet("c", "invoke").unwrap().is_none());
        assert!(memo.meet("d", "step").unwrap().is_none());
        let text = memo.meet("d", "sleep").unwrap_err().to_string();
        assert!(text.contains("\"d\"") && text.contains("step") && text.contains("sleep"));
        assert!(matches!(
            memo.blocked(),
            Some(Blocked::Stopped(Stop::Fatal(_)))
        ));
    }

    #[test]
    fn another_kind_on_replay_is_fatal() {
        let memo = Memo::load(Some(r#"[["a","step",0]]"#)).unwrap();
        assert!(memo.meet("a", "sleep").is_err());
        assert!(memo.stopped().is_some());
    }

    #[test]
    fn a_key_that_had_parts_stays_one_that_has() {
        let loaded = r#"[["many\u001f0","invoke",1],["many\u001f1","invoke"]]"#;
        let memo = Memo::load(Some(loaded)).unwrap();
        assert!(memo.meet("many", WHOLE).unwrap().is_none());
        assert!(memo.meet_part("many\u{1f}0", "invoke").unwrap().is_some());
        let memo = Memo::load(Some(loaded)).unwrap();
        let text = memo.meet("many", "step").unwrap_err().to_string();
        assert!(text.contains("\"many\"") && text.contains(WHOLE), "{text}");
    }

    #[test]
    fn records_have_a_limit_together() {
        let mib = 1024 * 1024;
        let memo = Memo::load(Some(r#"[["a","step",0]]"#)).unwrap();
        for n in 0..17 {
            let counted = memo.count(&format!("page {n}"), 15 * mib);
            assert!(counted.is_ok(), "{n}: {counted:?}");
        }
        let text = memo.count("page 17", 15 * mib).unwrap_err().to_string();
        for part in ["\"page 17\"", "15 MiB", "256 MiB", "255 MiB", "a reference"] {
            assert!(text.contains(part), "{text}");
        }
        // A small one still fits.
        assert!(memo.count("end", 10).is_ok());
        let loaded = Memo::load(Some(r#"{"records":72,"bytes":1132462080}"#));
        let Err(Unloadable::TooMany(text)) = loaded else {
            panic!("{loaded:?}");
        };
        assert!(text.contains("72 records have 1080 MiB"), "{text}");
    }

    #[tokio::test]
    async fn a_body_that_is_stuck_lets_the_others_end() {
        let memo = Memo::default();
        let pay = memo.busy();
        {
            let outer = memo.busy();
            let unreadable = || Unreadable::new("a record", "it is new");
            // Two unreadable records in one body count as one stuck body.
            let both = async {
                tokio::join!(
                    memo.leave::<()>(unreadable()),
                    memo.leave::<()>(unreadable())
                )
            };
            let mut body = pin!(memo.inside("step", memo.next_body(), both));
            let polled = poll_fn(|cx| std::task::Poll::Ready(body.as_mut().poll(cx))).await;
            assert!(polled.is_pending() && memo.is_left());
            assert!(
                memo.blocked().is_none(),
                "it is over while another body is under way"
            );
            drop(pay);
            assert!(matches!(
                memo.blocked(),
                Some(Blocked::Stopped(Stop::Unreadable(_)))
            ));
            drop(outer);
        }
        assert!(memo.present().stuck.is_empty());
    }

    #[test]
    fn keys_that_cannot_be_are_refused() {
        for key in ["", "a\0b", "a\u{1f}0", &"x".repeat(501)] {
            assert!(Memo::default().meet(key, "step").is_err());
        }
    }
}
