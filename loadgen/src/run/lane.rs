//! One thread of the generator: it sends what is due when it is due, whatever has come back, and records what does.
//!
//! A lane owns every session whose number leaves its own when divided by the number of lanes, with their connections
//! and their account; lanes share nothing while they run.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::driver::{self, Alarm, Backend, Turn};
use crate::ledger::{Ledger, Tally};
use crate::measure::{BrownoutEnd, Interval, Recorder};
use crate::pipe::Scratch;
use crate::protocol::Addressing;
use crate::rng::{Rng, mix};
use crate::run::churn::Crowd;
use crate::run::http::Pool;
use crate::run::platform::Platform;
use crate::run::ws::Fleet;
use crate::run::{Settings, StormEnd, shares};
use crate::scenario::Kind;
use crate::schedule::{Due, Schedule};
use crate::sys;

/// Messages that are sent before the sockets are looked at again, when the lane is behind.
const BATCH_MAX: usize = 256;

/// How close to its deadline a spinning lane stops sleeping.
const SPIN_NS: u64 = 300_000;

const SECOND_NS: u64 = 1_000_000_000;

/// How often a lane that has sent everything looks whether everything is answered.
const DRAIN_STEP: Duration = Duration::from_millis(2);

/// Locks that a shared account is divided into.
const STRIPES: u32 = 64;

/// The account of one part of the scenario.
#[derive(Clone, Debug)]
pub(crate) enum Books {
    /// Answers come to the lane that asked.
    Own(Rc<RefCell<Ledger>>),
    /// Answers may come to another lane: the account is divided by session, each piece behind a lock of its own.
    Shared(Arc<Vec<Mutex<Ledger>>>),
}

impl Books {
    /// A shared account of all sessions.
    pub(crate) fn shared(settings: &Settings, part: u8) -> Arc<Vec<Mutex<Ledger>>> {
        let run = settings.to.for_part(part).run;
        let stripe = |first| Mutex::new(Ledger::new(run, settings.expect, settings.sessions, first, STRIPES));
        Arc::new((0..STRIPES).map(stripe).collect())
    }

    /// Works on the account of one session.
    #[inline]
    pub(crate) fn with<T>(&self, session: u32, work: impl FnOnce(&mut Ledger) -> T) -> T {
        match self {
            Self::Own(ledger) => work(&mut ledger.borrow_mut()),
            Self::Shared(stripes) => {
                let stripe = &stripes[(session % STRIPES) as usize];
                work(&mut stripe.lock().unwrap_or_else(PoisonError::into_inner))
            }
        }
    }

    /// Works on the whole account, piece by piece.
    fn for_each(&self, mut work: impl FnMut(&mut Ledger)) {
        match self {
            Self::Own(ledger) => work(&mut ledger.borrow_mut()),
            Self::Shared(stripes) => {
                for stripe in stripes.iter() {
                    work(&mut stripe.lock().unwrap_or_else(PoisonError::into_inner));
                }
            }
        }
    }

    /// Messages that are neither answered nor refused.
    pub(crate) fn outstanding(&self) -> u64 {
        let mut sum = 0;
        self.for_each(|ledger| sum += ledger.outstanding());
        sum
    }
}

/// What all connections of a thread share.
#[derive(Debug)]
pub(crate) struct Lane {
    pub(crate) settings: Arc<Settings>,
    pub(crate) number: u32,
    pub(crate) recorder: RefCell<Recorder>,
    pub(crate) scratch: Rc<Scratch>,
    pub(crate) rng: RefCell<Rng>,
    /// The start of the run on the machine's clock.
    start_ns: Cell<u64>,
    /// Everything was sent: who read slowly reads what is left.
    pub(crate) draining: Cell<bool>,
    /// The run is over: a connection that closes is not opened again.
    pub(crate) ending: Cell<bool>,
}

impl Lane {
    fn new(settings: Arc<Settings>, number: u32) -> Rc<Self> {
        let during = settings.hazards.brownout.as_ref().map_or(&[][..], |brownout| &brownout.during);
        let seed = mix(settings.seed ^ u64::from(settings.to.run) << 32 ^ u64::from(number));
        Rc::new(Self {
            recorder: RefCell::new(Recorder::new(settings.window()).with_brownouts(during)),
            scratch: Rc::default(),
            rng: RefCell::new(Rng::new(seed)),
            start_ns: Cell::new(u64::MAX),
            draining: Cell::new(false),
            ending: Cell::new(false),
            settings,
            number,
        })
    }

    /// Nanoseconds since the start of the run; zero before it.
    #[inline]
    pub(crate) fn now(&self) -> u64 {
        sys::now_ns().saturating_sub(self.start_ns.get())
    }

