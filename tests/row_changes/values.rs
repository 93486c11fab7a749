//! The types of columns.

use conductor::Status;

use super::Listening;
use super::tables::{Kind, of_task, outputs, prepared};
use crate::support::run_sql;

#[conductor::test]
async fn columns_of_all_sorts_reach_the_task(test: Listening) -> anyhow::Result<()> {
    prepared(&test).await?;
    run_sql(
        &test,
        r#"set timezone = 'America/New_York'; set datestyle = 'SQL, DMY'; set bytea_output = 'escape';
           set extra_float_digits = -3; set intervalstyle = 'iso_8601';
           insert into kinds values (
               1, '{"a": [1, null]}', '{}', '\x00ff', 12.50, '2026-01-01 12:00+02', '{1,2}', 'ok', 0.1, '2026-02-03',
               '00000000-0000-0000-0000-00000000000a', 't'),
               (2, null, null, null, null, null, null, 'ok', null, null, null, null),
               (3, null, null, null, null, null, null, 'sad', null, null, null, null),
               (4, null, null, null, null, null, null, null, null, null, null, null);
           reset all"#,
    )
    .await?;
    test.drain().await?;
    let found = of_task(&test, "rows.kinds").await?;
    let kinds: Vec<Kind> = found
        .iter()
        .map(|info| serde_json::from_str(info.output.as_ref().unwrap().get()).unwrap())
        .collect();
    let null = Kind {
        id: 2,
        j: None,
        b: None,
        n: None,
        at: None,
        a: None,
        m: Some("ok".to_owned()),
        f: None,
        d: None,
        u: None,
    };
    let full = Kind {
        id: 1,
        j: Some(serde_json::json!({"a": [1, null]})),
        b: Some("\\x00ff".to_owned()),
        n: Some(12.5),
        at: Some("2026-01-01T10:00:00+00:00".to_owned()),
        a: Some(vec![1, 2]),
        m: Some("ok".to_owned()),
        f: Some(0.1),
        d: Some("2026-02-03".to_owned()),
        u: Some("00000000-0000-0000-0000-00000000000a".to_owned()),
    };
    assert_eq!(kinds, [full, null]);
    Ok(())
}

#[conductor::test]
async fn a_value_that_the_struct_cannot_read_waits_alone(test: Listening) -> anyhow::Result<()> {
    prepared(&test).await?;
    run_sql(
        &test,
        "insert into kinds (id, m, f) values (1, 'ok', 'NaN'), (2, 'ok', 2)",
    )
    .await?;
    test.drain().await?;
    let found = of_task(&test, "rows.kinds").await?;
    assert_eq!(
        (found[0].state, found[1].state),
        (Status::Pending, Status::Completed)
    );
    let error = found[0].unreadable.as_deref().unwrap();
    assert!(
        error.contains("the row as a Kind: ") && error.contains("invalid type: string \"NaN\""),
        "{error}"
    );
    assert_eq!(found[0].failures, 0);
    Ok(())
}

#[conductor::test]
async fn what_a_filter_cannot_read_is_false_and_disturbs_no_other_row(
    test: Listening,
) -> anyhow::Result<()> {
    prepared(&test).await?;
    run_sql(
        &test,
        r#"insert into kinds (id, jj) values (1, '"\u0000"'), (2, '1e9999999'), (3, '"fine"')"#,
    )
    .await?;
    assert_eq!(outputs(&test, "rows.raw").await?, ["3"]);
    assert!(test.row_faults().await?.is_empty());
    Ok(())
}
