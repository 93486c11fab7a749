//! What goes in comes out: values of every kind, and those that are refused.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use conductor::prelude::*;
use conductor::testing::TestConductor;
use conductor::{Error, MAX_JSON_BYTES, MAX_JSON_DEPTH};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::support::number;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
enum Shape {
    Unit,
    Text(String),
    Pair(i64, f64),
    Record { inner: Box<Option<Shape>> },
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
struct Everything {
    unit: (),
    flag: bool,
    small: i8,
    signed: i64,
    unsigned: u64,
    float: f64,
    single: f32,
    letter: char,
    text: String,
    maybe: Option<String>,
    list: Vec<Option<f64>>,
    map: BTreeMap<String, Vec<String>>,
    numbered: BTreeMap<u64, bool>,
    shape: Shape,
    tuple: (String, Option<i64>, bool),
}

#[task]
async fn payloads_everything(
    _ctx: &TaskContext,
    payload: Everything,
) -> anyhow::Result<Everything> {
    Ok(payload)
}

#[task]
async fn payloads_value(_ctx: &TaskContext, payload: Value) -> anyhow::Result<Value> {
    Ok(payload)
}

#[task]
async fn payloads_length(_ctx: &TaskContext, payload: String) -> anyhow::Result<usize> {
    Ok(payload.len())
}

#[task]
async fn payloads_float(_ctx: &TaskContext, payload: f64) -> anyhow::Result<f64> {
    Ok(payload)
}

/// Gives what JSON has no number for, as the value of a step or as its output.
#[task(retry(max_attempts = 3))]
async fn payloads_divides(ctx: &TaskContext, place: String) -> anyhow::Result<f64> {
    match place.as_str() {
        "step" => ctx.step("divide", async || anyhow::Ok(f64::NAN)).await?,
        "transaction" => {
            let divide = ctx.transaction("divide", async |_tx| anyhow::Ok(f64::INFINITY));
            divide.await?
        }
        _ => return Ok(f64::NAN),
    };
    ctx.sleep("a while", Duration::from_millis(1)).await?;
    Ok(0.0)
}

#[task(retry(max_attempts = 3))]
async fn payloads_make(_ctx: &TaskContext, kind: String) -> anyhow::Result<Value> {
    Ok(match kind.as_str() {
        "nul" => json!(["fine", "a\0b"]),
        "deep" => nested(MAX_JSON_DEPTH + 1),
        "large" => json!("x".repeat(MAX_JSON_BYTES)),
        _ => json!(kind),
    })
}

/// SplitMix64: the same values at each run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % end as u64).unwrap()
    }

    fn of<T: Clone>(&mut self, values: &[T]) -> T {
        values[self.below(values.len())].clone()
    }

    fn integer(&mut self) -> i64 {
        let any = self.next().cast_signed();
        let exact = 1 << 53;
        self.of(&[0, -1, i64::MAX, i64::MIN, exact, exact + 1, -exact - 1, any])
    }

    fn float(&mut self) -> f64 {
        let any = f64::from_bits(self.next());
        let any = if any.is_finite() { any } else { 0.1 + 0.2 };
        let known = [
            0.0,
            -0.0,
            1.0,
            1e308,
            f64::MAX,
            f64::MIN,
            5e-324,
            f64::MIN_POSITIVE,
        ];
        let known = self.of(&known);
        self.of(&[any, any, known])
    }

    fn letter(&mut self) -> char {
        let known = self.of(&[
            '"', '\\', '\n', '\u{1}', '\u{7f}', '\u{2028}', '\u{feff}', '\u{fffd}',
        ]);
        let plane = char::from_u32(1 + u32::try_from(self.below(0x0010_ffff)).unwrap());
        let plane = plane.unwrap_or('\u{10ffff}');
        let plain = self.of(&[
            'a', 'Z', ' ', '0', '{', '[', '\'', '$', 'é', '🦀', '\u{301}',
        ]);
        self.of(&[known, plane, plain])
    }

    fn text(&mut self) -> String {
        let length = self.of(&[0, 1, 5, 40]);
        let known = self.of(&["\\u0000", "null", "", "\"", "\\", " ", "0", "false"]);
        let any = (0..length).map(|_| self.letter()).collect();
        self.of(&[any, known.to_owned()])
    }

    fn many<T>(&mut self, mut one: impl FnMut(&mut Self) -> T) -> Vec<T> {
        (0..self.below(4)).map(|_| one(self)).collect()
    }

    fn option<T>(&mut self, one: impl FnOnce(&mut Self) -> T) -> Option<T> {
        (self.below(2) == 0).then(|| one(self))
    }

    fn shape(&mut self, depth: usize) -> Shape {
        match self.below(if depth == 0 { 3 } else { 4 }) {
            0 => Shape::Unit,
            1 => Shape::Text(self.text()),
            2 => Shape::Pair(self.integer(), self.float()),
            _ => Shape::Record {
                inner: Box::new(self.option(|r| r.shape(depth - 1))),
            },
        }
    }

    fn everything(&mut self) -> Everything {
        Everything {
            unit: (),
            flag: self.below(2) == 0,
            small: self.of(&[0, i8::MIN, i8::MAX]),
            signed: self.integer(),
            unsigned: self.of(&[0, u64::MAX, u64::MAX - 1, 1 << 63]),
            float: self.float(),
            single: self.of(&[0.0, -0.0, f32::MAX, f32::MIN_POSITIVE, 0.1, 16_777_217.0]),
            letter: self.letter(),
            text: self.text(),
            maybe: self.option(Self::text),
            list: self.many(|r| r.option(Self::float)),
            map: self
                .many(|r| (r.text(), r.many(Self::text)))
                .into_iter()
                .collect(),
            numbered: self.many(|r| (r.next(), true)).into_iter().collect(),
            shape: self.shape(4),
            tuple: (self.text(), self.option(Self::integer), false),
        }
    }
}

