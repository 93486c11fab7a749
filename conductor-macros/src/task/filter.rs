//! The conditions of `event(…, when = …)` and of row triggers. A condition is a Rust expression. It becomes
//! calls on the handles of fields, so that the compiler checks fields and types at their own tokens.

use proc_macro2::{Span, TokenStream};
use quote::{ToTokens, quote, quote_spanned};
use syn::ext::IdentExt;
use syn::spanned::Spanned;
use syn::{BinOp, Expr, ExprBinary, ExprMethodCall, Ident, Member, Path, Type, UnOp};

use super::op::Op;
use super::tokens::local;
use crate::errors::Errors;
use crate::literal::peel;

const NO_CALL: &str = "the database evaluates this condition, so it cannot call Rust code: \
                       compare fields with literals or constants";
const NO_CONDITION: &str = "a condition compares fields with values, \
                            as in `plan == \"pro\" && visits > 3`";
const NO_FIELD: &str = "expected a field, by its bare name";

/// The name of the row change type in the code of a row trigger's filter.
pub(crate) const CHANGE: &str = "__ConductorChange";

/// Returns the expression of the filter. It is meaningless if errors were reported.
pub(crate) fn read(
    condition: &Expr,
    event: &Type,
    krate: &Path,
    errors: &mut Errors,
) -> TokenStream {
    let of = Of::Event(event);
    Reader { of, krate, errors }.condition(condition)
}

/// Returns the same as [`read`], for the change of a row.
pub(crate) fn read_row(condition: &Expr, op: Op, krate: &Path, errors: &mut Errors) -> TokenStream {
    let of = Of::Row(op);
    Reader { of, krate, errors }.condition(condition)
}

struct Reader<'a> {
    of: Of<'a>,
    krate: &'a Path,
    errors: &'a mut Errors,
}

/// The type whose fields a condition names.
#[derive(Clone, Copy)]
enum Of<'a> {
    Event(&'a Type),
    /// `new.plan` and `old.plan`. A bare name is a field of the new row, or of the old one for a delete.
    Row(Op),
}

