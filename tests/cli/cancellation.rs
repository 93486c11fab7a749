//! The example `08_cancellation`, as its header tells.

use std::time::{Duration, Instant};

use conductor::Status;
use conductor::testing::{TestConductor, run};

use super::program::{Program, until};
use super::{lines, refused};
use crate::support::{count, eventually};

#[test]
fn an_album_is_cancelled_with_its_tracks_and_the_invoice_goes_on() {
    run(|test: TestConductor| async move {
        let program = Program::example("08_cancellation", &test);
        let worker = program.worker();
        let arguments = [
            "invoke",
            "album",
            "title=Abbey",
            r#"tracks:=["intro","theme"]"#,
            "--wait",
        ];
        let waiting = program.start(&arguments);
        let running = || lines(&program.ok(&["list", "--json", "--state", "running"]));
        until(|| running().len() == 2, || "two tracks".to_owned());
        let listed = lines(&program.ok(&["list", "--json", "--task", "album"]));
        let album = listed[0]["id"].as_str().unwrap();

        let began = Instant::now();
        let said = program.ok(&["cancel", album, "--reason", "wrong master tape"]);
        assert_eq!(said, format!("{album} cancelled"));
        refused(&waiting.end(), 1, &["was cancelled: wrong master tape"]);
        worker.says("intro: cancelled at part ");
        worker.says("theme: cancelled at part ");
        eventually("the end of the tracks", || async {
            count(&test, "state = 'cancelled' and task = 'encode'")
                .await
                .unwrap()
                == 2
        })
        .await;
        // With the start of a process, which a busy machine takes its time for.
        assert!(
            began.elapsed() < Duration::from_secs(5),
            "{:?}",
            began.elapsed()
        );
        for track in lines(&program.ok(&["list", "--json", "--task", "encode"])) {
            assert_eq!(track["error"], "wrong master tape", "{track}");
            let file = format!("{}.track", track["id"].as_str().unwrap());
            assert!(!std::env::temp_dir().join(file).exists());
        }
        refused(
            &program.run(&["cancel", album]),
            1,
            &["has ended already: it is cancelled"],
        );

        let invoice = lines(&program.ok(&["list", "--json", "--task", "invoice"]));
        assert_eq!(invoice[0]["state"], "suspended");
        test.advance(Duration::from_secs(10)).await.unwrap();
        worker.says("Abbey: the invoice is printed");
    });
}

#[test]
fn an_album_without_one_track_is_incomplete() {
    run(|test: TestConductor| async move {
        let program = Program::example("08_cancellation", &test);
        let worker = program.worker();
        let album = program.ok(&["invoke", "album", "title=B", r#"tracks:=["x"]"#]);
        let of = |task, state| {
            let list = ["list", "--json", "--task", task, "--state", state];
            lines(&program.ok(&list))
        };
        until(
            || of("encode", "running").len() == 1,
            || "a track".to_owned(),
        );
        // Else its ten seconds begin after the clock is moved.
        until(
            || of("invoice", "suspended").len() == 1,
            || "the invoice".to_owned(),
        );
        let track = of("encode", "running")[0]["id"]
            .as_str()
            .unwrap()
            .to_owned();
        let said = program.ok(&["cancel", &track]);
        assert!(said.starts_with(&track), "{said}");
        worker.says("x: cancelled at part ");
        test.advance(Duration::from_secs(10)).await.unwrap();
        let album = album.parse().unwrap();
        eventually("the album's end", || async {
            test.find(album).await.unwrap().unwrap().state == Status::Completed
        })
        .await;
        let output = test.find(album).await.unwrap().unwrap().output.unwrap();
        assert_eq!(output.get(), r#""B: incomplete""#);
    });
}
