//! The machine: what it is, how busy others kept it, what day it is, and which commit was measured.
use super::server::usage_of;
use std::fs;
use std::process::Command;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

fn text_of(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// What tells one machine from another, name and value.
#[must_use]
pub fn facts() -> Vec<(&'static str, String)> {
    let memory = text_of("/proc/meminfo");
    let memory = memory.lines().find_map(|line| line.strip_prefix("MemTotal:")).unwrap_or_default();
    let mib = memory.trim().split(' ').next().and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) / 1024;
    let clock = text_of("/sys/devices/system/clocksource/clocksource0/current_clocksource");
    let rustc = Command::new("rustc").arg("-V").output().ok();
    let rustc = rustc.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    vec![
        ("processor", format!("{}, {} usable", processor(), cores())),
        ("memory", format!("{mib} MiB")),
        ("kernel", format!("Linux {}", text_of("/proc/sys/kernel/osrelease").trim())),
        ("clock source", clock.trim().to_owned()),
        ("compiler", rustc.unwrap_or_default()),
    ]
}

fn processor() -> String {
    let cpus = text_of("/proc/cpuinfo");
    let name = cpus.lines().find(|line| line.starts_with("model name")).and_then(|line| line.split_once(':'));
    name.map_or_else(|| std::env::consts::ARCH.to_owned(), |(_, name)| name.trim().to_owned())
}

/// Processors that we may use.
#[must_use]
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// A name for folders: the processor's, and how many there are.
#[must_use]
pub fn name() -> String {
    let mut name = String::new();
    for letter in processor().to_lowercase().chars() {
        let plain = letter.is_ascii_alphanumeric();
        if plain {
            name.push(letter);
        } else if !name.is_empty() && !name.ends_with('-') {
            name.push('-');
        }
    }
    format!("{}-{}c", name.trim_end_matches('-'), cores())
}

/// The commit that was measured, and `-changed` if the tree beside `results` is not what it holds.
#[must_use]
pub fn commit() -> String {
    let git = |words: &[&str]| {
        let output =
            Command::new("git").args(words).output().ok().filter(|output| output.status.success())?;
        Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let Some(commit) = git(&["rev-parse", "--short", "HEAD"]) else { return "unknown".to_owned() };
    let changes = git(&["status", "--porcelain", "--", ".", ":!results"]).unwrap_or_default();
    if changes.is_empty() { commit } else { format!("{commit}-changed") }
}

/// Today in UTC: `2026-11-21`.
#[must_use]
pub fn today() -> String {
    let millis = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_millis();
    let mut text = Vec::new();
    clawgate_adapters::time::write_rfc3339(&mut text, u64::try_from(millis).unwrap_or(0));
    String::from_utf8_lossy(&text).chars().take(10).collect()
}

/// How busy the machine is, as counters that only grow.
#[derive(Clone, Copy, Debug)]
pub struct Busy {
    at: Instant,
    /// Hundredths of seconds in which processors worked, and those that the hypervisor gave to others.
    worked: u64,
    stolen: u64,
    own_ns: u64,
}

impl Busy {
    /// Reads them.
    #[must_use]
    pub fn read() -> Self {
        let (worked, stolen) = parse(&text_of("/proc/stat"));
        let own_ns = usage_of(std::process::id()).unwrap_or_default().cpu_ns;
        Self { at: Instant::now(), worked, stolen, own_ns }
    }

    /// What happened since: what the load itself took, and how much of all processors' time was taken by others than
    /// the load and the server, which took `server_ns`; and what the hypervisor took.
    #[must_use]
    pub fn since(&self, server_ns: u64) -> Disturbance {
        let now = Self::read();
        let all_ns = now.at.duration_since(self.at).as_nanos() as f64 * cores() as f64;
        let load_ns = now.own_ns.saturating_sub(self.own_ns);
        // Kernels count in hundredths of seconds here.
        let worked_ns = now.worked.saturating_sub(self.worked) as f64 * 1e7;
        let others_ns = (worked_ns - (load_ns + server_ns) as f64).max(0.0);
        let stolen_ns = now.stolen.saturating_sub(self.stolen) as f64 * 1e7;
        Disturbance {
            load_ns,
            others_percent: 100.0 * others_ns / all_ns,
            stolen_percent: 100.0 * stolen_ns / all_ns,
        }
    }
}

/// What else the machine did while something was measured.
#[derive(Clone, Copy, Debug)]
pub struct Disturbance {
    /// Processor time of the load itself, nanoseconds.
    pub load_ns: u64,
    /// The share of all processors' time that others took.
    pub others_percent: f64,
    /// The share that the hypervisor took.
    pub stolen_percent: f64,
}

/// The line `cpu user nice system idle iowait irq softirq steal …`: the time worked, and the steal.
fn parse(stat: &str) -> (u64, u64) {
    let Some(line) = stat.lines().find(|line| line.starts_with("cpu ")) else { return (0, 0) };
    let ticks: Vec<u64> = line.split_whitespace().skip(1).filter_map(|tick| tick.parse().ok()).collect();
    let tick = |at: usize| ticks.get(at).copied().unwrap_or(0);
    ([0, 1, 2, 5, 6].into_iter().map(tick).sum(), tick(7))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_line_is_read() {
        assert_eq!(parse("cpu  1 2 3 4 5 6 7 8 100 100\ncpu0 9 9\n"), (1 + 2 + 3 + 6 + 7, 8));
        assert_eq!(parse(""), (0, 0));
    }

    #[test]
    fn names_and_dates_fit_into_folders() {
        let plain = |text: &str| text.chars().all(|letter| letter.is_ascii_alphanumeric() || letter == '-');
        assert!(plain(&name()) && plain(&commit()) && plain(&today()), "{} {} {}", name(), commit(), today());
        assert_eq!(today().len(), 10);
        assert!(facts().iter().any(|(name, value)| *name == "kernel" && value.starts_with("Linux ")));
    }
}
