//! What each kind of statement starts.

use super::Listening;
use super::tables::{outputs, prepared};
use crate::support::{number, run_sql};

const LIVE: &str = "select count(*) from conductor.live_executions";

#[conductor::test]
async fn changes_start_tasks_with_the_users_commit(test: Listening) -> anyhow::Result<()> {
    prepared(&test).await?;
    let mut undone = test.pool().begin().await?;
    sqlx::query("insert into users values (1, 'gone')")
        .execute(&mut *undone)
        .await?;
    undone.rollback().await?;
    let mut tx = test.pool().begin().await?;
    sqlx::query("insert into users values (1, 'a', 'free', 'hidden'), (2, 'b', null, null)")
        .execute(&mut *tx)
        .await?;
    assert_eq!(number(&test, LIVE).await, 0);
    tx.commit().await?;
    assert_eq!(number(&test, LIVE).await, 2);
    let hidden = "select count(*) from conductor.executions where payload::text like '%hidden%'";
    assert_eq!(
        number(&test, hidden).await,
        0,
        "a column that nobody asked for"
    );
    run_sql(
        &test,
        "update users set plan = 'pro';
         update users set plan = 'pro', email = email;
         update users set email = email || '!' where id = 2;
         delete from users where id = 1;
         update users set plan = 'none' where false;
         truncate users cascade",
    )
    .await?;
    assert_eq!(
        outputs(&test, "rows.audit").await?,
        ["insert - a", "insert - b", "update b b!", "delete a -"]
    );
    assert_eq!(outputs(&test, "rows.upgraded").await?, ["1", "2"]);
    assert!(test.row_faults().await?.is_empty());
    Ok(())
}

#[conductor::test]
async fn an_upsert_and_a_copy_count_each_row_as_what_it_was(test: Listening) -> anyhow::Result<()> {
    prepared(&test).await?;
    run_sql(
        &test,
        "insert into users values (1, 'a'), (2, 'b');
         insert into users values (2, 'B'), (3, 'c') on conflict (id) do update set email = excluded.email;
         insert into users values (3, 'z') on conflict do nothing",
    )
    .await?;
    let mut connection = test.pool().acquire().await?;
    let mut copy = connection
        .copy_in_raw("copy users (id, email) from stdin")
        .await?;
    copy.send(b"4\td\n5\te\n".as_slice()).await?;
    copy.finish().await?;
    drop(connection);
    let mut found = outputs(&test, "rows.audit").await?;
    found.sort();
    assert_eq!(
        found,
        [
            "insert - a",
            "insert - b",
            "insert - c",
            "insert - d",
            "insert - e",
            "update b B"
        ]
    );
    Ok(())
}

#[conductor::test]
async fn a_merge_counts_each_row_as_what_it_was(test: Listening) -> anyhow::Result<()> {
    if number(
        &test,
        "select current_setting('server_version_num')::bigint",
    )
    .await
        < 150_000
    {
        return Ok(());
    }
    prepared(&test).await?;
    run_sql(
        &test,
        "insert into users values (1, 'a'), (2, 'b'), (3, 'c');
         merge into users u using (values (1, 'A'), (2, null), (4, 'd')) as v(id, email) on v.id = u.id
          when matched and v.email is null then delete
          when matched then update set email = v.email
          when not matched then insert (id, email) values (v.id, v.email)",
    )
    .await?;
    let mut found = outputs(&test, "rows.audit").await?;
    found.sort();
    assert_eq!(
        found,
        [
            "delete b -",
            "insert - a",
            "insert - b",
            "insert - c",
            "insert - d",
            "update a A"
        ]
    );
    Ok(())
}

