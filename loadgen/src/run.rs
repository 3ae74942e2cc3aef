//! A run: lanes that send by one schedule, and the thread that starts them, adds up what they measure and watches the
//! machine meanwhile.
//!
//! Open loop: what is due is sent when it is due, whatever has come back. A slow gateway is then seen in the times, and a
//! slow generator in the lag.

mod brownout;
mod churn;
mod http;
mod lane;
mod platform;
mod restart;
mod signed;
mod storm;
mod telegram;
mod wire;
mod ws;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::arrivals::Arrivals;
use crate::driver::{self, Backend};
use crate::hazards::Hazards;
use crate::host::{Busy, ProcessUse};
use crate::ledger::{Expect, Ledger, Tally};
use crate::measure::{BrownoutEnd, Interval, TIME_MAX_NS};
use crate::protocol::Addressing;
use crate::run::brownout::Station;
use crate::run::lane::{Books, LaneEnd, Note, Shared, Wires};
use crate::run::restart::Restarter;
use crate::scenario::{Kind, Scenario};
use crate::schedule::Share;
use crate::steady::{Hold, Steady};
use crate::{stamp, sys};

pub(crate) use platform::Seal;
pub use restart::RestartEnd;
pub use signed::SignedSettings;
pub(crate) use signed::{key_of, signature};
pub use storm::StormEnd;
pub use wire::Trust;
pub(crate) use ws::{Door, auth_frame};

/// How long a connection, and each step of its handshake, may take.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Storms, or restarts, of one run.
const STORMS_MAX: usize = 1000;

/// Brownouts of one run.
const BROWNOUTS_MAX: usize = 1000;

/// Messages a second that can be asked for.
pub const RATE_MAX: f64 = 1e8;

const SECOND_NS: u64 = 1_000_000_000;

/// With this exponent five of six messages are the first session's.
const ZIPF_MAX: f64 = 5.0;

/// From when all connections are open to the first message.
const START_DELAY_NS: u64 = 50_000_000;

/// How sessions are laid onto a lane's connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spread {
    /// In turn: each connection has as many.
    Even,
    /// By a seeded hash, as clients behind proxies would be.
    Random,
}

/// What the Telegram part of a run needs.
#[derive(Clone, Debug, PartialEq)]
pub struct TelegramSettings {
    /// Where the Bot API simulator listens in this process; the gateway's `apiRoot`.
    pub listen: SocketAddr,
    /// The channel's name in the gateway: updates go to `/webhooks/<channel>`.
    pub channel: String,
    /// The bot's token, as the gateway sends it.
    pub token: String,
    /// The webhook's secret.
    pub secret: String,
}

/// What platforms do that is not well: shares of the messages, 0 to 1.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Flaws {
    /// Delivered twice, half of them at once and half after the first was taken: to be answered once.
    pub repeats: f64,
    /// Delivered once more some seconds later: to be answered once too.
    pub late: f64,
    /// Preceded by a delivery that cannot be read, or that is not signed well: to be refused, and to change nothing.
    pub malformed: f64,
}

