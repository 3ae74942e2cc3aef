//! What this machine is worth as a place to measure: what it is, what it is set to, how much it does the same work twice in
//! a different time, and so the smallest change that a comparison of so many pairs can prove here.
//!
//! Reads `/proc` and `/sys`, works for some seconds, changes nothing.

use std::fs;

use serde::Serialize;

use crate::cli::Failure;
use crate::driver::{self, Alarm};
use crate::host::{Busy, Fingerprint};
use crate::preflight::Limits;
use crate::rng::mix;
use crate::self_test;
use crate::stats::{deviation, normal_quantile, quantile, sorted};
use crate::sys;

/// The version of the JSON document.
pub const SCHEMA: &str = "clawgate.loadgen.doctor/1";

/// What one round of the loop should take: long against a timer's tick, short against a time slice.
const ROUND_NS: u64 = 5_000_000;
/// Rounds of work, and waits for a timer.
const ROUNDS: usize = 60;
const WAITS: u64 = 100;
const WAIT_NS: u64 = 200_000;

/// Runs over the echo, and how long and fast each is.
const RUNS: usize = 8;
const RUN_NS: u64 = 300_000_000;
const RUN_RATE: f64 = 2_000.0;

/// Pairs that are told of.
const PAIRS: [u64; 4] = [12, 24, 48, 96];

/// As `compare` judges by default: a false alarm in one comparison of two hundred, over four metrics; and the change is to
/// be seen four times of five.
const ALARMS: f64 = 0.005 / 4.0;
const POWER: f64 = 0.8;
/// What signed ranks see of a normal shift, beside what a mean would: Pitman's efficiency, 3 / pi.
const EFFICIENCY: f64 = 3.0 / core::f64::consts::PI;
/// `compare` calls no smaller change one.
const LEAST: f64 = 0.01;

/// What was found.
#[derive(Clone, Debug, Serialize)]
pub struct Examination {
    schema: &'static str,
    machine: Fingerprint,
    settings: Settings,
    noise: Noise,
    /// The smallest change that can be proved, by pairs of runs: shares.
    detectable: Vec<Detectable>,
    advice: Vec<String>,
}

/// What the machine is set to; empty where it does not say.
#[derive(Clone, Debug, Default, Serialize)]
struct Settings {
    governor: String,
    turbo: String,
    threads_per_core: String,
    huge_pages: String,
    listen_backlog_max: String,
    descriptors: u64,
    descriptors_ceiling: u64,
    ports: [u64; 2],
    ports_reused: bool,
    backend: &'static str,
}

/// How much it varies.
#[derive(Clone, Debug, Default, Serialize)]
struct Noise {
    /// Reading the clock once.
    clock_ns: f64,
    /// How late a timer wakes, at the median and at 99 %.
    timer_p50_ns: f64,
    timer_p99_ns: f64,
    /// The spread of the time of the same work, as a share: by the clock, and in processor time.
    work_share: f64,
    work_cpu_share: f64,
    /// The spread of the median response of an echo in this process between runs, and of its processor time a message.
    response_share: f64,
    cpu_share: f64,
    /// In which something waited for a processor, and what the hypervisor took.
    pressure_share: Option<f64>,
    steal_share: f64,
}

/// What so many pairs can prove.
#[derive(Clone, Copy, Debug, Serialize)]
struct Detectable {
    pairs: u64,
    work: f64,
    response: f64,
    cpu: f64,
}

/// The smallest change, as a share, that `pairs` pairs of runs prove, if one run's logarithm has this standard deviation.
#[must_use]
pub fn smallest_change(spread: f64, pairs: u64) -> f64 {
    let z = normal_quantile(1.0 - ALARMS / 2.0) + normal_quantile(POWER);
    // A pair's difference has both runs' spread in it.
    let error = spread * core::f64::consts::SQRT_2 / (pairs as f64 * EFFICIENCY).sqrt();
    (z * error).exp_m1().max(LEAST)
}

/// The spread of positive values as a standard deviation of their logarithms: from the middle half, so that one stall among
/// them is no spread.
fn spread(values: &[f64]) -> f64 {
    let logs: Vec<f64> = values.iter().filter(|value| 0.0 < **value).map(|value| value.ln()).collect();
    let sorted = sorted(&logs);
    if sorted.len() < 4 {
        return deviation(&logs);
    }
    // A normal distribution has half of its values within 1.349 standard deviations.
    (quantile(&sorted, 0.75) - quantile(&sorted, 0.25)) / 1.349
}

