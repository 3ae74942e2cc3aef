//! Clients that come for one message: connect, with TLS or without, upgrade, authenticate, ask, hear the answer, leave. Each
//! is a connection of its own, so that what is driven is the gateway's door.
//!
//! Open loop as everything: a client comes when it is due. At most `connections` are there at once, and a session has one of
//! them; what waits for either is late.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::io;
use std::rc::Rc;
use std::time::Duration;

use clawgate_wire::websocket::{Decoder, Item, Opcode, Step, write_close, write_frame};

use crate::driver;
use crate::ledger::Ledger;
use crate::protocol::{Addressing, Incoming, Said, Template, is_session_id, read_message_id};
use crate::run::lane::{Books, Lane};
use crate::run::wire::Wire;
use crate::run::ws::Door;
use crate::schedule::Due;

/// How long a client waits for each part of its answer; then it leaves, and its message is lost.
const PATIENCE: Duration = Duration::from_secs(30);

/// A client that is due, and its message's place in the account.
#[derive(Clone, Copy, Debug)]
struct Guest {
    due: Due,
    seq: u32,
    /// When it could come: when it was due, or when there was room.
    ready_ns: u64,
}

/// The clients of one lane, for one part of the scenario.
#[derive(Debug)]
pub(crate) struct Crowd {
    lane: Rc<Lane>,
    to: Addressing,
    ledger: Rc<RefCell<Ledger>>,
    template: RefCell<Template>,
    /// Clients that may come before one has to leave.
    room: Cell<u32>,
    waiting: RefCell<VecDeque<Guest>>,
    /// Sessions that have a client there, and who waits for it to leave.
    held: RefCell<HashMap<u32, VecDeque<Guest>>>,
}

impl Crowd {
    /// Makes ready, and tries the door once: a gateway that is not there, or does not take the key, is told before the run.
    pub(crate) async fn open(lane: &Rc<Lane>, to: Addressing, books: Books) -> Result<Rc<Self>, String> {
        let Books::Own(ledger) = books else {
            return Err("a WebSocket's answers come to the lane that asked".to_owned());
        };
        let crowd = Rc::new(Self {
            lane: Rc::clone(lane),
            ledger,
            template: RefCell::new(Template::websocket(&to, false, false)),
            room: Cell::new(lane.own(lane.settings.connections)),
            waiting: RefCell::default(),
            held: RefCell::default(),
            to,
        });
        let (mut wire, ..) = crowd.enter().await?;
        crowd.leave(&mut wire).await;
        Ok(crowd)
    }

    /// Opens a message's place in the account, and lets its client come, or wait for room or for its session.
    pub(crate) fn submit(self: &Rc<Self>, due: &Due) {
        let seq = {
            let mut ledger = self.ledger.borrow_mut();
            if self.lane.settings.inflight_max <= ledger.outstanding() {
                self.lane.recorder.borrow_mut().counts().shed += 1;
                return;
            }
            ledger.open(due.session, due.at_ns)
        };
        let guest = Guest { due: *due, seq, ready_ns: due.at_ns };
        let mut held = self.held.borrow_mut();
        if let Some(queue) = held.get_mut(&due.session) {
            queue.push_back(guest);
            return;
        }
        held.insert(due.session, VecDeque::new());
        drop(held);
        self.admit(guest);
    }

    fn admit(self: &Rc<Self>, guest: Guest) {
        match self.room.get().checked_sub(1) {
            Some(room) => {
                self.room.set(room);
                driver::spawn(Rc::clone(self).visit(guest));
            }
            None => self.waiting.borrow_mut().push_back(guest),
        }
    }

    /// One client after another, while there are any that wait.
    async fn visit(self: Rc<Self>, first: Guest) {
        let mut next = Some(first);
        while let Some(guest) = next {
            if self.serve(guest).await.is_err() {
                // Its message stays open in the account: it is lost if nothing of it comes.
                self.lane.recorder.borrow_mut().counts().disconnects += 1;
            }
            self.release(guest.due.session);
            next = self.waiting.borrow_mut().pop_front();
        }
        self.room.set(self.room.get() + 1);
    }

    /// A session's client has left: its next one may come.
    fn release(&self, session: u32) {
        let mut held = self.held.borrow_mut();
        match held.get_mut(&session).and_then(VecDeque::pop_front) {
            Some(next) => {
                let ready_ns = next.due.at_ns.max(self.lane.now());
                self.waiting.borrow_mut().push_back(Guest { ready_ns, ..next });
            }
            None => drop(held.remove(&session)),
        }
    }

    async fn serve(&self, guest: Guest) -> Result<(), String> {
        let Guest { due, seq, ready_ns } = guest;
        let began_ns = self.lane.now();
        let (mut wire, mut decoder, mut input) = self.enter().await?;
        let greeted_ns = self.lane.now();
        self.lane.recorder.borrow_mut().on_handshake(due.at_ns, greeted_ns.saturating_sub(began_ns));
        let mut out = Vec::new();
        {
            let mut template = self.template.borrow_mut();
            let text = template.fill(due.session, seq, due.at_ns, due.index);
            write_frame(&mut out, Opcode::Text, true, Some(self.lane.mask()), text);
        }
        {
            let mut recorder = self.lane.recorder.borrow_mut();
            // What the handshake takes is the gateway's time, not the generator's: it is in the response.
            self.ledger.borrow_mut().on_sent(due.session, seq, began_ns);
            recorder.on_sent(due.at_ns, ready_ns, began_ns);
            recorder.counts().writes += 1;
            recorder.counts().bytes_out += out.len() as u64;
        }
        let gone = |error: io::Error| format!("the gateway hung up: {error}");
        wire.send_all(&out).await.map_err(gone)?;
        while !self.take(&mut wire, &mut decoder, &mut input).await? {
            let count = wire.receive(&mut input, PATIENCE).await.map_err(gone)?;
            if count == 0 {
                return Err("the gateway hung up".to_owned());
            }
            self.lane.note_read(count);
        }
        self.leave(&mut wire).await;
        Ok(())
    }

