//! Panics of the application's code: their text and place, which become the error of the attempt.

use std::any::{Any, TypeId};
use std::cell::RefCell;
use std::collections::{BTreeSet, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::panic::{AssertUnwindSafe, PanicHookInfo, catch_unwind};
use std::sync::{Mutex, Once, PoisonError};

/// How many panics a thread remembers: while one unwinds, destructors may cause and catch others.
const REMEMBERED: usize = 8;

thread_local! {
    /// The last panics of this thread: a mark of the payload, and the place.
    static PLACES: RefCell<VecDeque<(u64, String)>> = const { RefCell::new(VecDeque::new()) };
}

/// The texts of panics that every attempt would repeat; at most as many as there are types in the program.
static FOR_GOOD: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

/// A panic that was caught.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Panicked {
    /// The text, such as `panicked at src/orders.rs:12:5: out of stock`, as far as it is known.
    pub(crate) text: String,
    /// Whether another attempt would repeat it.
    pub(crate) permanent: bool,
}

/// Installs a hook that notes the place of each panic, which the payload does not contain, and then calls the
/// previous hook. If the application installs another hook later, the texts of panics lack their place.
pub(crate) fn note_places() {
    static ONCE: Once = Once::new();
    // A hook cannot be installed while the thread panics.
    if std::thread::panicking() {
        return;
    }
    ONCE.call_once(|| {
        let previous = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            note(info);
            previous(info);
        }));
    });
}

/// Notes a panic. Nothing here may panic: that would abort the process.
fn note(info: &PanicHookInfo<'_>) {
    let Some(place) = info.location() else {
        return;
    };
    let noted = (mark(info.payload()), place.to_string());
    let _ = PLACES.try_with(|places| {
        if let Ok(mut places) = places.try_borrow_mut() {
            if places.len() == REMEMBERED {
                places.pop_front();
            }
            places.push_back(noted);
        }
    });
}

/// Panics with this text, and no further attempt follows.
#[track_caller]
pub(crate) fn panic_for_good(words: String) -> ! {
    for_good(|texts| texts.insert(words.clone()));
    panic!("{words}");
}

fn for_good<T>(look: impl FnOnce(&mut BTreeSet<String>) -> T) -> T {
    look(&mut FOR_GOOD.lock().unwrap_or_else(PoisonError::into_inner))
}

impl Panicked {
    /// Describes a payload from `catch_unwind`, on the thread that panicked.
    pub(crate) fn of(payload: Box<dyn Any + Send>) -> Self {
        let place = take_place(mark(&*payload)).map(|place| format!(" at {place}"));
        let words = words(&*payload);
        let permanent = words.is_some_and(|words| for_good(|texts| texts.contains(words)));
        let text = format!(
            "panicked{}{}",
            place.unwrap_or_default(),
            words.map(|words| format!(": {words}")).unwrap_or_default()
        );
        // The payload is the application's, and its destructor may panic.
        if let Err(another) = catch_unwind(AssertUnwindSafe(|| drop(payload))) {
            std::mem::forget(another);
        }
        Self { text, permanent }
    }
}

/// Returns the place of the last panic with this mark; `None` if it came from another thread or from `resume_unwind`.
/// Panics noted after it happened inside it and are dropped.
fn take_place(mark: u64) -> Option<String> {
    PLACES
        .try_with(|places| {
            let mut places = places.try_borrow_mut().ok()?;
            let at = places.iter().rposition(|(noted, _)| *noted == mark)?;
            places.drain(at..).next()
        })
        .ok()
        .flatten()
        .map(|(_, place)| place)
}

/// Returns a mark that distinguishes payloads, because the places of caught panics stay noted.
fn mark(payload: &(dyn Any + Send)) -> u64 {
    let mut hasher = DefaultHasher::new();
    let of: TypeId = payload.type_id();
    (of, words(payload)).hash(&mut hasher);
    hasher.finish()
}

fn words(payload: &(dyn Any + Send)) -> Option<&str> {
    payload
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::panic::{catch_unwind, resume_unwind};

    use super::{Panicked, note_places, panic_for_good};

    fn caught(body: impl FnOnce() + std::panic::UnwindSafe) -> Panicked {
        note_places();
        Panicked::of(catch_unwind(body).unwrap_err())
    }

    fn at(line: u32, column: u32) -> String {
        format!("panicked at {}:{line}:{column}", file!())
    }

    #[test]
    fn a_panic_is_told_with_its_place() {
        let panicked = caught(|| panic!("words")).text;
        assert_eq!(panicked, format!("{}: words", at(line!() - 1, 34)));
        let panicked = caught(|| panic!("{} words", 2)).text;
        assert_eq!(panicked, format!("{}: 2 words", at(line!() - 1, 34)));
        let panicked = caught(|| std::panic::panic_any(7)).text;
        assert_eq!(panicked, at(line!() - 1, 34));
    }

    #[test]
    fn one_that_was_caught_inside_lends_nobody_its_place() {
        struct Tries;
        impl Drop for Tries {
            fn drop(&mut self) {
                let _ = catch_unwind(|| panic!("inner"));
            }
        }
        let panicked = caught(|| {
            let _tries = Tries;
            panic!("outer")
        });
        let outer = format!("{}: outer", at(line!() - 2, 13));
        assert_eq!(panicked.text, outer);
        let resumed = caught(|| {
            let _ = catch_unwind(|| panic!("inner"));
            resume_unwind(Box::new("from elsewhere"));
        });
        assert_eq!(resumed.text, "panicked: from elsewhere");
    }

    #[test]
    fn only_what_was_said_for_good_is_permanent() {
        let words = || "nothing helps".to_owned();
        let panicked = caught(move || panic_for_good(words()));
        assert_eq!(
            panicked.text,
            format!("{}: {}", at(line!() - 3, 39), words())
        );
        assert!(panicked.permanent);
        assert!(!caught(|| panic!("something helps")).permanent);
    }
}
