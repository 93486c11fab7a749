//! One argument of the function: its role, and its errors.

use syn::ext::IdentExt;
use syn::{Attribute, GenericArgument, Ident, Pat, PatType, PathArguments, Type};

use super::function::is_lint;
use super::ownership::{self, last_segment, peel, show};
use crate::errors::Errors;

/// The role of an argument.
pub(crate) enum Argument {
    /// `payload: P`, the whole payload.
    Payload { ident: Ident, ty: Type },
    /// A field of the generated payload.
    Field(Field),
    /// `items: Vec<P>`, the payloads of a batch, with `P`.
    Items(Type),
    /// `State<T>`, injected.
    State(Type),
}

/// A field of the generated payload.
#[derive(Clone)]
pub(crate) struct Field {
    pub(crate) attrs: Vec<Attribute>,
    pub(crate) ident: Ident,
    pub(crate) ty: Type,
}

impl Argument {
    /// Reads an argument after the context; `None` if an error leaves its role unknown.
    pub(crate) fn read(argument: &PatType, errors: &mut Errors) -> Option<Self> {
        refuse_cfg(&argument.attrs, errors);
        if matches!(last_segment(&argument.ty), Some((name, true)) if name == "State") {
            refuse_attrs(&argument.attrs, "an injected value", errors);
            refuse_unsized(&argument.ty, errors);
            return Some(Self::State((*argument.ty).clone()));
        }
        if let Type::Reference(reference) = peel(&argument.ty)
            && matches!(last_segment(&reference.elem), Some((name, true)) if name == "State")
        {
            let owned = show(&reference.elem);
            let message = format!("an injected value is taken by value: write `{owned}`");
            errors.at(&argument.ty, message);
            return None;
        }
        let ident = field_name(argument, errors);
        let stored = ownership::check(&argument.ty, "an argument", errors);
        let (Some(ident), true) = (ident, stored) else {
            return None;
        };
        let ty = (*argument.ty).clone();
        // With the underscore, the body does not use it.
        if ident == "payload" || ident == "_payload" {
            refuse_attrs(&argument.attrs, "the whole payload", errors);
            return Some(Self::Payload { ident, ty });
        }
        let moved = argument.attrs.iter().filter(|attr| !is_lint(attr));
        Some(Self::Field(Field {
            attrs: moved.cloned().collect(),
            ident,
            ty,
        }))
    }
}

/// Reports `State<dyn Trait>`, as values are injected by their type and so have a size.
fn refuse_unsized(state: &Type, errors: &mut Errors) {
    let Type::Path(path) = peel(state) else {
        return;
    };
    let arguments = path.path.segments.last().map(|last| &last.arguments);
    let Some(PathArguments::AngleBracketed(arguments)) = arguments else {
        return;
    };
    if let Some(GenericArgument::Type(ty)) = arguments.args.first()
        && matches!(peel(ty), Type::TraitObject(_))
    {
        let object = show(ty);
        let message = format!(
            "a trait object is injected as its `Arc`: write `State<Arc<{object}>>`, \
             and give the orchestrator `.state::<Arc<{object}>>(Arc::new(…))`"
        );
        errors.at(ty, message);
    }
}

/// Reports attributes on arguments that do not become fields.
pub(crate) fn refuse_attrs(attrs: &[Attribute], what: &str, errors: &mut Errors) {
    for attr in attrs {
        if !is_lint(attr) && !attr.path().is_ident("cfg") {
            let message = format!(
                "an attribute of an argument moves to its field, and {what} is no field: remove it"
            );
            errors.at(attr, message);
        }
    }
}

/// Reports `#[cfg]`, as the payload would differ between builds that share a database.
pub(crate) fn refuse_cfg(attrs: &[Attribute], errors: &mut Errors) {
    for attr in attrs.iter().filter(|attr| attr.path().is_ident("cfg")) {
        errors.at(
            attr,
            "an argument of a task cannot depend on `cfg`: put the `#[cfg(…)]` on the function",
        );
    }
}

fn field_name(argument: &PatType, errors: &mut Errors) -> Option<Ident> {
    match &*argument.pat {
        Pat::Ident(pat) if pat.by_ref.is_none() && pat.subpat.is_none() => Some(pat.ident.clone()),
        other => {
            errors.at(
                other,
                format!(
                    "an argument's name becomes a field of the payload, so it must be a plain name: \
                     write `{}: {}` and take it apart in the body",
                    suggested_name(other),
                    show(&argument.ty)
                ),
            );
            None
        }
    }
}

fn suggested_name(pat: &Pat) -> String {
    match pat {
        Pat::Ident(pat) => pat.ident.unraw().to_string(),
        Pat::Wild(_) => "unused".to_owned(),
        _ => "input".to_owned(),
    }
}
