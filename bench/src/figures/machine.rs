//! The machine: what it is, how busy others kept it, what day it is, and which commit was measured.
use super::server::usage_of;
use std::fs;
use std::process::Command;
use std::sync::OnceLock;
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

/// Processors that we might use when we were first asked: later we may be confined to one by [`super::server::Pin`].
#[must_use]
pub fn cores() -> usize {
    static CORES: OnceLock<usize> = OnceLock::new();
    *CORES.get_or_init(|| std::thread::available_parallelism().map_or(1, usize::from))
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
    ticks: Ticks,
    own_ns: u64,
}

/// What the kernel counts for all processors, in hundredths of seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Ticks {
    processors: u64,
    /// In which they worked.
    worked: u64,
    /// Which the hypervisor gave to others.
    stolen: u64,
}

impl Busy {
    /// Reads them.
    #[must_use]
    pub fn read() -> Self {
        let ticks = Ticks::parse(&text_of("/proc/stat"));
        let own_ns = usage_of(std::process::id()).unwrap_or_default().cpu_ns;
        Self { at: Instant::now(), ticks, own_ns }
    }

    /// What happened since: what the load itself took, and how much of all processors' time was taken by others than
    /// the load and the server, which took `server_ns`; and what the hypervisor took.
    #[must_use]
    pub fn since(&self, server_ns: u64) -> Disturbance {
        let now = Self::read();
        let all_ns = now.at.duration_since(self.at).as_nanos() as f64 * now.ticks.processors.max(1) as f64;
        let load_ns = now.own_ns.saturating_sub(self.own_ns);
        let worked_ns = now.ticks.worked.saturating_sub(self.ticks.worked) as f64 * 1e7;
        let others_ns = (worked_ns - (load_ns + server_ns) as f64).max(0.0);
        let stolen_ns = now.ticks.stolen.saturating_sub(self.ticks.stolen) as f64 * 1e7;
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

impl Ticks {
    /// Reads the lines `cpu user nice system idle iowait irq softirq steal …` of `/proc/stat`: the first is their sum, and
    /// the others are a processor each.
    fn parse(stat: &str) -> Self {
        let mut lines = stat.lines().filter(|line| line.starts_with("cpu"));
        let Some(sum) = lines.next() else { return Self::default() };
        let ticks: Vec<u64> = sum.split_whitespace().skip(1).filter_map(|tick| tick.parse().ok()).collect();
        let tick = |at: usize| ticks.get(at).copied().unwrap_or(0);
        let worked = [0, 1, 2, 5, 6].into_iter().map(tick).sum();
        Self { processors: lines.count() as u64, worked, stolen: tick(7) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_line_is_read() {
        let ticks = Ticks::parse("cpu  1 2 3 4 5 6 7 8 100 100\ncpu0 9 9\ncpu1 8 8\nintr 5\n");
        assert_eq!(ticks, Ticks { processors: 2, worked: 1 + 2 + 3 + 6 + 7, stolen: 8 });
        assert_eq!(Ticks::parse(""), Ticks::default());
    }

    #[test]
    fn names_and_dates_fit_into_folders() {
        let plain = |text: &str| text.chars().all(|letter| letter.is_ascii_alphanumeric() || letter == '-');
        assert!(plain(&name()) && plain(&commit()) && plain(&today()), "{} {} {}", name(), commit(), today());
        assert_eq!(today().len(), 10);
        assert!(facts().iter().any(|(name, value)| *name == "kernel" && value.starts_with("Linux ")));
    }
}
