//! What cores say to each other: one bounded, lock-free queue per ordered pair, so that order holds; batches, so
//! that a turn of the loop costs one push; one guarded wake-up per batch, none while the other side is awake.
use crate::thread::Thread;
use clawgate_core::codes::Code;
use clawgate_core::effect::Ignored;
use clawgate_core::event::{Head, Inbound, Stop, Usage};
use clawgate_core::id::{AgentId, Client, ModelId, ShardId, TurnId};
use crossbeam_queue::ArrayQueue;
use rustix::event::{EventfdFlags, eventfd};
use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering, fence};

/// Batches that a pair's queue holds at the most, and at the least on machines with many cores.
const RING_BATCHES: (usize, usize) = (256, 16);
/// Batches of one destination that may wait behind a full queue before new messages for it are refused.
const BACKLOG_BATCHES_MAX: usize = 64;
/// A batch is closed at this many letters or bytes of text; the next begins.
const BATCH_LETTERS_MAX: usize = 512;
const BATCH_TEXT_MAX: usize = 256 * 1024;
/// Errands from threads that are not shards (the resolver, signals) that may wait for one shard.
pub(crate) const ERRANDS_MAX: usize = 4_096;

/// Something rare for another core to do, with the thread that it runs on.
pub(crate) type Errand = Box<dyn FnOnce(&Rc<Thread>) + Send>;

/// What becomes of a client's message, on its way to the core that owns the connection.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Reply {
    /// Admitted; where it is `durable`, `Durable` follows, and it is acknowledged with that.
    Accepted { shard: ShardId, turn: TurnId, place: u32, durable: bool, again: bool },
    /// It is on disk.
    Durable,
    /// Seen before.
    Duplicate,
    /// Policy.
    Ignored(Ignored),
    /// Not admitted.
    Refused { code: Code, retry_after_millis: u32 },
    /// A piece; the text goes with it.
    Piece { turn: TurnId, seq: u32 },
    /// The end of an answer; the text goes with it where the client wants it whole.
    Done { seq: u32, usage: Usage, model: ModelId, stop: Stop },
    /// It is answered together with another message of its session, by that one's turn.
    Merged { shard: ShardId, into: TurnId, seq: u32 },
    /// The end without an answer; the text is the upstream's own words.
    Failed { seq: u32, code: Code, retry_after_millis: u32 },
    /// An operation was done or refused.
    Operated { refused: Option<Code> },
}

/// The parts of an [`Inbound`] that are not text.
#[derive(Clone, Copy, Debug)]
pub(crate) struct InboundHead {
    head: Head,
    /// Bytes of id, chat, thread, peer, name and text, one after the other in the batch.
    lens: [u32; 6],
}

/// One thing said to another core.
pub(crate) enum Letter {
    /// A message for a session that lives there.
    Inbound { client: Client, head: InboundHead },
    /// The client of a turn that lives there is gone.
    Left { turn: TurnId },
    /// The outbox of a turn's client is full, or has room again.
    Pressure { turn: TurnId, high: bool },
    /// A place at an agent is free.
    Nudged { agent: AgentId },
    /// For a client whose connection lives there.
    Reply { client: Client, reply: Reply, text: u32 },
    /// Anything else.
    Errand(Errand),
}

impl fmt::Debug for Letter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Letter")
    }
}

/// Letters of one turn of the loop, with their texts one after the other.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    letters: Vec<Letter>,
    text: String,
}

