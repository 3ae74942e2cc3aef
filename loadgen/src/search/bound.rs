//! What stood in the way when a rate was too much: looks at what the gateway, its threads, the machine and the generator
//! said of a trial, and names the suspects, the most pressed first. Guesses from figures; each guess tells its figure.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde::Serialize;

use crate::gauges::Gauges;
use crate::measure::Interval;
use crate::run::Observer;

/// A suspect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Bound {
    /// The load generator.
    Generator,
    /// One thread of the gateway.
    Shard,
    /// Messages that wait for an agent's place.
    Queue,
    /// Memory, or the sessions that fit in it.
    Memory,
    /// What answers behind the gateway.
    Provider,
    /// The journal's disk.
    Disk,
    /// Descriptors.
    Descriptors,
    /// The machine: others used its processors.
    Machine,
}

/// A suspect with its figure.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Suspect {
    /// Who.
    pub bound: Bound,
    /// How pressed it was: 1 is no room at all.
    pub pressure: f64,
    /// What that is read from.
    pub evidence: String,
}

/// What was seen of one trial.
#[derive(Clone, Debug, Default)]
pub struct Sight {
    /// `/metrics` before, and during or after it.
    pub gauges: Vec<Gauges>,
    /// The share of a core that each thread of the gateway used, in the busiest second.
    pub threads: Vec<(String, f64)>,
    /// The gateway's resident memory, and the machine's, in KiB.
    pub memory_kib: Option<(u64, u64)>,
    /// Errors by code, as clients saw them.
    pub codes: BTreeMap<String, u64>,
    /// Messages that were opened.
    pub opened: u64,
    /// The median response in nanoseconds.
    pub median_ns: f64,
    /// Why the generator is to blame, if it is.
    pub generator: Option<String>,
    /// The share of the time in which something waited for a processor.
    pub pressure_share: Option<f64>,
}

/// From this share of a core on, a thread has no room.
const BUSY_SHARE: f64 = 0.85;
/// From this share of the time on, others' work is in the way.
const PRESSURE_SHARE: f64 = 0.25;
/// From this share of the machine's memory on, it is tight.
const MEMORY_SHARE: f64 = 0.9;
/// From this share of the median response on, what takes it is in the way.
const RESPONSE_SHARE: f64 = 0.5;

/// Codes, by whom they speak of.
const CODES: [(Bound, &[&str]); 4] = [
    (Bound::Queue, &["BUSY", "QUEUE"]),
    (Bound::Provider, &["UPSTREAM"]),
    (Bound::Disk, &["JOURNAL", "STORE"]),
    (Bound::Descriptors, &["DESCRIPTOR", "TOO_MANY_CONNECTIONS"]),
];

impl Sight {
    /// The suspects, the most pressed first; nobody, if nothing points anywhere.
    #[must_use]
    pub fn suspects(&self) -> Vec<Suspect> {
        let mut found = Vec::new();
        if let Some(why) = &self.generator {
            found.push(suspect(Bound::Generator, 1.0, why.clone()));
        }
        self.look_at_threads(&mut found);
        self.look_at_codes(&mut found);
        self.look_at_gauges(&mut found);
        if let Some((used, all)) = self.memory_kib
            && MEMORY_SHARE < used as f64 / all.max(1) as f64
        {
            let share = used as f64 / all.max(1) as f64;
            found.push(suspect(
                Bound::Memory,
                share,
                format!("the gateway has {:.0} % of the memory", share * 100.0),
            ));
        }
        if let Some(share) = self.pressure_share.filter(|share| PRESSURE_SHARE < *share) {
            let evidence = format!("something waited for a processor {:.0} % of the time", share * 100.0);
            // Weaker than what the gateway itself says: its own threads wait too when they have no room.
            found.push(suspect(Bound::Machine, share * 0.8, evidence));
        }
        found.sort_by(|a, b| b.pressure.total_cmp(&a.pressure));
        found
    }

