//! The keys `on_insert`, `on_update` and `on_delete`, which may be given several times.

use proc_macro2::{Span, TokenStream};
use quote::{ToTokens, quote};
use syn::ext::IdentExt;
use syn::spanned::Spanned;
use syn::{Expr, Ident, LitStr, Path, Type};

use super::entry::{Entry, Keys};
use super::filter;
use super::op::Op;
use super::tokens::place_at;
use crate::errors::Errors;
use crate::literal;

const ROW: Keys = Keys {
    owner: "a trigger on rows",
    forms: &[
        ("columns", "columns = [email]"),
        ("when", "when = new.plan == \"pro\""),
        ("row", "row = User"),
    ],
    repeatable: &[],
};

/// A kind of row change that starts the task.
pub(crate) struct RowTrigger {
    op: Op,
    table: LitStr,
    row: Option<Type>,
    columns: Vec<LitStr>,
    condition: Option<Expr>,
}

impl RowTrigger {
    /// Reads one trigger; `None` if an error in its list was reported.
    pub(crate) fn read(entry: &Entry, errors: &mut Errors) -> syn::Result<Option<Self>> {
        let op = Op::read(&entry.key);
        let before = errors.count();
        let (table, options) = entry.first()?;
        let table = errors.keep(table_name(&table));
        let (mut row, mut columns, mut condition) = (None, Vec::new(), None);
        for entry in ROW.read(options, errors) {
            let set = entry.single().and_then(|value| {
                match entry.key.to_string().as_str() {
                    "row" => row = Some(row_type(value)?),
                    "columns" if op != Op::Update => {
                        let message = format!(
                            "{} has no columns that change: `columns` belongs to `on_update`",
                            op.named()
                        );
                        return Err(syn::Error::new(entry.key.span(), message));
                    }
                    "columns" => columns = self::columns(value)?,
                    _ => {
                        // Only collects errors. The path of the crate is not known yet, as `crate` may follow.
                        filter::read_row(value, op, &syn::parse_quote!(::conductor), errors);
                        condition = Some(value.clone());
                    }
                }
                Ok(())
            });
            errors.keep(set);
        }
        Ok(table
            .filter(|_| errors.count() == before)
            .map(|table| Self {
                op,
                table,
                row,
                columns,
                condition,
            }))
    }

