//! The gate: instructions and allocations of each hot path against those that are stored beside the code.
//!
//! Owns how they are counted: callgrind counts the instructions of a path run 1,000 times and 2,000 times (100 and 200
//! where one operation is long), and the difference is 1,000 operations without the start of the process and the warming
//! of memory. The same machine code on the same
//! input gives the same number, on a machine however busy. Never looks at a clock.
use crate::allocations::Allocations;
use crate::paths;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// How far instructions may be from those stored, per cent. Another order of functions or a field more moves some
/// counts by that; what a person changed on purpose is stored anew.
const TOLERANCE_PERCENT: f64 = 2.0;

/// The counts of all paths, and what made them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Stored {
    /// The compiler.
    rustc: String,
    /// What of the processor the code could choose by.
    processor: String,
    /// The counts, by path.
    paths: BTreeMap<String, Count>,
}

/// What one operation takes, on average, as a decimal fraction of the counted ones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Count {
    instructions: f64,
    allocations: f64,
    allocated_bytes: f64,
}

/// What a run of a path prints: the operations, what they allocated, and the processor as the process sees it.
#[must_use]
pub fn line_of(times: u64, counted: Allocations) -> String {
    format!(
        "operations={times} allocations={} bytes={} processor={}",
        counted.calls,
        counted.bytes,
        processor()
    )
}

/// The architecture, and which of the extensions that our code or the C library's chooses by are there.
fn processor() -> String {
    #[cfg(target_arch = "x86_64")]
    let extensions = [
        ("sse4.2", is_x86_feature_detected!("sse4.2")),
        ("avx2", is_x86_feature_detected!("avx2")),
        ("bmi2", is_x86_feature_detected!("bmi2")),
        ("avx512bw", is_x86_feature_detected!("avx512bw")),
    ];
    #[cfg(not(target_arch = "x86_64"))]
    let extensions: [(&str, bool); 0] = [];
    let has = extensions.iter().filter(|(_, has)| *has).map(|(name, _)| format!("+{name}"));
    std::iter::once(std::env::consts::ARCH.to_owned()).chain(has).collect()
}

/// What the words after `gate` ask for.
#[derive(Debug, Default)]
struct Asked {
    update: bool,
    only: String,
}

/// Counts the paths and compares. Says whether all is as stored.
///
/// # Errors
/// What stood in the way of counting.
pub fn gate(words: &[&str]) -> Result<bool, String> {
    let mut asked = Asked::default();
    let mut rest = words;
    while let [word, after @ ..] = rest {
        rest = after;
        match (*word, after) {
            ("--update", _) => asked.update = true,
            ("--only", [prefix, after @ ..]) => {
                asked.only = (*prefix).to_owned();
                rest = after;
            }
            _ => return Err(format!("`gate` takes --update and --only PREFIX, not `{word}`")),
        }
    }
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("counts.json");
    let stored: Stored = match std::fs::read(&file) {
        Ok(bytes) => serde_json::from_slice(&bytes).map_err(|why| format!("counts.json: {why}"))?,
        Err(_) => Stored::default(),
    };
    let mut chosen = paths::all();
    let names: Vec<&str> = chosen.iter().map(|path| path.name).collect();
    chosen.retain(|path| path.name.starts_with(&asked.only));
    let counted = count_all(&chosen)?;
    let same_maker = (&stored.rustc, &stored.processor) == (&counted.rustc, &counted.processor);
    let judged = judge(&stored, &counted, same_maker);
    let mut out = std::io::stdout().lock();
    // Whoever does not read it wants the exit code.
    let _ = write!(out, "{}", judged.text);
    if asked.update {
        let kept = if asked.only.is_empty() { BTreeMap::new() } else { stored.paths };
        let kept = kept.into_iter().filter(|(name, _)| names.contains(&name.as_str()));
        let paths = kept.chain(counted.paths).collect();
        write(&file, &Stored { paths, ..counted })?;
        return Ok(true);
    }
    let missing = stored.paths.keys().filter(|name| !names.contains(&name.as_str())).count();
    if missing != 0 {
        let _ = writeln!(out, "{missing} stored paths are gone: scripts/counts --update");
    }
    Ok(judged.good && missing == 0)
}

fn write(file: &Path, stored: &Stored) -> Result<(), String> {
    let text = serde_json::to_string_pretty(stored).map_err(|why| why.to_string())? + "\n";
    std::fs::write(file, text).map_err(|why| format!("{}: {why}", file.display()))
}

struct Judged {
    text: String,
    good: bool,
}

/// Holds what was counted against what is stored. Where another compiler or processor made the code, or chose among its
/// parts, instructions are only shown; allocations hold everywhere.
fn judge(stored: &Stored, counted: &Stored, same_maker: bool) -> Judged {
    let mut text =
        format!("{:28} {:>13} {:>13} {:>8}  {}\n", "path", "stored", "counted", "change", "allocations");
    let mut good = true;
    for (name, count) in &counted.paths {
        let Some(before) = stored.paths.get(name) else {
            text += &format!("{name:28} {:>13} {:>13.1} {:>8}  not stored\n", "", count.instructions, "");
            good = false;
            continue;
        };
        let change = 100.0 * (count.instructions / before.instructions - 1.0);
        let moved = same_maker && TOLERANCE_PERCENT < change.abs();
        let allocates =
            (count.allocations, count.allocated_bytes) != (before.allocations, before.allocated_bytes);
        good &= !(moved || allocates);
        text += &format!(
            "{name:28} {:>13.1} {:>13.1} {change:>+7.2}%  {}{}{}\n",
            before.instructions,
            count.instructions,
            count.allocations,
            if allocates { format!(", were {}", before.allocations) } else { String::new() },
            if moved || allocates { "  <- CHANGED" } else { "" },
        );
    }
    if !same_maker {
        text += &format!(
            "NOT COMPARED: instructions were stored by {} on {}, and are counted by {} on {}; allocations are held.\n",
            stored.rustc, stored.processor, counted.rustc, counted.processor
        );
    }
    if !good {
        text += "If the change is meant: scripts/counts --update, and say in the commit why.\n";
    }
    Judged { text, good }
}

