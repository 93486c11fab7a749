/// Declares structs whose fields are the columns of a row, read by their names.
macro_rules! columns {
    ($($(#[$meta:meta])* pub struct $name:ident { $($(#[$doc:meta])* pub $column:ident: $value:ty,)+ })+) => {$(
        $(#[$meta])*
        #[derive(Debug)]
        pub struct $name {
            $($(#[$doc])* pub $column: $value,)+
        }

        impl<'r> sqlx::FromRow<'r, sqlx::postgres::PgRow> for $name {
            fn from_row(row: &'r sqlx::postgres::PgRow) -> Result<Self, sqlx::Error> {
                Ok(Self {
                    $($column: sqlx::Row::try_get(row, stringify!($column))?,)+
                })
            }
        }
    )+};
}

pub(super) use columns;
