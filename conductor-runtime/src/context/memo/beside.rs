//! Waits that are begun while a step of their handler runs, and what comes to them in place.

use std::collections::BTreeMap;
use std::task::{Context, Poll, Waker};

use serde_json::value::RawValue;

use super::wait::{Stands, Wait};
use super::{Entry, Memo, Micros, Present, Recorded, Stop};

impl Memo {
    /// What has come to all of these waits, once it has.
    pub(in crate::context) fn poll_came<'k>(
        &self,
        keys: impl Iterator<Item = &'k String> + Clone,
        cx: &mut Context<'_>,
    ) -> Poll<Vec<Recorded>> {
        let mut present = self.present();
        let came = |key: &String| {
            let entry = present.entries.get(key);
            entry.is_some_and(|entry| entry.value.is_some())
        };
        if !keys.clone().all(came) {
            if let Some(first) = keys.clone().next() {
                let waker = cx.waker().clone();
                present.blocked.insert(first.clone(), waker);
            }
            return Poll::Pending;
        }
        let values = keys.filter_map(|key| present.entries.get_mut(key)?.value.take());
        let failed = false;
        let came: Vec<_> = values.map(|value| Recorded { value, failed }).collect();
        present.records_met += came.len();
        Poll::Ready(came)
    }

    /// Whether something waits beside a step that runs.
    pub(crate) fn waits_beside(&self) -> bool {
        let present = self.present();
        // A step that has begun may end, or lose.
        let goes_on = matches!(present.stop, None | Some(Stop::Released | Stop::Closed(_)));
        present.busy > 0 && goes_on && !present.waits.is_empty()
    }

    /// Whether one of these the database does not know of.
    pub(crate) fn waits_anew(&self) -> bool {
        self.waits_beside() && self.present().standing(Stands::No).next().is_some()
    }

    /// What the database is to know of.
    pub(crate) fn new_waits(&self) -> BTreeMap<String, Wait> {
        let present = self.present();
        let waits = present.standing(Stands::No);
        waits
            .map(|(key, wait)| (key.clone(), wait.clone()))
            .collect()
    }

    /// The keys of what the database knows of and what has not come.
    pub(crate) fn known_waits(&self) -> Vec<String> {
        let present = self.present();
        let came = |key: &String| {
            let entry = present.entries.get(key);
            entry.is_some_and(|entry| entry.value.is_some())
        };
        let waits = present.standing(Stands::Yes).map(|(key, _)| key);
        waits.filter(|key| !came(key)).cloned().collect()
    }

    /// Keeps whether the database knows of these now. What it knows of, or is being told of, is withdrawn when the handler
    /// does not want it any more.
    pub(crate) fn note_standing(&self, keys: &[String], stands: Stands) {
        let mut present = self.present();
        let Present { waits, entries, .. } = &mut *present;
        for key in keys {
            let Some(wait) = waits.get_mut(key) else {
                continue;
            };
            wait.stands = stands;
            if stands == Stands::Asked {
                let entry = || Entry::awaited(wait.kind);
                entries.entry(key.clone()).or_insert_with(entry);
            }
        }
    }

    /// The keys of waits that the handler has had and dropped.
    pub(crate) fn dropped(&self) -> Vec<String> {
        self.decided().withdrawn
    }

    /// What has come to a wait, and when.
    pub(crate) fn bring(&self, key: &str, value: Box<RawValue>, at: Option<Micros>) {
        let mut present = self.present();
        let Present {
            waits,
            entries,
            bytes,
            ..
        } = &mut *present;
        // What was dropped meanwhile is free for another wait.
        let Some(wait) = waits.get(key) else {
            return;
        };
        let entry = (entries.entry(key.to_owned())).or_insert_with(|| Entry::awaited(wait.kind));
        *bytes += key.len() + value.get().len() + 60;
        entry.value = Some(value);
        entry.at = at;
        entry.brought = true;
        let blocked = std::mem::take(&mut present.blocked);
        drop(present);
        blocked.into_values().for_each(Waker::wake);
    }
}
