//! Keys under concurrency: callers, batches and workers at once, and calls that are sent again.

use super::*;

/// Waits until some session waits for another's lock.
async fn blocked(test: &TestConductor) {
    eventually("a session that waits", || async {
        let waiting = "select count(*) from pg_stat_activity
                        where datname = current_database() and wait_event_type = 'Lock'";
        number(test, waiting).await > 0
    })
    .await;
}

#[conductor::test]
async fn the_second_of_two_transactions_waits_for_the_first(
    test: TestConductor,
) -> anyhow::Result<()> {
    for (round, commit) in [false, true].into_iter().enumerate() {
        let key = format!("k{round}");
        let mut tx = test.pool().begin().await?;
        let first = test.invoke::<G12Run>(1).dedupe_key(&key);
        let first = first.in_transaction(&mut tx).await?;
        let conductor = Conductor::from_pool(test.pool().clone());
        let second = tokio::spawn({
            let (conductor, key) = (conductor.clone(), key.clone());
            async move { conductor.invoke::<G12Run>(2).dedupe_key(key).await }
        });
        blocked(&test).await;
        assert!(!second.is_finished());
        // A call without a key does not queue up behind the one that waits.
        soon(
            "a plain invoke",
            conductor.invoke::<G12Run>(3).into_future(),
        )
        .await?;
        if commit {
            tx.commit().await?;
        } else {
            tx.rollback().await?;
        }
        let second = soon("the second call", second).await??;
        assert_eq!(second.id() == first.id(), commit);
        let came_of = if commit {
            Invoked::Replaced
        } else {
            Invoked::Created
        };
        assert_eq!(second.came_of(), came_of);
        assert_eq!(payload(&test, second.id()).await?, "2");
    }
    Ok(())
}

#[conductor::test]
async fn a_thousand_calls_at_once_make_one_execution(test: TestConductor) -> anyhow::Result<()> {
    let (test, ran, _) = test_with_states(test);
    let mut clients = vec![Conductor::from_pool(test.pool().clone())];
    for _ in 0..3 {
        clients.push(Conductor::connect_to(test.url()).await?);
    }
    for option in ["key", "throttle", "debounce"] {
        let mut calls = JoinSet::new();
        for n in 0..1000 {
            let client = clients[n % clients.len()].clone();
            calls.spawn(async move {
                let invoke = client.invoke::<G12Run>(i64::try_from(n).unwrap());
                match option {
                    "key" => invoke.dedupe_key("one").await,
                    "throttle" => invoke.throttle(HOUR).await,
                    _ => invoke.debounce(HOUR).await,
                }
            });
        }
        let (mut ids, mut created) = (Vec::new(), 0);
        while let Some(call) = calls.join_next().await {
            let run = call??;
            created += usize::from(run.came_of() == Invoked::Created);
            ids.push(run.id());
        }
        ids.sort();
        ids.dedup();
        assert_eq!((ids.len(), created), (1, 1), "{option}");
        if option == "debounce" {
            test.advance(HOUR).await?;
        }
        test.drain().await?;
        assert_eq!(ran.take().len(), 1, "{option}");
    }
    assert_eq!(executions(&test).await, 3);
    Ok(())
}

#[conductor::test]
async fn a_thousand_calls_by_all_interfaces_make_one_execution(
    test: TestConductor,
) -> anyhow::Result<()> {
    let (test, ran, _) = test_with_states(test);
    let clients = [
        Conductor::from_pool(test.pool().clone()),
        Conductor::connect_to(test.url()).await?,
    ];
    let sql = "select conductor.invoke('g12_run', to_jsonb($1), dedupe_key => 'one')";
    let mut callers = JoinSet::new();
    for caller in 0..20_i64 {
        let client = clients[usize::try_from(caller % 2)?].clone();
        callers.spawn(async move {
            let mut ids = Vec::new();
            for n in caller * 50..(caller + 1) * 50 {
                ids.push(match n % 4 {
                    0 => client.invoke::<G12Run>(n).dedupe_key("one").await?.id(),
                    1 => {
                        let mut tx = client.pool().begin().await?;
                        let invoke = client.invoke::<G12Run>(n).dedupe_key("one");
                        let run = invoke.in_transaction(&mut tx).await?;
                        tx.commit().await?;
                        run.id()
                    }
                    2 => {
                        let items = [0, 1].map(|_| Invocation::<G12Run>::new(n).dedupe_key("one"));
                        let ids = client.invoke_batch_with(items).await?;
                        assert_eq!(ids[0], ids[1]);
                        ids[0]
                    }
                    _ => {
                        sqlx::query_scalar(sql)
                            .bind(n)
                            .fetch_one(client.pool())
                            .await?
                    }
                });
            }
            Ok::<_, anyhow::Error>(ids)
        });
    }
    let mut ids = Vec::new();
    while let Some(caller) = callers.join_next().await {
        ids.extend(caller??);
    }
    assert_eq!(ids.len(), 1000);
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 1);
    assert_eq!(executions(&test).await, 1);
    test.drain().await?;
    assert_eq!(ran.take().len(), 1);
    Ok(())
}

