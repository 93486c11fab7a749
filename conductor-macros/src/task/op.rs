//! The operation on a row.

use proc_macro2::Ident;
use quote::format_ident;

/// The operation on a row.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Op {
    Insert,
    Update,
    Delete,
}

impl Op {
    pub(crate) fn read(key: &Ident) -> Self {
        match key.to_string().as_str() {
            "on_insert" => Self::Insert,
            "on_delete" => Self::Delete,
            _ => Self::Update,
        }
    }

    /// Returns the operation for messages, such as `an insert`.
    pub(crate) fn named(self) -> &'static str {
        match self {
            Self::Insert => "an insert",
            Self::Update => "an update",
            Self::Delete => "a delete",
        }
    }

    pub(crate) fn variant(self) -> Ident {
        format_ident!(
            "{}",
            match self {
                Self::Insert => "Insert",
                Self::Update => "Update",
                Self::Delete => "Delete",
            }
        )
    }
}
