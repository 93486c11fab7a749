//! The generated items: the task's type, its impls and its registration.

use proc_macro2::{Delimiter, Group, Ident, Span, TokenStream};
use quote::{ToTokens, quote, quote_spanned};
use syn::{Path, Type, Visibility};

use super::argument::{Argument, Field};
use super::attr::Attr;
use super::batch::{Batch, Results};
use super::function::Function;
use super::ownership::last_segment;
use super::signature::Signature;
use super::tokens::{local, path_literal, place_at};

/// The input for the generated items.
pub(crate) struct Expansion<'a> {
    pub(crate) function: &'a Function,
    pub(crate) attr: &'a Attr,
    pub(crate) signature: &'a Signature,
    pub(crate) type_name: &'a Ident,
}

/// The payload, by the arguments.
enum Payload<'a> {
    None,
    Whole(&'a Type),
    Fields(Vec<&'a Field>),
}

impl Expansion<'_> {
    /// Returns all items, for a signature without errors.
    pub(crate) fn items(&self, result: &Type) -> TokenStream {
        let krate = self.attr.krate();
        let declaration = self.declaration(&krate);
        let task = self.task_impl(&krate, &self.output(&krate, result));
        let handler = match &self.signature.results {
            None => self.handler_impl(&krate, result),
            Some(results) => self.batch_handler_impl(&krate, result, results),
        };
        let registration = self.registration(&krate);
        let limits = self.limit_checks();
        quote!(#declaration #task #handler #registration #limits)
    }

    /// Returns the type and its impl of `Task`, so that code that uses the type still compiles.
    pub(crate) fn stub(&self, result: Option<&Type>) -> TokenStream {
        let krate = self.attr.krate();
        let declaration = self.declaration(&krate);
        let output = result.map_or_else(|| quote!(()), |result| self.output(&krate, result));
        let task = self.task_impl(&krate, &output);
        quote!(#declaration #task)
    }

    fn output(&self, krate: &Path, result: &Type) -> TokenStream {
        match &self.signature.results {
            None => output(krate, result),
            Some(results) => results.output(|each| output(krate, each)),
        }
    }

    fn payload(&self) -> Payload<'_> {
        let mut fields = Vec::new();
        for argument in &self.signature.arguments {
            match argument {
                Argument::Payload { ty, .. } | Argument::Items(ty) => return Payload::Whole(ty),
                Argument::Field(field) => fields.push(field),
                Argument::State(_) => {}
            }
        }
        match fields.is_empty() {
            true => Payload::None,
            false => Payload::Fields(fields),
        }
    }

    /// Returns the type of the payload if an argument names it.
    fn payload_type(&self) -> Option<&Type> {
        match self.payload() {
            Payload::Whole(ty) => Some(ty),
            Payload::None | Payload::Fields(_) => None,
        }
    }

    /// Returns the type of the payload if it has the name of the task's type and so is the task.
    fn own_type(&self) -> Option<&Type> {
        match self.payload() {
            Payload::Whole(ty) => {
                last_segment(ty).and_then(|(name, _)| (name == self.type_name).then_some(ty))
            }
            _ => None,
        }
    }

    fn subject(&self) -> TokenStream {
        self.own_type().map_or_else(
            || self.type_name.to_token_stream(),
            ToTokens::to_token_stream,
        )
    }

    fn declaration(&self, krate: &Path) -> TokenStream {
        if self.own_type().is_some() {
            return TokenStream::new();
        }
        let (shared, docs) = (self.function.shared_attrs(), self.function.doc_attrs());
        let (vis, name) = (&self.function.vis, self.type_name);
        let undocumented = self.has_public_parts() && !self.function.is_documented();
        let about = format!("The task `{}`.", self.signature.name);
        let Payload::Fields(fields) = self.payload() else {
            let about = undocumented.then(|| quote!(#[doc = #about]));
            return quote! {
                #(#shared)*
                #(#docs)*
                #about
                #[derive(::core::fmt::Debug, ::core::clone::Clone, ::core::marker::Copy)]
                #vis struct #name;
            };
        };
        let private = quote!(#krate::__private);
        let serde = path_literal(krate, "serde");
        let schemars = path_literal(krate, "schemars");
        let about = undocumented.then(|| stand_in_doc(&about));
        let fields = fields.iter().map(|field| self.field(field));
        quote! {
            #(#shared)*
            #(#docs)*
            #[derive(
                #private::serde::Serialize,
                #private::serde::Deserialize,
                #private::schemars::JsonSchema,
            )]
            // After the derive, as it may contain helper attributes of that derive.
            #about
            // Only the schema denies unknown fields. In a stored payload they come from a newer build;
            // in a new invoke they are spelling errors, which the schema finds.
            #[serde(crate = #serde)]
            #[schemars(crate = #schemars, deny_unknown_fields)]
            #vis struct #name { #(#fields,)* }
        }
    }

    fn field(&self, field: &Field) -> TokenStream {
        let Field { attrs, ident, ty } = field;
        let vis = &self.function.vis;
        let has = |name: &str| attrs.iter().any(|attr| attr.path().is_ident(name));
        let about = (self.has_public_parts() && !has("doc") && !has("schemars"))
            .then(|| stand_in_doc(&format!("The argument `{ident}`.")));
        quote!(#about #(#attrs)* #vis #ident: #ty)
    }

    /// Whether the lint `missing_docs` applies to the type.
    fn has_public_parts(&self) -> bool {
        !matches!(self.function.vis, Visibility::Inherited)
    }

    /// Returns code that checks the keys of limits against the fields of the payload.
    fn limit_checks(&self) -> TokenStream {
        let conditions: Vec<_> = self.function.conditions().collect();
        let payload = match self.payload() {
            Payload::None => quote!(()),
            Payload::Whole(ty) => ty.to_token_stream(),
            Payload::Fields(_) => self.type_name.to_token_stream(),
        };
        let order = self.attr.ordered_by.iter();
        let order = order.filter_map(|(key, _)| key.check(&payload));
        let limits = self.attr.limits.iter();
        let checks = limits
            .filter_map(|limit| limit.check(&payload))
            .chain(order);
        checks.map(|check| quote!(#(#conditions)* #check)).collect()
    }

    fn task_impl(&self, krate: &Path, output: &TokenStream) -> TokenStream {
        let shared = self.function.shared_attrs();
        let subject = self.subject();
        let name = &self.signature.name;
        let payload = match self.payload() {
            Payload::None => quote!(()),
            Payload::Whole(ty) => ty.to_token_stream(),
            Payload::Fields(_) => quote!(Self),
        };
        // The compiler reports a private type in a public task at its associated type.
        let (first, last) = self.payload_type().map_or_else(call_sites, ends);
        let payload_head = spread(quote!(type Payload =), first, last);
        let payload_end = quote_spanned!(last=> ;);
        let (first, last) = (self.signature.result.as_ref()).map_or_else(call_sites, ends);
        let output_head = spread(quote!(type Output =), first, last);
        let output_end = quote_spanned!(last=> ;);
        quote! {
            #(#shared)*
            #[automatically_derived]
            impl #krate::Task for #subject {
                #payload_head #payload #payload_end
                #output_head #output #output_end
                const NAME: &'static ::core::primitive::str = #name;
            }
        }
    }

    fn handler_impl(&self, krate: &Path, result: &Type) -> TokenStream {
        let shared = self.function.shared_attrs();
        let subject = self.subject();
        let private = quote!(#krate::__private);
        let (ctx, payload) = (local("ctx"), local("payload"));
        let (mut fields, mut takes, mut values) = (Vec::new(), Vec::new(), Vec::new());
        for (index, argument) in self.signature.arguments.iter().enumerate() {
            let value = local(&format!("argument{index}"));
            match argument {
                Argument::Payload { .. } | Argument::Items(_) => values.push(payload.clone()),
                Argument::Field(field) => {
                    let ident = &field.ident;
                    fields.push(quote!(#ident: #value));
                    values.push(value);
                }
                Argument::State(ty) => {
                    takes.push(quote!(let #value = #krate::TaskContext::argument::<#ty>(#ctx)?;));
                    values.push(value);
                }
            }
        }
        let pattern = match self.payload() {
            Payload::None => quote!(_),
            Payload::Whole(_) => payload.to_token_stream(),
            Payload::Fields(_) => quote!(Self { #(#fields),* }),
        };
        let function = &self.function.sig.ident;
        // The compiler reports a return type that is not a `Result`, or has an unfit error, at that type: the bounds
        // are those of a path, because in a call it would report them at the argument.
        let (first, last) = ends(result);
        let into_result = spread(quote!(#private::handler_result), first, last);
        // The compiler reports a future that is not `Send` at the function's name.
        let convert = local("convert");
        let result_of = quote!(#function(#ctx, #(#values),*).await);
        let call = call_at(&convert, result_of, first, last);
        let head = quote! {
            async fn call(
                #ctx: &#krate::TaskContext,
                #pattern: <Self as #krate::Task>::Payload,
            ) ->
        };
        let returned = quote!(#private::anyhow::Result<<Self as #krate::Task>::Output>);
        let returned = spread(returned, first, last);
        let head = place_at(head, function.span().resolved_at(Span::call_site()));
        quote! {
            #(#shared)*
            #[automatically_derived]
            impl #private::Handler for #subject {
                #[allow(deprecated)]
                #head #returned {
                    #(#takes)*
                    let #convert = #into_result::<#result>;
                    #call
                }
            }
        }
    }

    fn batch_handler_impl(&self, krate: &Path, result: &Type, results: &Results) -> TokenStream {
        let shared = self.function.shared_attrs();
        let subject = self.subject();
        let private = quote!(#krate::__private);
        let (ctx, items) = (local("ctx"), local("items"));
        let (mut takes, mut values) = (Vec::new(), Vec::new());
        for (index, argument) in self.signature.arguments.iter().enumerate() {
            if let Argument::State(ty) = argument {
                let value = local(&format!("argument{index}"));
                takes.push(quote!(let #value = #krate::BatchContext::argument::<#ty>(#ctx)?;));
                values.push(value);
            } else {
                values.push(items.clone());
            }
        }
        let function = &self.function.sig.ident;
        let (first, last) = ends(result);
        let form = results.function();
        let into_results = spread(quote!(#private::batch_results::#form), first, last);
        // The compiler reports a future that is not `Send` at the function's name.
        let head = quote! {
            async fn call_batch(
                #ctx: &#krate::BatchContext,
                #items: ::std::vec::Vec<<Self as #krate::Task>::Payload>,
            ) -> #private::anyhow::Result<
                ::std::vec::Vec<#private::anyhow::Result<<Self as #krate::Task>::Output>>
            >
        };
        let head = place_at(head, function.span().resolved_at(Span::call_site()));
        quote! {
            #(#shared)*
            #[automatically_derived]
            impl #private::BatchHandler for #subject {
                #[allow(deprecated)]
                #head {
                    #(#takes)*
                    #into_results(#function(#ctx, #(#values),*).await, #ctx.len())
                }
            }
        }
    }

    fn registration(&self, krate: &Path) -> TokenStream {
        let private = quote!(#krate::__private);
        // Without `#[allow]`: the compiler ignores lint levels on macro calls, with a warning.
        let conditions = self.function.conditions();
        let subject = self.subject();
        let options = self.attr.definition_calls();
        let crons = self.attr.crons.iter();
        let crons: Vec<_> = crons.map(|cron| cron.definition(krate, &subject)).collect();
        let crons = (!crons.is_empty()).then(|| quote!(.crons(&[#(#crons),*])));
        let events = self.attr.events.iter();
        let events: Vec<_> = (events.map(|event| event.definition(krate, &subject))).collect();
        let events = (!events.is_empty()).then(|| quote!(.subscriptions(&[#(#events),*])));
        let rows = self.attr.rows.iter();
        let rows: Vec<_> = rows.map(|row| row.definition(krate, &subject)).collect();
        let rows = (!rows.is_empty()).then(|| quote!(.row_triggers(&[#(#rows),*])));
        let limits = self.attr.limits.iter();
        let limits: Vec<_> = limits.map(|limit| limit.definition(krate)).collect();
        let limits = (!limits.is_empty()).then(|| quote!(.limits(&[#(#limits),*])));
        let order = self.attr.ordered_by.as_ref().map(|(key, _)| {
            let path = key.path();
            quote!(.ordered_by(&[#(#path),*]))
        });
        let docs = self.function.docs().map(|docs| quote!(.docs(#docs)));
        let states = self
            .signature
            .arguments
            .iter()
            .filter_map(|argument| match argument {
                Argument::State(ty) => Some(quote!(#private::StateNeed::of::<#ty>())),
                _ => None,
            });
        let states: Vec<_> = states.collect();
        let states = (!states.is_empty()).then(|| quote!(.states(&[#(#states),*])));
        let (of, sizes) = match &self.attr.batch {
            None => (quote!(of), None),
            Some(Batch { max_size, max_wait }) => {
                (quote!(of_batch), Some(quote!(, #max_size, #max_wait)))
            }
        };
        let linked = self.attr.is_linked().then(|| {
            quote! {
                #(#conditions)*
                #private::inventory::submit! { <#subject as #private::Declared>::DEFINITION }
            }
        });
        let shared = self.function.shared_attrs();
        quote! {
            #(#shared)*
            #[automatically_derived]
            impl #private::Declared for #subject {
                #[allow(deprecated)]
                const DEFINITION: #private::TaskDefinition =
                    #private::TaskDefinition::#of::<#subject>(
                        #private::Place { file: ::core::file!(), line: ::core::line!() },
                        ::core::env!("CARGO_PKG_NAME"),
                        ::core::module_path!()
                        #sizes
                    )
                    #options
                    #crons
                    #events
                    #rows
                    #limits
                    #order
                    #docs
                    #states;
            }
            #linked
        }
    }
}

fn output(krate: &Path, result: &Type) -> TokenStream {
    let (first, last) = ends(result);
    let task_result = place_at(quote!(#krate::__private::TaskResult), last);
    let open = quote_spanned!(first=> <);
    let rest = quote_spanned!(last=> as #task_result>::Output);
    quote!(#open #result #rest)
}

fn call_sites() -> (Span, Span) {
    (Span::call_site(), Span::call_site())
}

/// Returns the spans of the first and the last token of a type, for errors to be reported there.
fn ends(ty: &Type) -> (Span, Span) {
    let mut spans =
        (ty.to_token_stream().into_iter()).map(|token| token.span().resolved_at(Span::call_site()));
    let first = spans.next().unwrap_or_else(Span::call_site);
    (first, spans.last().unwrap_or(first))
}

/// Returns the tokens with spans from `first` to `last`, so that errors point at a whole type.
fn spread(tokens: TokenStream, first: Span, last: Span) -> TokenStream {
    let mut tokens = tokens.into_iter();
    let head = place_at(tokens.by_ref().take(1).collect(), first);
    let rest = place_at(tokens.collect(), last);
    quote!(#head #rest)
}

/// Returns a call with spans from `first` to `last`, around an argument with its own spans.
fn call_at(function: &Ident, argument: TokenStream, first: Span, last: Span) -> TokenStream {
    let function = place_at(function.to_token_stream(), first);
    let mut argument = Group::new(Delimiter::Parenthesis, argument);
    argument.set_span(last);
    quote!(#function #argument)
}

/// Returns a doc comment that satisfies `missing_docs` and is not in the stored schema.
fn stand_in_doc(text: &str) -> TokenStream {
    quote!(#[doc = #text] #[schemars(description = "")])
}
