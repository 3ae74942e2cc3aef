//! All WebSockets of a lane are dropped at once, at given moments, and opened again as the scenario says, or the gateway
//! closes them because it is restarted; and the answers that came while nobody listened are looked up in the histories of
//! their sessions.
//!
//! Owns when, and the record of it. How a connection is opened, and what is said on it again, is `ws`'s.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

use clawgate_wire::http1::{Length, write_request_head};

use crate::crash::call::Caller;
use crate::crash::sockets::answers_in;
use crate::driver;
use crate::hazards::Ending;
use crate::protocol::Addressing;
use crate::run::ws::Fleet;
use crate::stamp;

/// How often a lane looks whether it is time, and whether there is something to look up.
const LOOK: Duration = Duration::from_millis(5);

/// The wait before a history is asked again that did not hold the answer yet.
const AGAIN: Duration = Duration::from_millis(100);

/// How long the gateway may take to tell a history.
const HISTORY_LIMIT: Duration = Duration::from_secs(10);

/// What became of one storm.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StormEnd {
    /// When it was, in nanoseconds after the start of the run.
    pub at_ns: u64,
    /// Connections that were dropped.
    pub dropped: u64,
    /// Of these, those whose clients are back.
    pub back: u64,
    /// How long the last of them took.
    pub last_back_ns: u64,
}

impl StormEnd {
    /// Adds what another lane knows of the same storm.
    pub fn add(&mut self, other: &Self) {
        self.at_ns = self.at_ns.max(other.at_ns);
        self.dropped += other.dropped;
        self.back += other.back;
        self.last_back_ns = self.last_back_ns.max(other.last_back_ns);
    }
}

/// A connection that was dropped: by which storm, and when.
#[derive(Clone, Copy, Debug)]
pub(super) struct Dropped {
    pub(super) storm: usize,
    pub(super) at_ns: u64,
}

/// What a lane knows of its storms.
#[derive(Debug, Default)]
pub(super) struct Storms {
    pub(super) ends: RefCell<Vec<StormEnd>>,
    /// Messages whose receipts said that they were known already.
    known: RefCell<BTreeSet<(u32, u32)>>,
    is_asking: Cell<bool>,
}

impl Storms {
    /// The gateway closed a connection. Tells which of the moments this belongs to: the newest one.
    pub(super) fn on_left(&self, now_ns: u64) -> Option<Dropped> {
        let mut ends = self.ends.borrow_mut();
        let storm = ends.len().checked_sub(1)?;
        ends[storm].dropped += 1;
        Some(Dropped { storm, at_ns: now_ns })
    }

    pub(super) fn on_back(&self, dropped: Dropped, now_ns: u64) -> u64 {
        let nanos = now_ns.saturating_sub(dropped.at_ns);
        if let Some(end) = self.ends.borrow_mut().get_mut(dropped.storm) {
            end.back += 1;
            end.last_back_ns = end.last_back_ns.max(nanos);
        }
        nanos
    }
}

/// Drops the connections when it is time; without an ending it is the gateway's to do so.
pub(super) async fn watch(fleet: Rc<Fleet>, at_ns: Vec<u64>, ending: Option<Ending>) {
    for (number, at_ns) in at_ns.iter().enumerate() {
        while fleet.lane.now() < *at_ns {
            driver::sleep(LOOK).await;
            if fleet.lane.draining.get() {
                return;
            }
        }
        let now_ns = fleet.lane.now();
        let dropped = ending.map_or(0, |ending| fleet.drop_all(number, now_ns, ending));
        let end = StormEnd { at_ns: now_ns, dropped, ..StormEnd::default() };
        fleet.storms.ends.borrow_mut().push(end);
    }
}

/// A message was sent again and is known, and no answer comes: it came to the connection that was dropped, and stands in the
/// history of its session, or will.
pub(super) fn look_up(fleet: &Rc<Fleet>, session: u32, seq: u32) {
    fleet.storms.known.borrow_mut().insert((session, seq));
    if !fleet.storms.is_asking.replace(true) {
        driver::spawn(ask_histories(Rc::clone(fleet)));
    }
}

async fn ask_histories(fleet: Rc<Fleet>) {
    let mut caller = Caller::new(fleet.lane.settings.target);
    let mut request = Vec::new();
    loop {
        let sessions: BTreeSet<u32> =
            fleet.storms.known.borrow().iter().map(|(session, _)| *session).collect();
        if sessions.is_empty() || fleet.lane.ending.get() {
            break;
        }
        for session in sessions {
            write_question(&mut request, &fleet.to, session);
            // Whatever keeps it from being told, it is asked again.
            if let Ok(told) = caller.call(&request, HISTORY_LIMIT).await
                && told.status == 200
            {
                on_history(&fleet, session, &answers_in(&told.body, fleet.to.run, session));
            }
        }
        driver::sleep(AGAIN).await;
    }
    fleet.storms.is_asking.set(false);
}

fn on_history(fleet: &Fleet, session: u32, answers: &[u32]) {
    let now_ns = fleet.lane.now();
    let mut known = fleet.storms.known.borrow_mut();
    let mut ledger = fleet.ledger.borrow_mut();
    for seq in answers.iter().filter(|seq| known.remove(&(session, **seq))) {
        if let Some(times) = ledger.on_recalled(session, *seq, now_ns) {
            let mut recorder = fleet.lane.recorder.borrow_mut();
            recorder.counts().recalled += 1;
            recorder.on_done(times, now_ns);
        }
    }
}

fn write_question(request: &mut Vec<u8>, to: &Addressing, session: u32) {
    let mut digits = [0; 8];
    stamp::write_hex(&mut digits, u64::from(session));
    let digits = String::from_utf8_lossy(&digits);
    let target = format!("/api/sessions/{}{digits}", to.session_prefix);
    let bearer = format!("Bearer {}", to.key);
    let headers = [("Authorization", bearer.as_str())];
    let headers = if to.key.is_empty() { &[][..] } else { &headers[..] };
    request.clear();
    write_request_head(request, "GET", &target, &to.host, headers, Length::None, true);
}