/// Counts these paths, as many at once as there are processors: callgrind is slow, and does not mind company.
fn count_all(paths: &[paths::Path]) -> Result<Stored, String> {
    let next = AtomicUsize::new(0);
    let found: Mutex<Vec<Result<Counted, String>>> = Mutex::default();
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..workers.min(paths.len()) {
            scope.spawn(|| {
                while let Some(path) = paths.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let counted = count(path);
                    found.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(counted);
                }
            });
        }
    });
    let rustc = Command::new("rustc").arg("-V").output().map_err(|why| format!("rustc -V: {why}"))?;
    let rustc = String::from_utf8_lossy(&rustc.stdout).trim().to_owned();
    let mut stored = Stored { rustc, ..Stored::default() };
    for counted in found.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner) {
        let Counted { name, count, processor } = counted?;
        stored.processor = processor;
        stored.paths.insert(name, count);
    }
    Ok(stored)
}

/// A path's count, and the processor as its process saw it.
struct Counted {
    name: String,
    count: Count,
    processor: String,
}

fn count(path: &paths::Path) -> Result<Counted, String> {
    let times = path.operations;
    let (short, long) = (under_callgrind(path.name, times)?, under_callgrind(path.name, 2 * times)?);
    let each = |of: fn(&Run) -> u64| of(&long).saturating_sub(of(&short)) as f64 / times as f64;
    let count = Count {
        instructions: each(|run| run.instructions),
        allocations: each(|run| run.allocations.calls),
        allocated_bytes: each(|run| run.allocations.bytes),
    };
    Ok(Counted { name: path.name.to_owned(), count, processor: long.processor })
}

/// What one run under callgrind said.
#[derive(Debug, PartialEq, Eq)]
struct Run {
    instructions: u64,
    allocations: Allocations,
    processor: String,
}

fn under_callgrind(name: &str, times: u64) -> Result<Run, String> {
    let own: PathBuf = std::env::current_exe().map_err(|why| format!("where am I: {why}"))?;
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(own)
        .args([name, &times.to_string()])
        // The C library's tuning changes which of its copies is taken.
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .output()
        .map_err(|why| format!("valgrind could not be run: {why}"))?;
    let (said, told) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    read_run(&said, &told).ok_or_else(|| format!("{name}: valgrind ended with {}:\n{told}", output.status))
}

/// Reads what the path printed and what callgrind told: `==123== Collected : 456`.
fn read_run(said: &str, told: &str) -> Option<Run> {
    let field =
        |name: &str| said.split_whitespace().find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
    let collected = told.lines().find_map(|line| line.split_once("Collected :"))?.1;
    Some(Run {
        instructions: collected.trim().parse().ok()?,
        allocations: Allocations {
            calls: field("allocations")?.parse().ok()?,
            bytes: field("bytes")?.parse().ok()?,
        },
        processor: field("processor")?.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn stored(instructions: f64, allocations: f64) -> Stored {
        let count = Count { instructions, allocations, allocated_bytes: 0.0 };
        let paths = [("wire/x".to_owned(), count)].into_iter().collect();
        Stored { rustc: "rustc 1".to_owned(), processor: "x86_64".to_owned(), paths }
    }

    #[test]
    fn what_callgrind_says_is_read() {
        let line = line_of(1_000, Allocations { calls: 7, bytes: 99 });
        let run = read_run(&line, "==9== Events    : Ir\n==9== Collected : 123456\n").unwrap();
        assert_eq!((run.instructions, run.allocations), (123_456, Allocations { calls: 7, bytes: 99 }));
        assert_eq!(run.processor, processor());
        assert_eq!(read_run(&line, "==9== killed\n"), None);
        assert_eq!(read_run("panicked", "==9== Collected : 1\n"), None);
    }

    #[test]
    fn two_per_cent_pass_and_more_does_not() {
        let table = [
            (stored(1_000.0, 0.0), stored(1_019.9, 0.0), true, true),
            (stored(1_000.0, 0.0), stored(1_020.1, 0.0), true, false),
            (stored(1_000.0, 0.0), stored(979.0, 0.0), true, false),
            (stored(1_000.0, 0.0), stored(2_000.0, 0.0), false, true),
            (stored(1_000.0, 0.0), stored(1_000.0, 1.0), true, false),
            (stored(1_000.0, 0.0), stored(1_000.0, 1.0), false, false),
            (Stored::default(), stored(1_000.0, 0.0), true, false),
        ];
        for (before, after, same_maker, good) in table {
            let judged = judge(&before, &after, same_maker);
            assert_eq!(judged.good, good, "{}", judged.text);
            assert_eq!(judged.text.contains("NOT COMPARED"), !same_maker);
        }
    }

    #[test]
    fn stored_counts_come_back_as_they_were() {
        let before = stored(1_234.567, 3.0);
        let text = serde_json::to_string(&before).unwrap();
        assert_eq!(serde_json::from_str::<Stored>(&text).unwrap(), before);
    }
}