/// Workers claim while callers replace: the payload of the last call that was told that its payload
/// stands is the one that ran, or a later one is.
#[conductor::test]
async fn a_replaced_payload_is_never_lost(test: TestConductor) -> anyhow::Result<()> {
    const CALLERS: i64 = 6;
    const CALLS: i64 = 120;
    let (test, ran, _) = test_with_states(test);
    let handle = start(&test).await?;
    for debounced in [false, true] {
        let mut callers = JoinSet::new();
        for caller in 0..CALLERS {
            let client = Conductor::connect_to(test.url()).await?;
            callers.spawn(async move {
                // One key a caller, so that its calls have an order.
                let key = format!("{debounced} {caller}");
                let mut taken = Vec::new();
                for n in 0..CALLS {
                    let payload = caller * CALLS + n;
                    let invoke = client.invoke::<G12Run>(payload).dedupe_key(&key);
                    let run = if debounced {
                        invoke.debounce(Duration::from_millis(1)).await?
                    } else {
                        invoke.await?
                    };
                    taken.push((payload, run.id(), run.came_of()));
                    if fastrand(payload).is_multiple_of(3) {
                        tokio::time::sleep(Duration::from_micros(fastrand(n) % 3000)).await;
                    }
                }
                Ok::<_, Error>(taken)
            });
        }
        let mut all = Vec::new();
        while let Some(caller) = callers.join_next().await {
            all.push(caller??);
        }
        eventually("the end of all", || async {
            number(&test, "select count(*) from conductor.live_executions").await == 0
        })
        .await;
        let ran = ran.take();
        let mut seen = [0; 3];
        for taken in all {
            for (at, (payload, id, came_of)) in taken.iter().enumerate() {
                seen[*came_of as usize] += 1;
                let replaced = taken
                    .get(at + 1)
                    .is_some_and(|(_, next, came_of)| next == id && *came_of == Invoked::Replaced);
                let wanted = *came_of != Invoked::Existing && !replaced;
                let times = ran.iter().filter(|n| *n == payload).count();
                assert_eq!(times, usize::from(wanted), "{payload} {came_of}");
            }
        }
        assert!(seen[0] > 10 && seen[1] > 10, "{seen:?}");
    }
    handle.stop().await?;
    Ok(())
}

/// A number that looks random, the same in each run.
fn fastrand(seed: i64) -> u64 {
    let mut x = seed.cast_unsigned().wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[conductor::test]
async fn batches_with_the_same_keys_wait_in_one_direction(
    test: TestConductor,
) -> anyhow::Result<()> {
    let (test, ran, _) = test_with_states(test);
    let handle = start(&test).await?;
    let mut batches = JoinSet::new();
    for seed in 0..6 {
        let client = Conductor::connect_to(test.url()).await?;
        batches.spawn(async move {
            for round in 0..15 {
                let items = (0..60).map(|n| {
                    let random = fastrand(seed * 10_000 + round * 100 + n);
                    let item = Invocation::<G12Run>::new(n).dedupe_key((random % 40).to_string());
                    match random % 7 {
                        0 => item.debounce(Duration::from_millis(5)),
                        1 => item.throttle(Duration::from_millis(5)),
                        _ => item,
                    }
                });
                client.invoke_batch_with(items).await?;
            }
            Ok::<_, Error>(())
        });
    }
    while let Some(batch) = batches.join_next().await {
        batch??;
    }
    eventually("the end of all", || async {
        number(&test, "select count(*) from conductor.live_executions").await == 0
    })
    .await;
    handle.stop().await?;
    let deadlocks = "select deadlocks from pg_stat_database where datname = current_database()";
    assert_eq!(number(&test, deadlocks).await, 0);
    assert!(!ran.take().is_empty());
    Ok(())
}

type Sent = (Option<Vec<Uuid>>, Option<Vec<String>>);

/// The client's statement, for one call.
async fn send(
    connection: &mut PgConnection,
    id: Uuid,
    payload: &str,
    options: (Option<&str>, Option<i64>, Option<i64>),
    again: bool,
) -> Result<(Uuid, String), sqlx::Error> {
    let (ids, came_of): Sent = sqlx::query_as(
        "select ids, came_of from conductor.invoke_many(
             array[$1], array['g12_run'], array[$2], array[null::timestamptz], array[null::bigint],
             array[null::integer], false, $3, array[$4], array[$5], array[$6])",
    )
    .bind(id)
    .bind(payload)
    .bind(again)
    .bind(options.0)
    .bind(options.1)
    .bind(options.2)
    .fetch_one(connection)
    .await?;
    Ok((
        ids.map_or(id, |ids| ids[0]),
        came_of.map_or("created".to_owned(), |came_of| came_of[0].clone()),
    ))
}