    /// Returns the `RowTriggerDefinition` for the task of type `subject`.
    pub(crate) fn definition(&self, krate: &Path, subject: &TokenStream) -> TokenStream {
        let private = quote!(#krate::__private);
        let (op, table) = (self.op.variant(), &self.table);
        let row = match &self.row {
            Some(row) => row.to_token_stream(),
            // The compiler reports a payload type that does not determine the row type at the table.
            None => place_at(
                quote!(<<#subject as #krate::Task>::Payload as #private::RowPayload>::Row),
                table.span(),
            ),
        };
        let place = self.row.as_ref().map_or(table.span(), Spanned::span);
        let made = place_at(quote!(#private::RowTriggerDefinition::of), place);
        let columns = &self.columns;
        let columns = (!columns.is_empty()).then(|| quote!(.columns(&[#(#columns),*])));
        let change = Ident::new(filter::CHANGE, Span::call_site());
        let when = self.condition.iter().map(|condition| {
            let filter = filter::read_row(condition, self.op, krate, &mut Errors::default());
            quote!(.when(|| {
                type #change = #private::RowChange<#row>;
                #private::Filter::<#change>::to_json(&#filter)
            }))
        });
        quote!(#made::<#subject, #row>(#private::RowOp::#op, #table) #columns #(#when)*)
    }
}

/// Reads the name of a table. A start checks whether the table exists.
fn table_name(value: &Expr) -> syn::Result<LitStr> {
    let name = literal::string(value, "a table's name")?;
    let text = name.value();
    let problem = if text.trim().is_empty() {
        "a table's name is not empty: write it like `\"public.users\"`"
    } else if text.contains('\0') {
        "a table's name cannot contain the character U+0000"
    } else if text.matches('"').count() % 2 != 0 {
        "a quote in this name is not closed: a quoted name is written like \
         `\"public.\\\"Odd Name\\\"\"`, and a quote in it is doubled"
    } else {
        return Ok(name.clone());
    };
    Err(syn::Error::new(name.span(), problem))
}

/// Reads a list of columns such as `[email, "Odd Name"]`, or a single column.
fn columns(value: &Expr) -> syn::Result<Vec<LitStr>> {
    match literal::peel(value) {
        Expr::Array(array) if !array.elems.is_empty() => array.elems.iter().map(column).collect(),
        Expr::Array(array) => Err(syn::Error::new_spanned(
            array,
            "name a column, or leave `columns` out for all updates",
        )),
        one => Ok(vec![column(one)?]),
    }
}

fn column(value: &Expr) -> syn::Result<LitStr> {
    match literal::peel(value) {
        Expr::Path(path) if path.path.get_ident().is_some() => {
            let name = path.path.require_ident()?;
            Ok(LitStr::new(&name.unraw().to_string(), name.span()))
        }
        other => literal::string(
            other,
            "columns such as `columns = [email]`, or an odd name such as `\"E-Mail\"`",
        )
        .cloned(),
    }
}

fn row_type(value: &Expr) -> syn::Result<Type> {
    match literal::peel(value) {
        path @ Expr::Path(_) => syn::parse2(path.to_token_stream()),
        other => Err(syn::Error::new_spanned(
            other,
            "expected the struct that a row is read into, as in `row = User`",
        )),
    }
}

/// Reports a second trigger of the same kind on a table, as a task runs once per change.
pub(crate) fn refuse_same(rows: &[RowTrigger], errors: &mut Errors) {
    for (index, row) in rows.iter().enumerate() {
        let is_same =
            |before: &&RowTrigger| before.op == row.op && before.table.value() == row.table.value();
        if rows[..index].iter().any(|before| is_same(&before)) {
            let message = format!(
                "{} starts a task once, and this task listens to this table already: \
                 join the conditions and columns",
                row.op.named()
            );
            errors.at(&row.table, message);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::attr::definitions;
    use super::*;

    fn read(tokens: TokenStream) -> (Vec<String>, String) {
        definitions(tokens, |attr, krate| {
            let rows = attr.rows.iter();
            let rows = rows.map(|row| row.definition(krate, &quote!(Audit)));
            rows.collect()
        })
    }

    #[test]
    fn triggers_become_definitions() {
        let (rows, errors) = read(quote!(
            on_insert("public.users"),
            on_update(
                "users",
                columns = [email, "E-Mail"],
                when = new.plan == "pro" && old.plan != new.plan,
                row = User
            ),
            on_delete = "users"
        ));
        assert_eq!(errors, "");
        let made = "::conductor::__private::RowTriggerDefinition::of::<Audit,";
        let row = "<<Auditas::conductor::Task>::Payloadas::conductor::__private::RowPayload>::Row";
        let op = "::conductor::__private::RowOp::";
        assert_eq!(
            rows[0],
            format!("{made}{row}>({op}Insert,\"public.users\")")
        );
        let access = |side: &str| {
            format!(
                "{{use::conductor::__private::{{Nestedas_,NestedInOptionas_,StoredAsWrittenas_,StoredByDeriveas_}};\
                 let__conductor_field=<__ConductorChange>::{side};(&__conductor_field).nested(\
                 (&__conductor_field).stored(\"plan\"),|__conductor_value|&__conductor_value.plan)}}"
            )
        };
        assert_eq!(
            rows[1],
            format!(
                "{made}User>({op}Update,\"users\").columns(&[\"email\",\"E-Mail\"]).when(||{{\
                 type__ConductorChange=::conductor::__private::RowChange<User>;\
                 ::conductor::__private::Filter::<__ConductorChange>::to_json(\
                 &{}.eq(\"pro\").and({}.differs_from({})))}})",
                access("NEW"),
                access("OLD"),
                access("NEW")
            )
        );
        assert_eq!(rows[2], format!("{made}{row}>({op}Delete,\"users\")"));
    }

    #[test]
    fn each_mistake_is_reported_once() {
        let (rows, errors) = read(quote!(
            on_insert,
            on_insert(""),
            on_insert("public.\"a"),
            on_insert("a", columns = [b]),
            on_insert("b", when = old.plan == "pro"),
            on_delete("c", when = new.plan == "pro"),
            on_update("d", columns = []),
            on_update("e", column = [b]),
            on_update("f", row = 5),
            on_update(g),
            on_update("h", when = new.plan < old.plan)
        ));
        assert!(rows.is_empty());
        assert_eq!(errors.matches("compile_error").count(), 11, "{errors}");
        assert!(errors.contains("did you mean `columns`?"), "{errors}");
    }

    #[test]
    fn a_table_is_named_once_an_operation() {
        let (_, errors) = read(quote!(
            on_insert("a"),
            on_delete("a"),
            on_insert("a", when = new.b == 1)
        ));
        assert_eq!(errors.matches("compile_error").count(), 1, "{errors}");
    }
}