    fn look_at_threads(&self, found: &mut Vec<Suspect>) {
        let hottest = self.threads.iter().max_by(|a, b| a.1.total_cmp(&b.1));
        let Some((name, share)) = hottest.filter(|(_, share)| BUSY_SHARE < *share) else { return };
        let mut evidence = format!("its thread {name} used {:.0} % of a core", share * 100.0);
        let shares = self.shard_shares();
        if let Some((shard, part)) = shares.iter().max_by(|a, b| a.1.total_cmp(b.1))
            && 1 < shares.len()
        {
            evidence.push_str(&format!(
                "; shard {shard} has {:.0} % of the messages of {} shards",
                part * 100.0,
                shares.len()
            ));
        }
        found.push(suspect(Bound::Shard, share.min(1.0), evidence));
    }

    fn look_at_codes(&self, found: &mut Vec<Suspect>) {
        for (bound, words) in CODES {
            let spoken = self.codes.iter().filter(|(code, _)| words.iter().any(|word| code.contains(word)));
            let spoken: Vec<String> = spoken.map(|(code, count)| format!("{code} {count}")).collect();
            if !spoken.is_empty() {
                found.push(suspect(bound, 0.98, format!("{} of {}", spoken.join(", "), self.opened)));
            }
        }
    }

    fn look_at_gauges(&self, found: &mut Vec<Suspect>) {
        if let Some(evicted) = self.grown("sessions_evicted_total") {
            found.push(suspect(
                Bound::Memory,
                0.95,
                format!("{evicted:.0} sessions were forgotten to make room"),
            ));
        }
        if let Some(refused) = self.grown("descriptors_refused_total") {
            let evidence = format!("{refused:.0} connections were refused for want of descriptors");
            found.push(suspect(Bound::Descriptors, 0.95, evidence));
        }
        let peak = |name: &str| self.gauges.iter().filter_map(|one| one.sum(name)).reduce(f64::max);
        if let Some(waiting) = peak("agent_waiting").filter(|waiting| 0.0 < *waiting) {
            let running = peak("agent_running").unwrap_or(0.0).max(1.0);
            let pressure = 0.9 * waiting / (waiting + running);
            found.push(suspect(
                Bound::Queue,
                pressure,
                format!("up to {waiting:.0} messages waited for an agent"),
            ));
        }
        let open = self.gauges.iter().filter_map(|one| one.max("breaker_state")).reduce(f64::max);
        if open.is_some_and(|state| 0.0 < state) {
            found.push(suspect(Bound::Provider, 0.97, "a breaker was open".to_owned()));
        }
        let latency =
            self.gauges.iter().filter_map(|one| one.max("endpoint_latency_millis")).reduce(f64::max);
        self.look_at_part(
            latency.map(|millis| millis * 1e6),
            Bound::Provider,
            "a model's first token takes",
            found,
        );
        self.look_at_part(self.sync_ns(), Bound::Disk, "a sync of the journal takes", found);
    }

    fn look_at_part(&self, part_ns: Option<f64>, bound: Bound, what: &str, found: &mut Vec<Suspect>) {
        let Some(part_ns) = part_ns.filter(|_| 0.0 < self.median_ns) else { return };
        let share = part_ns / self.median_ns;
        if RESPONSE_SHARE < share {
            let evidence =
                format!("{what} {:.2} ms, the median response {:.2} ms", part_ns / 1e6, self.median_ns / 1e6);
            found.push(suspect(bound, share.min(1.0) * 0.9, evidence));
        }
    }

    /// The mean of the journal's syncs meanwhile.
    fn sync_ns(&self) -> Option<f64> {
        let seconds = self.grown("journal_sync_seconds_sum")?;
        Some(seconds / self.grown("journal_sync_seconds_count")? * 1e9)
    }