/// The connection broke and the call is sent again, whatever has happened meanwhile.
#[conductor::test]
async fn a_call_that_is_sent_again_gives_its_answer_again(
    test: TestConductor,
) -> anyhow::Result<()> {
    let (test, ran, _) = test_with_states(test);
    test.invoke::<G12Run>(0).delay(HOUR).await?;
    let mut conn = session(&test).await?;
    let key = (Some("k"), None, None);
    let throttled = (Some("t"), Some(3_600_000), None);
    let debounced = (None, None, Some(3_600_000));
    for options in [key, throttled, debounced] {
        let [first, second, third] = [(); 3].map(|()| Uuid::now_v7());
        let made = send(&mut conn, first, "1", options, false).await?;
        assert_eq!(made, (first, "created".to_owned()));
        assert_eq!(send(&mut conn, first, "1", options, true).await?, made);
        let next = send(&mut conn, second, "2", options, false).await?;
        assert_eq!(send(&mut conn, second, "2", options, true).await?, next);
        assert_eq!(next.0, first);
        // Somebody else replaces it, and the first two come again.
        let last = send(&mut conn, third, "3", options, false).await?;
        let stands = if options == throttled { "1" } else { "3" };
        for _ in 0..2 {
            assert_eq!(send(&mut conn, second, "2", options, true).await?, next);
            assert_eq!(send(&mut conn, first, "1", options, true).await?, made);
            assert_eq!(payload(&test, first).await?, stands);
            // In the second round it has ended.
            test.advance(if options == debounced {
                HOUR
            } else {
                Duration::ZERO
            })
            .await?;
            test.drain().await?;
        }
        assert_eq!(send(&mut conn, third, "3", options, true).await?, last);
        let came_of = if options == throttled {
            "throttled"
        } else {
            "replaced"
        };
        assert_eq!((next.1.as_str(), last.1.as_str()), (came_of, came_of));
        assert_eq!(
            ran.take()
                .into_iter()
                .filter(|n| *n != 0)
                .collect::<Vec<_>>(),
            [stands.parse::<i64>()?]
        );
    }
    // Sent again without having been there before.
    let id = Uuid::now_v7();
    let made = send(&mut conn, id, "9", (Some("late"), None, None), true).await?;
    assert_eq!(made, (id, "created".to_owned()));
    Ok(())
}

/// The first statement is still under way when it is sent again.
#[conductor::test]
async fn a_call_that_overtakes_itself_makes_nothing_twice(
    test: TestConductor,
) -> anyhow::Result<()> {
    test.invoke::<G12Run>(0).delay(HOUR).await?;
    let (mut slow, mut other) = (session(&test).await?, session(&test).await?);
    for (n, options) in [
        (Some("k"), None, None),
        (Some("t"), Some(3_600_000), None),
        (None, Some(3_600_000), None),
        (None, None, Some(3_600_000)),
    ]
    .into_iter()
    .enumerate()
    {
        let replaced = Uuid::now_v7();
        for id in [Uuid::now_v7(), replaced] {
            sqlx::query("begin").execute(&mut slow).await?;
            let first = send(&mut slow, id, "1", options, false).await?;
            let again = tokio::spawn({
                let test_url = test.url().to_owned();
                async move {
                    let mut conn = <PgConnection as sqlx::Connection>::connect(&test_url).await?;
                    let options = (options.0, options.1, options.2);
                    send(&mut conn, id, "1", options, true).await
                }
            });
            blocked(&test).await;
            sqlx::query("commit").execute(&mut slow).await?;
            assert_eq!(soon("the repeat", again).await??, first);
        }
        let made = "select count(*) from conductor.live_executions";
        assert_eq!(number(&test, made).await, 2 + i64::try_from(n)?);
    }
    // Nobody is left that holds a lock.
    send(
        &mut other,
        Uuid::now_v7(),
        "2",
        (Some("k"), None, None),
        false,
    )
    .await?;
    Ok(())
}