/// Examines, and prints what was found.
///
/// # Errors
/// A calibration that could not be made.
pub fn examine(print: &mut dyn FnMut(&str)) -> Result<Examination, Failure> {
    print("working for some seconds: keep the machine as it will be when you measure");
    let from = Busy::read();
    let mut noise = Noise { clock_ns: clock_cost(), ..Noise::default() };
    let (wall, cpu) = work();
    (noise.work_share, noise.work_cpu_share) = (spread(&wall), spread(&cpu));
    let (waits, backend) = waits().map_err(|error| Failure::invalid(format!("no timer: {error}")))?;
    let waits = sorted(&waits);
    (noise.timer_p50_ns, noise.timer_p99_ns) = (quantile(&waits, 0.5), quantile(&waits, 0.99));
    let (responses, costs) = echoes()?;
    (noise.response_share, noise.cpu_share) = (spread(&responses), spread(&costs));
    let to = Busy::read();
    (noise.pressure_share, noise.steal_share) = (from.pressure_share(&to), from.steal_share(&to));
    let machine = Fingerprint::read();
    let settings = Settings::read(backend);
    let detectable = PAIRS.map(|pairs| Detectable {
        pairs,
        work: smallest_change(noise.work_share, pairs),
        response: smallest_change(noise.response_share, pairs),
        cpu: smallest_change(noise.cpu_share, pairs),
    });
    let advice = advice(&machine, &settings, &noise);
    let schema = SCHEMA;
    Ok(Examination { schema, machine, settings, noise, detectable: detectable.to_vec(), advice })
}

impl Settings {
    fn read(backend: &'static str) -> Self {
        let text = |path: &str| fs::read_to_string(path).unwrap_or_default().trim().to_owned();
        let cpu = "/sys/devices/system/cpu";
        let no_turbo = text(&format!("{cpu}/intel_pstate/no_turbo"));
        let turbo = match no_turbo.as_str() {
            "0" => "on".to_owned(),
            "1" => "off".to_owned(),
            _ => text(&format!("{cpu}/cpufreq/boost")),
        };
        let siblings = text(&format!("{cpu}/cpu0/topology/thread_siblings_list"));
        let count = siblings.split([',', '-']).filter(|sibling| !sibling.is_empty()).count();
        let limits = Limits::read(([127, 0, 0, 1], 1).into());
        Self {
            governor: text(&format!("{cpu}/cpu0/cpufreq/scaling_governor")),
            turbo,
            threads_per_core: if count == 0 { String::new() } else { count.to_string() },
            huge_pages: chosen(&text("/sys/kernel/mm/transparent_hugepage/enabled")),
            listen_backlog_max: text("/proc/sys/net/core/somaxconn"),
            descriptors: limits.descriptors,
            descriptors_ceiling: limits.descriptors_ceiling,
            ports: limits.ports,
            ports_reused: limits.is_reused,
            backend,
        }
    }
}

/// The word in brackets of `always [madvise] never`.
fn chosen(text: &str) -> String {
    text.split_once('[').and_then(|(_, rest)| rest.split_once(']')).map_or("", |(word, _)| word).to_owned()
}

/// What reading the clock costs, in nanoseconds.
fn clock_cost() -> f64 {
    const READS: u32 = 100_000;
    let from = sys::now_ns();
    let last = (0..READS).map(|_| sys::now_ns()).max().unwrap_or(from);
    last.saturating_sub(from) as f64 / f64::from(READS)
}

/// The same work again and again: what it took by the clock, and in processor time.
fn work() -> (Vec<f64>, Vec<f64>) {
    let mut count = 10_000_u64;
    // The first rounds find out how much work is long enough.
    while time_of(count).0 < ROUND_NS as f64 {
        count *= 2;
    }
    (0..ROUNDS).map(|_| time_of(count)).unzip()
}

fn time_of(count: u64) -> (f64, f64) {
    let (wall, cpu) = (sys::now_ns(), sys::thread_cpu_ns());
    let mut value = count;
    for _ in 0..count {
        value = mix(value);
    }
    // Somebody looks at it, so that it has to be done.
    core::hint::black_box(value);
    ((sys::now_ns() - wall) as f64, (sys::thread_cpu_ns() - cpu) as f64)
}

