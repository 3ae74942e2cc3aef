//! The machine that a run was made on, and how busy it was: what a figure means only beside. Reads `/proc` and nothing
//! else; what is not there is left out.

use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::sys;

/// What tells one machine from another.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Fingerprint {
    /// The processor's name.
    pub cpu: String,
    /// Processors that this process may use.
    pub cores: usize,
    /// Memory in KiB.
    pub memory_kib: u64,
    /// The kernel's release.
    pub kernel: String,
    /// Where the machine's time comes from.
    pub clocksource: String,
    /// The load average when the run began.
    pub load_average: String,
    /// The version of this program.
    pub loadgen: String,
    /// Whether it was built to be fast.
    pub optimised: bool,
}

impl Fingerprint {
    /// Of this machine, at this moment.
    #[must_use]
    pub fn read() -> Self {
        let text = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let cpus = text("/proc/cpuinfo");
        let field = |text: &str, name: &str| {
            let line = text.lines().find(|line| line.starts_with(name))?;
            Some(line.split_once(':')?.1.trim().to_owned())
        };
        let memory = field(&text("/proc/meminfo"), "MemTotal").unwrap_or_default();
        Self {
            cpu: field(&cpus, "model name").unwrap_or_default(),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            memory_kib: memory.split(' ').next().and_then(|kib| kib.parse().ok()).unwrap_or(0),
            kernel: text("/proc/sys/kernel/osrelease").trim().to_owned(),
            clocksource: text("/sys/devices/system/clocksource/clocksource0/current_clocksource")
                .trim()
                .to_owned(),
            load_average: text("/proc/loadavg").trim().to_owned(),
            loadgen: env!("CARGO_PKG_VERSION").to_owned(),
            optimised: !cfg!(debug_assertions),
        }
    }
}

/// How busy the machine was, as counters that only grow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Busy {
    /// When it was read, on the machine's clock.
    pub at_ns: u64,
    /// Microseconds in which something waited for a processor; `None` where the kernel does not say.
    pub pressure_us: Option<u64>,
    /// Ticks of all processors, and those of them that the hypervisor gave to others.
    pub ticks: u64,
    /// See `ticks`.
    pub stolen_ticks: u64,
}

impl Busy {
    /// Reads the counters.
    #[must_use]
    pub fn read() -> Self {
        let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
        let (ticks, stolen_ticks) = parse_ticks(&stat);
        let pressure = fs::read_to_string("/proc/pressure/cpu").ok();
        Self {
            at_ns: sys::now_ns(),
            pressure_us: pressure.as_deref().and_then(parse_pressure),
            ticks,
            stolen_ticks,
        }
    }

    /// The share of the time until `later` in which something waited for a processor, 0 to 1.
    #[must_use]
    pub fn pressure_share(&self, later: &Self) -> Option<f64> {
        let micros = later.pressure_us?.saturating_sub(self.pressure_us?);
        let elapsed_ns = later.at_ns.saturating_sub(self.at_ns).max(1);
        Some(micros as f64 * 1e3 / elapsed_ns as f64)
    }

    /// The share of the processors' time until `later` that the hypervisor gave to others, 0 to 1.
    #[must_use]
    pub fn steal_share(&self, later: &Self) -> f64 {
        let ticks = later.ticks.saturating_sub(self.ticks).max(1);
        later.stolen_ticks.saturating_sub(self.stolen_ticks) as f64 / ticks as f64
    }
}

/// The line `some avg10=… avg60=… avg300=… total=<microseconds>`.
fn parse_pressure(text: &str) -> Option<u64> {
    let some = text.lines().find(|line| line.starts_with("some "))?;
    some.rsplit_once("total=")?.1.trim().parse().ok()
}

/// The line `cpu user nice system idle iowait irq softirq steal guest guest_nice`: the sum of the first eight, since the
/// guests' time is in the users' already, and the steal.
fn parse_ticks(stat: &str) -> (u64, u64) {
    let Some(line) = stat.lines().find(|line| line.starts_with("cpu ")) else { return (0, 0) };
    let ticks: Vec<u64> =
        line.split_whitespace().skip(1).take(8).filter_map(|tick| tick.parse().ok()).collect();
    (ticks.iter().sum(), ticks.get(7).copied().unwrap_or(0))
}

/// What a process has used so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProcessUse {
    /// When it was read, on the machine's clock.
    pub at_ns: u64,
    /// Processor time of the threads that are alive, in nanoseconds.
    pub cpu_ns: u64,
    /// Resident memory in KiB.
    pub resident_kib: u64,
    /// Threads.
    pub threads: u64,
}

impl ProcessUse {
    /// Reads it; `None` if there is no such process, or it is none of ours to look at.
    #[must_use]
    pub fn read(pid: u32) -> Option<Self> {
        let process = Path::new("/proc").join(pid.to_string());
        let mut cpu_ns = 0;
        let mut threads = 0;
        for task in fs::read_dir(process.join("task")).ok()?.flatten() {
            // A thread that ends while we look has been counted before, or its last moments are missed.
            let Ok(schedstat) = fs::read_to_string(task.path().join("schedstat")) else { continue };
            cpu_ns += schedstat.split(' ').next().and_then(|nanos| nanos.parse::<u64>().ok()).unwrap_or(0);
            threads += 1;
        }
        let status = fs::read_to_string(process.join("status")).ok()?;
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let resident_kib = resident.and_then(|text| text.trim().split(' ').next()?.parse().ok()).unwrap_or(0);
        Some(Self { at_ns: sys::now_ns(), cpu_ns, resident_kib, threads })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_kernels_lines_are_read() {
        let pressure = "some avg10=1.66 avg60=0.74 avg300=2.35 total=58852570\nfull avg10=0.00 total=7\n";
        assert_eq!(parse_pressure(pressure), Some(58_852_570));
        assert_eq!(parse_pressure("nothing"), None);
        assert_eq!(parse_ticks("cpu  1 2 3 4 5 6 7 8 100 100\ncpu0 9 9\n"), (36, 8));
        assert_eq!(parse_ticks(""), (0, 0));
    }

    #[test]
    fn shares_are_differences_over_time() {
        let from = Busy { at_ns: 0, pressure_us: Some(100), ticks: 1_000, stolen_ticks: 10 };
        let to = Busy { at_ns: 1_000_000_000, pressure_us: Some(250_100), ticks: 1_200, stolen_ticks: 30 };
        assert!((from.pressure_share(&to).unwrap() - 0.25).abs() < 1e-9);
        assert!((from.steal_share(&to) - 0.1).abs() < 1e-9);
        assert_eq!(from.pressure_share(&Busy { pressure_us: None, ..to }), None);
    }

    #[test]
    fn this_machine_and_this_process_can_be_read() {
        let machine = Fingerprint::read();
        assert!(!machine.kernel.is_empty() && 0 < machine.cores && 0 < machine.memory_kib);
        let own = ProcessUse::read(std::process::id()).unwrap();
        assert!(0 < own.resident_kib && 0 < own.threads);
        assert_eq!(ProcessUse::read(u32::MAX), None);
    }
}
