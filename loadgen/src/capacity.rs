//! How many machines a load needs: from what was measured, by simulating each shard as the queue that it is. Plans and
//! nothing else; [`read`] reads the results, the command line tells.
//!
//! Sessions are pinned to shards, so a node of c shards is c queues, not one queue before c servers: what a plan may
//! promise is decided by the busiest shard. A shard's service time has the mean that was measured as processor time, and
//! the spread of the lightest run's answers; a response is a simulated wait and one of the lightest run's responses.
//! Beyond twice of what was measured, in any direction, nothing is said.

pub mod queue;
pub mod read;
pub mod scaling;

use std::fmt;

use serde::Serialize;

use crate::rng::{Rng, mix};
use crate::slo::parse_duration;
use queue::Times;
use scaling::Law;

/// What the machines have to do.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Target {
    /// Messages a second.
    pub rate: f64,
    /// Sessions.
    pub sessions: f64,
    /// The quantile of the response that is promised, 0 to 1.
    pub quantile: f64,
    /// What it has to be below, in nanoseconds.
    pub bound_ns: f64,
}

impl std::str::FromStr for Target {
    type Err = String;

    /// `20000 msg/s, 100000 sessions, p99<45ms`; without sessions there are none beyond those of the load.
    fn from_str(text: &str) -> Result<Self, String> {
        let mut target = Self { rate: 0.0, sessions: 0.0, quantile: 0.0, bound_ns: 0.0 };
        for part in text.split(',').map(str::trim) {
            let bad =
                || format!("{part:?} is not understood; write \"20000 msg/s, 100000 sessions, p99<45ms\"");
            if let Some((percent, bound)) = part.strip_prefix('p').and_then(|rest| rest.split_once('<')) {
                let percent: f64 = percent.trim().parse().map_err(|_| bad())?;
                if !(0.0 < percent && percent < 100.0) {
                    return Err(bad());
                }
                target.quantile = percent / 100.0;
                target.bound_ns = parse_duration(bound.trim())? as f64;
                continue;
            }
            let (number, unit) = part.split_once(' ').ok_or_else(bad)?;
            let number = number.parse::<f64>().ok().filter(|n| 0.0 <= *n && n.is_finite()).ok_or_else(bad)?;
            match unit.trim() {
                "msg/s" | "/s" => target.rate = number,
                "sessions" => target.sessions = number,
                _ => return Err(bad()),
            }
        }
        if target.rate <= 0.0 || target.bound_ns <= 0.0 {
            return Err("a target has at least a rate and an objective: \"20000 msg/s, p99<45ms\"".to_owned());
        }
        Ok(target)
    }
}

/// One measured load.
#[derive(Clone, Debug, PartialEq)]
pub struct Point {
    /// Where it is from.
    pub name: String,
    /// Answers a second.
    pub rate: f64,
    /// Sessions.
    pub sessions: f64,
    /// Processor time of the gateway for a message, in nanoseconds.
    pub cpu_ns: f64,
    /// Resident memory in KiB.
    pub resident_kib: f64,
    /// Bytes in and out for a message.
    pub bytes: f64,
    /// Quantiles of the response in nanoseconds, evenly spaced from the shortest to the longest.
    pub responses_ns: Vec<f64>,
    /// How many messages they are of.
    pub count: f64,
}

/// All that was measured.
#[derive(Clone, Debug, PartialEq)]
pub struct Measured {
    /// The loads, the lightest first; at least one.
    pub points: Vec<Point>,
    /// Each shard's part of the messages; they add up to 1.
    pub shares: Vec<f64>,
    /// The parts are a guess: evenly.
    pub shares_guessed: bool,
    /// Shards and the largest rate that was found, where searches were made.
    pub largest: Vec<(u32, f64)>,
    /// How messages came: the gaps' shape, with mean 1.
    pub gaps: Times,
}

/// What a node is.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Node {
    /// Cores, one shard each.
    pub cores: u32,
    /// Memory for the gateway, in KiB.
    pub memory_kib: f64,
    /// Descriptors that it may open.
    pub descriptors: f64,
    /// Bits a second of its network.
    pub bandwidth: f64,
    /// The share of the largest rate that is left for bursts and bad days.
    pub headroom: f64,
}

/// Why there is no plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal(pub String);

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// How far beyond what was measured anything is said.
pub const BEYOND_MAX: f64 = 2.0;

