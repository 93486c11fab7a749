#![allow(unused)]
use conductor::prelude::*;

#[task]
struct Greet {
    name: String,
}

#[task]
const GREETING: &str = "Hello";

mod inner {
    use conductor::prelude::*;

    #[task]
    pub(super) enum Choice {
        This,
    }
}

fn main() {}