    /// By how much a counter grew, if it did.
    fn grown(&self, name: &str) -> Option<f64> {
        let [first, .., last] = self.gauges.as_slice() else { return None };
        Some(last.sum(name)? - first.sum(name)?).filter(|grown| 0.0 < *grown)
    }

    /// Each shard's part of the messages meanwhile.
    #[must_use]
    pub fn shard_shares(&self) -> BTreeMap<String, f64> {
        let [first, .., last] = self.gauges.as_slice() else { return BTreeMap::new() };
        let count = |gauges: &Gauges| gauges.by("stage_messages_total", "shard", Some(("stage", "ingest")));
        let (before, mut shares) = (count(first), count(last));
        for (shard, messages) in &mut shares {
            *messages -= before.get(shard).copied().unwrap_or(0.0);
        }
        let all: f64 = shares.values().sum();
        if all <= 0.0 {
            return BTreeMap::new();
        }
        shares.into_iter().map(|(shard, messages)| (shard, messages / all)).collect()
    }
}

const fn suspect(bound: Bound, pressure: f64, evidence: String) -> Suspect {
    Suspect { bound, pressure, evidence }
}

/// Looks at the gateway each second of a run.
pub struct Lookout<'a> {
    pid: Option<u32>,
    ask: &'a dyn Fn() -> Option<Gauges>,
    before: BTreeMap<u64, (String, u64)>,
    at_ns: u64,
    /// What was seen.
    pub sight: Sight,
}

impl std::fmt::Debug for Lookout<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lookout").field("pid", &self.pid).field("sight", &self.sight).finish_non_exhaustive()
    }
}

impl<'a> Lookout<'a> {
    /// Looks for the first time. `ask` asks the gateway for its metrics, if it has any.
    #[must_use]
    pub fn new(pid: Option<u32>, ask: &'a dyn Fn() -> Option<Gauges>) -> Self {
        let sight = Sight { gauges: ask().into_iter().collect(), ..Sight::default() };
        Self { pid, ask, before: pid.map(threads).unwrap_or_default(), at_ns: crate::sys::now_ns(), sight }
    }
}

impl Observer for Lookout<'_> {
    fn on_second(&mut self, _second: u64, _interval: &Interval) {
        if !self.sight.gauges.is_empty()
            && let Some(gauges) = (self.ask)()
        {
            self.sight.gauges.push(gauges);
        }
        let (now, at_ns) = (self.pid.map(threads).unwrap_or_default(), crate::sys::now_ns());
        let elapsed_ns = at_ns.saturating_sub(self.at_ns);
        // Seconds that were handed over late come together; what lies between them is no second.
        if elapsed_ns < 500_000_000 {
            return;
        }
        for (id, (name, cpu_ns)) in &now {
            let Some((_, before_ns)) = self.before.get(id) else { continue };
            let share = cpu_ns.saturating_sub(*before_ns) as f64 / elapsed_ns as f64;
            let named = format!("{name} ({id})");
            match self.sight.threads.iter_mut().find(|(known, _)| *known == named) {
                Some((_, highest)) => *highest = highest.max(share),
                None => self.sight.threads.push((named, share)),
            }
        }
        (self.before, self.at_ns) = (now, at_ns);
    }
}

