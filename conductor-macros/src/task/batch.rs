//! The key `batch`, and the signature of a function with it.

use proc_macro2::TokenStream;
use quote::{format_ident, quote};
use syn::{GenericArgument, PatType, PathArguments, Type};

use super::argument::{Argument, refuse_attrs, refuse_cfg};
use super::entry::{Entry, Keys};
use super::ownership::{last_segment, peel, show};
use crate::errors::Errors;
use crate::literal;

const BATCH: Keys = Keys {
    owner: "`batch(…)`",
    forms: &[
        ("max_size", "max_size = 100"),
        ("max_wait", "max_wait = \"500ms\""),
    ],
    repeatable: &[],
};

const MOST_ITEMS: u32 = 10_000;
/// Items are claimed while they wait, so a schedule fits longer waits better.
const LONGEST_WAIT_MS: u64 = 60 * 60 * 1000;

const FORMS: &str = "`anyhow::Result<Vec<anyhow::Result<T>>>` for a result of each item, \
                     `anyhow::Result<Vec<T>>` for an output of each, or `anyhow::Result<()>`";

/// The maximum number of items in a batch, and how long an item waits for others, in milliseconds.
pub(crate) struct Batch {
    pub(crate) max_size: u32,
    pub(crate) max_wait: u64,
}

impl Batch {
    /// Reads `batch` or `batch(max_size = 100, max_wait = "500ms")`. Errors in its options do not
    /// make the task a single one.
    pub(crate) fn read(entry: &Entry, errors: &mut Errors) -> Self {
        let mut batch = Self {
            max_size: 100,
            max_wait: 500,
        };
        let options = errors.keep(entry.options(Some("max_size")));
        for entry in BATCH.read(options.unwrap_or_default(), errors) {
            let set = entry.single().and_then(|value| {
                match entry.key.to_string().as_str() {
                    "max_size" => batch.max_size = literal::integer(value, 1..=MOST_ITEMS)?,
                    _ => batch.max_wait = max_wait(value)?,
                }
                Ok(())
            });
            errors.keep(set);
        }
        batch
    }
}

fn max_wait(value: &syn::Expr) -> syn::Result<u64> {
    let millis = literal::millis(value)?;
    if millis > LONGEST_WAIT_MS {
        let message =
            "an item waits in its worker, so at most `1h`: for longer, give the task a schedule";
        return Err(syn::Error::new_spanned(value, message));
    }
    Ok(millis)
}

/// Reads the arguments after the context: `items: Vec<P>` and injected values.
pub(crate) fn read_arguments(
    sig: &syn::Signature,
    arguments: &[&PatType],
    errors: &mut Errors,
) -> Vec<Argument> {
    let before = errors.count();
    let mut read: Vec<Argument> = Vec::new();
    for argument in arguments {
        let taken = Argument::read(argument, errors);
        let (ident, ty) = match &taken {
            Some(Argument::Payload { ident, ty }) => (ident, ty),
            Some(Argument::Field(field)) => (&field.ident, &field.ty),
            Some(Argument::State(_)) => {
                read.extend(taken);
                continue;
            }
            Some(Argument::Items(_)) | None => continue,
        };
        if ident != "items" && ident != "_items" {
            let hint = match taken {
                Some(Argument::Field(_)) => ", with a type that has all fields",
                _ => "",
            };
            let message = format!(
                "a batch takes the payloads of its executions together: write `items: Vec<{}>`{hint}",
                show(ty)
            );
            errors.at(argument, message);
            continue;
        }
        let Some(item) = item_of(ty, "Vec") else {
            errors.at(
                &argument.ty,
                format!(
                    "the items of a batch come in a `Vec`: write `items: Vec<{}>`",
                    show(ty)
                ),
            );
            continue;
        };
        refuse_cfg(&argument.attrs, errors);
        refuse_attrs(&argument.attrs, "the items", errors);
        read.push(Argument::Items(item.clone()));
    }
    let has_items = read.iter().any(|a| matches!(a, Argument::Items(_)));
    if !has_items && errors.count() == before {
        let message = "a batch takes the payloads of its executions: add `items: Vec<Item>`";
        errors.add(syn::Error::new(sig.paren_token.span.join(), message));
    }
    read
}

/// Returns the first generic argument of `name<…>`.
fn item_of<'t>(ty: &'t Type, name: &str) -> Option<&'t Type> {
    let Type::Path(path) = peel(ty) else {
        return None;
    };
    let segment = path
        .path
        .segments
        .last()
        .filter(|last| last.ident == name)?;
    let PathArguments::AngleBracketed(arguments) = &segment.arguments else {
        return None;
    };
    arguments.args.iter().find_map(|argument| match argument {
        GenericArgument::Type(ty) => Some(ty),
        _ => None,
    })
}

/// The kind of result of a batch, by its return type.
pub(crate) enum Results {
    /// A result for each item, of this type.
    Each(Type),
    /// An output of this type for each item.
    All(Type),
    /// No outputs: all items are completed.
    Done,
}

impl Results {
    /// Reads the type after the arrow.
    pub(crate) fn read(result: &Type, errors: &mut Errors) -> Option<Self> {
        let inner = item_of(result, "Result");
        let results = inner.and_then(|inner| match (peel(inner), item_of(inner, "Vec")) {
            (Type::Tuple(tuple), _) if tuple.elems.is_empty() => Some(Self::Done),
            (_, Some(item)) if is_result(item) => Some(Self::Each(item.clone())),
            (_, Some(item)) => Some(Self::All(item.clone())),
            _ => None,
        });
        if results.is_none() {
            errors.at(
                result,
                format!("a batch does not give `{}`: write {FORMS}", show(result)),
            );
        }
        results
    }

    /// Returns the output type of the task.
    pub(crate) fn output(&self, output: impl FnOnce(&Type) -> TokenStream) -> TokenStream {
        match self {
            Self::Each(result) => output(result),
            Self::All(ty) => quote!(#ty),
            Self::Done => quote!(()),
        }
    }

    /// Returns the name of the function that converts this kind into the common one.
    pub(crate) fn function(&self) -> proc_macro2::Ident {
        match self {
            Self::Each(_) => format_ident!("each"),
            Self::All(_) => format_ident!("all"),
            Self::Done => format_ident!("done"),
        }
    }
}

fn is_result(ty: &Type) -> bool {
    last_segment(ty).is_some_and(|(name, _)| name == "Result")
}
