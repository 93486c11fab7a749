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

use crate::codec::MAX_RECORDS_BYTES;
use crate::error::{Error, Result};
use crate::failure::Failure;
use crate::unreadable::Unreadable;

pub(crate) use branches::Decided;
pub(super) use branches::{Given, Micros};
use errors::{GivenError, Unrecorded};
pub(crate) use wait::{Awaited, Child, Stands, Wait, Waiting, Wake};

/// Longest key of a step, in bytes.
const MAX_KEY_BYTES: usize = 500;
/// Stands between a key and the number of one of its parts; no key of a user may contain it.
pub(crate) const PART: char = '\u{1f}';
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
];

/// What an attempt knows of its execution's past, and what it does at the moment.
#[derive(Debug, Default)]
pub(crate) struct Memo(Mutex<Present>);

#[derive(Debug, Default)]
struct Present {
    /// From earlier claims.
    entries: HashMap<String, Entry>,
    /// Keys met in this run, with their kinds.
    met: HashMap<String, &'static str>,
    /// The errors that the handler was given and that are not recorded, and how many there were in all.
    unrecorded: Vec<Unrecorded>,
    errors: usize,
    /// The errors that are recorded.
    recorded: Vec<GivenError>,
    /// The failures of children that ended in one.
    children: HashMap<Uuid, Failure>,
    /// What this run is blocked on.
    waits: BTreeMap<String, Wait>,
    /// Waits and sleeps whose futures live, or which the handler has had.
    asked: HashMap<String, Asked>,
    /// The branches of races that are being polled, outermost first, and what each of them is given.
    branches: Vec<Given>,
    /// How many races look at what is over already: nothing new begins meanwhile.
    looking: usize,
    /// What waits for their end.
    held: Vec<Waker>,
    /// What waits for something to come, by the first of its keys.
    blocked: HashMap<String, Waker>,
    /// Step bodies that are under way.
    busy: usize,
    /// The kinds and numbers of the bodies that are being polled, outermost first, and how many there were.
    inside: Vec<(&'static str, usize)>,
    bodies: usize,
    stop: Option<Stop>,
    /// The bodies under way that have met what cannot be read, and would never end.
    stuck: HashSet<usize>,
    /// The texts of recorded ends of children that were errors: the next attempt would meet the same.
    ended_badly: HashSet<String>,
    /// Of all records, those of this run included.
    bytes: usize,
    /// How many records this run has met.
    records_met: usize,
}

/// What `conductor.memo` gives instead of records that are too many to be loaded.
#[derive(Debug, Deserialize)]
struct TooMany {
    records: u64,
    bytes: usize,
}

/// How far a wait or a sleep of this run has come. One whose future was dropped before is not asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    Wanted,
    Had,
}

/// Why the records of an execution cannot be loaded.
#[derive(Debug)]
pub(crate) enum Unloadable {
    /// They pass the limit of one execution.
    TooMany(String),
    /// This build does not understand them.
    Unreadable(String),
}

/// What meeting a key gives: what is recorded, where something is.
pub(super) type Met = Result<Option<Recorded>>;

/// What is recorded under a key.
#[derive(Debug)]
pub(super) struct Recorded {
    value: Box<RawValue>,
    /// The value is a failure, which the handler went on from.
    pub(super) failed: bool,
}

impl Recorded {
    pub(super) fn get(&self) -> &str {
        self.value.get()
    }
}

/// Stands before the kind of a step that has failed.
const FAILED: &str = "failed ";

/// An entry as it was loaded with the claim.
#[derive(Debug)]
struct Entry {
    kind: String,
    /// None while it is still waited for.
    value: Option<Box<RawValue>>,
    /// When it was over.
    at: Option<Micros>,
    /// A wait or a sleep that is not over, or what came to a wait and no earlier run has had: it goes when
    /// the handler does not want it any more.
    loose: bool,
    /// Of a wait that this run has begun.
    anew: bool,
    /// It came while this run went on.
    brought: bool,
}

/// Why a run ends although its handler has not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Stop {
    /// A mistake in the use of keys: permanent, whatever the handler does with the error.
    Fatal(String),
    /// The claim is lost; nothing may be written any more.
    Lost,
    /// The process shuts down.
    Released,
    /// The task's window has closed, and opens again then.
    Closed(DateTime<Utc>),
    /// Another build may go on.
    Unreadable(Unreadable),
}

/// What the worker finds when a handler does not go on by itself.
#[derive(Debug)]
pub(crate) enum Blocked {
    Stopped(Stop),
    /// Every branch waits.
    Waiting(Waiting),
}

impl Memo {
    /// Reads what `conductor.memo` gives, or says why it cannot.
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

