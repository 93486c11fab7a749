//! A mistake in the body of a handler that the compiler reports without its fix.
//!
//! The future of a plain closure cannot borrow the closure's argument, so `ctx.transaction(key, |tx| async { … })`
//! fails to compile with an error about lifetimes, at which no crate can attach a hint.

use proc_macro2::{Delimiter, Group, Ident, TokenStream, TokenTree};
use quote::{ToTokens, format_ident};

use crate::errors::Errors;

/// Reports bodies of transactions that are plain closures. Returns the tokens with async closures in their places, so
/// that the compiler does not report them again.
pub(super) fn check(body: TokenStream, context: &Ident, errors: &mut Errors) -> TokenStream {
    let mut tokens: Vec<TokenTree> = body.into_iter().collect();
    for at in 0..tokens.len() {
        let is_call = is_call(&tokens[..at], context);
        if let TokenTree::Group(group) = &mut tokens[at] {
            let before = errors.count();
            let mut inner = check(group.stream(), context, errors);
            if is_call && group.delimiter() == Delimiter::Parenthesis {
                inner = check_arguments(inner, errors);
            }
            // A new group has one span for both of its ends, so groups without mistakes stay.
            if errors.count() > before {
                let mut checked = Group::new(group.delimiter(), inner);
                checked.set_span(group.span());
                *group = checked;
            }
        }
    }
    tokens.into_iter().collect()
}

/// Whether the tokens end with `ctx.transaction`.
fn is_call(before: &[TokenTree], context: &Ident) -> bool {
    let [
        ..,
        TokenTree::Ident(receiver),
        dot,
        TokenTree::Ident(method),
    ] = before
    else {
        return false;
    };
    receiver == context && is_punct(dot, '.') && method == "transaction"
}

/// Checks whether the last argument is `|tx| async { … }`, which cannot compile.
///
/// With the type of `tx` it can, if the block does not use `tx`.
fn check_arguments(arguments: TokenStream, errors: &mut Errors) -> TokenStream {
    let mut tokens: Vec<TokenTree> = arguments.into_iter().collect();
    let end = match tokens.last() {
        Some(last) if is_punct(last, ',') => tokens.len() - 1,
        _ => tokens.len(),
    };
    let Some((close, block)) = block(&tokens[..end]) else {
        return tokens.into_iter().collect();
    };
    let open = (tokens[..close].iter()).rposition(|token| is_punct(token, '|'));
    let Some((open, TokenTree::Ident(name))) = open.map(|open| (open, &tokens[open + 1])) else {
        return tokens.into_iter().collect();
    };
    let is_typed = tokens[open..close].iter().any(|token| is_punct(token, ':'));
    if is_typed && !mentions(tokens[block].to_token_stream(), name) {
        return tokens.into_iter().collect();
    }
    let start = match &tokens[..open] {
        [.., last] if is_word(last, "move") => open - 1,
        _ => open,
    };
    let closure: TokenStream = tokens[start..block].iter().cloned().collect();
    let moves = match mentions(closure.clone(), &format_ident!("move")) {
        true => " move",
        false => "",
    };
    let message = format!(
        "the future of this closure cannot borrow `{name}`: write `async{moves} |{name}| {{ … }}`"
    );
    errors.at(closure, message);
    tokens[start..block].rotate_left(close + 1 - start);
    if start < open && block - close == 3 {
        // The second `move`, which is now beside the first.
        tokens.remove(start + 1);
    }
    tokens.into_iter().collect()
}

/// Returns the places of the second `|` and of the block, if the tokens end with `| async { … }` or `| async move { … }`.
fn block(tokens: &[TokenTree]) -> Option<(usize, usize)> {
    let block = tokens.len().checked_sub(1)?;
    let before = match tokens {
        [before @ .., word, TokenTree::Group(_)] if is_word(word, "move") => before,
        [before @ .., TokenTree::Group(_)] => before,
        _ => return None,
    };
    match before {
        [.., bar, word] if is_punct(bar, '|') && is_word(word, "async") => {
            Some((before.len() - 2, block))
        }
        _ => None,
    }
}

fn is_punct(token: &TokenTree, char: char) -> bool {
    matches!(token, TokenTree::Punct(punct) if punct.as_char() == char)
}

fn is_word(token: &TokenTree, word: &str) -> bool {
    matches!(token, TokenTree::Ident(ident) if ident == word)
}

fn mentions(tokens: TokenStream, name: &Ident) -> bool {
    tokens.into_iter().any(|token| match token {
        TokenTree::Ident(ident) => ident == *name,
        TokenTree::Group(group) => mentions(group.stream(), name),
        _ => false,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    // The bodies are texts, as rustfmt would format tokens.
    fn checked(body: &str) -> (usize, String) {
        let mut errors = Errors::default();
        let body = check(body.parse().unwrap(), &format_ident!("ctx"), &mut errors);
        (errors.count(), body.to_string())
    }

    fn printed(body: &str) -> String {
        body.parse::<TokenStream>().unwrap().to_string()
    }

    #[test]
    fn a_plain_closure_becomes_an_async_one() {
        for (plain, fixed) in [
            (
                r#"{ ctx.transaction("a", |tx| async move { f(tx).await }).await?; }"#,
                r#"{ ctx.transaction("a", async move |tx| { f(tx).await }).await?; }"#,
            ),
            (
                "{ if x { ctx.transaction(g::<A, B>(|a| b), |tx: &mut Tx| async { f(tx) },) } }",
                "{ if x { ctx.transaction(g::<A, B>(|a| b), async |tx: &mut Tx| { f(tx) },) } }",
            ),
            (
                "{ ctx.transaction(key, move |tx| async { f(tx) }) }",
                "{ ctx.transaction(key, async move |tx| { f(tx) }) }",
            ),
            (
                "{ ctx.transaction(key, move |tx| async move { f(tx) }) }",
                "{ ctx.transaction(key, async move |tx| { f(tx) }) }",
            ),
        ] {
            assert_eq!(checked(plain), (1, printed(fixed)));
        }
    }

    #[test]
    fn what_may_compile_is_left_alone() {
        for sound in [
            "{ ctx.transaction(key, async |tx| { f(tx).await }) }",
            "{ ctx.transaction(key, |_tx: &mut Tx| async { Ok(1) }) }",
            "{ ctx.transaction(key, |tx| async { f(tx) }.boxed()) }",
            "{ db.transaction(key, |tx| async { f(tx) }) }",
            "{ ctx.step(key, || async { f() }) }",
            "{ ctx.transaction(key, || async { f() }) }",
            "{ ctx.transaction() }",
        ] {
            assert_eq!(checked(sound), (0, printed(sound)));
        }
    }
}
