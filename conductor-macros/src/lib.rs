//! The attribute macros of the crate `conductor`, which is the one to depend on.

use proc_macro::TokenStream;

/// Makes a durable task of an `async fn`.
#[proc_macro_attribute]
pub fn task(_args: TokenStream, item: TokenStream) -> TokenStream {
    item
}
