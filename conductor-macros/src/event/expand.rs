//! The generated items of an event: the struct, its impls, its handles and its registration.

use proc_macro2::{Span, TokenStream};
use quote::{ToTokens, quote};
use syn::{Attribute, DeriveInput, Path};

use super::attr::Attr;
use super::derives::Derives;
use super::item::Item;
use crate::task::function::docs;

/// The input for the generated items.
pub(crate) struct Expansion<'a> {
    pub(crate) input: &'a DeriveInput,
    pub(crate) attr: &'a Attr,
    pub(crate) item: &'a Item,
}

impl Expansion<'_> {
    /// Returns all items, for a struct without errors.
    pub(crate) fn items(&self) -> TokenStream {
        let stub = self.stub();
        let registration = self.registration(&self.attr.krate());
        quote!(#stub #registration)
    }

    /// Returns the struct and its impl of `Event`, so that code that uses them still compiles.
    pub(crate) fn stub(&self) -> TokenStream {
        let krate = self.attr.krate();
        let declaration = self.declaration(&krate);
        if !self.input.generics.params.is_empty() {
            return declaration;
        }
        let event = self.event_impl(&krate);
        let handles = self.handles(&krate);
        quote!(#declaration #event #handles)
    }

    fn declaration(&self, krate: &Path) -> TokenStream {
        let derives = Derives::read(&self.input.attrs);
        let missing = derives.missing(krate);
        let (before, after) = self.input.attrs.split_at(derives.index);
        let mut bare = self.input.clone();
        bare.attrs.clear();
        quote!(#(#before)* #missing #(#after)* #bare)
    }

    /// Returns the `#[allow]`s, which also apply to generated code.
    fn allowed(&self) -> impl Iterator<Item = &Attribute> {
        let attrs = self.input.attrs.iter();
        attrs.filter(|attr| attr.path().is_ident("allow"))
    }

    fn event_impl(&self, krate: &Path) -> TokenStream {
        // The compiler reports fields that cannot be stored at the struct's name, too.
        let mut subject = self.input.ident.clone();
        subject.set_span(subject.span().resolved_at(Span::call_site()));
        let allowed = self.allowed();
        let name = self.attr.name.as_ref().unwrap_or(&self.item.name);
        let version = self.attr.version();
        let keep = self.attr.keep().map(|millis| {
            quote! {
                const KEEP: ::core::time::Duration = ::core::time::Duration::from_millis(#millis);
            }
        });
        let also_allowed = self.allowed();
        quote! {
            #(#allowed)*
            #[automatically_derived]
            impl #krate::Event for #subject {
                const NAME: &'static ::core::primitive::str = #name;
                const VERSION: ::core::primitive::u32 = #version;
                #keep
            }

            // For tasks without a payload.
            #(#also_allowed)*
            #[automatically_derived]
            impl ::core::convert::From<#subject> for () {
                fn from(_: #subject) {}
            }
        }
    }

    fn handles(&self, krate: &Path) -> TokenStream {
        if self.item.handles.is_empty() {
            return TokenStream::new();
        }
        let subject = &self.input.ident;
        let handles = self.item.handles.iter();
        let handles = handles.map(|handle| handle.constant(krate));
        quote! {
            #[allow(non_upper_case_globals, dead_code, unreachable_pub, deprecated)]
            #[automatically_derived]
            impl #subject { #(#handles)* }
        }
    }

    fn registration(&self, krate: &Path) -> TokenStream {
        let private = quote!(#krate::__private);
        let subject = self.input.ident.to_token_stream();
        let docs = docs(&self.input.attrs).map(|docs| quote!(.docs(#docs)));
        quote! {
            #private::inventory::submit! {
                #private::EventDefinition::of::<#subject>(
                    #private::Place { file: ::core::file!(), line: ::core::line!() },
                    ::core::env!("CARGO_PKG_NAME"),
                )
                #docs
            }
        }
    }
}