#[conductor::test]
async fn an_update_pairs_old_and_new_rows_also_where_the_key_changes(
    test: Listening,
) -> anyhow::Result<()> {
    prepared(&test).await?;
    run_sql(
        &test,
        "insert into users select n, 'u' || n from generate_series(1, 2000) n;
         update conductor.tasks set priority = 0;
         update users set id = 5000 - id, email = 'was ' || email
          where id in (select id from users order by random() limit 1000);
         insert into keyless select n, 'a' from generate_series(1, 1000) n;
         update keyless set t = 'b' where n % 3 = 0;
         update keyless set n = n + 1000, t = 'c' where n % 3 = 0",
    )
    .await?;
    let updates: Vec<(String, String, i64, i64)> = sqlx::query_as(
        "select payload->'old'->>'email', payload->'new'->>'email',
                (payload->'old'->>'id')::bigint, (payload->'new'->>'id')::bigint
           from conductor.executions where task = 'rows.audit' and payload->>'op' = 'update'",
    )
    .fetch_all(test.pool())
    .await?;
    assert_eq!(updates.len(), 1000);
    for (old, new, from, to) in updates {
        assert_eq!((new, to), (format!("was {old}"), 5000 - from));
    }
    let wrong = "select count(*) from conductor.executions
                  where task = 'rows.keyless'
                    and ((payload->'new'->>'n')::int - (payload->'old'->>'n')::int
                         <> case payload->'new'->>'t' when 'c' then 1000 else 0 end
                         or payload->'new'->>'t' = payload->'old'->>'t')";
    assert_eq!(number(&test, wrong).await, 0);
    let all = "select count(*) from conductor.executions where task = 'rows.keyless'";
    assert_eq!(number(&test, all).await, 666);
    Ok(())
}

#[conductor::test]
async fn rows_of_partitions_and_cascades_are_seen(test: Listening) -> anyhow::Result<()> {
    prepared(&test).await?;
    run_sql(
        &test,
        "insert into parted values (1, 'a'), (2, 'b'), (3, 'a');
         update parted set region = 'b' where id = 1;
         update parted set v = 'x' where id = 2;
         delete from parted where id = 3;
         insert into users values (1, 'a'), (2, 'b');
         insert into children values (10, 1), (11, 1), (12, 2);
         update users set id = 7 where id = 1;
         delete from users where id = 7",
    )
    .await?;
    assert_eq!(
        outputs(&test, "rows.parted").await?,
        [
            "insert - 1a",
            "insert - 2b",
            "insert - 3a",
            "update 1a 1b",
            "update 2b 2b",
            "delete 3a -"
        ]
    );
    assert_eq!(
        outputs(&test, "rows.children").await?,
        ["update 1 7", "update 1 7", "delete 7 -1", "delete 7 -1"]
    );
    assert!(test.row_faults().await?.is_empty());
    Ok(())
}

/// A row that moves to another partition and is dropped there by the user's own trigger has no new one.
#[conductor::test]
async fn rows_whose_pairs_are_broken_are_paired_by_their_key(
    test: Listening,
) -> anyhow::Result<()> {
    prepared(&test).await?;
    run_sql(
        &test,
        "create function drops() returns trigger language plpgsql as $$
             begin if new.v = 'drop' then return null; end if; return new; end $$;
         create trigger drops before insert on parted_b for each row execute function drops();
         insert into parted values (1, 'a', 'drop'), (2, 'a', 'keep'), (3, 'a', 'keep');
         update parted set region = case id when 1 then 'b' else 'a' end, v = v",
    )
    .await?;
    let mut found = outputs(&test, "rows.parted").await?;
    found.retain(|output| output.starts_with("update"));
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found.contains(&"update 2a 2a".to_owned()), "{found:?}");
    assert!(found.contains(&"update 3a 3a".to_owned()), "{found:?}");
    Ok(())
}

#[conductor::test]
async fn a_bulk_load_is_one_insert_and_wakes_once(test: Listening) -> anyhow::Result<()> {
    prepared(&test).await?;
    run_sql(
        &test,
        "create table statements (n integer);
         create function counts() returns trigger language plpgsql as $$
             begin insert into public.statements values (1); return null; end $$;
         create trigger counts after insert on conductor.live_executions
             for each statement execute function counts();
         insert into users select n, 'u' from generate_series(1, 5000) n",
    )
    .await?;
    assert_eq!(number(&test, LIVE).await, 5000);
    assert_eq!(number(&test, "select count(*) from statements").await, 1);
    let unordered = "select count(*) from (
        select (payload->'new'->>'id')::bigint - lag((payload->'new'->>'id')::bigint) over (order by id) as step
          from conductor.live_executions) s where s.step <> 1";
    assert_eq!(number(&test, unordered).await, 0);
    Ok(())
}
