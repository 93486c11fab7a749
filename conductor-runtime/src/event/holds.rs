/// A type whose JSON has the fields of `N`: `N` itself, or an `Option` or a `Box` of it.
#[diagnostic::on_unimplemented(
    message = "a field of type `{Self}` has no fields of `{N}`",
    label = "the field is a `{Self}`"
)]
pub trait Holds<N> {}

impl<N> Holds<N> for N {}
impl<N> Holds<N> for Option<N> {}
impl<N> Holds<N> for Box<N> {}
impl<N> Holds<N> for Option<Box<N>> {}