/// A letter and its text, borrowed from its batch.
pub(crate) enum Opened<'a> {
    Inbound { client: Client, inbound: Inbound<'a> },
    Reply { client: Client, reply: Reply, text: &'a str },
    Other(Letter),
}

impl Batch {
    /// Hands out the letters in order, and is empty afterwards.
    pub(crate) fn open(&mut self, mut each: impl FnMut(Opened<'_>)) {
        let mut rest = self.text.as_str();
        for letter in self.letters.drain(..) {
            match letter {
                Letter::Inbound { client, head } => {
                    let inbound = take_inbound(&mut rest, &head);
                    each(Opened::Inbound { client, inbound });
                }
                Letter::Reply { client, reply, text } => {
                    each(Opened::Reply { client, reply, text: take(&mut rest, text) });
                }
                other @ (Letter::Left { .. }
                | Letter::Pressure { .. }
                | Letter::Nudged { .. }
                | Letter::Errand(_)) => each(Opened::Other(other)),
            }
        }
        self.text.clear();
        // A burst must not keep its memory for ever.
        self.text.shrink_to(BATCH_TEXT_MAX);
    }

    fn put_inbound(&mut self, client: Client, inbound: &Inbound<'_>) {
        let (head, texts) = inbound.split();
        let mut lens = [0u32; 6];
        for (len, text) in lens.iter_mut().zip(texts) {
            self.text.push_str(text);
            *len = u32::try_from(text.len()).unwrap_or(u32::MAX);
        }
        let head = InboundHead { head, lens };
        self.letters.push(Letter::Inbound { client, head });
    }
}

fn take<'a>(rest: &mut &'a str, len: u32) -> &'a str {
    let (taken, left) = rest.split_at(len as usize);
    *rest = left;
    taken
}

fn take_inbound<'a>(rest: &mut &'a str, head: &InboundHead) -> Inbound<'a> {
    head.head.with(head.lens.map(|len| take(rest, len)))
}

/// On a cache line of its own: written by others while its owner works.
#[repr(align(128))]
struct Door {
    /// Its owner is about to sleep, or sleeps: whoever brings something must ring.
    sleeping: AtomicBool,
    bell: OwnedFd,
    errands: ArrayQueue<Errand>,
}

/// The queues of all ordered pairs, and each core's bell.
pub(crate) struct Mesh {
    doors: Vec<Door>,
    /// By `from * cores + to`.
    rings: Vec<ArrayQueue<Box<Batch>>>,
}

impl fmt::Debug for Mesh {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Mesh({} cores)", self.doors.len())
    }
}

impl Mesh {
    /// # Errors
    /// No descriptor for a bell.
    pub(crate) fn new(cores: u16) -> io::Result<Self> {
        let cores = usize::from(cores);
        let batches = (1_024 / cores).clamp(RING_BATCHES.1, RING_BATCHES.0);
        let doors = (0..cores)
            .map(|_| {
                let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
                Ok(Door { sleeping: AtomicBool::new(false), bell, errands: ArrayQueue::new(ERRANDS_MAX) })
            })
            .collect::<io::Result<_>>()?;
        let rings = (0..cores * cores).map(|_| ArrayQueue::new(batches)).collect();
        Ok(Self { doors, rings })
    }

    fn cores(&self) -> usize {
        self.doors.len()
    }

    /// The descriptor that becomes readable when somebody rings.
    pub(crate) fn bell(&self, core: ShardId) -> BorrowedFd<'_> {
        self.doors[usize::from(core.0)].bell.as_fd()
    }

    /// Silences the bell.
    pub(crate) fn hear(&self, core: ShardId) {
        let mut count = [0u8; 8];
        // Not ready means that nobody rang: nothing to silence.
        let _ = rustix::io::read(self.bell(core), &mut count[..]);
    }

    /// Rings, whether the owner sleeps or not.
    pub(crate) fn ring(&self, core: ShardId) {
        // A full counter means that the bell is ringing.
        let _ = rustix::io::write(self.bell(core), &1u64.to_ne_bytes());
    }

    fn ring_if_sleeping(&self, core: usize) {
        // Pairs with the fence in `may_sleep`: either it sees what we pushed, or we see that it sleeps.
        fence(Ordering::SeqCst);
        let door = &self.doors[core];
        if door.sleeping.load(Ordering::Relaxed) && door.sleeping.swap(false, Ordering::AcqRel) {
            let _ = rustix::io::write(door.bell.as_fd(), &1u64.to_ne_bytes());
        }
    }

    /// The owner is awake and will look before it sleeps.
    pub(crate) fn awake(&self, core: ShardId) {
        self.doors[usize::from(core.0)].sleeping.store(false, Ordering::Relaxed);
    }

    /// Says that the owner is about to sleep; false if something came in the meantime and it must not.
    pub(crate) fn may_sleep(&self, core: ShardId) -> bool {
        let door = &self.doors[usize::from(core.0)];
        door.sleeping.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        let waits = !door.errands.is_empty()
            || (0..self.cores())
                .any(|from| !self.rings[from * self.cores() + usize::from(core.0)].is_empty());
        if waits {
            door.sleeping.store(false, Ordering::Relaxed);
        }
        !waits
    }

    /// From any thread. The errand comes back if too many wait.
    pub(crate) fn errand(&self, core: ShardId, errand: Errand) -> Result<(), Errand> {
        self.doors[usize::from(core.0)].errands.push(errand)?;
        self.ring_if_sleeping(usize::from(core.0));
        Ok(())
    }

    /// The next errand for this core.
    pub(crate) fn next_errand(&self, core: ShardId) -> Option<Errand> {
        self.doors[usize::from(core.0)].errands.pop()
    }
}