/// Everything that a run depends on.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// What is driven.
    pub scenario: Scenario,
    /// The gateway.
    pub target: SocketAddr,
    /// Whom clients trust that speak TLS; `None` for none.
    pub trust: Option<Trust>,
    /// What the requests say.
    pub to: Addressing,
    /// Messages a second, all parts and lanes together.
    pub rate: f64,
    /// Sessions of each part.
    pub sessions: u32,
    /// Of a hundred messages of each part, how many are one session's beside what it gets as the others do; 0 for none.
    pub hot_percent: u32,
    /// Connections of each part.
    pub connections: u32,
    /// What is measured, after the warm-up.
    pub duration_ns: u64,
    /// What is sent before, and counted but not timed.
    pub warmup_ns: u64,
    /// How messages arrive.
    pub arrivals: Arrivals,
    /// The seed of the schedule.
    pub seed: u64,
    /// What is done to its clients.
    pub hazards: Hazards,
    /// Lanes.
    pub threads: u32,
    /// How sessions are laid onto connections.
    pub spread: Spread,
    /// What answers are expected to say.
    pub expect: Expect,
    /// How long answers are waited for after the last message.
    pub drain_ns: u64,
    /// How long after the last answer second ones are waited for.
    pub linger_ns: u64,
    /// Unanswered messages of a lane beyond which what is due is not sent but counted as shed.
    pub inflight_max: u64,
    /// Whether lanes burn a core to wake in time.
    pub spin: bool,
    /// For the Telegram part.
    pub telegram: Option<TelegramSettings>,
    /// For the part of the signed webhook.
    pub signed: Option<SignedSettings>,
    /// What platforms do that is not well.
    pub flaws: Flaws,
    /// The exponent of Zipf's law by which messages are spread over sessions; 0 for evenly.
    pub zipf: f64,
    /// The date in updates.
    pub started_unix_seconds: u64,
    /// The gateway's process, whose use of the machine is measured.
    pub gateway_pid: Option<u32>,
}

impl Settings {
    /// The measured part of the run, in nanoseconds after its start.
    #[must_use]
    pub const fn window(&self) -> Range<u64> {
        self.warmup_ns..self.warmup_ns + self.duration_ns
    }

    /// The whole seconds of the window, if the load in them is meant to be even.
    fn steady_seconds(&self) -> Range<u64> {
        let is_even = match self.arrivals {
            Arrivals::Constant | Arrivals::Poisson | Arrivals::Burst(_) => true,
            Arrivals::Bursty { .. } | Arrivals::Ramp { .. } | Arrivals::Trace(_) => false,
        };
        if !is_even || self.hazards.is_resent() || self.hazards.brownout.is_some() {
            return 0..0;
        }
        let window = self.window();
        window.start.div_ceil(SECOND_NS)..window.end / SECOND_NS
    }

    fn has_websockets(&self) -> bool {
        self.scenario.has(Kind::WsChat) || self.scenario.has(Kind::WsStream)
    }

    /// What cannot be done to clients and gateway, and whether it is asked for.
    fn wrong_hazards(&self) -> Vec<(bool, &'static str)> {
        vec![
            (
                self.hazards.slow.is_some_and(|slow| slow.percent == 0 || 100 < slow.percent),
                "of a hundred connections 1 to 100 are slow",
            ),
            (
                self.hazards.slow.is_some() && !self.has_websockets(),
                "the slow clients are those of ws-chat and ws-stream, and there are none",
            ),
            (
                self.hazards.storm.is_some() && !self.has_websockets(),
                "a storm drops the connections of ws-chat and ws-stream, and there are none",
            ),
            (
                self.hazards.storm.as_ref().is_some_and(|storm| !storm.at_ns.is_sorted()),
                "storms come one after the other: write their moments in order",
            ),
            (
                self.hazards.storm.as_ref().is_some_and(|storm| {
                    storm.at_ns.len() > STORMS_MAX || storm.at_ns.iter().any(|at| self.window().end <= *at)
                }),
                "there are at most 1,000 storms, all before warm-up and duration are over",
            ),
            (
                self.hazards.restart.as_ref().is_some_and(|restart| restart.command.is_empty()),
                "there are restarts, and nothing says how: --restart-with 'clawgate serve --takeover --config FILE'",
            ),
            (
                self.hazards.restart.is_some() && self.hazards.storm.is_some(),
                "a run has storms or restarts, not both: who dropped a connection would be anybody's guess",
            ),
            (
                self.hazards.restart.as_ref().is_some_and(|restart| {
                    restart.at_ns.len() > STORMS_MAX
                        || !restart.at_ns.is_sorted()
                        || restart.at_ns.iter().any(|at| self.window().end <= *at)
                }),
                "there are at most 1,000 restarts, in order, all before warm-up and duration are over",
            ),
            (
                self.hazards.restart.is_some() && self.scenario.has(Kind::Churn),
                "a client of ws-churn has one connection and does not come again: restart under the others",
            ),
            (
                self.hazards.brownout.as_ref().is_some_and(|brownout| !is_in_order(&brownout.during)),
                "brownouts come one after the other, at most 1,000 of them",
            ),
        ]
    }

