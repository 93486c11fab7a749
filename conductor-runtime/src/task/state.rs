use std::any::{Any, TypeId, type_name};
use std::collections::HashMap;
use std::ops::Deref;
use std::sync::Arc;

use crate::panics::panic_for_good;
use crate::verdict::permanent;

/// A shared value that the orchestrator injects into handlers, such as a mailer or a pool.
///
/// It is not part of the payload. An orchestrator without the value fails to start.
///
/// ```
/// use conductor::prelude::*;
///
/// struct Mailer { sender: String }
///
/// #[task]
/// async fn remind(ctx: &TaskContext, to: String, mailer: State<Mailer>) -> anyhow::Result<String> {
///     Ok(format!("from {} to {to}", mailer.sender))
/// }
/// ```
///
/// For a trait object, inject its `Arc`: the argument is `mailer: State<Arc<dyn Mailer>>`, and the orchestrator gets
/// `.state::<Arc<dyn Mailer>>(Arc::new(…))`.
#[derive(Debug)]
// Unsized values cannot be injected; the type is allowed, so that `#[task]` can report them with their fix.
pub struct State<T: ?Sized>(pub Arc<T>);

impl<T> State<T> {
    /// Wraps a value, to call a handler in a unit test.
    pub fn new(value: T) -> Self {
        Self(Arc::new(value))
    }
}

impl<T: ?Sized> Clone for State<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T: ?Sized> Deref for State<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

/// The values given to an orchestrator with `.state(…)`, one for each type.
#[derive(Clone, Default)]
pub struct States(HashMap<TypeId, (&'static str, Arc<dyn Any + Send + Sync>)>);

impl States {
    /// Adds a value; replaces an earlier one of the same type.
    pub fn insert<T: Send + Sync + 'static>(&mut self, value: T) {
        self.0
            .insert(TypeId::of::<T>(), (type_name::<T>(), Arc::new(value)));
    }

    /// Returns the value of type `T`, if there is one.
    pub fn get<T: Send + Sync + 'static>(&self) -> Option<Arc<T>> {
        let (_, value) = self.0.get(&TypeId::of::<T>())?;
        Arc::clone(value).downcast().ok()
    }

    /// Returns the value of type `T` by reference, if there is one.
    pub fn get_ref<T: Send + Sync + 'static>(&self) -> Option<&T> {
        self.0.get(&TypeId::of::<T>())?.1.downcast_ref()
    }

    /// Returns the value of type `T`, for a handler that requires it.
    ///
    /// # Panics
    /// If there is none. The panic is permanent, because a further attempt would find the same
    /// values.
    #[track_caller]
    pub(crate) fn require<T: Send + Sync + 'static>(&self) -> &T {
        match self.get_ref() {
            Some(value) => value,
            None => panic_for_good(no_state::<T>()),
        }
    }

    pub(crate) fn contains(&self, id: TypeId) -> bool {
        self.0.contains_key(&id)
    }
}

impl std::fmt::Debug for States {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set()
            .entries(self.0.values().map(|(name, _)| name))
            .finish()
    }
}

/// Extracts a `State<T>` argument from the orchestrator's values.
pub trait FromStates: Sized {
    /// Returns the value, or an error that names its type.
    fn from_states(states: &States) -> anyhow::Result<Self>;
}

impl<T: Send + Sync + 'static> FromStates for State<T> {
    fn from_states(states: &States) -> anyhow::Result<Self> {
        let missing = || permanent(anyhow::Error::msg(no_state::<T>()));
        states.get().map(State).ok_or_else(missing)
    }
}

fn no_state<T>() -> String {
    format!(
        "no state of type {0}: add `.state({0} …)` to the orchestrator",
        type_name::<T>()
    )
}