/// One core's side of the mesh: what it has not sent yet.
#[derive(Debug)]
pub(crate) struct Outgoing {
    me: usize,
    to: Vec<Lane>,
    #[expect(clippy::vec_box, reason = "batches travel by pointer, and come back as they went")]
    spare: Vec<Box<Batch>>,
    pending: bool,
    /// At the end of the last turn a queue was full.
    stuck: bool,
}

/// What goes to one destination.
#[derive(Debug, Default)]
struct Lane {
    /// The batch that is being written.
    open: Option<Box<Batch>>,
    /// Those that found the queue full.
    closed: VecDeque<Box<Batch>>,
}

impl Outgoing {
    pub(crate) fn new(me: ShardId, cores: u16) -> Self {
        Self {
            me: usize::from(me.0),
            to: (0..cores).map(|_| Lane::default()).collect(),
            spare: Vec::new(),
            pending: false,
            stuck: false,
        }
    }

    fn batch(&mut self, to: ShardId) -> &mut Batch {
        self.pending = true;
        let Lane { open, closed } = &mut self.to[usize::from(to.0)];
        if open
            .as_ref()
            .is_some_and(|b| b.letters.len() >= BATCH_LETTERS_MAX || b.text.len() >= BATCH_TEXT_MAX)
        {
            closed.extend(open.take());
        }
        open.get_or_insert_with(|| self.spare.pop().unwrap_or_default())
    }

    /// Does so much wait for this core that new messages for it must be refused?
    pub(crate) fn is_crowded(&self, to: ShardId) -> bool {
        self.to[usize::from(to.0)].closed.len() >= BACKLOG_BATCHES_MAX
    }

    pub(crate) fn inbound(&mut self, to: ShardId, client: Client, inbound: &Inbound<'_>) {
        self.batch(to).put_inbound(client, inbound);
    }

    pub(crate) fn reply(&mut self, client: Client, reply: Reply, text: &str) {
        let batch = self.batch(ShardId(client.core));
        batch.text.push_str(text);
        let text = u32::try_from(text.len()).unwrap_or(u32::MAX);
        batch.letters.push(Letter::Reply { client, reply, text });
    }

    pub(crate) fn letter(&mut self, to: ShardId, letter: Letter) {
        self.batch(to).letters.push(letter);
    }

    /// Pushes all that is written and rings where somebody sleeps. What finds a queue full waits for the next call;
    /// true if something does.
    pub(crate) fn flush(&mut self, mesh: &Mesh) -> bool {
        self.stuck = false;
        if !self.pending {
            return false;
        }
        self.pending = false;
        for (to, Lane { open, closed }) in self.to.iter_mut().enumerate() {
            closed.extend(open.take());
            let mut pushed = false;
            while let Some(batch) = closed.pop_front() {
                if let Err(batch) = mesh.rings[self.me * mesh.cores() + to].push(batch) {
                    closed.push_front(batch);
                    self.pending = true;
                    break;
                }
                pushed = true;
            }
            if pushed || !closed.is_empty() {
                mesh.ring_if_sleeping(to);
            }
        }
        self.stuck = self.pending;
        self.stuck
    }

    /// Does a core not keep up with what it is brought? What answers are made of must wait then.
    pub(crate) const fn is_stuck(&self) -> bool {
        self.stuck
    }