    /// Reads an array of `[key, kind]` or `[key, kind, value, fresh, at]`.
    fn read(json: &str) -> serde_json::Result<Self> {
        let rows: Vec<Vec<Box<RawValue>>> = serde_json::from_str(json)?;
        let mut entries = HashMap::with_capacity(rows.len());
        for row in rows {
            let mut columns = row.into_iter();
            if let (Some(key), Some(kind)) = (columns.next(), columns.next()) {
                let kind: String = serde_json::from_str(kind.get())?;
                let value = columns.next();
                let fresh = columns.next().is_some_and(|fresh| fresh.get() == "true");
                let at = columns.next().and_then(|at| at.get().parse().ok());
                let entry = Entry {
                    loose: is_loose(&kind) && (value.is_none() || fresh),
                    kind,
                    value,
                    at,
                    anew: false,
                    brought: false,
                };
                let key: String = serde_json::from_str(key.get())?;
                if let Some((whole, _)) = key.split_once(PART) {
                    // Only the parts are stored; the whole has a kind of its own all the same.
                    entries.entry(whole.to_owned()).or_insert(Entry {
                        kind: WHOLE.to_owned(),
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
            ..Present::default()
        })))
    }

    /// Counts a value that is about to be recorded; refuses one with which the next claim could not load all.
    pub(super) fn count(&self, key: &str, bytes: usize) -> Result<()> {
        let mut present = self.present();
        // As the column `bytes` of `conductor.steps` counts it: what stands around a value comes with it.
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

    /// Claims a key for this run; gives the recorded value, where there is one.
    ///
    /// A key that is met twice, that was recorded with another kind, or that cannot be a key ends
    /// the execution, whatever the handler does with the error.
    pub(super) fn meet(&self, key: &str, kind: &'static str) -> Met {
        self.meet_unless(check_key(key).err(), key, kind)
    }

    /// The same for a part of a key that was met itself.
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

    /// As [`meet`](Self::meet), for calls that name no key: the second one of a name is numbered.
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

    /// A body holds off suspension, so what waits inside of one would wait for ever.
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

    /// Awaits the body of a step or a transaction, which has a number.
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

    /// The number of a body that is to begin.
    pub(super) fn next_body(&self) -> usize {
        let mut present = self.present();
        present.bodies += 1;
        present.bodies
    }

    /// Whether the caller is polled by a body.
    pub(super) fn is_inside(&self) -> bool {
        !self.present().inside.is_empty()
    }

    /// Refuses a key in the body of its own kind. Permanent.
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

    /// Whether this is the error of a child whose end is recorded, and which the handler passes on.
    pub(crate) fn is_recorded(&self, error: &anyhow::Error) -> bool {
        let present = self.present();
        if present.ended_badly.is_empty() {
            return false;
        }
        // The text names the child, and stays where a wrapping hides the type. Not what stands around another cause.
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
        // A lost claim forbids what the other reasons still write; else the first one counts.
        if stop == Stop::Lost || present.stop.is_none() {
            present.stop = Some(stop);
        }
    }

    /// Ends the run without an end: the caller, whose handler is not asked, waits for ever.
    pub(super) async fn leave<T>(&self, unreadable: Unreadable) -> T {
        {
            let mut present = self.present();
            let Present { inside, stuck, .. } = &mut *present;
            stuck.extend(inside.iter().map(|(_, number)| *number));
        }
        self.stop(Stop::Unreadable(unreadable));
        std::future::pending().await
    }

    /// Whether the run has met what this build cannot read.
    pub(super) fn is_left(&self) -> bool {
        matches!(self.present().stop, Some(Stop::Unreadable(_)))
    }

    /// Holds off suspension for as long as the guard lives.
    pub(crate) fn busy(&self) -> Busy<'_> {
        self.present().busy += 1;
        Busy(self)
    }

    /// Looked at when a poll of the handler gave `Pending`, or its end.
    pub(crate) fn blocked(&self) -> Option<Blocked> {
        let present = self.present();
        match &present.stop {
            // A step that has begun may end; those that are stuck never do.
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
    /// Of a wait whose value has not come.
    fn awaited(kind: &str) -> Self {
        Self {
            kind: kind.to_owned(),
            value: None,
            at: None,
            loose: is_loose(kind),
            anew: true,
            brought: false,
        }
    }
}

/// Whether a record of this kind goes if the handler does not want it any more.
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

    /// The first key of what came before this run and was not asked for, where the run waits for something new.
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

    /// What came while this run went on and the handler has had.
    fn had_in_place(&self) -> Vec<String> {
        (self.entries.iter())
            .filter(|(key, entry)| {
                entry.brought && entry.loose && self.asked.get(*key) == Some(&Asked::Had)
            })
            .map(|(key, _)| key.clone())
            .collect()
    }

    /// What is stored and the handler does not ask for: the waits of what lost a race or was dropped, and
    /// those whose keys the code has no longer. Where every branch waits, all that it asks for is known.
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

    /// The handler is given what came.
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

/// A body that is awaited; what was dropped is not stuck any more.
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

/// A step body under way.
#[derive(Debug)]
pub(crate) struct Busy<'m>(&'m Memo);

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.present().busy -= 1;
    }
}

/// Bytes for people.
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

/// A key as people know it: the parts of `invoke_all` are numbered.
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
            // Two of one body are one that is stuck.
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
