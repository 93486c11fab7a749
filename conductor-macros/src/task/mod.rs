//! The attribute `#[task]`: reads keys and signature, and generates a type, its impls and its registration.

mod attr;
mod batch;
mod body;
mod cron;
pub(crate) mod entry;
mod event;
mod filter;
pub(crate) mod function;
mod limit;
pub(crate) mod row;
pub(crate) mod ownership;
mod window;
mod op;
pub(crate) mod tokens;

mod argument;
mod signature;

mod expand;
mod fallback;

use proc_macro2::TokenStream;
use quote::{ToTokens, quote};

use crate::errors::Errors;
use attr::Attr;
use expand::Expansion;
use function::Function;
use signature::Signature;

/// Returns the item and the generated code, or the item and all its errors.
pub(crate) fn expand(args: TokenStream, item: TokenStream) -> TokenStream {
    let mut errors = Errors::default();
    let attr = Attr::read(args, &mut errors);
    let mut function: Function = match syn::parse2(item.clone()) {
        Ok(function) => function,
        Err(error) => {
            errors.add(error);
            let errors = errors.into_compile_errors();
            return quote!(#errors #item);
        }
    };
    if let Some(context) = function.context() {
        let body = std::mem::take(&mut function.body);
        function.body = body::check(body, &context, &mut errors);
    }
    let before = errors.count();
    let signature = Signature::read(&function, &attr, &mut errors);
    let is_sound = errors.count() == before;
    let items = match (&signature.type_name, &signature.result) {
        (Some(type_name), Some(result)) if is_sound => {
            let expansion = Expansion {
                function: &function,
                attr: &attr,
                signature: &signature,
                type_name,
            };
            let items = expansion.items(result);
            let function = function.to_token_stream();
            quote!(#function #items)
        }
        _ => fallback::items(function, &attr, signature),
    };
    let errors = errors.into_compile_errors();
    quote!(#errors #items)
}