fn nested(depth: usize) -> Value {
    (0..depth).fold(json!(0), |inner, _| json!([inner]))
}

#[conductor::test]
async fn values_come_back_exactly(test: TestConductor) -> anyhow::Result<()> {
    let mut random = Random(20_240_501);
    let values: Vec<Everything> = (0..1000).map(|_| random.everything()).collect();
    let ids = test
        .invoke_batch::<PayloadsEverything>(values.clone())
        .await?;
    test.drain().await?;
    for (value, id) in values.into_iter().zip(ids) {
        let back = test.execution::<PayloadsEverything>(id).result().await?;
        assert_eq!(back, value);
        // Equality does not tell -0.0 from 0.0; the text does.
        assert_eq!(
            serde_json::to_string(&back)?,
            serde_json::to_string(&value)?
        );
        assert_eq!(back.float.to_bits(), value.float.to_bits());
        assert_eq!(back.single.to_bits(), value.single.to_bits());
    }
    Ok(())
}

#[conductor::test]
async fn what_looks_like_nothing_stays_what_it_is(test: TestConductor) -> anyhow::Result<()> {
    let values = [
        json!(null),
        json!(0),
        json!(-0.0),
        json!(false),
        json!(""),
        json!([]),
        json!({}),
        json!([null]),
        json!({"": null}),
        json!({"b": 1, "a": {"": []}}),
        json!(u64::MAX),
        json!(i64::MIN),
        nested(MAX_JSON_DEPTH),
    ];
    for value in values {
        let run = test.invoke::<PayloadsValue>(value.clone()).await?;
        test.drain().await?;
        assert_eq!(run.result().await?.to_string(), value.to_string());
    }
    Ok(())
}

#[conductor::test]
async fn a_json_text_is_stored_as_it_was_written(test: TestConductor) -> anyhow::Result<()> {
    let written = r#"{ "b":1.50,"a" : [1e2, "\u00e9"] ,"a":null}"#;
    let id = test.invoke_json("payloads_value", written).await?;
    assert_eq!(test.find(id).await?.unwrap().payload.get(), written);
    Ok(())
}

#[conductor::test]
async fn a_payload_that_cannot_be_stored_is_refused(test: TestConductor) -> anyhow::Result<()> {
    let reason = async |value: Value| match test.invoke::<PayloadsValue>(value).await {
        Err(Error::Payload { task, reason }) => {
            assert_eq!(task, "payloads_value");
            reason
        }
        other => panic!("{other:?}"),
    };
    assert!(reason(json!({"a": ["b\0"]})).await.contains("U+0000"));
    assert!(reason(json!({"a\0": 1})).await.contains("U+0000"));
    let deep = reason(nested(MAX_JSON_DEPTH + 1)).await;
    assert!(
        deep.contains("121 levels") && deep.contains("120"),
        "{deep}"
    );
    // Two bytes are the quotes.
    let large = reason(json!("x".repeat(MAX_JSON_BYTES - 1))).await;
    assert!(
        large.contains("16777217 bytes") && large.contains("reference"),
        "{large}"
    );
    let text = format!("\"{}\"", "x".repeat(MAX_JSON_BYTES - 1));
    let large = test.invoke_json("payloads_value", &text).await;
    assert!(matches!(large, Err(Error::Payload { .. })), "not refused");
    let deep = "[".repeat(100_000);
    let deep = test.invoke_json("payloads_value", &deep).await;
    assert!(matches!(deep, Err(Error::Payload { .. })), "not refused");
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let deep = test.invoke_json("of another program", &deep).await;
    assert!(matches!(deep, Err(Error::Payload { .. })), "not refused");
    assert_eq!(
        number(&test, "select count(*) from conductor.live_executions").await,
        0
    );
    Ok(())
}