/// How late a timer wakes, in nanoseconds, and by what.
fn waits() -> std::io::Result<(Vec<f64>, &'static str)> {
    driver::run(|backend| async move {
        let alarm = Alarm::new()?;
        let mut late = Vec::new();
        for _ in 0..WAITS {
            let due_ns = sys::now_ns() + WAIT_NS;
            alarm.wait_until(due_ns).await?;
            late.push(sys::now_ns().saturating_sub(due_ns) as f64);
        }
        Ok((late, backend.name()))
    })
    .and_then(|waited| waited)
}

/// Runs over an echo in this process: their median responses, and their processor time a message.
fn echoes() -> Result<(Vec<f64>, Vec<f64>), Failure> {
    let mut found = (Vec::new(), Vec::new());
    for _ in 0..RUNS {
        let (response_ns, cpu_ns) = self_test::echo_run(RUN_RATE, RUN_NS).map_err(Failure::invalid)?;
        found.0.push(response_ns);
        found.1.push(cpu_ns);
    }
    Ok(found)
}

fn advice(machine: &Fingerprint, settings: &Settings, noise: &Noise) -> Vec<String> {
    let mut advice = Vec::new();
    let mut say = |is_so: bool, words: String| {
        if is_so {
            advice.push(words);
        }
    };
    say(
        !machine.optimised,
        "this is a debug build: build with --release before you believe a figure".to_owned(),
    );
    let governor = &settings.governor;
    say(
        !governor.is_empty() && governor != "performance",
        format!("the governor is {governor}: `cpupower frequency-set -g performance` for times that repeat"),
    );
    let clock = &machine.clocksource;
    say(
        !clock.is_empty() && !matches!(clock.as_str(), "tsc" | "kvm-clock" | "arch_sys_counter"),
        format!("the clock is {clock}, which is slow to read ({:.0} ns)", noise.clock_ns),
    );
    say(machine.cores < 3, format!("{} cores: gateway and generator compete for them", machine.cores));
    let pressure = noise.pressure_share.unwrap_or(0.0);
    say(0.25 < pressure, format!("something waited for a processor {:.0} % of the time", pressure * 100.0));
    say(
        0.02 < noise.steal_share,
        format!("the hypervisor took {:.1} % of the machine's time", noise.steal_share * 100.0),
    );
    say(
        settings.descriptors < 65_536,
        format!("{} descriptors: `ulimit -n 1048576` for many connections", settings.descriptors),
    );
    say(
        settings.backend != "io_uring",
        "no io_uring: the generator runs on epoll, and costs more".to_owned(),
    );
    advice
}

impl Examination {
    /// As a JSON document.
    ///
    /// # Errors
    /// None that is known: every field can be written.
    pub fn to_json(&self) -> serde_json::Result<Vec<u8>> {
        let mut json = serde_json::to_vec_pretty(self)?;
        json.push(b'\n');
        Ok(json)
    }

