//! `triggers` and `--no-ddl`, and what `show` tells of row changes.

use std::time::Duration;

use conductor::testing::{TestConductor, run};
use nix::sys::signal::Signal;
use serde_json::Value;

use super::program::Program;
use super::{lines, refused};
use crate::support::{Role, eventually, number, run_sql};

const TABLE: &str = "create table users (
    id bigint primary key generated always as identity, name text not null, email text not null,
    plan text not null default 'free')";

#[test]
fn a_missing_table_is_refused_with_the_place_in_the_source() {
    run(|test: TestConductor| async move {
        let program = Program::example("11_row_changes", &test);
        run_sql(&test, "create table user_s (id bigint)")
            .await
            .unwrap();
        refused(
            &program.run(&["triggers"]),
            1,
            &[
                "task \"audit\" at ",
                "11_row_changes.rs:",
                "on_insert(\"public.users\"): there is no table public.users; did you mean public.user_s?",
            ],
        );
    });
}

#[test]
fn triggers_that_are_applied_by_hand_serve_a_worker_without_ddl() {
    run(|test: TestConductor| async move {
        let program = Program::example("11_row_changes", &test);
        run_sql(&test, TABLE).await.unwrap();
        let listed = lines(&program.ok(&["triggers", "--json"]));
        let states: Vec<_> = listed
            .iter()
            .map(|t| (t["op"].as_str(), t["state"].as_str()))
            .collect();
        let missing = |op| (Some(op), Some("missing"));
        assert_eq!(
            states,
            [missing("insert"), missing("update"), missing("delete")]
        );
        let worker = program.run(&["drain", "--no-ddl"]);
        refused(
            &worker,
            1,
            &[
                "the table public.users has no trigger for inserts",
                "triggers --sql",
            ],
        );

        let sql = program.ok(&["triggers", "--sql"]);
        assert!(sql.starts_with("set lock_timeout = '2s';\ncreate trigger conductor_insert after insert on public.users referencing new table as new_rows"), "{sql}");
        run_sql(&test, &sql).await.unwrap();
        program.ok(&["drain", "--no-ddl"]);
        assert_eq!(
            program.run(&["triggers", "--sql"]).err,
            "nothing to do: every trigger that is needed is there\n"
        );
        run_sql(
            &test,
            "insert into users (name, email) values ('Ada', 'a@b')",
        )
        .await
        .unwrap();
        let drained = program.run(&["drain", "--no-ddl"]);
        assert!(drained.out.contains("Ada has come"), "{drained:?}");

        run_sql(&test, "alter table users disable trigger conductor_update")
            .await
            .unwrap();
        let table = program.ok(&["triggers"]);
        assert!(
            table.contains("public.users  update  disabled  audit, celebrate"),
            "{table}"
        );
        run_sql(
            &test,
            "alter table users enable trigger conductor_update, alter email type text;
             update conductor.row_triggers set columns = array['gone']; update users set email = 'x'",
        )
        .await
        .unwrap();
        let table = program.ok(&["triggers"]);
        assert!(
            table.contains("column r.gone of the table public.users (r) does not exist"),
            "{table}"
        );
        let listed = lines(&program.ok(&["triggers", "--json"]));
        assert_eq!(listed.last().unwrap()["code"], "42703");
    });
}

