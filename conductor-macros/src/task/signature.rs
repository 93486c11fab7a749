//! The signature of the function: the names, payload and output of the task.

use proc_macro2::Span;
use syn::ext::IdentExt;
use syn::visit::{self, Visit};
use syn::{FnArg, Ident, PatType, Path, ReturnType, Type};

use super::argument::{Argument, refuse_attrs, refuse_cfg};
use super::attr::Attr;
use super::batch::{self, Results};
use super::function::Function;
use super::ownership::{self, last_segment, peel, show};
use crate::errors::Errors;

/// The signature of a task. If it has errors, it contains only the valid parts.
pub(crate) struct Signature {
    /// The name in the database.
    pub(crate) name: String,
    /// The name of the generated type; `None` if no type name can be derived from the function's name.
    pub(crate) type_name: Option<Ident>,
    /// The arguments after the context, in order.
    pub(crate) arguments: Vec<Argument>,
    /// The return type, if it is valid.
    pub(crate) result: Option<Type>,
    /// The kind of result of a batch; `None` if the task is not a batch.
    pub(crate) results: Option<Results>,
}

impl Signature {
    pub(crate) fn read(function: &Function, attr: &Attr, errors: &mut Errors) -> Self {
        let ident = &function.sig.ident;
        refuse_qualifiers(&function.sig, errors);
        refuse_generics(&function.sig.generics, errors);
        let kind = Kind::of(attr);
        let arguments = read_arguments(&function.sig, kind, errors);
        refuse_two_meanings(&arguments, errors);
        let mut result = read_result(&function.sig, errors);
        let mut results = None;
        if kind == Kind::Batch {
            results = result
                .as_ref()
                .and_then(|result| Results::read(result, errors));
            result = result.filter(|_| results.is_some());
        }
        let type_name = type_name(ident, attr, errors)
            .filter(|name| !takes_a_name_away(name, &arguments, result.as_ref(), errors));
        Self {
            name: attr.name.clone().unwrap_or_else(|| {
                let name = ident.unraw().to_string();
                if let Some(problem) = conductor_core::name_problem(&name) {
                    let message = format!("this name cannot be used: {problem}; give the task its own with `name = \"…\"`");
                    errors.at(ident, message);
                }
                name
            }),
            type_name,
            arguments,
            result,
            results,
        }
    }
}

/// How executions run. The type of the context must match.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Single,
    Batch,
}

impl Kind {
    fn of(attr: &Attr) -> Self {
        match attr.batch {
            Some(_) => Self::Batch,
            None => Self::Single,
        }
    }

    fn context(self) -> &'static str {
        match self {
            Self::Single => "TaskContext",
            Self::Batch => "BatchContext",
        }
    }
}

fn refuse_qualifiers(sig: &syn::Signature, errors: &mut Errors) {
    if let Some(constness) = &sig.constness {
        errors.at(
            constness,
            "a task runs later, so it cannot be `const`: write `async fn`",
        );
    } else if sig.asyncness.is_none() {
        errors.at(sig.fn_token, "a task is asynchronous: write `async fn`");
    }
    if let Some(unsafety) = &sig.unsafety {
        errors.at(
            unsafety,
            "a task is called by the worker, so it must be safe: put the `unsafe` block in its body",
        );
    }
    if let Some(abi) = &sig.abi {
        errors.at(abi, "a task is called from Rust: remove the `extern`");
    }
    if let Some(variadic) = &sig.variadic {
        errors.at(
            variadic,
            "a task has a fixed number of arguments: take a `Vec<T>` instead",
        );
    }
}

fn refuse_generics(generics: &syn::Generics, errors: &mut Errors) {
    for param in &generics.params {
        match param {
            syn::GenericParam::Lifetime(lifetime) => errors.at(
                &lifetime.lifetime,
                "a task has no lifetimes: write `ctx: &TaskContext`, and own all other arguments",
            ),
            param => errors.at(
                param,
                "a task is stored under one name, so it cannot be generic: name the type",
            ),
        }
    }
}

fn read_arguments(sig: &syn::Signature, kind: Kind, errors: &mut Errors) -> Vec<Argument> {
    let mut typed = Vec::new();
    for input in &sig.inputs {
        match input {
            FnArg::Receiver(receiver) => errors.at(
                receiver.self_token,
                "a task is a free function: remove `self`, and take shared values as `State<T>`",
            ),
            FnArg::Typed(argument) => typed.push(argument),
        }
    }
    let payload = match typed.as_slice() {
        [first, rest @ ..] if is_context(&first.ty) => {
            check_context(first, kind, errors);
            rest
        }
        all => {
            report_missing_context(sig, all, kind, errors);
            all
        }
    };
    let has_context = payload.len() < typed.len();
    let (contexts, payload): (Vec<_>, Vec<_>) = payload
        .iter()
        .partition(|argument| is_context(&argument.ty));
    if has_context {
        for context in contexts {
            let message = "a task takes its context once, as its first argument";
            errors.at(context, message);
        }
    }
    match kind {
        Kind::Single => (payload.into_iter())
            .filter_map(|argument| Argument::read(argument, errors))
            .collect(),
        Kind::Batch => batch::read_arguments(sig, &payload, errors),
    }
}

