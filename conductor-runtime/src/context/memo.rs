use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::value::RawValue;
use uuid::Uuid;

use crate::error::{Error, Result};

/// Longest key of a step, in bytes.
const MAX_KEY_BYTES: usize = 500;
/// Stands between a key and the number of one of its parts; no key of a user may contain it.
pub(super) const PART: char = '\u{1f}';

/// What an attempt knows of its execution's past, and what it does at the moment.
#[derive(Debug, Default)]
pub(crate) struct Memo(Mutex<Present>);

#[derive(Debug, Default)]
struct Present {
    /// From earlier claims.
    entries: HashMap<String, Entry>,
    /// Keys met in this run, with their kinds.
    met: HashMap<String, &'static str>,
    /// What this run is blocked on.
    waits: BTreeMap<String, Wait>,
    /// Step bodies that are under way.
    busy: usize,
    stop: Option<Stop>,
}

/// What meeting a key gives: the recorded value, where there is one.
pub(super) type Met = Result<Option<Box<RawValue>>>;

/// An entry as it was loaded with the claim.
#[derive(Debug)]
struct Entry {
    kind: String,
    /// None while it is still waited for.
    value: Option<Box<RawValue>>,
}

/// What an execution waits for.
#[derive(Debug, Clone)]
pub(crate) struct Wait {
    pub(crate) kind: &'static str,
    /// Waits of one group are of use only together.
    pub(crate) group: String,
    pub(crate) wake: Option<Wake>,
    pub(crate) child: Option<Child>,
}

impl Wait {
    /// About how much it adds to a message.
    pub(crate) fn bytes(&self) -> usize {
        64 + self.group.len() + self.child.as_ref().map_or(0, |child| child.payload.len())
    }
}

/// When a wait is over, by the database's clock.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Wake {
    In(Duration),
    At(DateTime<Utc>),
}

/// A child that is to be made.
#[derive(Debug, Clone)]
pub(crate) struct Child {
    pub(crate) id: Uuid,
    pub(crate) task: &'static str,
    pub(crate) payload: String,
    pub(crate) detached: bool,
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
}

/// What the worker finds when a handler does not go on by itself.
#[derive(Debug)]
pub(crate) enum Blocked {
    Stopped(Stop),
    /// Every branch waits.
    Waiting(BTreeMap<String, Wait>),
}

impl Memo {
    /// Reads what `conductor.memo` gives: an array of `[key, kind]` or `[key, kind, value]`.
    pub(crate) fn load(json: Option<&str>) -> serde_json::Result<Self> {
        let Some(json) = json else {
            return Ok(Self::default());
        };
        let rows: Vec<Vec<Box<RawValue>>> = serde_json::from_str(json)?;
        let mut entries = HashMap::with_capacity(rows.len());
        for row in rows {
            let mut columns = row.into_iter();
            if let (Some(key), Some(kind)) = (columns.next(), columns.next()) {
                let entry = Entry {
                    kind: serde_json::from_str(kind.get())?,
                    value: columns.next(),
                };
                entries.insert(serde_json::from_str(key.get())?, entry);
            }
        }
        Ok(Self(Mutex::new(Present {
            entries,
            ..Present::default()
        })))
    }

    /// Claims a key for this run; gives the recorded value, where there is one.
    ///
    /// A key that is met twice, that was recorded with another kind, or that cannot be a key ends
    /// the execution, whatever the handler does with the error.
    pub(super) fn meet(&self, key: &str, kind: &'static str) -> Met {
        let mut present = self.present();
        let refused = check_key(key).err().or_else(|| {
            if let Some(first) = present.met.get(key) {
                return Some(Error::KeyUsedTwice {
                    key: shown(key),
                    first,
                    second: kind,
                });
            }
            let recorded = &present.entries.get(key)?.kind;
            (recorded != kind).then(|| Error::KeyChanged {
                key: shown(key),
                recorded: recorded.clone(),
                now: kind,
            })
        });
        if let Some(error) = refused {
            present.stop.get_or_insert(Stop::Fatal(error.to_string()));
            return Err(error);
        }
        present.met.insert(key.to_owned(), kind);
        Ok(present
            .entries
            .get_mut(key)
            .and_then(|entry| entry.value.take()))
    }

    pub(super) fn wait(&self, key: &str, wait: Wait) {
        self.present().waits.insert(key.to_owned(), wait);
    }

    pub(super) fn withdraw(&self, key: &str) {
        self.present().waits.remove(key);
    }

    pub(super) fn stop(&self, stop: Stop) {
        let mut present = self.present();
        // A lost claim forbids what the other reasons still write; else the first one counts.
        if stop == Stop::Lost || present.stop.is_none() {
            present.stop = Some(stop);
        }
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
            // A step that has begun may end.
            Some(Stop::Released) if present.busy > 0 => return None,
            Some(stop) => return Some(Blocked::Stopped(stop.clone())),
            None => {}
        }
        if present.busy == 0 && !present.waits.is_empty() {
            return Some(Blocked::Waiting(present.waits.clone()));
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

/// A step body under way.
#[derive(Debug)]
pub(crate) struct Busy<'m>(&'m Memo);

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.present().busy -= 1;
    }
}

fn check_key(key: &str) -> Result<()> {
    let whole = key.split_once(PART).map_or(key, |(whole, _)| whole);
    let reason = if whole.is_empty() {
        "it is empty".to_owned()
    } else if whole.len() > MAX_KEY_BYTES {
        format!("it has {} bytes; {MAX_KEY_BYTES} are allowed", whole.len())
    } else if whole.chars().any(char::is_control) {
        "it contains a control character".to_owned()
    } else {
        return Ok(());
    };
    Err(Error::Key {
        key: shown(&whole.chars().take(40).collect::<String>()),
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
    fn keys_that_cannot_be_are_refused() {
        for key in ["", "a\0b", &"x".repeat(501)] {
            assert!(Memo::default().meet(key, "step").is_err());
        }
    }
}