    /// As a table for people.
    #[must_use]
    pub fn to_table(&self) -> String {
        let Fingerprint { cpu, cores, memory_kib, kernel, clocksource, load_average, .. } = &self.machine;
        let of = &self.settings;
        let told = |text: &str| if text.is_empty() { "unknown".to_owned() } else { text.to_owned() };
        let [first, last] = of.ports;
        let reused = if of.ports_reused { "used again at once" } else { "waiting a minute" };
        let mut table = format!(
            "{cpu}, {cores} cores, {} threads a core, {:.1} GiB\nLinux {kernel}, clock {clocksource}, governor {}, turbo {}, \
             huge pages {}, load {load_average}\n{} descriptors (of {}), local ports {first} to {last}, {reused}; listen \
             backlog {}; {}\n\n",
            told(&of.threads_per_core),
            *memory_kib as f64 / 1024.0 / 1024.0,
            told(&of.governor),
            told(&of.turbo),
            told(&of.huge_pages),
            of.descriptors,
            of.descriptors_ceiling,
            told(&of.listen_backlog_max),
            of.backend,
        );
        let noise = &self.noise;
        let percent = |share: f64| format!("{:.1} %", share * 100.0);
        table.push_str(&format!(
            "  the clock     {:.0} ns to read; a timer is late by {:.0} us, at p99 by {:.0} us\n  the same work {} apart by \
             the clock, {} in processor time\n  an echo       {} apart in its median response, {} in processor time a \
             message\n  the machine   CPU pressure {}, steal {}\n\n",
            noise.clock_ns,
            noise.timer_p50_ns / 1e3,
            noise.timer_p99_ns / 1e3,
            percent(noise.work_share),
            percent(noise.work_cpu_share),
            percent(noise.response_share),
            percent(noise.cpu_share),
            noise.pressure_share.map_or("unknown".to_owned(), percent),
            percent(noise.steal_share),
        ));
        table.push_str("  the smallest change that `compare --exec` would prove here, four times of five:\n");
        table.push_str("    pairs    of pure work   of p50 responses   of CPU a message\n");
        for Detectable { pairs, work, response, cpu } in &self.detectable {
            let [work, response, cpu] = [work, response, cpu].map(|share| percent(*share));
            table.push_str(&format!("    {pairs:>5} {work:>15} {response:>18} {cpu:>18}\n"));
        }
        for words in &self.advice {
            table.push_str(&format!("\n  {words}"));
        }
        table
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::{METRICS, Rules, Series, Word, judge};
    use crate::rng::Rng;
    use crate::stats::draw_normal;

    /// The promise is held against the judge that it speaks of: made-up pairs whose heads take as much longer.
    #[test]
    fn a_change_of_this_size_is_proved_about_four_times_of_five_and_half_of_it_is_not() {
        let (noise, pairs) = (0.03, 24);
        let proved = |effect: f64| {
            let found = (0..200_u64).filter(|seed| {
                let mut rng = Rng::new(mix(*seed));
                let mut run = |factor: f64| 1000.0 * factor * (draw_normal(&mut rng) * noise).exp();
                let series = METRICS[..4].iter().map(|metric| {
                    let base: Vec<f64> = (0..pairs).map(|_| run(1.0)).collect();
                    let head: Vec<f64> = (0..pairs).map(|_| run(1.0 + effect)).collect();
                    let same = base.windows(2).map(|pair| (pair[1] / pair[0]).ln()).collect();
                    Series { metric: *metric, base, head, paired: true, same }
                });
                let findings = judge(&series.collect::<Vec<_>>(), &Rules::default());
                findings.first().is_some_and(|finding| finding.word == Word::Regression)
            });
            found.count() as f64 / 200.0
        };
        let effect = smallest_change(noise, pairs);
        let (whole, half) = (proved(effect), proved(effect / 2.0));
        assert!(0.7 < whole && half < 0.5, "{effect}: {whole} whole, {half} half");
    }

    #[test]
    fn more_pairs_prove_less_and_no_number_of_them_proves_what_is_below_the_least() {
        let sizes = PAIRS.map(|pairs| smallest_change(0.05, pairs));
        assert!(sizes.is_sorted_by(|one, other| other < one), "{sizes:?}");
        assert!((smallest_change(0.05, u64::MAX) - LEAST).abs() < 1e-9);
    }

    #[test]
    fn a_stall_among_the_rounds_is_no_spread() {
        let mut rng = Rng::new(7);
        let mut values: Vec<f64> = (0..200).map(|_| (draw_normal(&mut rng) * 0.02).exp()).collect();
        values[17] = 50.0;
        let found = spread(&values);
        assert!((0.014..0.026).contains(&found), "{found}");
        assert_eq!(spread(&[1.0; 60]), 0.0);
    }

    #[test]
    fn the_kernels_choice_is_the_word_in_brackets() {
        assert_eq!(chosen("always [madvise] never"), "madvise");
        assert_eq!(chosen(""), "");
    }

    #[test]
    fn what_should_be_changed_is_told_and_what_is_well_is_not() {
        let machine = Fingerprint {
            cores: 8,
            optimised: true,
            clocksource: "tsc".to_owned(),
            ..Fingerprint::default()
        };
        let well = Settings {
            governor: "performance".to_owned(),
            descriptors: 1_048_576,
            backend: "io_uring",
            ..Settings::default()
        };
        assert_eq!(advice(&machine, &well, &Noise::default()), [""; 0]);
        let ill = Settings { governor: "powersave".to_owned(), descriptors: 1024, ..well };
        let told =
            advice(&Fingerprint { clocksource: "hpet".to_owned(), ..machine }, &ill, &Noise::default());
        assert_eq!(told.len(), 3, "{told:?}");
        assert!(told[0].contains("powersave") && told[1].contains("hpet") && told[2].contains("ulimit"));
    }
}
