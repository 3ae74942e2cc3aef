//! `loadgen search` as it is called, against a gateway whose limit is a matter of counting, not of time: it refuses every
//! hundredth message, and the objective bounds how many may be refused.
#![allow(clippy::unwrap_used)]

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;

const BINARY: &str = env!("CARGO_BIN_EXE_loadgen");

fn loadgen(arguments: &[&str]) -> Output {
    Command::new(BINARY).args(arguments).output().unwrap()
}

fn words(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// A simulated gateway in a process of its own.
struct Gateway {
    process: Child,
    url: String,
}

impl Gateway {
    fn start(options: &[&str]) -> Self {
        let arguments = [&["mock", "gateway", "--listen", "127.0.0.1:0", "--key", "k"][..], options].concat();
        let mut process = Command::new(BINARY).args(arguments).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim().rsplit(' ').next().unwrap();
        Self { url: format!("ws://{address}"), process }
    }

    fn search(&self, more: &[&str]) -> Output {
        let pid = self.process.id().to_string();
        let options =
            ["--url", &self.url, "--key", "k", "--gateway-pid", &pid, "--sessions", "10", "--connections"];
        let times = ["2", "--duration", "500ms", "--warmup", "0s", "--drain", "2s", "--arrivals", "constant"];
        loadgen(&[&["search", "ws-chat"][..], &options, &times, more].concat())
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().unwrap();
    }
}

#[test]
fn the_rate_at_which_an_objective_begins_to_be_missed_is_found() {
    let gateway = Gateway::start(&["--refuse-every", "100"]);
    let folder = std::env::temp_dir().join(format!("loadgen-search-{}", std::process::id()));
    let out = folder.to_str().unwrap();
    // Half a second of 600 messages a second is 300: three of them are refused, or four where the count began in between.
    let told = gateway.search(&[
        "--slo",
        "refused<4",
        "--from",
        "100",
        "--to",
        "2000",
        "--precision",
        "20",
        "--replicates",
        "1",
        "--out",
        out,
    ]);
    assert_eq!(told.status.code(), Some(0), "{}", words(&told));
    let document: Value =
        serde_json::from_slice(&std::fs::read(folder.join("search.json")).unwrap()).unwrap();
    assert_eq!(document["schema"], "clawgate.loadgen.search/1");
    let trials = document["trials"].as_array().unwrap();
    // A busy machine may have made the generator late; what was judged must have been judged by the count.
    for trial in trials.iter().filter(|trial| trial["fate"] != "limited") {
        let rate = trial["rate"].as_f64().unwrap();
        if trial["fate"] == "met" {
            assert!(rate < 801.0, "{trial}");
        } else if trial["missed"].to_string().contains("refused<4") {
            assert!(599.0 < rate, "{trial}");
        }
    }
    assert!(words(&told).contains("msg/s"), "{}", words(&told));
    let results = std::fs::read_dir(&folder).unwrap().flatten();
    let results = results.filter(|entry| entry.path().join("result.json").is_file()).count();
    assert_eq!(results, trials.len(), "each trial has its result");
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn what_no_rate_meets_ends_with_three_and_bad_plans_with_two() {
    let gateway = Gateway::start(&["--lose-every", "1"]);
    let told = gateway.search(&["--slo", "loss=0", "--from", "100", "--trials-max", "3", "--drain", "50ms"]);
    assert_eq!(told.status.code(), Some(2), "an option that is given twice");
    let told =
        gateway.search(&["--slo", "rate>=1000000", "--from", "100", "--to", "100", "--trials-max", "3"]);
    assert_eq!(told.status.code(), Some(3), "{}", words(&told));
    for bad in [&["--from", "5"][..], &["--slo", "loss=0", "--from", "0"], &["--slo", "fast"]] {
        assert_eq!(loadgen(&[&["search"][..], bad].concat()).status.code(), Some(2), "{bad:?}");
    }
}