    /// The time of day, in Unix seconds.
    pub(crate) fn unix_seconds(&self) -> u64 {
        self.settings.started_unix_seconds + self.now() / SECOND_NS
    }

    /// The sessions and connections of this lane: how many of the `total` are its own.
    pub(crate) fn own(&self, total: u32) -> u32 {
        total.saturating_sub(self.number).div_ceil(self.settings.threads)
    }

    /// So many bytes were read at once; none is no read.
    #[inline]
    pub(crate) fn note_read(&self, bytes: usize) {
        let mut recorder = self.recorder.borrow_mut();
        recorder.counts().reads += u64::from(bytes != 0);
        recorder.counts().bytes_in += bytes as u64;
    }

    /// A key for one frame.
    #[inline]
    pub(crate) fn mask(&self) -> [u8; 4] {
        (self.rng.borrow_mut().draw() as u32).to_le_bytes()
    }
}

/// The connections of one part of the scenario.
enum Traffic {
    Ws(Rc<Fleet>),
    Http(Rc<Pool>),
    Churn(Rc<Crowd>),
}

impl Traffic {
    async fn open(
        lane: &Rc<Lane>,
        kind: Kind,
        to: Addressing,
        (books, platform): (Books, Option<Arc<dyn Platform>>),
    ) -> Result<Self, String> {
        match kind {
            Kind::WsChat | Kind::WsStream => Fleet::open(lane, kind, to, books).await.map(Self::Ws),
            Kind::Churn => Crowd::open(lane, to, books).await.map(Self::Churn),
            Kind::Rest | Kind::SseStream | Kind::WebhookTelegram | Kind::WebhookSigned => {
                Pool::open(lane, kind, to, (books, platform)).await.map(Self::Http)
            }
        }
    }

    #[inline]
    fn submit(&self, due: &Due) {
        match self {
            Self::Ws(fleet) => fleet.submit(due),
            Self::Http(pool) => pool.submit(due),
            Self::Churn(crowd) => crowd.submit(due),
        }
    }

    #[inline]
    fn flush(&self) {
        match self {
            Self::Ws(fleet) => fleet.flush(),
            // A request goes out as soon as there is a connection for it, a client comes as soon as there is room.
            Self::Http(_) | Self::Churn(_) => {}
        }
    }

    fn hang_up(&self) {
        match self {
            Self::Ws(fleet) => fleet.hang_up(),
            // A request's connection is closed between two requests, without ceremony.
            Self::Http(_) | Self::Churn(_) => {}
        }
    }

    fn storms(&self) -> Vec<StormEnd> {
        match self {
            Self::Ws(fleet) => fleet.storms.ends.take(),
            Self::Http(_) | Self::Churn(_) => Vec::new(),
        }
    }

    /// Whether everything that was due has been sent.
    fn is_sent(&self) -> bool {
        match self {
            Self::Ws(fleet) => fleet.is_sent(),
            Self::Http(pool) => pool.is_sent(),
            Self::Churn(crowd) => crowd.is_sent(),
        }
    }
}

/// What a lane tells the thread that started it.
#[derive(Debug)]
pub(crate) enum Note {
    /// Its connections are open, or cannot be.
    Ready(Result<Backend, String>),
    /// What it measured up to a second's end; also what was left at the end of all.
    Interval(u64, Interval),
    /// It is done.
    Ended(LaneEnd),
}

/// What a lane knows at its end.
#[derive(Debug)]
pub(crate) struct LaneEnd {
    /// The account of each part that was its own.
    pub(crate) tallies: Vec<Tally>,
    /// The storms of each part.
    pub(crate) storms: Vec<Vec<StormEnd>>,
    /// The brownouts.
    pub(crate) brownouts: Vec<BrownoutEnd>,
    /// Its share of the schedule's digest.
    pub(crate) digest: u64,
    /// Messages that were due in the measured window.
    pub(crate) due_in_window: u64,
    /// Processor time that the thread used in the measured window, and in all of the run.
    pub(crate) window_cpu_ns: u64,
    pub(crate) cpu_ns: u64,
    /// Everything that was due had been due: the run was not broken off.
    pub(crate) complete: bool,
}

/// How a lane and the thread that started it talk.
#[derive(Debug)]
pub(crate) struct Wires {
    /// The machine's clock at the start of the run: zero until it is known, `u64::MAX` to give up.
    pub(crate) start_ns: Arc<AtomicU64>,
    pub(crate) notes: Sender<Note>,
    /// Emptied intervals come back here.
    pub(crate) spares: Receiver<Interval>,
    /// The accounts that lanes share, by part.
    pub(crate) shared: Vec<Option<Shared>>,
}

