//! `loadgen compare` as it is called: what it ends with, what it refuses, what it writes.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};

const BINARY: &str = env!("CARGO_BIN_EXE_loadgen");

fn loadgen(arguments: &[&str]) -> Output {
    Command::new(BINARY).args(arguments).output().unwrap()
}

/// Both streams of what was told.
fn words(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// A folder of its own, which goes with it.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("loadgen-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    /// Results of runs with these medians, below a name.
    fn side(&self, name: &str, medians: &[u64], change: impl Fn(&mut Value)) -> String {
        for (number, median) in medians.iter().enumerate() {
            let mut result = json!({
                "schema": "clawgate.loadgen.result/1",
                "machine": { "cpu": "a cpu", "cores": 2, "kernel": "6.1", "optimised": true },
                "asked": { "scenario": "ws-chat", "rate": 1000.0, "sessions": 10 },
                "verdict": { "word": "VALID", "reasons": [] },
                "account": { "lost": 0, "doubled": 0, "reordered": 0, "corrupted": 0 },
                "times_ns": { "response": { "p50": median, "p99": median * 10 } },
                "rates": { "answers_per_second": 1000.0 },
                "gateway": null,
            });
            change(&mut result);
            let run = self.0.join(name).join(format!("run-{number}"));
            std::fs::create_dir_all(&run).unwrap();
            std::fs::write(run.join("result.json"), result.to_string()).unwrap();
        }
        self.path(name)
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).to_str().unwrap().to_owned()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).ok();
    }
}

const BASE: [u64; 10] = [1000, 1011, 1002, 993, 1007, 999, 1005, 996, 1012, 991];

fn read(path: impl AsRef<Path>) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

#[test]
fn a_regression_ends_with_five_and_what_is_the_same_with_nothing() {
    let folder = Folder::new("compare-stored");
    let base = folder.side("base", &BASE, |_| {});
    let same = folder.side("same", &BASE.map(|median| median + 1), |_| {});
    let slow = folder.side("slow", &BASE.map(|median| median * 11 / 10), |_| {});
    let json = folder.path("comparison.json");
    let told = loadgen(&["compare", &base, &same, "--metrics", "p50", "--strict"]);
    assert_eq!(told.status.code(), Some(0), "{}", words(&told));
    assert!(words(&told).contains("no change within"), "{}", words(&told));
    let told = loadgen(&["compare", &base, &slow, "--json", &json]);
    assert_eq!(told.status.code(), Some(5), "{}", words(&told));
    assert!(words(&told).contains("REGRESSION") && words(&told).contains("not in all results: cpu"));
    let document = read(&json);
    assert_eq!(document["schema"], "clawgate.loadgen.comparison/1");
    assert_eq!(document["findings"][0]["word"], "regression");
    let told = loadgen(&["compare", &slow, &base]);
    assert_eq!(told.status.code(), Some(0), "{}", words(&told));
    assert!(words(&told).contains("improvement"));
}

#[test]
fn one_run_a_side_is_undecided_unless_a_message_was_lost() {
    let folder = Folder::new("compare-single");
    let base = folder.side("base", &[1000], |_| {});
    let head = folder.side("head", &[2000], |_| {});
    let lossy = folder.side("lossy", &[1000], |result| result["account"]["lost"] = json!(1));
    let told = loadgen(&["compare", &base, &head]);
    assert_eq!(told.status.code(), Some(0), "{}", words(&told));
    assert!(words(&told).contains("undecided (needs "), "{}", words(&told));
    assert_eq!(loadgen(&["compare", &base, &head, "--strict"]).status.code(), Some(6));
    assert_eq!(loadgen(&["compare", &base, &lossy]).status.code(), Some(5));
}

#[test]
fn what_should_not_be_compared_is_refused_with_its_reason() {
    let folder = Folder::new("compare-refused");
    let base = folder.side("base", &BASE, |_| {});
    let elsewhere = folder.side("elsewhere", &BASE, |result| result["machine"]["cores"] = json!(64));
    let noisy = folder.side("noisy", &BASE, |result| result["verdict"]["word"] = json!("NOISY"));
    let other = folder.side("other", &BASE, |result| result["schema"] = json!("clawgate.loadgen.result/9"));
    for (head, reason) in [(&elsewhere, "its cores is 64, not 2"), (&noisy, "NOISY"), (&other, "result/9")] {
        let told = loadgen(&["compare", &base, head]);
        assert_eq!(told.status.code(), Some(6), "{}", words(&told));
        assert!(words(&told).contains(reason), "{}", words(&told));
    }
    assert_eq!(loadgen(&["compare", &base, &elsewhere, "--force"]).status.code(), Some(0));
    let told = loadgen(&["compare", &base, &other, "--force"]);
    assert_eq!(told.status.code(), Some(6), "a schema that cannot be read cannot be forced");
    assert_eq!(loadgen(&["compare", &base, &folder.path("nowhere")]).status.code(), Some(6));
    assert_eq!(loadgen(&["compare", &base, &base, "--metrics", "speed"]).status.code(), Some(2));
    assert_eq!(loadgen(&["compare", &base]).status.code(), Some(2));
}

/// Two gateways in turn. Times are not looked at; that one of them loses messages is no matter of time.
#[test]
fn two_gateways_run_in_turn_and_one_that_loses_messages_is_found_out() {
    let folder = Folder::new("compare-turns");
    let good = format!("'{BINARY}' mock gateway --key k --listen {{listen}}");
    let lossy = format!("{good} --lose-every 20");
    let compare = |head: &str, json: &str| {
        let options = [
            "--rate",
            "300",
            "--sessions",
            "10",
            "--connections",
            "2",
            "--duration",
            "200ms",
            "--warmup",
            "0s",
        ];
        let more =
            ["--key", "k", "--pairs", "2", "--drain", "1s", "--metrics", "p50", "--quiet", "--json", json];
        loadgen(&[&["compare", "--exec", &good, head, "ws-chat"][..], &options, &more].concat())
    };
    let json = folder.path("same.json");
    let told = compare(&good, &json);
    // Six: the machine was so busy that no round counts.
    assert!(matches!(told.status.code(), Some(0 | 6)), "{}", words(&told));
    let same = read(&json);
    assert_eq!((same["kind"].as_str(), same["inexact"].clone()), (Some("in turn"), json!([0, 0])));
    assert_eq!(same["findings"][0]["word"], "undecided", "two pairs are too few");
    let json = folder.path("lossy.json");
    let told = compare(&lossy, &json);
    assert_eq!(told.status.code(), Some(5), "{}", words(&told));
    let lost = read(&json)["inexact"].clone();
    assert_eq!(lost[0], 0);
    assert!(0 < lost[1].as_u64().unwrap(), "{lost}");
}

#[test]
fn a_gateway_that_does_not_start_is_said_so() {
    let told = loadgen(&["compare", "--exec", "false {listen}", "false {listen}", "--pairs", "2"]);
    assert_eq!(told.status.code(), Some(6));
    assert!(words(&told).contains("ended before it listened"), "{}", words(&told));
}
