//! The annotated function. Its body is not parsed as an expression.

use proc_macro2::{Delimiter, Ident, TokenStream, TokenTree};
use quote::{ToTokens, quote};
use syn::ext::IdentExt;
use syn::parse::{Parse, ParseStream};
use syn::{Attribute, Expr, ExprLit, FnArg, Lit, LitStr, Meta, Pat, Signature, Token, Visibility};

/// A function with its body as plain tokens. The compiler reports errors in an incomplete body.
pub(crate) struct Function {
    pub(crate) attrs: Vec<Attribute>,
    pub(crate) vis: Visibility,
    pub(crate) sig: Signature,
    pub(super) body: TokenStream,
}

impl Parse for Function {
    fn parse(input: ParseStream<'_>) -> syn::Result<Self> {
        let attrs = input.call(Attribute::parse_outer)?;
        let vis = input.parse()?;
        expect_fn(input)?;
        let sig: Signature = input.parse()?;
        let body: TokenStream = input.parse()?;
        match body.clone().into_iter().next() {
            Some(TokenTree::Group(group)) if group.delimiter() == Delimiter::Brace => {}
            _ => return Err(syn::Error::new_spanned(&sig, "a task needs a body")),
        }
        Ok(Self {
            attrs,
            vis,
            sig,
            body,
        })
    }
}

impl Function {
    /// Returns the name of the first argument, if it has one.
    pub(super) fn context(&self) -> Option<Ident> {
        match self.sig.inputs.first() {
            Some(FnArg::Typed(argument)) => match &*argument.pat {
                Pat::Ident(pat) => Some(pat.ident.clone()),
                _ => None,
            },
            _ => None,
        }
    }

    /// Returns the lines of the doc comment as one expression.
    pub(crate) fn docs(&self) -> Option<TokenStream> {
        docs(&self.attrs)
    }

    /// Returns the doc attributes, which the generated type shares with the function.
    pub(crate) fn doc_attrs(&self) -> impl Iterator<Item = &Attribute> {
        self.attrs.iter().filter(|attr| attr.path().is_ident("doc"))
    }

    /// Returns the attributes for all generated items: `#[cfg]`s and `#[allow]`s.
    pub(crate) fn shared_attrs(&self) -> Vec<&Attribute> {
        let shared =
            |attr: &&Attribute| attr.path().is_ident("cfg") || attr.path().is_ident("allow");
        self.attrs.iter().filter(shared).collect()
    }

    /// Returns the `#[cfg]`s.
    pub(crate) fn conditions(&self) -> impl Iterator<Item = &Attribute> {
        self.attrs.iter().filter(|attr| attr.path().is_ident("cfg"))
    }

    /// Whether the function has a doc comment, even an empty one.
    pub(crate) fn is_documented(&self) -> bool {
        self.attrs.iter().any(|attr| doc_value(attr).is_some())
    }
}

/// Prints the function as written, without the attributes of arguments that move to fields.
impl ToTokens for Function {
    fn to_tokens(&self, tokens: &mut TokenStream) {
        let mut sig = self.sig.clone();
        for (index, input) in sig.inputs.iter_mut().enumerate() {
            match input {
                FnArg::Receiver(receiver) => receiver.attrs.retain(is_lint),
                FnArg::Typed(argument) => {
                    argument.attrs.retain(is_lint);
                    // A task must take its context, so an unused one is not a mistake.
                    if index == 0 && matches!(*argument.pat, Pat::Ident(_)) {
                        let allow = syn::parse_quote!(#[allow(unused_variables)]);
                        argument.attrs.insert(0, allow);
                    }
                }
            }
        }
        let (attrs, vis, body) = (&self.attrs, &self.vis, &self.body);
        tokens.extend(quote! {
            #(#attrs)*
            #[allow(clippy::unused_async)]
            #vis #sig #body
        });
    }
}

/// Whether an attribute sets the level of a lint. Such an attribute stays on its argument.
pub(crate) fn is_lint(attr: &Attribute) -> bool {
    ["allow", "expect", "warn", "deny", "forbid"]
        .iter()
        .any(|level| attr.path().is_ident(level))
}

/// Returns the lines of a doc comment as one expression.
pub(crate) fn docs(attrs: &[Attribute]) -> Option<TokenStream> {
    let mut pieces = Vec::new();
    for value in attrs.iter().filter_map(doc_value) {
        match value {
            Expr::Lit(ExprLit {
                lit: Lit::Str(text),
                ..
            }) => {
                let text = text.value();
                let lines = text
                    .lines()
                    .map(|line| line.strip_prefix(' ').unwrap_or(line));
                let text = lines.collect::<Vec<_>>().join("\n");
                pieces.push(text.into_token_stream());
            }
            included => pieces.push(included.to_token_stream()),
        }
    }
    match pieces.as_slice() {
        [] => None,
        [first, rest @ ..] => Some(quote!(::core::concat!(#first #(, "\n", #rest)*))),
    }
}

fn doc_value(attr: &Attribute) -> Option<&Expr> {
    match &attr.meta {
        Meta::NameValue(meta) if meta.path.is_ident("doc") => Some(&meta.value),
        _ => None,
    }
}

/// Reports an item that is not a function. The error names the kind of item, by its keyword.
fn expect_fn(input: ParseStream<'_>) -> syn::Result<()> {
    let ahead = input.fork();
    loop {
        if ahead.peek(Token![fn]) {
            return Ok(());
        }
        let keyword = ahead
            .call(Ident::parse_any)
            .map_err(|error| syn::Error::new(error.span(), "`#[task]` stands on an `async fn`"))?;
        let is_qualifier = ["const", "async", "unsafe", "safe", "extern"]
            .iter()
            .any(|qualifier| keyword == qualifier);
        let goes_on = ahead.peek(Token![fn]) || ahead.peek(LitStr) || ahead.peek(Ident::peek_any);
        if !is_qualifier || !goes_on || (keyword == "const" && !next_is_keyword(&ahead)) {
            let message = format!("`#[task]` stands on an `async fn`, not on `{keyword}`");
            return Err(syn::Error::new(keyword.span(), message));
        }
        if ahead.peek(LitStr) {
            ahead.parse::<LitStr>()?;
        }
    }
}

/// Distinguishes `const fn` from `const NAME`.
fn next_is_keyword(ahead: ParseStream<'_>) -> bool {
    !ahead.peek(syn::Ident)
}