    /// Checks what the types do not say.
    ///
    /// # Errors
    /// What is wrong, in words.
    pub fn check(&self) -> Result<(), String> {
        let shortest = stamp::STAMP_BYTES;
        let wrong = [
            (
                !(self.rate.is_finite() && 0.0 < self.rate && self.rate <= RATE_MAX),
                "the rate is above 0, at most 1e8",
            ),
            (self.sessions == 0, "there is at least one session"),
            (self.connections < self.threads, "each thread has at least one connection"),
            (self.sessions < self.threads, "each thread has at least one session"),
            (self.threads == 0 || 1024 < self.threads, "there are 1 to 1,024 threads"),
            (100 < self.hot_percent, "a hot session has at most 100 % of the messages"),
            (self.duration_ns == 0, "the duration is above 0"),
            (
                self.trust.is_some() && self.scenario.parts().iter().any(|part| part.kind != Kind::Churn),
                "only ws-churn speaks TLS; drive the others where the gateway listens without it",
            ),
            (
                !(self.zipf.is_finite() && (0.0..=ZIPF_MAX).contains(&self.zipf)),
                "the exponent of Zipf's law is 0, for evenly, to 5",
            ),
            (
                [self.flaws.repeats, self.flaws.late, self.flaws.malformed]
                    .iter()
                    .any(|share| !(0.0..=1.0).contains(share)),
                "repeats, late and malformed deliveries are shares of the messages: 0 to 1",
            ),
        ];
        let mut wrong = wrong.into_iter().chain(self.wrong_hazards());
        if let Some((_, what)) = wrong.find(|(is_wrong, _)| *is_wrong) {
            return Err(what.to_owned());
        }
        for part in self.scenario.parts() {
            platform::of(part.kind, self)?;
        }
        if self.to.payload_bytes < shortest {
            return Err(format!("a message has at least {shortest} bytes: its stamp"));
        }
        Ok(())
    }
}

fn is_in_order(spans: &[Range<u64>]) -> bool {
    spans.len() <= BROWNOUTS_MAX && spans.windows(2).all(|pair| pair[0].end <= pair[1].start)
}

/// What the schedule needs to know of the parts.
pub(crate) fn shares(settings: &Settings) -> Vec<Share> {
    let share = |part: &crate::scenario::Part| Share {
        weight: part.weight,
        sessions: settings.sessions,
        hot_percent: settings.hot_percent,
    };
    settings.scenario.parts().iter().map(share).collect()
}

/// The age of a token that the provider simulator stamped when it emitted it: `@` and sixteen hexadecimal digits.
pub(crate) fn read_token_stamp(token: &[u8]) -> Option<u64> {
    let digits = token.trim_ascii().strip_prefix(b"@")?;
    if digits.len() != 16 {
        return None;
    }
    Some(sys::now_ns().saturating_sub(stamp::read_hex(digits)?))
}

/// What is told of a run while it goes on.
pub trait Observer {
    /// A second is over.
    fn on_second(&mut self, second: u64, interval: &Interval);
}

/// For runs that nobody watches.
#[derive(Clone, Copy, Debug, Default)]
pub struct Unwatched;

impl Observer for Unwatched {
    fn on_second(&mut self, _second: u64, _interval: &Interval) {}
}

/// How one lane fared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LaneUse {
    /// Processor time of its thread in the measured window.
    pub window_cpu_ns: u64,
    /// In all of the run.
    pub cpu_ns: u64,
}