/// Arrivals that a node's simulation is made of.
const ARRIVALS: u32 = 400_000;

/// Messages beyond a quantile that are needed to speak of it.
const BEYOND_QUANTILE_MIN: f64 = 10.0;

/// A light answer that takes so many times the processor's part is somebody else's: its spread says nothing about ours.
const OTHERS_TIMES: f64 = 20.0;

/// How a node of some number of shards answers.
#[derive(Clone, Debug)]
pub struct Model {
    /// Each shard's part, the largest first.
    pub shares: Vec<f64>,
    /// A shard's service times in nanoseconds.
    pub service: Times,
    /// Where their spread is from.
    pub service_from: &'static str,
    light_ns: Vec<f64>,
    gaps: Times,
    seed: u64,
}

/// What a model says of a rate.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Forecast {
    /// Messages a second of one node.
    pub rate: f64,
    /// The busiest shard's share of its core.
    pub busiest: f64,
    /// The promised quantile of the response in nanoseconds, simulated; nothing where the queue only grows.
    pub quantile_ns: Option<f64>,
    /// The busiest shard's wait at that quantile by formula: poor for uneven service, good as a check.
    pub wait_by_formula_ns: Option<f64>,
    /// And simulated.
    pub wait_ns: Option<f64>,
}

impl Model {
    /// A node of `shards` shards, as `measured` says.
    #[must_use]
    pub fn new(measured: &Measured, shards: u32, seed: u64) -> Self {
        let light = &measured.points[0];
        // The most that a message ever cost: caches get colder with the load, batches larger.
        let cpu_ns = measured.points.iter().map(|point| point.cpu_ns).fold(0.0, f64::max);
        let mean = crate::stats::mean(&light.responses_ns);
        let (service, service_from) = if mean <= cpu_ns * OTHERS_TIMES {
            let shape = light.responses_ns.iter().map(|value| value / mean * cpu_ns).collect();
            (Times::Drawn(shape), "the lightest run's answers")
        } else {
            (Times::Exponential(cpu_ns), "an exponential one: answers wait mostly for others")
        };
        let mut shares = spread(&measured.shares, shards);
        shares.sort_unstable_by(|a, b| b.total_cmp(a));
        let gaps = measured.gaps.clone();
        Self { shares, service, service_from, light_ns: light.responses_ns.clone(), gaps, seed }
    }

    /// Simulates a rate.
    #[must_use]
    pub fn forecast(&self, rate: f64, quantile: f64) -> Forecast {
        let hottest = self.shares.first().copied().unwrap_or(1.0);
        let busiest = rate * hottest * self.service.mean() / 1e9;
        let mut found =
            Forecast { rate, busiest, quantile_ns: None, wait_by_formula_ns: None, wait_ns: None };
        if 1.0 <= busiest {
            return found;
        }
        let mut responses = Vec::with_capacity(ARRIVALS as usize);
        let mut rng = Rng::new(mix(self.seed));
        for (number, share) in self.shares.iter().enumerate() {
            let gap_ns = 1e9 / (rate * share);
            let count = ((f64::from(ARRIVALS) * share) as u32).max(1000);
            let waits = queue::simulate(
                &scaled(&self.gaps, gap_ns),
                &self.service,
                1,
                count,
                self.seed ^ number as u64,
            );
            if number == 0 {
                found.wait_ns = Some(waits.quantile(quantile));
            }
            let light = |rng: &mut Rng| match self.light_ns.len() {
                0 => 0.0,
                len => self.light_ns[rng.below(len as u64) as usize],
            };
            responses.extend(waits.sorted().iter().map(|wait| wait + light(&mut rng)));
        }
        responses.sort_unstable_by(f64::total_cmp);
        found.quantile_ns = Some(crate::stats::quantile(&responses, quantile));
        let formula = queue::wait_quantile_by_formula(rate * hottest / 1e9, &self.service, quantile);
        found.wait_by_formula_ns = Some(formula);
        found
    }

    /// The largest rate that keeps a promise; 0 if none does.
    #[must_use]
    pub fn largest(&self, quantile: f64, bound_ns: f64) -> f64 {
        let hottest = self.shares.first().copied().unwrap_or(1.0);
        let (mut low, mut high) = (0.0, 1e9 / (self.service.mean() * hottest).max(f64::MIN_POSITIVE));
        for _ in 0..16 {
            let middle = f64::midpoint(low, high);
            let kept = self.forecast(middle, quantile).quantile_ns.is_some_and(|found| found < bound_ns);
            if kept { low = middle } else { high = middle }
        }
        low
    }
}