/// The processor time of each thread of a process in nanoseconds, by its id, with its name.
fn threads(pid: u32) -> BTreeMap<u64, (String, u64)> {
    let tasks = fs::read_dir(Path::new("/proc").join(pid.to_string()).join("task"));
    let read = |task: fs::DirEntry| {
        let id = task.file_name().to_str()?.parse().ok()?;
        let schedstat = fs::read_to_string(task.path().join("schedstat")).ok()?;
        let name = fs::read_to_string(task.path().join("comm")).ok()?;
        Some((id, (name.trim().to_owned(), schedstat.split(' ').next()?.parse().ok()?)))
    };
    tasks.into_iter().flatten().flatten().filter_map(read).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn first(sight: &Sight) -> Option<Bound> {
        sight.suspects().first().map(|suspect| suspect.bound)
    }

    fn pages(before: &str, after: &str) -> Vec<Gauges> {
        vec![Gauges::read(before), Gauges::read(after)]
    }

    #[test]
    fn the_generator_comes_first_and_nothing_points_nowhere() {
        assert_eq!(first(&Sight::default()), None);
        let sight = Sight {
            generator: Some("late".to_owned()),
            threads: vec![("shard-0".to_owned(), 0.99)],
            ..Sight::default()
        };
        assert_eq!(first(&sight), Some(Bound::Generator));
    }

    #[test]
    fn a_hot_shard_is_named_with_its_part_of_the_messages() {
        let sight = Sight {
            threads: vec![("shard-0".to_owned(), 0.4), ("shard-1".to_owned(), 0.97)],
            gauges: pages(
                "c_stage_messages_total{shard=\"0\",stage=\"ingest\"} 100\nc_stage_messages_total{shard=\"1\",stage=\"ingest\"} 0",
                "c_stage_messages_total{shard=\"0\",stage=\"ingest\"} 400\nc_stage_messages_total{shard=\"1\",stage=\"ingest\"} 700",
            ),
            ..Sight::default()
        };
        let suspects = sight.suspects();
        assert_eq!(suspects.first().map(|one| one.bound), Some(Bound::Shard));
        let told = suspects.first().map(|one| one.evidence.clone()).unwrap_or_default();
        assert!(told.contains("shard-1 used 97 %") && told.contains("shard 1 has 70 %"), "{told}");
    }

    #[test]
    fn each_suspect_is_known_by_its_figure() {
        let codes =
            |code: &str| Sight { codes: [(code.to_owned(), 7)].into(), opened: 100, ..Sight::default() };
        assert_eq!(first(&codes("AGENT_BUSY")), Some(Bound::Queue));
        assert_eq!(first(&codes("UPSTREAM_TIMEOUT")), Some(Bound::Provider));
        assert_eq!(first(&codes("JOURNAL_FULL")), Some(Bound::Disk));
        assert_eq!(first(&codes("BAD_JSON")), None);
        let gauges = |before: &str, after: &str| Sight { gauges: pages(before, after), ..Sight::default() };
        assert_eq!(first(&gauges("c_agent_waiting 0", "c_agent_waiting 9")), Some(Bound::Queue));
        assert_eq!(first(&gauges("c_breaker_state{model=\"m\"} 1", "c_x 1")), Some(Bound::Provider));
        let grown = |name: &str| gauges(&format!("c_{name} 1"), &format!("c_{name} 5"));
        assert_eq!(first(&grown("sessions_evicted_total")), Some(Bound::Memory));
        assert_eq!(first(&grown("descriptors_refused_total")), Some(Bound::Descriptors));
        let slow = |page: &str| Sight { median_ns: 10e6, ..gauges(page, page) };
        assert_eq!(first(&slow("c_endpoint_latency_millis 9")), Some(Bound::Provider));
        assert_eq!(first(&slow("c_endpoint_latency_millis 1")), None);
        let sync = gauges(
            "c_journal_sync_seconds_sum 0\nc_journal_sync_seconds_count 0",
            "c_journal_sync_seconds_sum 0.8\nc_journal_sync_seconds_count 100",
        );
        assert_eq!(first(&Sight { median_ns: 10e6, ..sync }), Some(Bound::Disk));
        let full = Sight { memory_kib: Some((95, 100)), ..Sight::default() };
        assert_eq!(first(&full), Some(Bound::Memory));
        let shared = Sight { pressure_share: Some(0.6), ..Sight::default() };
        assert_eq!(first(&shared), Some(Bound::Machine));
    }

    #[test]
    fn threads_of_this_process_can_be_seen() {
        assert!(!threads(std::process::id()).is_empty());
        assert!(threads(u32::MAX).is_empty());
    }
}