/// What a run found.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// What waited for the sockets.
    pub backend: Backend,
    /// The account of each part.
    pub tallies: Vec<Tally>,
    /// All times and counts.
    pub sum: Interval,
    /// Messages that were due in the measured window.
    pub due_in_window: u64,
    /// The digest of the schedule as far as it was due.
    pub digest: u64,
    /// The lanes.
    pub lanes: Vec<LaneUse>,
    /// Whether it came to a steady state.
    pub steady: Steady,
    /// The storms, in order.
    pub storms: Vec<StormEnd>,
    /// The restarts, in order: how their commands ended. What clients saw of them is in `storms`.
    pub restarts: Vec<RestartEnd>,
    /// The provider's brownouts, in order.
    pub brownouts: Vec<BrownoutEnd>,
    /// Whether the schedule was kept to its end.
    pub complete: bool,
    /// The machine at the window's start and end.
    pub busy: [Busy; 2],
    /// The gateway at the window's start and end.
    pub gateway: Option<[ProcessUse; 2]>,
}

impl Outcome {
    /// The account of all parts.
    #[must_use]
    pub fn tally(&self) -> Tally {
        let mut sum = Tally::default();
        self.tallies.iter().for_each(|tally| sum.add(tally));
        sum
    }
}

/// Runs it.
///
/// # Errors
/// Settings that cannot be, a gateway that cannot be reached or does not take the key, a thread that gets no ring.
pub fn drive(settings: Settings, observer: &mut dyn Observer) -> Result<Outcome, String> {
    settings.check()?;
    let settings = Arc::new(settings);
    let start_ns = Arc::new(AtomicU64::new(0));
    let brownout = settings.hazards.brownout.as_ref();
    let station = brownout.map(|brownout| Station::start(brownout, Arc::clone(&start_ns))).transpose()?;
    let restart = settings.hazards.restart.as_ref();
    let restarter = restart.map(|restart| Restarter::start(restart, Arc::clone(&start_ns))).transpose()?;
    let (notes_in, notes) = channel();
    let parts = settings.scenario.parts().iter().enumerate();
    let shared: Result<Vec<_>, String> = parts
        .map(|(number, part)| {
            let shared = |platform| Shared { stripes: Books::shared(&settings, number as u8), platform };
            Ok(platform::of(part.kind, &settings)?.map(shared))
        })
        .collect();
    let shared = shared?;
    let mut spares = Vec::new();
    let mut threads = Vec::new();
    for number in 0..settings.threads {
        let (spare_in, spare) = channel();
        spares.push(spare_in);
        let wires = Wires {
            start_ns: Arc::clone(&start_ns),
            notes: notes_in.clone(),
            spares: spare,
            shared: shared.clone(),
        };
        threads.push(start_lane(Arc::clone(&settings), number, wires).map_err(|error| {
            start_ns.store(u64::MAX, Ordering::Release);
            format!("a thread cannot be started: {error}")
        })?);
    }
    drop(notes_in);
    let mut conductor = Conductor::new(&settings, notes, spares);
    let result = conductor.conduct(&start_ns, observer);
    if result.is_err() {
        start_ns.store(u64::MAX, Ordering::Release);
    }
    let asked = station.map(Station::end).unwrap_or_default();
    let restarts = restarter.map(Restarter::end).unwrap_or_default();
    for thread in threads {
        if thread.join().is_err() {
            return Err("a thread of the generator panicked".to_owned());
        }
    }
    result?;
    let outcome = conductor.into_outcome(shared, &asked)?;
    Ok(Outcome { restarts, ..outcome })
}

fn start_lane(settings: Arc<Settings>, number: u32, wires: Wires) -> std::io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name(format!("lane-{number}")).spawn(move || {
        let notes = wires.notes.clone();
        let result = driver::run(|backend| lane::main(settings, number, wires, backend));
        if let Err(error) = result {
            // Nobody listens only when the run is given up already.
            notes.send(Note::Ready(Err(format!("a thread gets no ring: {error}")))).ok();
        }
    })
}

