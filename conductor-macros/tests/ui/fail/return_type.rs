#![allow(unused)]
use conductor::prelude::*;

#[task]
async fn hello(ctx: &TaskContext) -> String {
    String::new()
}

struct Answer;

#[task]
async fn ask(ctx: &TaskContext) -> Answer {
    Answer
}

fn main() {}