/// Gaps of this mean.
fn scaled(gaps: &Times, mean: f64) -> Times {
    match gaps {
        Times::Constant(_) => Times::Constant(mean),
        // A shard's part of a crowd is no smaller a crowd, as far as its own queue can tell.
        Times::Crowds(_, size) => Times::Crowds(mean, *size),
        Times::Exponential(_) => Times::Exponential(mean),
        Times::Drawn(values) => Times::Drawn(values.iter().map(|value| value * mean).collect()),
    }
}

/// The parts of so many shards: as measured, or with the measured skew of the busiest.
fn spread(measured: &[f64], shards: u32) -> Vec<f64> {
    let count = shards.max(1) as usize;
    if measured.len() == count {
        return measured.to_vec();
    }
    let even = 1.0 / count as f64;
    let hottest = measured.iter().copied().fold(0.0, f64::max) * measured.len().max(1) as f64;
    let hottest = (hottest.max(1.0) * even).min(1.0);
    let rest = (1.0 - hottest) / count.saturating_sub(1).max(1) as f64;
    let mut shares = vec![rest; count];
    shares[0] = hottest;
    shares
}

/// One thing that a node can run out of.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Resource {
    /// What.
    pub name: &'static str,
    /// Its share in use: 1 is none left.
    pub share: f64,
}

/// A node of a plan under some multiple of the target.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Strain {
    /// The multiple.
    pub times: f64,
    /// Whether one node has failed.
    pub one_failed: bool,
    /// What the model says of its rate.
    pub forecast: Forecast,
    /// What it uses, the scarcest first.
    pub resources: Vec<Resource>,
    /// The first thing that breaks, if anything does.
    pub breaks: Option<&'static str>,
}

/// A plan.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Plan {
    /// What was asked for.
    pub target: Target,
    /// A node.
    pub node: Node,
    /// Nodes, the spare one included.
    pub nodes: u32,
    /// The largest rate of one node that keeps the promise.
    pub largest: f64,
    /// What that is bound by.
    pub largest_bound: &'static str,
    /// The rate of each node when all are there, and when one is not.
    pub rate_each: [f64; 2],
    /// What of the largest rate is left when all are there, and when one is not.
    pub headroom: [f64; 2],
    /// Memory of a node when one has failed, in KiB.
    pub memory_kib: f64,
    /// Descriptors of a node when one has failed, if each session has a connection.
    pub descriptors: f64,
    /// Bits a second of a node when one has failed.
    pub bandwidth: f64,
    /// Rates and sessions of a node in multiples of what was measured.
    pub beyond: [f64; 2],
    /// The plan at 1, 1.5 and 2 times the target, with all nodes and with one less.
    pub strains: Vec<Strain>,
    /// The model against what was measured: rate, measured and simulated quantile.
    pub checks: Vec<[f64; 3]>,
    /// The scaling law, if there were several numbers of shards.
    pub law: Option<Law>,
    /// Each shard's part of a node's messages.
    pub shares: Vec<f64>,
    /// Processor time for a message in nanoseconds, and the squared variation of a shard's service times.
    pub service: [f64; 2],
    /// Where their spread is from.
    pub service_from: &'static str,
    /// Things that the reader should know.
    pub notes: Vec<String>,
}

/// Memory: a base, and what each session takes.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Memory {
    base_kib: f64,
    session_kib: f64,
    /// It is a bound from above only: all loads had as many sessions.
    bound_only: bool,
}

impl Memory {
    fn of(points: &[Point]) -> Self {
        let by = |a: &&Point, b: &&Point| a.sessions.total_cmp(&b.sessions);
        let (fewest, most) = (points.iter().min_by(by), points.iter().max_by(by));
        if let (Some(fewest), Some(most)) = (fewest, most)
            && fewest.sessions < most.sessions
        {
            let session_kib =
                ((most.resident_kib - fewest.resident_kib) / (most.sessions - fewest.sessions)).max(0.0);
            let base_kib = (most.resident_kib - session_kib * most.sessions).max(0.0);
            return Self { base_kib, session_kib, bound_only: false };
        }
        let most =
            points.iter().map(|point| point.resident_kib / point.sessions.max(1.0)).fold(0.0, f64::max);
        Self { base_kib: 0.0, session_kib: most, bound_only: true }
    }

