//! Task names and error texts with everything that a name may have. Odd queues: tests/queues.rs.

use conductor::prelude::*;
use conductor::testing::TestConductor;
use conductor::{Error, Filter};
use uuid::Uuid;

macro_rules! tasks {
    ($($function:ident $name:tt)*) => {
        $(
            #[task(name = $name)]
            async fn $function(ctx: &TaskContext) -> anyhow::Result<String> {
                Ok(format!("{} {}", $name, ctx.attempt()))
            }
        )*
        const NAMES: &[&str] = &[$($name),*];
    };
}

tasks! {
    names_quote "names it's"
    names_double "names \"double\" and \"more\""
    names_path "names::path::Type"
    names_upper "NAMES-UPPER"
    names_lower "names-upper"
    names_dash "names a-b"
    names_score "names a_b"
    names_unicode "names größe 🦀 名前"
    names_backslash "names back\\slash\\n"
    names_sql "names'); drop schema conductor cascade; --"
    names_pattern "names %s $1 {} {0} %"
    names_json "names {\"a\": [1]}"
    names_long "names xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"
}

#[task(retry(max_attempts = 1))]
async fn names_error(_ctx: &TaskContext, payload: String) -> anyhow::Result<()> {
    anyhow::bail!(payload)
}

#[conductor::test]
async fn a_task_may_have_an_odd_name(test: TestConductor) -> anyhow::Result<()> {
    test.drain().await?;
    let mut runs: Vec<(&str, Uuid)> = Vec::new();
    for name in NAMES {
        runs.push((name, test.invoke_json(name, "null").await?));
        let by_sql = sqlx::query_scalar("select conductor.invoke($1)")
            .bind(name)
            .fetch_one(test.pool())
            .await?;
        runs.push((name, by_sql));
        let literal = name.replace('\'', "''");
        let literal = sqlx::AssertSqlSafe(format!("select conductor.invoke('{literal}')"));
        let by_literal = sqlx::query_scalar(literal).fetch_one(test.pool()).await?;
        runs.push((name, by_literal));
    }
    test.drain().await?;
    for (name, id) in runs {
        assert_eq!(test.find(id).await?.unwrap().task, name);
        let output: String = serde_json::from_str(&test.outcome(id).await?)?;
        assert_eq!(output, format!("{name} 1"));
    }
    for name in NAMES {
        let task = Some((*name).to_owned());
        let found = test
            .list(&Filter {
                task,
                ..Filter::default()
            })
            .await?;
        assert_eq!(found.len(), 3, "{name}");
    }
    let known = test.task_names().await?;
    assert!(NAMES.iter().all(|name| known.iter().any(|k| k == name)));
    Ok(())
}

#[conductor::test]
async fn an_unknown_name_is_repeated_as_it_was_given(test: TestConductor) -> anyhow::Result<()> {
    for name in [
        "zzz \"quoted\" twice \"",
        "zzz it's",
        "zzz %s %",
        "zzz back\\slash",
        "zzz größe 🦀",
        "",
        "  ",
    ] {
        match test.invoke_json(name, "null").await {
            Err(Error::UnknownTask { name: named, .. }) => assert_eq!(named, name),
            other => panic!("{name}: {other:?}"),
        }
    }
    let nul = test.invoke_json("zzz\0", "null").await;
    assert!(nul.is_err(), "{nul:?}");
    test.invoke_json("names::path::Type", "null").await?;
    Ok(())
}

#[conductor::test]
async fn an_error_text_is_kept_as_it_is(test: TestConductor) -> anyhow::Result<()> {
    let texts = [
        "it's \"bad\" \\ 100 % of {} $1 ‰ 🦀",
        "two\nlines\tand a tab\r\n",
        "",
        "null",
        "'); drop schema conductor cascade; --",
        "\u{202e}right to left\u{feff}",
    ];
    let mut runs = Vec::new();
    for text in texts {
        runs.push(test.invoke::<NamesError>(text.to_owned()).await?);
    }
    test.drain().await?;
    for (text, run) in texts.into_iter().zip(runs) {
        match run.result().await {
            Err(Error::Failed { error, .. }) => assert_eq!(error, text),
            other => panic!("{other:?}"),
        }
        assert_eq!(test.failures(run.id()).await?[0].error, text);
    }
    Ok(())
}
