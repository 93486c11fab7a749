//! The arguments of `#[event(…)]`.

use proc_macro2::TokenStream;
use syn::Path;

use crate::errors::Errors;
use crate::literal;
use crate::task::entry::{Entry, Keys};

const EVENT: Keys = Keys {
    owner: "`#[event]`",
    forms: &[
        ("name", "name = \"user.signed_up\""),
        ("version", "version = 2"),
        ("keep", "keep = \"30d\""),
        ("crate", "crate = \"::my_crate::conductor\""),
    ],
    repeatable: &[],
};

/// The keys of the attribute. A key with an error counts as not given.
#[derive(Default)]
pub(crate) struct Attr {
    pub(crate) name: Option<String>,
    version: Option<u32>,
    keep: Option<u64>,
    krate: Option<Path>,
}

impl Attr {
    pub(crate) fn read(tokens: TokenStream, errors: &mut Errors) -> Self {
        let mut attr = Self::default();
        for entry in EVENT.read(tokens, errors) {
            let set = attr.set(&entry);
            errors.keep(set);
        }
        attr
    }

    fn set(&mut self, entry: &Entry) -> syn::Result<()> {
        let value = entry.single()?;
        match entry.key.to_string().as_str() {
            "name" => self.name = Some(literal::name(value)?),
            // The database stores it as `integer`.
            "version" => {
                self.version = Some(literal::integer(value, 1..=i32::MAX.unsigned_abs())?);
            }
            "keep" => self.keep = Some(literal::millis(value)?),
            "crate" => self.krate = Some(literal::path(value)?),
            _ => {}
        }
        Ok(())
    }

    pub(crate) fn version(&self) -> u32 {
        self.version.unwrap_or(1)
    }

    /// Returns how long the events are kept, in milliseconds.
    pub(crate) fn keep(&self) -> Option<u64> {
        self.keep
    }

    /// Returns the path to the crate `conductor` in generated code.
    pub(crate) fn krate(&self) -> Path {
        self.krate
            .clone()
            .unwrap_or_else(|| syn::parse_quote!(::conductor))
    }
}