    /// Opens a connection and authenticates.
    async fn enter(&self) -> Result<(Wire, Decoder, Vec<u8>), String> {
        let settings = &self.lane.settings;
        let target = settings.target;
        let wire = Wire::open(target, settings.trust.as_ref()).await;
        let mut wire = wire.map_err(|error| format!("cannot connect to {target}: {error}"))?;
        let door = Door { target, host: &self.to.host, key: &self.to.key };
        let (decoder, input) = door.greet(&mut wire, &self.lane.rng).await?;
        Ok((wire, decoder, input))
    }

    /// Says goodbye and goes, without waiting for an answer to that.
    async fn leave(&self, wire: &mut Wire) {
        let mut out = Vec::new();
        write_close(&mut out, Some(self.lane.mask()), 1000, "");
        // A gateway that is gone already is no news: its answer has been heard.
        wire.send_all(&out).await.ok();
    }

    /// Takes every frame that is there, and tells whether the answer is complete.
    async fn take(
        &self,
        wire: &mut Wire,
        decoder: &mut Decoder,
        input: &mut Vec<u8>,
    ) -> Result<bool, String> {
        let now_ns = self.lane.now();
        let (mut done, mut is_over) = (0, false);
        let mut pongs = Vec::new();
        while done < input.len() && !is_over {
            match decoder.decode(&mut input[done..]) {
                Ok(Step::NeedMore(_)) => break,
                Ok(Step::Frame { consumed, item }) => {
                    is_over = self.on_item(item, &mut pongs, now_ns)?;
                    done += consumed;
                }
                Err(violation) => {
                    self.ledger.borrow_mut().tally_mut().count_code(violation.code());
                    return Err(violation.to_string());
                }
            }
        }
        input.drain(..done);
        if !pongs.is_empty() {
            wire.send_all(&pongs).await.map_err(|error| error.to_string())?;
        }
        Ok(is_over)
    }

    fn on_item(&self, item: Item<'_>, pongs: &mut Vec<u8>, now_ns: u64) -> Result<bool, String> {
        match item {
            Item::Text(message) | Item::Binary(message) => Ok(self.on_message(message, now_ns)),
            Item::Ping(payload) => {
                write_frame(pongs, Opcode::Pong, true, Some(self.lane.mask()), payload);
                Ok(false)
            }
            Item::Pong(_) => Ok(false),
            Item::Fragment { .. } => {
                // The gateway sends whole messages; what is in pieces is not what it says.
                self.ledger.borrow_mut().on_garbled();
                Ok(false)
            }
            Item::Close { code, .. } => {
                let code = code.map_or("WS_CLOSE".to_owned(), |code| format!("WS_CLOSE_{code}"));
                self.ledger.borrow_mut().tally_mut().count_code(&code);
                Err(code)
            }
        }
    }

    /// Whether it ends the answer.
    fn on_message(&self, message: &[u8], now_ns: u64) -> bool {
        let mut ledger = self.ledger.borrow_mut();
        let Some(incoming) = Incoming::read(message) else {
            ledger.on_garbled();
            return false;
        };
        let named = incoming.id.as_deref().and_then(|id| read_message_id(id, self.to.run));
        let Some((session, seq)) = named else {
            if incoming.said == Said::Error {
                let code = incoming.code.as_deref().unwrap_or(b"(no code)");
                ledger.tally_mut().count_code(&String::from_utf8_lossy(code));
                return false;
            }
            ledger.tally_mut().strays += u64::from(incoming.said == Said::Done);
            return false;
        };
        let session_id = incoming.session_id.as_deref();
        if session_id.is_some_and(|id| !is_session_id(id, &self.to.session_prefix, session)) {
            ledger.on_garbled();
            return false;
        }
        let mut recorder = self.lane.recorder.borrow_mut();
        match incoming.said {
            Said::Chunk | Said::Message => {
                recorder.counts().pieces += 1;
                ledger.on_piece(session, seq, incoming.content.as_deref().unwrap_or(b""));
                false
            }
            Said::Done => {
                if let Some(times) = ledger.on_done(session, seq, now_ns) {
                    recorder.on_done(times, now_ns);
                }
                true
            }
            Said::Error => {
                let code = String::from_utf8_lossy(incoming.code.as_deref().unwrap_or(b"(no code)"));
                ledger.on_refused(session, seq, &code);
                recorder.on_refused(now_ns);
                true
            }
            Said::AuthOk | Said::Accepted | Said::Pong | Said::Other => false,
        }
    }

    /// Whether every client that was due has come and gone.
    pub(crate) fn is_sent(&self) -> bool {
        self.waiting.borrow().is_empty() && self.held.borrow().is_empty()
    }
}