#[conductor::test]
async fn a_refused_call_takes_no_other_along(test: TestConductor) -> anyhow::Result<()> {
    run_sql(
        &test,
        "alter table conductor.live_executions add constraint odd check (dedupe_key <> 'bad')",
    )
    .await?;
    let mut calls = JoinSet::new();
    for n in 0..50_i64 {
        let client = Conductor::clone(&test);
        calls.spawn(async move {
            let key = if n == 25 {
                "bad".to_owned()
            } else {
                n.to_string()
            };
            (n, client.invoke::<G12Run>(n).dedupe_key(key).await)
        });
    }
    while let Some(call) = calls.join_next().await {
        let (n, outcome) = call?;
        assert_eq!(outcome.is_err(), n == 25, "{n}");
        if let Ok(run) = outcome {
            assert_eq!(payload(&test, run.id()).await?, n.to_string());
        }
    }
    assert_eq!(executions(&test).await, 49);
    Ok(())
}

/// The calls with these ids and keys, debounced and sent again, in the transaction of a connection.
async fn debounced(
    connection: &mut sqlx::PgConnection,
    ids: &[Uuid],
    keys: &[&str],
) -> Result<(Vec<Uuid>, Vec<String>), sqlx::Error> {
    sqlx::query_as(
        "with call as (
             select array_agg(g.id order by g.n) as ids, array_agg(g.key order by g.n) as keys,
                    array_agg('g12_run'::text) as tasks, array_agg('1'::text) as payloads,
                    array_agg(null::timestamptz) as times, array_agg(null::bigint) as numbers,
                    array_agg(null::integer) as priorities, array_agg(3600000::bigint) as hours
               from unnest($1::uuid[], $2::text[]) with ordinality as g(id, key, n))
         select coalesce(r.ids, c.ids), coalesce(r.came_of, '{}')
           from call c
          cross join lateral conductor.invoke_many(
                c.ids, c.tasks, c.payloads, c.times, c.numbers, c.priorities, true, true, c.keys, c.numbers, c.hours) r",
    )
    .bind(ids)
    .bind(keys)
    .fetch_one(connection)
    .await
}

#[conductor::test]
async fn a_debounced_call_that_is_claimed_meanwhile_is_answered_again(
    test: TestConductor,
) -> anyhow::Result<()> {
    test.drain().await?;
    let [x, y, z, other] = [(); 4].map(|()| Uuid::now_v7());
    let mut holder = test.pool().begin().await?;
    debounced(&mut holder, &[other], &["b"]).await?;
    let held: String = sqlx::query_scalar("select pg_current_xact_id()::text")
        .fetch_one(&mut *holder)
        .await?;
    // The statement of the connection that broke still runs, while its calls are sent again together with another.
    let mut first = test.pool().begin().await?;
    debounced(&mut first, &[x, z], &["a", "c"]).await?;
    let second = tokio::spawn({
        let pool = test.pool().clone();
        async move {
            let mut connection = pool.acquire().await?;
            debounced(&mut connection, &[x, y, z], &["a", "b", "c"]).await
        }
    });
    blocked(&test).await;
    first.commit().await?;
    eventually("a call that waits for the held key", || async {
        let waits = format!(
            "select count(*) from pg_locks l where not l.granted and l.transactionid::text = '{held}'"
        );
        number(&test, &waits).await > 0
    })
    .await;
    // A worker claims it: a debounced execution then releases its key.
    let claimed = format!(
        "update conductor.live_executions set state = 'running', claim = 1, holds_key = false where id = '{z}'"
    );
    run_sql(&test, &claimed).await?;
    holder.rollback().await?;
    let (ids, came_of) = soon("the calls that were sent again", second).await??;
    assert_eq!(ids, [x, y, z]);
    assert_eq!(came_of, ["created"; 3]);
    Ok(())
}
