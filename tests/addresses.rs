//! Addresses that do not work: one error that helps, and no password in any text.

use std::error::Error as _;

use conductor::testing::TestConductor;
use conductor::{Conductor, Error, Orchestrator};

const SECRET: &str = "s3cr3t";

async fn refused(url: &str) -> String {
    let Err(error) = Conductor::connect_to(url).await else {
        panic!("{url} was accepted");
    };
    assert!(matches!(error, Error::Connect { .. }), "{error:?}");
    let mut texts = format!("{error}\n{error:?}\n{error:#?}\n");
    let mut source = error.source();
    while let Some(cause) = source {
        texts.push_str(&format!("{cause}\n{cause:?}\n"));
        source = cause.source();
    }
    assert!(!texts.contains(SECRET), "{texts}");
    assert!(texts.contains("DATABASE_URL"), "{texts}");
    error.to_string()
}

/// The test's address with another part.
fn changed(test: &TestConductor, from: &str, to: &str) -> String {
    assert!(test.url().contains(from), "{}", test.url());
    test.url().replacen(from, to, 1)
}

#[tokio::test]
async fn another_scheme_or_form_is_told_the_right_one() {
    for url in [
        "mysql://ann:s3cr3t@localhost/app",
        "localhost:5432/app",
        "host=localhost user=ann password=s3cr3t",
        "s3cr3t",
        "POSTGRES://ann:s3cr3t@localhost/app",
        " postgres://ann:s3cr3t@localhost/app",
        "postgres:/ann:s3cr3t@localhost",
    ] {
        let text = refused(url).await;
        assert!(
            text.contains("postgres://user:password@host:5432/database"),
            "{text}"
        );
    }
}

#[tokio::test]
async fn a_malformed_address_is_told_what_is_wrong() {
    for (url, part) in [
        ("postgres://ann:s3cr3t@localhost:99999/app", "port"),
        ("postgres://ann:s3cr3t@localhost:port/app", "port"),
        ("postgres://ann:s3cr3t@[::1/app", "IPv6"),
        (
            "postgres://ann:s3cr3t@localhost/app?sslmode=perhaps",
            "sslmode",
        ),
        (
            "postgres://ann:s3cr3t@localhost/app?port=many&password=s3cr3t",
            "invalid",
        ),
        // A password that should have been escaped.
        ("postgres://ann:pa/s3cr3t@localhost/app", "port"),
        ("postgres://ann:pa?s3cr3t@localhost/app", "port"),
        ("postgres://ann:pa@s3cr3t/x@localhost:port/app", ""),
    ] {
        let text = refused(url).await;
        assert!(text.contains(part), "{url}: {text}");
    }
}

#[tokio::test]
async fn a_port_that_nobody_listens_on_is_named() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let text = refused(&format!("postgres://ann:s3cr3t@127.0.0.1:{port}/app")).await;
    assert!(
        text.contains(&format!("ann@127.0.0.1:{port}/app")),
        "{text}"
    );
    assert!(text.contains("refused"), "{text}");
}

#[tokio::test]
async fn a_server_that_says_nothing_is_given_up() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let text = refused(&format!("postgres://ann:s3cr3t@127.0.0.1:{port}/app")).await;
    assert!(text.contains("no answer within 10 s"), "{text}");
}

#[tokio::test]
async fn a_host_or_socket_that_does_not_exist_is_named() {
    let text = refused("postgres://ann:s3cr3t@no-such-host.invalid/app").await;
    assert!(text.contains("no-such-host.invalid"), "{text}");
    let text = refused("postgres://ann:s3cr3t@localhost/app?host=%2Fno%2Fsuch%2Ffolder").await;
    assert!(text.contains("No such file"), "{text}");
}

#[conductor::test]
async fn a_database_or_role_that_does_not_exist_is_named(test: TestConductor) {
    let name: String = sqlx::query_scalar("select current_database()::text")
        .fetch_one(test.pool())
        .await
        .unwrap();
    let text = refused(&changed(&test, &name, "no_such_database")).await;
    assert!(
        text.contains("database \"no_such_database\" does not exist"),
        "{text}"
    );
    let (_, rest) = test.url().split_once('@').unwrap();
    let text = refused(&format!("postgres://nobody_here:s3cr3t@{rest}")).await;
    assert!(text.contains("nobody_here"), "{text}");
}

#[conductor::test]
async fn a_client_shows_no_password(test: TestConductor) -> anyhow::Result<()> {
    let role = crate::support::Role::new(&test).await;
    let client = Conductor::from_pool(role.pool());
    assert!(!format!("{client:?} {client:#?}").contains("a password"));
    let (before, rest) = test.url().split_once('@').unwrap();
    let user = before
        .rsplit('/')
        .next()
        .unwrap()
        .split(':')
        .next()
        .unwrap();
    // Where the server trusts, any password is right.
    let url = format!("postgres://{user}:s3cr3t@{rest}");
    if let Ok(client) = Conductor::connect_to(&url).await {
        let builder = || Orchestrator::builder(client.clone()).state(client.clone());
        let worker = builder().build()?;
        let mut texts = format!("{client:?} {client:#?} {:#?} {worker:#?}", builder());
        let handle = worker.start().await?;
        texts.push_str(&format!("{handle:#?}"));
        handle.stop().await?;
        let run = client.invoke_json("addresses", "null").await;
        texts.push_str(&format!("{run:#?} {:#?}", client.check().await));
        assert!(!texts.contains(SECRET), "{texts}");
    }
    let options = conductor::cli::Options::new().arguments(["worker", "--database-url", &url]);
    assert!(!format!("{options:?}").contains(SECRET), "{options:?}");
    assert!(!format!("{test:?}").contains("postgres://"), "{test:?}");
    Ok(())
}