fn is_context(ty: &Type) -> bool {
    let ty = match peel(ty) {
        Type::Reference(reference) => &reference.elem,
        other => other,
    };
    last_segment(ty).is_some_and(|(name, _)| name == "TaskContext" || name == "BatchContext")
}

fn check_context(argument: &PatType, kind: Kind, errors: &mut Errors) {
    refuse_cfg(&argument.attrs, errors);
    refuse_attrs(&argument.attrs, "the context", errors);
    let ty = peel(&argument.ty);
    let context = kind.context();
    match ty {
        Type::Reference(reference) => {
            if last_segment(&reference.elem).is_none_or(|(name, _)| name != context) {
                errors.at(
                    ty,
                    match kind {
                        Kind::Single => {
                            "this is the context of a batch: write `ctx: &TaskContext`, or add \
                                     `batch(max_size = 100)` to the attribute"
                        }
                        Kind::Batch => "a batch has several executions: write `ctx: &BatchContext`",
                    },
                );
            } else if reference.mutability.is_some() {
                errors.at(
                    ty,
                    format!("the context is shared: write `ctx: &{context}`"),
                );
            } else if let Some(lifetime) = &reference.lifetime
                && lifetime.ident == "static"
            {
                let message =
                    format!("the context lives as long as the attempt: write `ctx: &{context}`");
                errors.at(lifetime, message);
            }
        }
        _ => errors.at(
            ty,
            format!("the context is borrowed: write `ctx: &{context}`"),
        ),
    }
}

fn report_missing_context(
    sig: &syn::Signature,
    arguments: &[&PatType],
    kind: Kind,
    errors: &mut Errors,
) {
    if let Some(late) = arguments.iter().find(|late| is_context(&late.ty)) {
        errors.at(
            late,
            "the context comes first: move this argument to the front",
        );
        return;
    }
    let context = kind.context();
    let message = format!("a task takes its context first: add `ctx: &{context}`");
    match arguments.first() {
        Some(first) => errors.at(first, message),
        None if sig.inputs.is_empty() => {
            errors.add(syn::Error::new(sig.paren_token.span.join(), message));
        }
        // The only argument is `self`, which was reported already.
        None => {}
    }
}

/// Reports a `payload` argument next to arguments that would be fields.
fn refuse_two_meanings(arguments: &[Argument], errors: &mut Errors) {
    let payload = arguments.iter().find_map(|argument| match argument {
        Argument::Payload { ident, .. } => Some(ident),
        _ => None,
    });
    let fields = arguments.iter().filter_map(|argument| match argument {
        Argument::Field(field) => Some(format!("`{}`", field.ident)),
        _ => None,
    });
    let fields = fields.collect::<Vec<_>>().join(", ");
    if let Some(payload) = payload
        && !fields.is_empty()
    {
        let message = format!(
            "`{payload}` is the whole payload, so {fields} cannot be part of it: \
             move it into the payload's type, or rename `{payload}` to make each argument a field"
        );
        errors.at(payload, message);
    }
}

fn read_result(sig: &syn::Signature, errors: &mut Errors) -> Option<Type> {
    match &sig.output {
        ReturnType::Default => {
            let message = "a task says whether it succeeded: add `-> anyhow::Result<()>`";
            errors.add(syn::Error::new(sig.paren_token.span.join(), message));
            None
        }
        ReturnType::Type(_, ty) => {
            if !ownership::check(ty, "a result", errors) {
                return None;
            }
            if is_never_result(ty) {
                let told = "a task says whether it succeeded";
                errors.at(ty, format!("{told}: write `anyhow::Result<{}>`", show(ty)));
                return None;
            }
            Some((**ty).clone())
        }
    }
}

/// Whether a type certainly is not a `Result`. The compiler checks all other types.
fn is_never_result(ty: &Type) -> bool {
    match peel(ty) {
        Type::Path(_) => last_segment(ty).is_some_and(|(name, _)| is_standard(name)),
        Type::Tuple(_) | Type::Array(_) => true,
        _ => false,
    }
}

fn is_standard(name: &Ident) -> bool {
    const STD: &str = "String bool char u8 u16 u32 u64 u128 usize i8 i16 i32 i64 i128 isize f32 f64 \
                       Option Vec Box HashMap BTreeMap HashSet BTreeSet Duration";
    STD.split_whitespace().any(|std| name == std)
}

