//! One `key`, `key = value` or `key(…)` of an attribute, and the table of known keys.

use proc_macro2::{TokenStream, TokenTree};
use syn::ext::IdentExt;
use syn::parse::{ParseStream, Parser};
use syn::{Expr, ExprLit, Ident, Lit, Token, parenthesized, token};

use crate::errors::Errors;

const NO_COMMA: &str = "expected a comma before the next key";

/// The known keys of an attribute or of a list in it, each with an example.
pub(crate) struct Keys {
    /// The attribute or list, for error messages: `#[task]`, `retry(…)`.
    pub(crate) owner: &'static str,
    pub(crate) forms: &'static [(&'static str, &'static str)],
    /// Keys that may be given more than once.
    pub(crate) repeatable: &'static [&'static str],
}

/// A key with its uninterpreted value.
pub(crate) struct Entry {
    pub(crate) key: Ident,
    value: Value,
    form: &'static str,
}

enum Value {
    Flag,
    Single(Expr),
    List(TokenStream),
}

impl Keys {
    /// Splits the tokens of an attribute into entries. An error affects only its own entry.
    pub(crate) fn read(&self, tokens: TokenStream, errors: &mut Errors) -> Vec<Entry> {
        let mut entries: Vec<Entry> = Vec::new();
        let parser = |input: ParseStream<'_>| {
            while !input.is_empty() {
                match self.entry(input) {
                    Err(error) => {
                        errors.add(error);
                        skip_to_comma(input)?;
                    }
                    Ok(entry) if self.is_repeated(&entry, &entries) => {
                        errors.at(&entry.key, format!("`{}` is given twice", entry.key));
                    }
                    Ok(entry) => entries.push(entry),
                }
                if !input.is_empty() {
                    input.parse::<Token![,]>()?;
                }
            }
            Ok(())
        };
        let read = parser.parse2(tokens);
        errors.keep(read);
        entries
    }

    fn entry(&self, input: ParseStream<'_>) -> syn::Result<Entry> {
        if !input.peek(Ident::peek_any) {
            let (_, form) = self.forms[0];
            return Err(input.error(format!(
                "expected a key of {}, such as `{form}`",
                self.owner
            )));
        }
        let key = input.call(Ident::parse_any)?;
        let form = self.form(&key)?;
        let wrong = || wrong_form(&key, form);
        let value = if input.is_empty() || input.peek(Token![,]) {
            Value::Flag
        } else if input.peek(token::Paren) {
            let content;
            parenthesized!(content in input);
            Value::List(content.parse()?)
        } else if input.parse::<Token![=]>().is_ok() {
            if input.is_empty() || input.peek(Token![,]) {
                return Err(wrong());
            }
            Value::Single(input.parse().map_err(|_| wrong())?)
        } else {
            return Err(wrong());
        };
        if !input.is_empty() && !input.peek(Token![,]) {
            return Err(input.error(NO_COMMA));
        }
        Ok(Entry { key, value, form })
    }

    /// Returns the example for a key, or an error that suggests the nearest key.
    fn form(&self, key: &Ident) -> syn::Result<&'static str> {
        let given = key.to_string();
        let known = || self.forms.iter().map(|(name, _)| *name);
        if let Some((_, form)) = self.forms.iter().find(|(name, _)| *name == given) {
            return Ok(form);
        }
        let hint = match conductor_core::nearest(&given, known()) {
            Some(name) => format!("did you mean `{name}`?"),
            None => {
                let names: Vec<String> = known().map(|name| format!("`{name}`")).collect();
                format!("{} knows {}", self.owner, names.join(", "))
            }
        };
        let message = format!("unknown key `{given}`: {hint}");
        Err(syn::Error::new(key.span(), message))
    }

    fn is_repeated(&self, entry: &Entry, before: &[Entry]) -> bool {
        before.iter().any(|other| other.key == entry.key)
            && !self.repeatable.iter().any(|name| entry.key == name)
    }
}

impl Entry {
    /// Returns the value of `key = value`.
    pub(crate) fn single(&self) -> syn::Result<&Expr> {
        match &self.value {
            Value::Single(expr) => Ok(expr),
            _ => Err(wrong_form(&self.key, self.form)),
        }
    }