/// What lanes share of a part whose answers may come to any of them.
#[derive(Clone, Debug)]
pub(crate) struct Shared {
    /// The account.
    pub(crate) stripes: Arc<Vec<Mutex<Ledger>>>,
    /// The far end.
    pub(crate) platform: Arc<dyn Platform>,
}

/// Runs a lane to its end.
pub(crate) async fn main(settings: Arc<Settings>, number: u32, wires: Wires, backend: Backend) {
    let lane = Lane::new(settings, number);
    let (traffic, books) = match open(&lane, &wires).await {
        Ok(opened) => opened,
        Err(failure) => {
            // Nobody listens only when the run is given up already.
            wires.notes.send(Note::Ready(Err(failure))).ok();
            return;
        }
    };
    wires.notes.send(Note::Ready(Ok(backend))).ok();
    let start_ns = loop {
        match wires.start_ns.load(Ordering::Acquire) {
            0 => driver::sleep(Duration::from_millis(1)).await,
            u64::MAX => return,
            start_ns => break start_ns,
        }
    };
    lane.start_ns.set(start_ns);
    let mut pace = Pace::new(&lane, &wires, &books);
    if let Err(error) = pace.send_all(&traffic).await {
        wires.notes.send(Note::Ready(Err(format!("a timer failed: {error}")))).ok();
        return;
    }
    drain(&lane, &mut pace, &traffic, &books).await;
    lane.ending.set(true);
    traffic.iter().for_each(Traffic::hang_up);
    pace.hand_over();
    let tally = |books: &Books| match books {
        Books::Own(ledger) => close(ledger),
        Books::Shared(_) => Tally::default(),
    };
    let tallies = books.iter().map(tally).collect();
    let storms = traffic.iter().map(Traffic::storms).collect();
    wires.notes.send(Note::Ended(pace.end(tallies, storms))).ok();
}

/// Takes the account out of the hands of the connections, which are still there, and closes it.
fn close(ledger: &RefCell<Ledger>) -> Tally {
    ledger.replace(Ledger::new(0, crate::ledger::Expect::Anything, 0, 0, 1)).close()
}

async fn open(lane: &Rc<Lane>, wires: &Wires) -> Result<(Vec<Traffic>, Vec<Books>), String> {
    let settings = &lane.settings;
    let mut traffic = Vec::new();
    let mut books = Vec::new();
    for (number, (part, shared)) in settings.scenario.parts().iter().zip(&wires.shared).enumerate() {
        let to = settings.to.for_part(number as u8);
        let own = match shared {
            Some(shared) => Books::Shared(Arc::clone(&shared.stripes)),
            None => {
                let sessions = settings.sessions;
                let ledger = Ledger::new(to.run, settings.expect, sessions, lane.number, settings.threads);
                Books::Own(Rc::new(RefCell::new(ledger)))
            }
        };
        if let Some(shared) = shared {
            Arc::clone(&shared.platform).listen(lane, to.run, &own)?;
        }
        let platform = shared.as_ref().map(|shared| Arc::clone(&shared.platform));
        traffic.push(Traffic::open(lane, part.kind, to, (own.clone(), platform)).await?);
        books.push(own);
    }
    Ok((traffic, books))
}

/// Waits for the answers that are still out.
async fn drain(lane: &Lane, pace: &mut Pace<'_>, traffic: &[Traffic], books: &[Books]) {
    let sent_ns = lane.now();
    lane.draining.set(true);
    for books in books {
        books.for_each(|ledger| ledger.end_of_sending(sent_ns));
    }
    let deadline_ns = sent_ns.saturating_add(lane.settings.drain_ns);
    loop {
        let settled =
            traffic.iter().all(Traffic::is_sent) && books.iter().all(|books| books.outstanding() == 0);
        let now_ns = lane.now();
        // What comes after the last answer, a second one for instance, is waited for a moment longer.
        if (settled && sent_ns + lane.settings.linger_ns < now_ns) || deadline_ns < now_ns {
            return;
        }
        pace.keep_house(now_ns);
        driver::sleep(DRAIN_STEP).await;
    }
}

/// Keeps a lane to its schedule, and its records to the second.
struct Pace<'a> {
    lane: &'a Lane,
    wires: &'a Wires,
    books: &'a [Books],
    /// Wrong answers that were handed over.
    wrong: Cell<u64>,
    /// The end of the second that is being recorded.
    boundary_ns: u64,
    digest: u64,
    due_in_window: u64,
    cpu_at_start: u64,
    cpu_at_window: [Option<u64>; 2],
    complete: bool,
}

