//! What the packages of `conductor` must do alike. Depend on `conductor`, not on this crate.

mod line;
mod name;
mod nearest;

pub use line::one_line;
pub use name::name_problem;
pub use nearest::{Likeness, nearest, nearest_of};