    /// Returns the value of `key = value`, or the first value of `key(value, …)` and the tokens after it.
    pub(crate) fn first(&self) -> syn::Result<(Expr, TokenStream)> {
        let parser = |input: ParseStream<'_>| {
            if input.is_empty() || (input.peek(Ident::peek_any) && input.peek2(Token![=])) {
                let message = format!(
                    "`{}` begins with a text: write it like `{}`",
                    self.key, self.form
                );
                return Err(syn::Error::new(self.key.span(), message));
            }
            let first = input.parse()?;
            if !input.is_empty() && !input.peek(Token![,]) {
                return Err(input.error(NO_COMMA));
            }
            if !input.is_empty() {
                input.parse::<Token![,]>()?;
            }
            Ok((first, input.parse()?))
        };
        match &self.value {
            Value::Flag => Err(wrong_form(&self.key, self.form)),
            Value::Single(expr) => Ok((expr.clone(), TokenStream::new())),
            Value::List(tokens) => parser.parse2(tokens.clone()),
        }
    }

    /// Returns the same as [`list`](Self::list), but permits an empty list or none.
    pub(crate) fn options(&self, number: Option<&str>) -> syn::Result<TokenStream> {
        match &self.value {
            Value::Flag => Ok(TokenStream::new()),
            Value::List(tokens) => Ok(tokens.clone()),
            Value::Single(_) => self.list(number),
        }
    }

    /// Returns the tokens in `key(…)`. For `key = 5`, the error suggests `key(number = 5)`.
    pub(crate) fn list(&self, number: Option<&str>) -> syn::Result<TokenStream> {
        match (&self.value, number) {
            (Value::List(tokens), _) if !tokens.is_empty() => Ok(tokens.clone()),
            (
                Value::Single(Expr::Lit(ExprLit {
                    lit: Lit::Int(int), ..
                })),
                Some(name),
            ) => {
                let key = &self.key;
                let message = format!("`{key}` takes a list: write `{key}({name} = {int})`");
                Err(syn::Error::new_spanned(int, message))
            }
            _ => Err(wrong_form(&self.key, self.form)),
        }
    }
}

fn wrong_form(key: &Ident, form: &str) -> syn::Error {
    syn::Error::new(key.span(), format!("`{key}` is written like `{form}`"))
}

/// Skips to the comma after an invalid entry, so that the following entries are read.
fn skip_to_comma(input: ParseStream<'_>) -> syn::Result<()> {
    while !input.is_empty() && !input.peek(Token![,]) {
        input.parse::<TokenTree>()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use quote::quote;

    use super::*;

    const KEYS: Keys = Keys {
        owner: "`#[task]`",
        forms: &[
            ("queue", "queue = \"fast\""),
            ("cron", "cron = \"* * * * *\""),
        ],
        repeatable: &["cron"],
    };

    fn read(tokens: TokenStream) -> (Vec<String>, String) {
        let mut errors = Errors::default();
        let entries = KEYS.read(tokens, &mut errors);
        let keys = entries.iter().map(|entry| entry.key.to_string()).collect();
        (keys, errors.into_compile_errors().to_string())
    }

    #[test]
    fn one_broken_entry_costs_no_other() {
        let (keys, errors) = read(quote!(queue = , cron = "a", 5, nonsense, cron("b"),));
        assert_eq!(keys, ["cron", "cron"]);
        assert_eq!(errors.matches("compile_error").count(), 3, "{errors}");
    }

    #[test]
    fn only_repeatable_keys_repeat() {
        let (keys, errors) = read(quote!(queue = "a", queue = "b"));
        assert_eq!(keys, ["queue"]);
        assert!(errors.contains("`queue` is given twice"));
    }

    #[test]
    fn an_unknown_key_gets_the_nearest_or_all() {
        assert!(read(quote!(quue = 1)).1.contains("did you mean `queue`?"));
        assert!(read(quote!(xyz)).1.contains("knows `queue`, `cron`"));
    }
}