#[test]
fn a_wait_for_a_row_is_shown_and_ended() {
    run(|test: TestConductor| async move {
        let program = Program::example("11_row_changes", &test);
        let id = program.ok(&["invoke", "greet", "name=Ada"]);
        program.ok(&["drain"]);
        let shown = program.ok(&["show", &id]);
        assert!(
            shown.contains(
                "for a matching insert public.users (email, id, name, plan); at most until"
            ),
            "{shown}"
        );
        let why = program.ok(&["why", &id]);
        let change =
            "waits for a matching insert public.users (email, id, name, plan), at most until";
        assert!(why.contains(change), "{why}");
        let listed = program.ok(&["list"]);
        assert!(
            listed.contains("waits for insert public.users (email"),
            "{listed}"
        );
        program.ok(&["invoke", "sign_up", "name=Ada"]);
        let drained = program.run(&["drain"]);
        assert!(drained.out.contains("Ada has come"), "{drained:?}");
        let shown: Value = serde_json::from_str(&program.ok(&["show", &id, "--json"])).unwrap();
        assert_eq!(shown["output"], "ada@example.com");
        let audit: String =
            sqlx::query_scalar("select id::text from conductor.executions where task = 'audit'")
                .fetch_one(test.pool())
                .await
                .unwrap();
        let shown = program.ok(&["show", &audit]);
        assert!(shown.contains("by an insert of public.users"), "{shown}");

        let id = program.ok(&["invoke", "greet", "name=Bob"]);
        program.ok(&["drain"]);
        eventually("the wait", || async {
            number(&test, "select count(*) from conductor.waits").await == 1
        })
        .await;
        test.advance(Duration::from_secs(120)).await.unwrap();
        program.ok(&["drain"]);
        let shown = program.ok(&["show", &id]);
        assert!(
            shown.contains("no insert of a row of public.users came in time"),
            "{shown}"
        );
    });
}

/// The role conductor_worker owns neither the schema nor the table.
#[test]
fn a_worker_that_may_not_make_triggers_is_told_how_it_works() {
    run(|test: TestConductor| async move {
        run_sql(&test, TABLE).await.unwrap();
        test.create_roles().await.unwrap();
        let role = Role::new(&test).await;
        // The example makes its table where there is none.
        role.owner_runs(
            &test,
            "grant conductor_worker to {role}; grant create on schema public to {role}",
        )
        .await;
        let owner = Program::example("11_row_changes", &test);
        let worker = Program::example_at("11_row_changes", &role.url());
        let told = worker.run(&["drain"]);
        let advice = [
            "may not make the trigger for inserts on the table public.users",
            "grant it `trigger` on the table",
            "`triggers --sql`",
            "--no-ddl",
        ];
        refused(&told, 1, &advice);
        // A worker has told its banner before.
        let ended = worker.run(&["worker"]);
        assert_eq!(ended.code, Some(1), "{ended:?}");
        assert!(ended.err.ends_with(&told.err), "{ended:?}");
        let missing = &[
            "public.users has no trigger for inserts",
            "`triggers --sql`",
        ];
        refused(&worker.run(&["drain", "--no-ddl"]), 1, missing);

        // As the texts say; the role itself may print it.
        let sql = worker.ok(&["triggers", "--sql"]);
        assert_eq!(sql, owner.ok(&["triggers", "--sql"]));
        run_sql(&test, &sql).await.unwrap();
        let running = worker.start(&["worker", "--no-ddl"]);
        running.says("worker started");
        let waiting = worker.start(&["invoke", "greet", "name=Eve", "--wait"]);
        let watches = "select count(*) from conductor.row_watches w
                         join conductor.waits o on o.event_name = w.event";
        eventually("the wait", || async { number(&test, watches).await == 1 }).await;
        let insert = "insert into users (name, email) values ('Ada', 'a@b'), ('Eve', 'e@b');
                      update users set plan = 'pro' where name = 'Ada'; delete from users where name = 'Eve'";
        run_sql(&test, insert).await.unwrap();
        for text in ["Ada has come", "Eve has come", "Ada pays!", "Eve has gone"] {
            running.says(text);
        }
        assert_eq!(waiting.end().out, "\"e@b\"\n");
        running.signal(Signal::SIGTERM);
        let ended = running.end();
        assert_eq!(ended.code, Some(0), "{ended:?}");
        assert!(!ended.err.contains("WARN"), "{}", ended.err);
        // What is there already need not be made.
        worker.ok(&["drain"]);

        run_sql(
            &test,
            "drop trigger conductor_insert on users; drop trigger conductor_update on users",
        )
        .await
        .unwrap();
        role.owner_runs(&test, "grant trigger on users to {role}")
            .await;
        worker.ok(&["drain"]);
        run_sql(
            &test,
            "insert into users (name, email) values ('Bob', 'b@b')",
        )
        .await
        .unwrap();
        let drained = worker.run(&["drain"]);
        assert!(drained.out.contains("Bob has come"), "{drained:?}");
    });
}
