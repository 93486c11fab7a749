//! `conductor::main!` in each of its forms; that they compile is the test.
#![allow(dead_code)]

mod nothing {
    conductor::main!();
}

mod one_field {
    conductor::main! { setup: async |app| Ok(app) }
}

mod any_order {
    use conductor::prelude::*;

    conductor::main! {
        link: [serde_json, uuid,],
        setup: async |app| {
            let text = std::future::ready("state".parse::<String>()).await?;
            Ok(app.state(text))
        },
        workers: [Worker::queue("fast").concurrency(5), Worker::queue("slow")],
    }
}
