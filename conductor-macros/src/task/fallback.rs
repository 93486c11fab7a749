//! The code emitted with the errors, so that one error does not cause many others.

use proc_macro2::TokenStream;
use quote::{ToTokens, quote};
use syn::FnArg;

use super::argument::Argument;
use super::attr::Attr;
use super::expand::Expansion;
use super::function::Function;
use super::signature::Signature;

/// Returns the function and a stub of its type, for a signature with errors.
pub(crate) fn items(mut function: Function, attr: &Attr, mut signature: Signature) -> TokenStream {
    let is_method = (function.sig.inputs.iter()).any(|input| matches!(input, FnArg::Receiver(_)));
    if !function.sig.generics.params.is_empty() {
        // Fields and results may mention generic parameters, which the type does not have.
        signature.arguments.clear();
        signature.result = None;
    }
    if is_ambiguous(&signature.arguments) {
        signature.arguments.clear();
    }
    let stub = match &signature.type_name {
        // A method is in an impl block, which cannot contain a type.
        Some(type_name) if !is_method => Expansion {
            function: &function,
            attr,
            signature: &signature,
            type_name,
        }
        .stub(signature.result.as_ref()),
        _ => TokenStream::new(),
    };
    silence_rustc(&mut function);
    let function = function.to_token_stream();
    quote!(#function #stub)
}

/// Removes qualifiers that were reported, so that the compiler does not report them again.
fn silence_rustc(function: &mut Function) {
    if function.sig.asyncness.is_some() {
        function.sig.constness = None;
    }
    function.sig.abi = None;
    function.sig.variadic = None;
}

fn is_ambiguous(arguments: &[Argument]) -> bool {
    let any = |is: fn(&Argument) -> bool| arguments.iter().any(is);
    any(|a| matches!(a, Argument::Payload { .. })) && any(|a| matches!(a, Argument::Field(_)))
}