/// Starts the lanes at one moment and adds up what they send.
struct Conductor<'a> {
    settings: &'a Settings,
    notes: Receiver<Note>,
    spares: Vec<Sender<Interval>>,
    /// The seconds that not all lanes have handed over.
    seconds: BTreeMap<u64, (Interval, usize)>,
    hold: Hold,
    ends: Vec<LaneEnd>,
    backend: Option<Backend>,
    busy: Vec<Busy>,
    gateway: Vec<Option<ProcessUse>>,
}

impl<'a> Conductor<'a> {
    fn new(settings: &'a Settings, notes: Receiver<Note>, spares: Vec<Sender<Interval>>) -> Self {
        Self {
            settings,
            notes,
            spares,
            seconds: BTreeMap::new(),
            hold: Hold::new(settings.steady_seconds()),
            ends: Vec::new(),
            backend: None,
            busy: Vec::new(),
            gateway: Vec::new(),
        }
    }

    fn conduct(&mut self, start: &AtomicU64, observer: &mut dyn Observer) -> Result<(), String> {
        let lanes = self.settings.threads as usize;
        for _ in 0..lanes {
            match self.notes.recv() {
                Ok(Note::Ready(ready)) => self.backend = Some(ready?),
                Ok(Note::Interval(..) | Note::Ended(_)) | Err(_) => {
                    return Err("a thread of the generator ended before the run".to_owned());
                }
            }
        }
        let start_ns = sys::now_ns() + START_DELAY_NS;
        start.store(start_ns, Ordering::Release);
        let window = self.settings.window();
        let mut looks = [start_ns + window.start, start_ns + window.end].into_iter().peekable();
        while self.ends.len() < lanes {
            let wait_ns = looks.peek().map_or(u64::MAX >> 1, |at_ns| at_ns.saturating_sub(sys::now_ns()));
            match self.notes.recv_timeout(Duration::from_nanos(wait_ns)) {
                Ok(note) => self.on_note(note, observer)?,
                Err(RecvTimeoutError::Timeout) => {
                    looks.next();
                    self.look();
                }
                Err(RecvTimeoutError::Disconnected) => {
                    return Err("a thread of the generator ended before the run's end".to_owned());
                }
            }
        }
        // A run that was broken off has not come to its second look.
        for _ in looks {
            self.look();
        }
        for (second, (interval, _)) in std::mem::take(&mut self.seconds) {
            observer.on_second(second, &interval);
            self.hold.add(second, interval);
        }
        Ok(())
    }

    fn look(&mut self) {
        self.busy.push(Busy::read());
        self.gateway.push(self.settings.gateway_pid.and_then(ProcessUse::read));
    }

    fn on_note(&mut self, note: Note, observer: &mut dyn Observer) -> Result<(), String> {
        match note {
            Note::Ready(result) => result.map(drop),
            Note::Ended(end) => {
                self.ends.push(end);
                Ok(())
            }
            Note::Interval(second, interval) => {
                self.on_interval(second, interval, observer);
                Ok(())
            }
        }
    }

    fn on_interval(&mut self, second: u64, mut interval: Interval, observer: &mut dyn Observer) {
        let (sum, lanes) = self.seconds.entry(second).or_default();
        sum.add(&interval);
        *lanes += 1;
        interval.clear();
        // Whichever lane takes it: all are alike. One that has ended needs none.
        if let Some(spare) = self.spares.get(*lanes - 1) {
            spare.send(interval).ok();
        }
        // A lane hands its seconds over in order, so the first is complete when all have handed it over.
        while let Some(first) = self.seconds.first_entry()
            && self.settings.threads as usize <= first.get().1
        {
            let (second, (interval, _)) = first.remove_entry();
            observer.on_second(second, &interval);
            self.hold.add(second, interval);
        }
    }