    /// Keeps an emptied batch for the next one that is written.
    pub(crate) fn recycle(&mut self, batch: Box<Batch>) {
        if self.spare.len() < 32 {
            self.spare.push(batch);
        }
    }
}

/// The next batch for `me` and who sent it, round robin over the senders from `cursor` on.
pub(crate) fn next_batch(mesh: &Mesh, me: ShardId, cursor: &mut usize) -> Option<(ShardId, Box<Batch>)> {
    let cores = mesh.cores();
    for _ in 0..cores {
        let from = *cursor % cores;
        *cursor = from + 1;
        if let Some(batch) = mesh.rings[from * cores + usize::from(me.0)].pop() {
            return Some((ShardId(u16::try_from(from).unwrap_or(u16::MAX)), batch));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn say(text: &str) -> Inbound<'_> {
        Inbound {
            id: "e1",
            chat: "",
            thread: "s1",
            peer: "ana",
            name: "Ana",
            text,
            sent_millis: 7,
            ..Inbound::default()
        }
    }

    #[test]
    fn letters_arrive_in_order_with_their_texts() {
        let mesh = Mesh::new(2).unwrap();
        let mut out = Outgoing::new(ShardId(0), 2);
        out.inbound(ShardId(1), Client::default(), &say("Grüße"));
        out.reply(Client { core: 1, ..Client::default() }, Reply::Duplicate, "später");
        out.inbound(ShardId(1), Client { ticket: 9, ..Client::default() }, &say(""));
        assert!(!out.flush(&mesh), "an empty queue takes a batch");
        let (from, mut batch) = next_batch(&mesh, ShardId(1), &mut 0).unwrap();
        assert_eq!(from, ShardId(0));
        let mut seen = Vec::new();
        batch.open(|opened| match opened {
            Opened::Inbound { client, inbound } => {
                assert_eq!(
                    (inbound.id, inbound.thread, inbound.peer, inbound.sent_millis),
                    ("e1", "s1", "ana", 7)
                );
                seen.push(format!("{} {}", client.ticket, inbound.text));
            }
            Opened::Reply { reply, text, .. } => seen.push(format!("{reply:?} {text}")),
            Opened::Other(_) => seen.push("other".to_owned()),
        });
        assert_eq!(seen, ["0 Grüße", "Duplicate später", "9 "]);
    }

    #[test]
    fn a_full_queue_keeps_the_rest_and_the_order() {
        let mesh = Mesh::new(1).unwrap();
        let mut out = Outgoing::new(ShardId(0), 1);
        let mut sent = 0u32;
        while !out.is_crowded(ShardId(0)) {
            out.inbound(ShardId(0), Client { ticket: sent, ..Client::default() }, &say("x"));
            out.flush(&mesh);
            sent += 1;
        }
        let mut got = 0u32;
        loop {
            while let Some((_, mut batch)) = next_batch(&mesh, ShardId(0), &mut 0) {
                batch.open(|opened| {
                    if let Opened::Inbound { client, .. } = opened {
                        assert_eq!(client.ticket, got, "in the order in which they were sent");
                        got += 1;
                    }
                });
            }
            if !out.flush(&mesh) && got == sent {
                break;
            }
        }
    }

    #[test]
    fn nobody_sleeps_over_a_letter() {
        let mesh = Mesh::new(2).unwrap();
        let me = ShardId(1);
        assert!(mesh.may_sleep(me));
        let mut out = Outgoing::new(ShardId(0), 2);
        out.letter(me, Letter::Nudged { agent: AgentId(0) });
        out.flush(&mesh);
        let mut rung = [0u8; 8];
        assert_eq!(rustix::io::read(mesh.bell(me), &mut rung[..]), Ok(8), "a sleeper is rung");
        assert!(!mesh.may_sleep(me), "and does not go back to sleep over it");
        out.letter(me, Letter::Nudged { agent: AgentId(0) });
        out.flush(&mesh);
        assert!(rustix::io::read(mesh.bell(me), &mut rung[..]).is_err(), "who is awake is not rung");
    }
}