#[conductor::test]
async fn a_number_that_json_does_not_have_is_refused(test: TestConductor) -> anyhow::Result<()> {
    for value in [f64::NAN, f64::INFINITY] {
        match test.invoke::<PayloadsFloat>(value).await {
            Err(Error::Payload { task, reason }) => {
                assert_eq!(task, "payloads_float");
                assert!(reason.contains("NaN or infinite"), "{reason}");
            }
            other => panic!("{other:?}"),
        }
    }
    let mut runs = Vec::new();
    for place in ["step", "transaction", "output"] {
        let place = PayloadsDivides {
            place: place.to_owned(),
        };
        runs.push(test.invoke::<PayloadsDivides>(place).await?);
    }
    test.drain().await?;
    for run in runs {
        match run.result().await {
            Err(Error::Failed { error, .. }) => {
                assert!(error.contains("invalid type: null"), "{error}");
                assert!(error.contains("NaN or infinite"), "{error}");
            }
            other => panic!("{other:?}"),
        }
    }
    Ok(())
}

#[conductor::test]
async fn the_largest_payload_works(test: TestConductor) -> anyhow::Result<()> {
    for length in [10 * 1024 * 1024, MAX_JSON_BYTES - 2] {
        let run = test.invoke::<PayloadsLength>("y".repeat(length)).await?;
        test.drain().await?;
        assert_eq!(run.result().await?, length);
    }
    let large = json!(["z".repeat(10 * 1024 * 1024)]);
    let run = test.invoke::<PayloadsValue>(large.clone()).await?;
    test.drain().await?;
    assert!(run.result().await? == large);
    // A list tells the sizes alone.
    let listed = test.list(&conductor::Filter::default()).await?;
    assert_eq!(listed.len(), 3);
    for one in &listed {
        let payload = one.payload.get();
        assert!(
            payload.len() < 1000 && payload.contains(" bytes; "),
            "{}",
            payload.len()
        );
    }
    assert!(listed[0].output.as_ref().unwrap().get().len() < 1000);
    assert!(test.find(run.id()).await?.unwrap().payload.get().len() > 1000);
    Ok(())
}

#[conductor::test]
async fn a_hundred_megabytes_are_refused_quickly(test: TestConductor) -> anyhow::Result<()> {
    let payload = "x".repeat(100 * 1024 * 1024);
    let began = Instant::now();
    let refused = test.invoke::<PayloadsLength>(payload).await;
    let took = began.elapsed();
    assert!(matches!(refused, Err(Error::Payload { .. })), "not refused");
    // Most of it is serde_json without optimization.
    assert!(took < Duration::from_secs(60), "{took:?}");
    Ok(())
}

#[conductor::test]
async fn an_output_that_cannot_be_stored_fails_at_once(test: TestConductor) -> anyhow::Result<()> {
    let make = |kind: &str| PayloadsMake {
        kind: kind.to_owned(),
    };
    let mut runs = Vec::new();
    for (kind, reason) in [
        ("nul", "U+0000"),
        ("deep", "levels deep"),
        ("large", "bytes of JSON"),
    ] {
        runs.push((test.invoke::<PayloadsMake>(make(kind)).await?, reason));
    }
    let good = test.invoke::<PayloadsMake>(make("good")).await?;
    test.drain().await?;
    assert_eq!(good.result().await?, "good");
    for (run, reason) in runs {
        match run.result().await {
            Err(Error::Failed { error, .. }) => {
                assert!(
                    error.starts_with("output of task \"payloads_make\": "),
                    "{error}"
                );
                assert!(error.contains(reason), "{error}");
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(test.find(run.id()).await?.unwrap().failures, 1);
    }
    Ok(())
}