    fn at(&self, sessions: f64) -> f64 {
        self.base_kib + self.session_kib * sessions
    }
}

/// Descriptors beside those of sessions: listeners, the journal, models.
const DESCRIPTORS_BASE: f64 = 100.0;

/// Makes a plan. `fixed` is the number of nodes, if that is given.
///
/// # Errors
/// The reason why nothing can be said.
pub fn plan(
    measured: &Measured,
    target: Target,
    node: Node,
    fixed: Option<u32>,
    seed: u64,
) -> Result<Plan, Refusal> {
    let most = |what: fn(&Point) -> f64| measured.points.iter().map(what).fold(0.0, f64::max);
    let (rate_most, sessions_most) = (most(|point| point.rate), most(|point| point.sessions));
    refuse_beyond(measured, &target, &node)?;
    let model = Model::new(measured, node.cores, seed);
    let law = Law::fit(&measured.largest);
    let shards = [measured.shares.len() as f64, f64::from(node.cores)];
    let growth = shards[1] / shards[0];
    let scale = law.as_ref().map_or(1.0, |law| lost_to_neighbours(law, shards));
    let by_model = model.largest(target.quantile, target.bound_ns) * scale;
    let (largest, largest_bound) = promised(by_model, rate_most * BEYOND_MAX * growth.min(1.0));
    if largest <= 0.0 {
        return Err(Refusal(format!(
            "no rate keeps p{} below {} ms: the lightest load that was measured does not",
            target.quantile * 100.0,
            target.bound_ns / 1e6
        )));
    }
    let memory = Memory::of(&measured.points);
    let sessions_node = (sessions_most * BEYOND_MAX)
        .min((node.memory_kib - memory.base_kib) / memory.session_kib.max(f64::MIN_POSITIVE))
        .min(node.descriptors - DESCRIPTORS_BASE);
    if sessions_node < 1.0 {
        return Err(Refusal("a node has no room for a session: more memory, more descriptors".to_owned()));
    }
    let planned = largest * (1.0 - node.headroom);
    let bearing = (target.rate / planned).ceil().max((target.sessions / sessions_node).ceil()).max(1.0);
    let nodes = fixed.map_or(bearing + 1.0, f64::from);
    let left = (nodes - 1.0).max(1.0);
    let (rate_beyond, sessions_beyond) =
        (target.rate / left / rate_most, target.sessions / left / sessions_most);
    let room = BEYOND_MAX * growth.max(1.0);
    if room < rate_beyond || BEYOND_MAX < sessions_beyond {
        return Err(Refusal(format!(
            "with {nodes} nodes one of them would bear {:.1} times the rate and {:.1} times the sessions that were measured \
             when another has failed; nothing is said beyond {BEYOND_MAX:.0} times: measure more, or take more nodes",
            rate_beyond, sessions_beyond
        )));
    }
    let bytes = most(|point| point.bytes);
    let largest_name =
        if by_model <= largest { "the objective" } else { "what is known: twice of what was measured" };
    let needs = Needs { target, node, nodes, memory, bytes, model: &model, scale, largest, largest_name };
    Ok(Plan {
        target,
        node,
        nodes: nodes as u32,
        largest,
        largest_bound,
        rate_each: [target.rate / nodes, target.rate / left],
        headroom: [1.0 - target.rate / nodes / largest, 1.0 - target.rate / left / largest],
        memory_kib: memory.at(target.sessions / left),
        descriptors: DESCRIPTORS_BASE + target.sessions / left,
        bandwidth: target.rate / left * bytes * 8.0,
        beyond: [rate_beyond, sessions_beyond],
        strains: needs.strains(),
        checks: checks(measured, target.quantile, seed),
        shares: model.shares.clone(),
        service: [model.service.mean(), model.service.variation()],
        service_from: model.service_from,
        notes: notes(measured, &memory, law.as_ref(), &target),
        law,
    })
}

/// What a shard still does among so many as a node has, of what it does among those that were measured.
fn lost_to_neighbours(law: &Law, [measured, planned]: [f64; 2]) -> f64 {
    let each = |shards: f64| law.at(shards) / shards;
    each(planned) / each(measured)
}