impl Reader<'_> {
    fn condition(&mut self, expr: &Expr) -> TokenStream {
        match peel(expr) {
            Expr::Binary(binary) => self.binary(binary),
            Expr::Unary(unary) if matches!(unary.op, UnOp::Not(_)) => {
                let inner = self.condition(&unary.expr);
                quote_spanned!(unary.op.span()=> ::core::ops::Not::not(#inner))
            }
            Expr::MethodCall(call) => self.method(call),
            // A bare field has the type `bool`.
            field @ (Expr::Path(_) | Expr::Field(_)) => {
                let place = field.span();
                let field = self.field(field);
                let yes = quote_spanned!(place=> true);
                quote_spanned!(place=> #field.eq(#yes))
            }
            call @ (Expr::Call(_) | Expr::Macro(_) | Expr::Closure(_)) => self.wrong(call, NO_CALL),
            other => self.wrong(other, NO_CONDITION),
        }
    }

    fn binary(&mut self, binary: &ExprBinary) -> TokenStream {
        let place = binary.op.span();
        let method = match &binary.op {
            BinOp::And(_) | BinOp::Or(_) => {
                let (left, right) = (self.condition(&binary.left), self.condition(&binary.right));
                return match binary.op {
                    BinOp::And(_) => quote_spanned!(place=> #left.and(#right)),
                    _ => quote_spanned!(place=> #left.or(#right)),
                };
            }
            BinOp::Eq(_) => "eq",
            BinOp::Ne(_) => "ne",
            BinOp::Lt(_) => "lt",
            BinOp::Le(_) => "le",
            BinOp::Gt(_) => "gt",
            BinOp::Ge(_) => "ge",
            other => return self.wrong(other, NO_CONDITION),
        };
        let (left, right) = (peel(&binary.left), peel(&binary.right));
        if matches!(self.of, Of::Row(_)) && is_of_a_side(left) && is_of_a_side(right) {
            let method = match method {
                "eq" => "same_as",
                "ne" => "differs_from",
                _ => return self.wrong(binary.op, "two columns are compared by `==` and `!=`"),
            };
            let (left, right) = (self.field(left), self.field(right));
            let method = Ident::new(method, place);
            return quote_spanned!(place=> #left.#method(#right));
        }
        // `3 < visits` becomes `visits > 3`.
        let (field, value, method) = match is_literal(left) {
            true => (right, left, mirrored(method)),
            false => (left, right, method),
        };
        let field = self.field(field);
        if matches!(value, Expr::Path(path) if path.path.is_ident("None")) {
            return match method {
                "eq" => quote_spanned!(place=> #field.is_null()),
                "ne" => quote_spanned!(place=> #field.is_not_null()),
                _ => self.wrong(
                    value,
                    "`None` has no order: write `.is_some()` or `.is_none()`",
                ),
            };
        }
        let value = self.value(value);
        let method = Ident::new(method, place);
        quote_spanned!(place=> #field.#method(#value))
    }

    fn method(&mut self, call: &ExprMethodCall) -> TokenStream {
        let name = call.method.to_string();
        let place = call.method.span();
        let mut arguments = call.args.iter();
        match (name.as_str(), arguments.next(), arguments.next()) {
            ("is_null" | "is_none", None, None) => {
                let field = self.field(&call.receiver);
                quote_spanned!(place=> #field.is_null())
            }
            ("is_some" | "is_not_null", None, None) => {
                let field = self.field(&call.receiver);
                quote_spanned!(place=> #field.is_not_null())
            }
            ("is_in", Some(values), None) => {
                let (field, values) = (self.field(&call.receiver), self.value(values));
                quote_spanned!(place=> #field.is_in(#values))
            }
            ("contains", Some(field), None) if is_list(&call.receiver) => {
                let field = match peel(field) {
                    Expr::Reference(reference) => &reference.expr,
                    other => other,
                };
                let (field, values) = (self.field(field), self.value(&call.receiver));
                quote_spanned!(place=> #field.is_in(#values))
            }
            ("eq" | "ne" | "lt" | "le" | "gt" | "ge", Some(value), None) => {
                let (field, value) = (self.field(&call.receiver), self.value(value));
                let method = &call.method;
                quote_spanned!(place=> #field.#method(#value))
            }
            _ => {
                let message = format!(
                    "the database evaluates this condition, so it cannot call `{name}`: compare \
                     fields with values, or use `is_some()`, `is_none()` and `[…].contains(&field)`"
                );
                self.wrong(&call.method, &message)
            }
        }
    }

    /// Returns the handle that an expression names: `plan`, or `address.city` of a nested struct.
    fn field(&mut self, expr: &Expr) -> TokenStream {
        match peel(expr) {
            Expr::Path(path) => match (path.path.get_ident(), self.of) {
                // If there is no such field, the compiler reports it at the name.
                (Some(field), Of::Event(event)) => quote!(<#event>::#field),
                (Some(field), Of::Row(op)) => self.row_field(field, op),
                (None, _) => self.wrong(path, NO_FIELD),
            },
            Expr::Field(nested) => {
                let Member::Named(member) = &nested.member else {
                    return self.wrong(&nested.member, "a filter names fields by their names");
                };
                let outer = self.field(&nested.base);
                self.inner(&outer, member)
            }
            Expr::MethodCall(call) => {
                let name = call.method.to_string();
                let message = format!(
                    "the database evaluates this condition, so it cannot call `{name}`: \
                     compare the field itself"
                );
                self.wrong(&call.method, &message)
            }
            call @ (Expr::Call(_) | Expr::Macro(_)) => self.wrong(call, NO_CALL),
            Expr::Binary(binary) if is_comparison(&binary.op) => self.wrong(
                binary.op,
                "comparisons cannot be chained: join two with `&&`",
            ),
            other => self.wrong(other, NO_FIELD),
        }
    }

    /// Returns the handle of `new` or `old`, or of a field named without either.
    fn row_field(&mut self, name: &Ident, op: Op) -> TokenStream {
        let change = Ident::new(CHANGE, Span::call_site());
        match (name.to_string().as_str(), op) {
            ("old", Op::Insert) | ("new", Op::Delete) => {
                let message = format!("{} has no `{name}` row", op.named());
                self.wrong(name, &message)
            }
            ("old", _) => quote!(<#change>::OLD),
            ("new", _) => quote!(<#change>::NEW),
            (_, Op::Delete) => self.inner(&quote!(<#change>::OLD), name),
            _ => self.inner(&quote!(<#change>::NEW), name),
        }
    }

    /// Returns the handle of a field of a nested struct. The compiler checks that the field exists.
    fn inner(&self, outer: &TokenStream, member: &Ident) -> TokenStream {
        let name = member.unraw().to_string();
        let value = local("value");
        let place = member.span().resolved_at(Span::mixed_site());
        let access = quote_spanned!(place=> &#value.#member);
        let private = {
            let krate = self.krate;
            quote!(#krate::__private)
        };
        let field = local("field");
        let call = quote_spanned!(place=> nested((&#field).stored(#name), |#value| #access));
        // Method resolution chooses the first applicable trait of each pair.
        quote!({
            use #private::{Nested as _, NestedInOption as _, StoredAsWritten as _, StoredByDerive as _};
            let #field = #outer;
            (&#field).#call
        })
    }

    /// Returns the value that a field is compared with. It must be known when the program starts.
    fn value(&mut self, expr: &Expr) -> TokenStream {
        match peel(expr) {
            Expr::Path(path) if path.path.get_ident().is_some_and(is_field_like) => self.wrong(
                path,
                "a field is compared with a literal or a constant: two fields cannot be compared",
            ),
            Expr::Call(call) => match (&*call.func, call.args.first()) {
                (Expr::Path(some), Some(value)) if some.path.is_ident("Some") => self.value(value),
                _ => self.wrong(call, NO_CALL),
            },
            Expr::MethodCall(call) => self.wrong(call, NO_CALL),
            Expr::Reference(reference) => {
                let inner = self.value(&reference.expr);
                quote!(&#inner)
            }
            Expr::Array(array) => {
                let values: Vec<_> = array.elems.iter().map(|value| self.value(value)).collect();
                quote_spanned!(array.span()=> [#(#values),*])
            }
            other => other.to_token_stream(),
        }
    }

    fn wrong(&mut self, tokens: impl ToTokens, message: &str) -> TokenStream {
        self.errors.at(tokens, message);
        TokenStream::new()
    }
}

/// Whether an expression is `new.…` or `old.…`.
fn is_of_a_side(expr: &Expr) -> bool {
    match peel(expr) {
        Expr::Field(field) => match peel(&field.base) {
            Expr::Path(path) => path.path.is_ident("new") || path.path.is_ident("old"),
            base => is_of_a_side(base),
        },
        _ => false,
    }
}

/// Whether an expression can only be a value, so that the field is on the other side.
fn is_literal(expr: &Expr) -> bool {
    match expr {
        Expr::Lit(_) => true,
        Expr::Unary(unary) => matches!(unary.op, UnOp::Neg(_)),
        _ => false,
    }
}

/// Whether an expression is `[…]`, or a constant that may be an array.
fn is_list(expr: &Expr) -> bool {
    match peel(expr) {
        Expr::Array(_) => true,
        Expr::Reference(reference) => is_list(&reference.expr),
        Expr::Path(path) => !path.path.get_ident().is_some_and(is_field_like),
        _ => false,
    }
}

fn is_comparison(op: &BinOp) -> bool {
    use BinOp::{Eq, Ge, Gt, Le, Lt, Ne};
    matches!(op, Eq(_) | Ne(_) | Lt(_) | Le(_) | Gt(_) | Ge(_))
}

/// Whether a name looks like a field. Constants begin with an upper-case letter, and local variables are not in scope.
fn is_field_like(ident: &Ident) -> bool {
    ident
        .unraw()
        .to_string()
        .chars()
        .next()
        .is_some_and(|first| !first.is_uppercase())
}

fn mirrored(method: &'static str) -> &'static str {
    match method {
        "lt" => "gt",
        "le" => "ge",
        "gt" => "lt",
        "ge" => "le",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use syn::parse_quote;

    use super::*;

    fn calls(condition: &Expr) -> (String, String) {
        let mut errors = Errors::default();
        let made = read(condition, &parse_quote!(E), &parse_quote!(c), &mut errors).to_string();
        (
            made.replace(' ', ""),
            errors.into_compile_errors().to_string(),
        )
    }

    #[test]
    fn conditions_become_calls() {
        let cases: [(Expr, &str); 12] = [
            (
                parse_quote!(plan == "pro" && visits > 3),
                "<E>::plan.eq(\"pro\").and(<E>::visits.gt(3))",
            ),
            (
                parse_quote!(a != 1 && (b <= LIMIT || !(c >= -1))),
                "<E>::a.ne(1).and(<E>::b.le(LIMIT).or(::core::ops::Not::not(<E>::c.ge(-1))))",
            ),
            (parse_quote!(3 < visits), "<E>::visits.gt(3)"),
            (
                parse_quote!(!active),
                "::core::ops::Not::not(<E>::active.eq(true))",
            ),
            (parse_quote!(a.is_none()), "<E>::a.is_null()"),
            (parse_quote!(a != None), "<E>::a.is_not_null()"),
            (parse_quote!(a == Some(5)), "<E>::a.eq(5)"),
            (
                parse_quote!(["a", "b"].contains(&a)),
                "<E>::a.is_in([\"a\",\"b\"])",
            ),
            (parse_quote!(a.is_in(PLANS)), "<E>::a.is_in(PLANS)"),
            (parse_quote!(a.eq(5)), "<E>::a.eq(5)"),
            (parse_quote!(a < 60 * 60), "<E>::a.lt(60*60)"),
            (
                parse_quote!(address.city == "Berlin"),
                "{usec::__private::{Nestedas_,NestedInOptionas_,StoredAsWrittenas_,StoredByDeriveas_};\
                 let__conductor_field=<E>::address;(&__conductor_field).nested(\
                 (&__conductor_field).stored(\"city\"),|__conductor_value|&__conductor_value.city)}\
                 .eq(\"Berlin\")",
            ),
        ];
        for (condition, expected) in cases {
            assert_eq!(calls(&condition), (expected.to_owned(), String::new()));
        }
    }

    #[test]
    fn each_mistake_is_reported_once() {
        let cases: [(Expr, &str); 11] = [
            (parse_quote!(is_pro(plan)), "cannot call Rust code"),
            (parse_quote!(plan == name()), "cannot call Rust code"),
            (parse_quote!(at > Utc::now()), "cannot call Rust code"),
            (
                parse_quote!(plan.starts_with("p")),
                "cannot call `starts_with`",
            ),
            (parse_quote!(plan.len() > 3), "cannot call `len`"),
            (parse_quote!(a == b), "two fields cannot be compared"),
            (parse_quote!(a + 1), "a condition compares fields"),
            (parse_quote!((a < 1) < 2), "cannot be chained"),
            (parse_quote!(a > None), "has no order"),
            (parse_quote!(self::a == 1), "by its bare name"),
            (parse_quote!("pro"), "a condition compares fields"),
        ];
        for (condition, expected) in cases {
            let (_, errors) = calls(&condition);
            assert!(errors.contains(expected), "{errors}");
            assert_eq!(errors.matches("compile_error").count(), 1, "{errors}");
        }
    }
}