/// Returns the name of the type. It has the span of the function's name, so that errors point there.
fn type_name(ident: &Ident, attr: &Attr, errors: &mut Errors) -> Option<Ident> {
    let (camel, span) = match &attr.marker {
        Some(marker) => (marker.to_string(), marker.span()),
        None => (upper_camel(&ident.unraw().to_string()), ident.span()),
    };
    // Marks the name as generated code, to which the user's lints do not apply.
    let span = span.resolved_at(Span::call_site());
    let Ok(mut name) = syn::parse_str::<Ident>(&camel) else {
        let message = format!("no type can be named after `{ident}`: add `marker = Name`");
        errors.at(ident, message);
        return None;
    };
    if name == *ident {
        let message = format!(
            "the function and its type would both be `{ident}`: write the function in snake_case, or add `marker = Other`"
        );
        errors.at(ident, message);
        return None;
    }
    name.set_span(span);
    Some(name)
}

/// Reports a type in the signature that the generated type would hide, and a payload type of that name that belongs to
/// another crate.
fn takes_a_name_away(
    name: &Ident,
    arguments: &[Argument],
    result: Option<&Type>,
    errors: &mut Errors,
) -> bool {
    let before = errors.count();
    // If the payload type has the name, it is the task's type, and none is generated.
    let is_payload = arguments.iter().any(|argument| match argument {
        Argument::Payload { ty, .. } | Argument::Items(ty) => is_named(ty, name),
        Argument::Field(_) | Argument::State(_) => false,
    });
    if let Some(result) = result.filter(|result| !is_payload && mentions(result, name)) {
        errors.at(result, hides(name));
    }
    for argument in arguments {
        match argument {
            Argument::Field(field) if mentions(&field.ty, name) => {
                errors.at(&field.ty, hides(name));
            }
            Argument::Payload { ty, .. } | Argument::Items(ty) if is_foreign(ty, name) => {
                let message = "the task's type would be this one, which is another crate's: add `marker = Other`";
                errors.at(ty, message);
            }
            Argument::Payload { ty, .. } | Argument::Items(ty) | Argument::State(ty)
                if !is_payload && mentions(ty, name) =>
            {
                errors.at(ty, hides(name));
            }
            _ => {}
        }
    }
    errors.count() > before
}

fn hides(name: &Ident) -> String {
    format!(
        "the task's type would be `{name}`, which hides the one that is named here: add `marker = {name}Task`, \
         or whatever it is to be called"
    )
}

/// Whether a type has this name, in any module.
fn is_named(ty: &Type, name: &Ident) -> bool {
    match peel(ty) {
        Type::Path(path) => (path.path.segments.last()).is_some_and(|last| last.ident == *name),
        _ => false,
    }
}

/// Whether a type mentions this name without a module.
fn mentions(ty: &Type, name: &Ident) -> bool {
    struct Search<'a>(&'a Ident, bool);
    impl Visit<'_> for Search<'_> {
        fn visit_path(&mut self, path: &Path) {
            self.1 |= path.leading_colon.is_none()
                && path
                    .segments
                    .first()
                    .is_some_and(|first| first.ident == *self.0);
            visit::visit_path(self, path);
        }
    }
    let mut search = Search(name, false);
    search.visit_type(ty);
    search.1
}

/// Whether the payload's type has this name and certainly belongs to another crate. The compiler checks
/// types that may belong to a module of this crate.
fn is_foreign(ty: &Type, name: &Ident) -> bool {
    let Type::Path(path) = peel(ty) else {
        return false;
    };
    let path = &path.path;
    let first = path.segments.first().map(|first| first.ident.to_string());
    path.segments.last().is_some_and(|last| last.ident == *name)
        && (path.leading_colon.is_some()
            || matches!(first.as_deref(), Some("std" | "core" | "alloc"))
            || path.segments.len() == 1 && is_standard(name))
}

/// Converts `resize_image` into `ResizeImage`.
fn upper_camel(snake: &str) -> String {
    let mut camel = String::with_capacity(snake.len());
    for word in snake.split('_') {
        let mut chars = word.chars();
        if let Some(first) = chars.next() {
            camel.extend(first.to_uppercase());
            camel.push_str(chars.as_str());
        }
    }
    camel
}

#[cfg(test)]
mod tests {
    use super::upper_camel;

    #[test]
    fn snake_case_becomes_upper_camel_case() {
        for (snake, camel) in [
            ("greet", "Greet"),
            ("resize_image", "ResizeImage"),
            ("_private", "Private"),
            ("step_2_go", "Step2Go"),
            ("größe_messen", "GrößeMessen"),
            ("sendHTTP", "SendHTTP"),
            ("_1", "1"),
            ("__", ""),
        ] {
            assert_eq!(upper_camel(snake), camel);
        }
    }
}
