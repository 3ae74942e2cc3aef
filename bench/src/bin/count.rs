//! Runs one hot path so many times, for callgrind to count; or counts all of them and holds them against the stored
//! counts. Owns the process that is counted: its allocator counts too.
//!
//! `count --list` names the paths, `count PATH N` runs one, `count gate [--update]` is what `scripts/counts` calls.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "it is a command")]
use clawgate_bench::allocations::{self, Counting};
use clawgate_bench::{counts, paths};
use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["--list"] => {
            paths::all().iter().for_each(|path| println!("{:28} {}", path.name, path.what));
            ExitCode::SUCCESS
        }
        ["gate", rest @ ..] => match counts::gate(rest) {
            Ok(true) => ExitCode::SUCCESS,
            Ok(false) => ExitCode::FAILURE,
            Err(why) => {
                eprintln!("count: {why}");
                ExitCode::from(2)
            }
        },
        [name, times] => match (paths::named(name), times.parse()) {
            (Some(path), Ok(times)) => {
                run(&path, times);
                ExitCode::SUCCESS
            }
            (None, _) => usage(&format!("there is no path `{name}`")),
            (_, Err(_)) => usage(&format!("`{times}` is no number")),
        },
        _ => usage("it takes --list, a path and a number, or `gate`"),
    }
}

fn usage(why: &str) -> ExitCode {
    eprintln!("count: {why}\nusage: count --list | count PATH N | count gate [--update] [--only PREFIX]");
    ExitCode::from(2)
}

fn run(path: &paths::Path, times: u64) {
    let mut operation = path.prepare();
    let counted = allocations::during(|| (0..times).for_each(|_| operation()));
    println!("{}", counts::line_of(times, counted));
}