    fn into_outcome(self, shared: Vec<Option<Shared>>, asked: &[u64]) -> Result<Outcome, String> {
        let mut tallies = vec![Tally::default(); shared.len()];
        for end in &self.ends {
            for (sum, tally) in tallies.iter_mut().zip(&end.tallies) {
                sum.add(tally);
            }
        }
        for (sum, shared) in tallies.iter_mut().zip(shared) {
            let Some(Shared { stripes, platform }) = shared else { continue };
            platform.close(&Books::Shared(Arc::clone(&stripes)));
            for stripe in stripes.iter() {
                let mut ledger = stripe.lock().unwrap_or_else(PoisonError::into_inner);
                let empty = Ledger::new(0, Expect::Anything, 0, 0, 1);
                sum.add(&std::mem::replace(&mut *ledger, empty).close());
            }
        }
        let (mut sum, steady) = self.hold.close();
        let storms = add_storms(&self.ends);
        let brownouts = add_brownouts(&self.ends, asked);
        for brownout in &brownouts {
            // What did not recover took longer than anybody can tell.
            sum.on_recovery(brownout.recovery_ns().unwrap_or(TIME_MAX_NS));
        }
        let [Some(from), Some(to)] = [self.busy.first().copied(), self.busy.last().copied()] else {
            return Err("the run ended before it began".to_owned());
        };
        let gateway = match (self.gateway.first(), self.gateway.last()) {
            (Some(Some(from)), Some(Some(to))) => Some([*from, *to]),
            (Some(None), _) | (_, Some(None)) | (None, _) | (_, None) => None,
        };
        Ok(Outcome {
            backend: self.backend.unwrap_or(Backend::Epoll),
            tallies,
            sum,
            steady,
            due_in_window: self.ends.iter().map(|end| end.due_in_window).sum(),
            digest: self.ends.iter().fold(0, |sum, end| sum ^ end.digest),
            lanes: self
                .ends
                .iter()
                .map(|end| LaneUse { window_cpu_ns: end.window_cpu_ns, cpu_ns: end.cpu_ns })
                .collect(),
            storms,
            restarts: Vec::new(),
            brownouts,
            complete: self.ends.iter().all(|end| end.complete),
            busy: [from, to],
            gateway,
        })
    }
}

/// The storms of all lanes and parts: the same ones, in the same order.
fn add_storms(ends: &[LaneEnd]) -> Vec<StormEnd> {
    let mut sums = Vec::new();
    for storms in ends.iter().flat_map(|end| &end.storms) {
        sums.resize(storms.len().max(sums.len()), StormEnd::default());
        sums.iter_mut().zip(storms).for_each(|(sum, storm)| sum.add(storm));
    }
    sums
}

/// The brownouts of all lanes, and what the provider was asked in them.
fn add_brownouts(ends: &[LaneEnd], asked: &[u64]) -> Vec<BrownoutEnd> {
    let none = |asked: &u64| BrownoutEnd { asked: *asked, ..BrownoutEnd::default() };
    let mut sums: Vec<BrownoutEnd> = asked.iter().map(none).collect();
    for end in ends {
        sums.iter_mut().zip(&end.brownouts).for_each(|(sum, brownout)| sum.add(brownout));
    }
    sums
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_stamped_token_tells_its_age_and_no_other_text_does() {
        let mut token = *b"@0000000000000000";
        stamp::write_hex(&mut token[1..], sys::now_ns());
        assert!(read_token_stamp(&token).is_some_and(|age_ns| age_ns < 60_000_000_000));
        assert!(read_token_stamp(b" @0000000000000001 ").is_some());
        for other in [&b""[..], b"hello", b"@", b"@12", b"@000000000000000g", b"0000000000000001"] {
            assert_eq!(read_token_stamp(other), None);
        }
    }
}