/// The largest rate of a node, and what it is bound by.
const fn promised(by_model: f64, by_measuring: f64) -> (f64, &'static str) {
    if by_model <= by_measuring {
        (by_model, "the objective on the busiest shard")
    } else {
        (by_measuring, "what was measured: no more than twice of it is promised")
    }
}

fn refuse_beyond(measured: &Measured, target: &Target, node: &Node) -> Result<(), Refusal> {
    let shards = measured.shares.len() as f64;
    let shards = measured.largest.iter().map(|(shards, _)| f64::from(*shards)).fold(shards, f64::max);
    if BEYOND_MAX * shards < f64::from(node.cores) {
        return Err(Refusal(format!(
            "a node of {} cores was asked for, and {shards} shards were measured; nothing is said beyond {BEYOND_MAX:.0} \
             times: measure with more, or take smaller nodes",
            node.cores
        )));
    }
    let light = &measured.points[0];
    if light.count * (1.0 - target.quantile) < BEYOND_QUANTILE_MIN {
        return Err(Refusal(format!(
            "{} answers of {} are too few to speak of p{}: measure longer",
            light.count,
            light.name,
            target.quantile * 100.0
        )));
    }
    Ok(())
}

/// The model against what was measured, at each load.
fn checks(measured: &Measured, quantile: f64, seed: u64) -> Vec<[f64; 3]> {
    let model = Model::new(measured, measured.shares.len() as u32, seed);
    let check = |point: &Point| {
        let simulated = model.forecast(point.rate, quantile).quantile_ns.unwrap_or(f64::INFINITY);
        [point.rate, crate::stats::quantile(&point.responses_ns, quantile), simulated]
    };
    measured.points.iter().map(check).collect()
}

fn notes(measured: &Measured, memory: &Memory, law: Option<&Law>, target: &Target) -> Vec<String> {
    let mut notes = Vec::new();
    if measured.shares_guessed {
        notes.push(
            "the shards' parts were not measured: evenly is assumed, which promises too much".to_owned(),
        );
    }
    if memory.bound_only {
        notes.push(
            "all loads had as many sessions: all memory is laid on them, which asks for too much of it"
                .to_owned(),
        );
    }
    if law.is_none() {
        notes.push(
            "one number of shards was measured: what shards lose to each other is not in the plan".to_owned(),
        );
    }
    if target.sessions <= 0.0 {
        notes.push("no sessions were asked for: memory and descriptors are not planned".to_owned());
    }
    if measured.points.len() < 2 {
        notes.push("one load was measured: nothing shows that the model holds at another".to_owned());
    }
    notes
}

struct Needs<'a> {
    target: Target,
    node: Node,
    nodes: f64,
    memory: Memory,
    bytes: f64,
    model: &'a Model,
    scale: f64,
    largest: f64,
    largest_name: &'static str,
}

impl Needs<'_> {
    fn strains(&self) -> Vec<Strain> {
        let all = [1.0, 1.5, 2.0].into_iter().flat_map(|times| [(times, false), (times, true)]);
        all.map(|(times, one_failed)| self.strain(times, one_failed)).collect()
    }

    fn strain(&self, times: f64, one_failed: bool) -> Strain {
        let nodes = if one_failed { (self.nodes - 1.0).max(1.0) } else { self.nodes };
        let (rate, sessions) = (self.target.rate * times / nodes, self.target.sessions * times / nodes);
        let forecast = self.model.forecast(rate / self.scale, self.target.quantile);
        let mut resources = vec![
            Resource { name: "the busiest shard's core", share: forecast.busiest },
            Resource { name: self.largest_name, share: rate / self.largest },
            Resource { name: "memory", share: self.memory.at(sessions) / self.node.memory_kib },
            Resource { name: "descriptors", share: (DESCRIPTORS_BASE + sessions) / self.node.descriptors },
            Resource { name: "the network", share: rate * self.bytes * 8.0 / self.node.bandwidth },
        ];
        resources.sort_by(|a, b| b.share.total_cmp(&a.share));
        let breaks = resources.first().filter(|scarcest| 1.0 < scarcest.share).map(|scarcest| scarcest.name);
        Strain { times, one_failed, forecast: Forecast { rate, ..forecast }, resources, breaks }
    }
}

#[cfg(test)]
mod tests;
