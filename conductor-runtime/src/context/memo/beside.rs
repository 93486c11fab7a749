//! Waits that begin while a step of their handler runs, and results that arrive for them meanwhile.

use std::collections::BTreeMap;
use std::task::{Context, Poll, Waker};

use serde_json::value::RawValue;

use super::wait::{Stands, Wait};
use super::{Entry, Memo, Micros, Present, Recorded, Stop};

impl Memo {
    /// Returns the results of all these waits, once all have arrived.
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

    /// Returns whether a branch waits while a step runs.
    pub(crate) fn waits_beside(&self) -> bool {
        let present = self.present();
        // At a shutdown or a closed window, a step that has begun may still end, or lose a race.
        let goes_on = matches!(present.stop, None | Some(Stop::Released | Stop::Closed(_)));
        present.busy > 0 && goes_on && !present.waits.is_empty()
    }

    /// Returns whether the database does not know one of these waits.
    pub(crate) fn waits_anew(&self) -> bool {
        self.waits_beside() && self.present().standing(Stands::No).next().is_some()
    }

    /// Returns the waits that the database does not know.
    pub(crate) fn new_waits(&self) -> BTreeMap<String, Wait> {
        let present = self.present();
        let waits = present.standing(Stands::No);
        waits
            .map(|(key, wait)| (key.clone(), wait.clone()))
            .collect()
    }

    /// Returns the keys of waits that the database knows and that have no result yet.
    pub(crate) fn known_waits(&self) -> Vec<String> {
        let present = self.present();
        let came = |key: &String| {
            let entry = present.entries.get(key);
            entry.is_some_and(|entry| entry.value.is_some())
        };
        let waits = present.standing(Stands::Yes).map(|(key, _)| key);
        waits.filter(|key| !came(key)).cloned().collect()
    }

    /// Notes whether the database knows these waits. From the moment when they are sent, they are withdrawn if the
    /// handler no longer asks for them.
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

    /// Returns the keys of waits that this run used and dropped.
    pub(crate) fn dropped(&self) -> Vec<String> {
        self.decided().withdrawn
    }

    /// Stores the result of a wait, and when it was over.
    pub(crate) fn bring(&self, key: &str, value: Box<RawValue>, at: Option<Micros>) {
        let mut present = self.present();
        let Present {
            waits,
            entries,
            bytes,
            ..
        } = &mut *present;
        // If the wait was dropped meanwhile, its result goes to another wait.
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
