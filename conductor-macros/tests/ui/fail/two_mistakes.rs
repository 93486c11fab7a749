#![allow(unused)]
use conductor::prelude::*;

#[task(timeout = "5 minuts")]
fn greet(ctx: TaskContext, name: &str) {
    let _ = name;
}

fn main() {}
