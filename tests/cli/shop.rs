//! The example `12_axum`: a web server and the workers in one process, over HTTP.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use conductor::testing::{TestConductor, run};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use super::program::{Program, Running, until};
use crate::support::{number, orchestrators};

/// The shop, and where it listens.
struct Shop {
    process: Running,
    address: SocketAddr,
}

impl Shop {
    fn open(test: &TestConductor) -> Self {
        let program = Program::example("12_axum", test);
        let mut command = program.command::<&str>(&[]);
        command.env("LISTEN", "127.0.0.1:0");
        let process = Running::from(command);
        process.says("listening on http://");
        process.says("\n");
        let out = process.out();
        let address = out.trim().rsplit('/').next().unwrap().parse().unwrap();
        Self { process, address }
    }

    fn get(&self, path: &str) -> (u16, Value) {
        self.request("GET", path, "")
    }

    fn post(&self, path: &str, body: &str) -> (u16, Value) {
        self.request("POST", path, body)
    }

    /// The status and the body of the answer.
    fn request(&self, method: &str, path: &str, body: &str) -> (u16, Value) {
        let mut stream = TcpStream::connect(self.address).unwrap();
        write!(stream, "{}", head(method, path, body.len())).unwrap();
        stream.write_all(body.as_bytes()).unwrap();
        answer(stream)
    }

    fn state(&self, order: &Value) -> Value {
        let (status, answer) = self.get(&format!("/orders/{order}"));
        assert_eq!(status, 200, "{answer}");
        answer["state"].clone()
    }
}

fn head(method: &str, path: &str, length: usize) -> String {
    format!(
        "{method} {path} HTTP/1.1\r\nhost: shop\r\nconnection: close\r\n\
         content-type: application/json\r\ncontent-length: {length}\r\n\r\n"
    )
}

fn answer(mut stream: TcpStream) -> (u16, Value) {
    stream
        .set_read_timeout(Some(Duration::from_secs(30)))
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, serde_json::from_str(body).unwrap_or(Value::Null))
}

#[test]
fn an_order_is_shipped_when_the_webhook_reports_its_payment() {
    run(|test: TestConductor| async move {
        let shop = Shop::open(&test);
        let (status, made) = shop.post("/orders", r#"{"item": "tea", "cents": 250}"#);
        assert_eq!((status, &made["order"]), (201, &json!(1)), "{made}");
        let (status, other) = shop.post("/orders", r#"{"item": "cake", "cents": 400}"#);
        assert_eq!(status, 201, "{other}");
        assert_eq!(
            number(&test, "select count(*) from conductor.executions").await,
            2
        );

        let paid = json!({ "order": made["order"] }).to_string();
        // Payment services repeat their calls.
        for _ in 0..2 {
            assert_eq!(shop.post("/webhooks/payment", &paid).0, 202);
        }
        until(
            || shop.state(&made["order"]) == "shipped",
            || "the shipped order".to_owned(),
        );
        assert_eq!(shop.state(&other["order"]), "new");
        shop.process.signal(Signal::SIGTERM);
        assert_eq!(shop.process.end().code, Some(0));
    });
}

#[test]
fn bad_requests_are_answered_and_leave_nothing_behind() {
    run(|test: TestConductor| async move {
        let shop = Shop::open(&test);
        for (body, says) in [
            ("", "EOF"),
            ("{", "EOF"),
            ("[]", "expected struct NewOrder"),
            (r#"{"item": "tea"}"#, "missing field `cents`"),
            (r#"{"item": "tea", "cents": "250"}"#, "cents"),
            (
                r#"{"item": "tea", "cents": 250, "gift": true}"#,
                "unknown field `gift`",
            ),
            (r#"{"item": "tea", "cents": 0}"#, "positive number"),
            (r#"{"item": " ", "cents": 1}"#, "an order has an item"),
            (r#"{"item": "a\u0000", "cents": 1}"#, "an order has an item"),
        ] {
            let (status, answer) = shop.post("/orders", body);
            assert_eq!(status, 400, "{body}: {answer}");
            let error = answer["error"].as_str().unwrap();
            assert!(error.contains(says), "{body}: {error}");
        }
        let unknown = (404, json!({ "error": "there is no order 7" }));
        assert_eq!(shop.get("/orders/7"), unknown);
        assert_eq!(shop.post("/webhooks/payment", r#"{"order": 7}"#), unknown);
        assert_eq!(shop.post("/webhooks/payment", r#"{"order": "x"}"#).0, 400);
        for table in ["shop.orders", "conductor.executions", "conductor.events"] {
            let rows = number(&test, &format!("select count(*) from {table}")).await;
            assert_eq!(rows, 0, "{table}");
        }
        shop.process.signal(Signal::SIGINT);
        assert_eq!(shop.process.end().code, Some(0));
    });
}

#[test]
fn one_signal_ends_the_server_and_the_workers_in_order() {
    run(|test: TestConductor| async move {
        let shop = Shop::open(&test);
        until(
            || shop.get("/orders/1").0 == 404,
            || "the server".to_owned(),
        );
        crate::support::eventually("the workers", async || {
            orchestrators(&test).await.unwrap() == 1
        })
        .await;
        // A request that is half sent when the signal comes is still answered.
        let body = r#"{"item": "tea", "cents": 250}"#;
        let mut open = TcpStream::connect(shop.address).unwrap();
        write!(
            open,
            "{}{}",
            head("POST", "/orders", body.len()),
            &body[..5]
        )
        .unwrap();
        std::thread::sleep(Duration::from_millis(100));
        shop.process.signal(Signal::SIGTERM);
        // The workers end meanwhile.
        crate::support::eventually("the end of the workers", async || {
            orchestrators(&test).await.unwrap() == 0
        })
        .await;
        assert!(TcpStream::connect(shop.address).is_err());
        open.write_all(&body.as_bytes()[5..]).unwrap();
        assert_eq!(answer(open).0, 201);
        let ended = shop.process.end();
        assert_eq!(ended.code, Some(0), "{ended:?}");
        // Another process would run it.
        let waiting = "select count(*) from conductor.executions where state = 'pending'";
        assert_eq!(number(&test, waiting).await, 1);
    });
}
