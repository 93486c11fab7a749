//! `#[conductor::test]`: an async test with a database of its own.

use proc_macro2::TokenStream;
use quote::{quote, quote_spanned};
use syn::ItemFn;
use syn::spanned::Spanned;

use crate::errors::Errors;

pub(crate) fn expand(args: TokenStream, item: TokenStream) -> TokenStream {
    let function: ItemFn = match syn::parse2(item.clone()) {
        Ok(function) => function,
        Err(_) => {
            let error = syn::Error::new_spanned(item, "`#[conductor::test]` goes on an `async fn`");
            return error.into_compile_error();
        }
    };
    let mut errors = Errors::default();
    if !args.is_empty() {
        errors.at(args, "`#[conductor::test]` takes no options");
    }
    let signature = &function.sig;
    if signature.asyncness.is_none() {
        errors.at(signature.fn_token, "a test is `async`: write `async fn`");
    }
    if signature.inputs.len() > 1 {
        errors.at(
            &signature.inputs,
            "a test takes one argument at most: `test: TestConductor`, or `conductor: Conductor`",
        );
    }
    if errors.count() > 0 {
        let errors = errors.into_compile_errors();
        return quote!(#function #errors);
    }

    let attributes = &function.attrs;
    let (name, output, block) = (&signature.ident, &signature.output, &function.block);
    let mut inputs = signature.inputs.clone();
    if inputs.is_empty() {
        inputs.push(syn::parse_quote!(_: ::conductor::testing::TestConductor));
    }
    // The span makes the compiler report a wrong argument type at the argument.
    let run = quote_spanned!(inputs.span()=> ::conductor::testing::run(body));
    quote! {
        #[::core::prelude::v1::test]
        #(#attributes)*
        fn #name() #output {
            async fn body(#inputs) #output #block
            #run
        }
    }
}