impl<'a> Pace<'a> {
    fn new(lane: &'a Lane, wires: &'a Wires, books: &'a [Books]) -> Self {
        Self {
            lane,
            wires,
            books,
            wrong: Cell::new(0),
            boundary_ns: SECOND_NS,
            digest: 0,
            due_in_window: 0,
            cpu_at_start: sys::thread_cpu_ns(),
            cpu_at_window: [None; 2],
            complete: false,
        }
    }

    /// Sends what is due when it is due, to the end of the schedule or until the user breaks it off.
    async fn send_all(&mut self, traffic: &[Traffic]) -> std::io::Result<()> {
        let settings = &self.lane.settings;
        let (alarm, turn) = (Alarm::new()?, Turn::new()?);
        let (lanes, number) = (settings.threads, self.lane.number);
        let window = settings.window();
        let mut schedule = Schedule::new(
            settings.rate,
            window.end,
            settings.arrivals.clone(),
            settings.seed,
            &shares(settings),
        )
        .with_zipf(settings.zipf)
        .filter(move |due| due.session % lanes == number);
        let mut next = schedule.next();
        while !sys::interrupted() {
            let now_ns = self.lane.now();
            let mut batch = 0;
            while let Some(due) = next.filter(|due| due.at_ns <= now_ns && batch < BATCH_MAX) {
                self.digest ^= due.digest();
                self.due_in_window += u64::from(window.contains(&due.at_ns));
                if let Some(part) = traffic.get(usize::from(due.part)) {
                    part.submit(&due);
                }
                batch += 1;
                next = schedule.next();
            }
            for part in traffic {
                part.flush();
            }
            self.keep_house(now_ns);
            let due_ns = next.map_or(window.end, |due| due.at_ns);
            if next.is_none() && window.end <= now_ns {
                self.complete = true;
                return Ok(());
            }
            self.wait(&alarm, &turn, due_ns, batch).await?;
        }
        Ok(())
    }

    /// Waits for the next message, or for the second's end; the sockets have their turn meanwhile.
    async fn wait(&self, alarm: &Alarm, turn: &Turn, due_ns: u64, batch: usize) -> std::io::Result<()> {
        let wake_ns = due_ns.min(self.boundary_ns);
        let now_ns = self.lane.now();
        if BATCH_MAX <= batch || wake_ns <= now_ns {
            return turn.pass().await;
        }
        let start_ns = self.lane.start_ns.get();
        if !self.lane.settings.spin {
            return alarm.wait_until(start_ns + wake_ns).await;
        }
        if wake_ns - now_ns < SPIN_NS {
            return turn.pass().await;
        }
        alarm.wait_until(start_ns + wake_ns - SPIN_NS).await
    }

    /// What is to be done at certain times rather than for each message.
    #[inline]
    fn keep_house(&mut self, now_ns: u64) {
        let window = self.lane.settings.window();
        for (at_ns, reading) in [window.start, window.end].into_iter().zip(&mut self.cpu_at_window) {
            if reading.is_none() && at_ns <= now_ns {
                *reading = Some(sys::thread_cpu_ns());
            }
        }
        // A lane that was stalled hands over the seconds that it missed too: they are waited for.
        while self.boundary_ns <= now_ns {
            self.hand_over();
            self.boundary_ns += SECOND_NS;
        }
    }

    /// Hands over what was recorded.
    fn hand_over(&self) {
        let spare = self.wires.spares.try_recv().unwrap_or_default();
        let mut wrong = 0;
        // What all lanes share is told by the first.
        let is_told = |books: &&Books| self.lane.number == 0 || matches!(books, Books::Own(_));
        for books in self.books.iter().filter(is_told) {
            books.for_each(|ledger| wrong += ledger.tally().wrong());
        }
        self.lane.recorder.borrow_mut().counts().wrong += wrong - self.wrong.replace(wrong);
        let interval = self.lane.recorder.borrow_mut().take(spare);
        // Nobody listens only when the run is given up already.
        self.wires.notes.send(Note::Interval(self.boundary_ns / SECOND_NS - 1, interval)).ok();
    }

    fn end(&self, tallies: Vec<Tally>, storms: Vec<Vec<StormEnd>>) -> LaneEnd {
        let now = sys::thread_cpu_ns();
        let [from, to] = self.cpu_at_window;
        let from = from.unwrap_or(self.cpu_at_start);
        LaneEnd {
            tallies,
            storms,
            brownouts: self.lane.recorder.borrow_mut().take_brownouts(),
            digest: self.digest,
            due_in_window: self.due_in_window,
            window_cpu_ns: to.unwrap_or(now).saturating_sub(from),
            cpu_ns: now.saturating_sub(self.cpu_at_start),
            complete: self.complete,
        }
    }
}
