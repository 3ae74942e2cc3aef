//! The load: connections to one server, driven in turns on one thread, in a closed loop or at a rate.
//!
//! Owns the sockets and the measuring: in a closed loop latency is from the writing of a message, at a rate from the
//! moment when it was due, so that a server that stalls is charged for all that waited. A run ends when everything said is
//! answered: what is counted is exact. Never retries.
use super::calls::Calls;
use super::talk::{HEAD_LIMITS, Talk};
use crate::floor::Floor;
use clawgate_wire::http1::parse_response;
use clawgate_wire::websocket::{check_upgrade_response, client_key, write_upgrade_request};
use hdrhistogram::Histogram;
use rustix::buffer::spare_capacity;
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::fd::{AsFd as _, OwnedFd};
use rustix::io::{Errno, read, write};
use std::collections::VecDeque;
use std::fmt;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// How long an answer may take; then the run has failed.
const ANSWER_MAX: Duration = Duration::from_secs(10);
/// Bytes of one read.
const READ_BYTES: usize = 64 * 1024;
/// Messages said and not yet answered in all, beyond which a server does not keep up with a rate.
const OWED_MAX: usize = 200_000;
/// Deliveries that the server's other side may be behind; see [`Load::deliver_to`].
const BEHIND_MAX: u64 = 512;
/// The event of the other side; no connection has it.
const OTHER_SIDE: u64 = u64::MAX;

/// When messages are said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// So many at once on each connection, and again when all of them are answered.
    Closed {
        /// How many.
        burst: u32,
    },
    /// At this rate over all connections, whatever becomes of the answers.
    Open {
        /// How many a second.
        per_second: u32,
    },
    /// As [`Self::Closed`], so many on each connection and no longer, however long it takes.
    Exactly {
        /// How many at once.
        burst: u32,
        /// How many in all.
        each: u64,
    },
}

/// What a run came to.
#[derive(Clone, Debug)]
pub struct Measured {
    /// Messages said, and answered.
    pub messages: u64,
    /// Of these, those that were refused.
    pub refused: u64,
    /// From the first to the last answer.
    pub took: Duration,
    /// Of each message, nanoseconds.
    pub latency: Histogram<u64>,
}

/// Connections to one server.
pub struct Load {
    epoll: OwnedFd,
    connections: Vec<Connection>,
    buffer: Vec<u8>,
    out: Vec<u8>,
    origin: Instant,
    other_side: Option<OtherSide>,
    run: Run,
}

/// Where the server delivers its answers to, in our own thread.
struct OtherSide {
    floor: Floor,
    delivered: u64,
    expected: u64,
    /// Connections that have to wait until it has caught up.
    waiting: Vec<usize>,
}

struct Connection {
    socket: OwnedFd,
    talk: Talk,
    carry: Vec<u8>,
    unsent: Vec<u8>,
    /// When each message that is not answered was said, or due.
    said_at: VecDeque<u64>,
    /// Messages said in this run.
    said: u64,
}

/// What the present run has come to.
struct Run {
    pace: Pace,
    /// Nanoseconds from the load's origin. From the end on no message is said, nor due.
    begin: u64,
    end: u64,
    messages: u64,
    answered: u64,
    refused: u64,
    latency: Histogram<u64>,
}

impl Run {
    const fn new(pace: Pace, begin: u64, end: u64, latency: Histogram<u64>) -> Self {
        Self { pace, begin, end, messages: 0, answered: 0, refused: 0, latency }
    }

    /// When the next message is due, at a rate.
    fn due(&self, per_second: u32) -> u64 {
        self.begin + self.messages * 1_000_000_000 / u64::from(per_second.max(1))
    }
}

impl fmt::Debug for Load {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Load").field("connections", &self.connections.len()).finish_non_exhaustive()
    }
}

pub(super) fn histogram() -> Result<Histogram<u64>, String> {
    Histogram::new_with_bounds(100, 60_000_000_000, 3).map_err(|why| why.to_string())
}

impl Load {
    /// No connection yet.
    ///
    /// # Errors
    /// The system's.
    pub fn new() -> Result<Self, String> {
        let epoll = epoll::create(CreateFlags::CLOEXEC).map_err(|why| why.to_string())?;
        let run = Run::new(Pace::Closed { burst: 1 }, 0, 0, histogram()?);
        Ok(Self {
            epoll,
            connections: Vec::new(),
            buffer: vec![0; READ_BYTES],
            out: Vec::new(),
            origin: Instant::now(),
            other_side: None,
            run,
        })
    }

    /// A load of so many connections, each opened and its talk made by `open`.
    ///
    /// # Errors
    /// Why one could not be opened.
    pub fn of(
        connections: usize,
        open: impl Fn(usize) -> Result<(TcpStream, Talk), String>,
    ) -> Result<Self, String> {
        let mut load = Self::new()?;
        for number in 0..connections {
            let (socket, talk) = open(number)?;
            load.add(socket, talk)?;
        }
        Ok(load)
    }

    /// Adds a connection that is open, and through with its greeting.
    ///
    /// # Errors
    /// The system's.
    pub fn add(&mut self, socket: TcpStream, talk: Talk) -> Result<(), String> {
        socket.set_nonblocking(true).map_err(|why| why.to_string())?;
        let at = self.connections.len() as u64;
        epoll::add(&self.epoll, &socket, EventData::new_u64(at), EventFlags::IN)
            .map_err(|why| why.to_string())?;
        self.connections.push(Connection {
            socket: socket.into(),
            talk,
            carry: Vec::new(),
            unsent: Vec::new(),
            said_at: VecDeque::new(),
            said: 0,
        });
        Ok(())
    }

    /// What each connection that calls a model has measured.
    pub fn calls(&mut self) -> impl Iterator<Item = &mut Calls> {
        self.connections.iter_mut().filter_map(|connection| match &mut connection.talk {
            Talk::Calls(calls) => Some(&mut **calls),
            Talk::Echo { .. } | Talk::EchoFrames { .. } | Talk::Chat(_) | Talk::Requests(_) => None,
        })
    }

    /// Every message is delivered to this side too, which is served by the load's own thread. A closed loop does not run
    /// ahead of it by more than some hundreds, and a run ends when it has had everything.
    ///
    /// # Errors
    /// The system's.
    pub fn deliver_to(&mut self, floor: Floor) -> Result<(), String> {
        epoll::add(&self.epoll, floor.as_fd(), EventData::new_u64(OTHER_SIDE), EventFlags::IN)
            .map_err(|why| why.to_string())?;
        self.other_side = Some(OtherSide { floor, delivered: 0, expected: 0, waiting: Vec::new() });
        Ok(())
    }

    /// Says messages for so long, and hears all their answers.
    ///
    /// # Errors
    /// A wrong answer, one that does not come, a connection that ends.
    pub fn run(&mut self, pace: Pace, time: Duration) -> Result<Measured, String> {
        let begin = self.now();
        let end = begin + nanos(time);
        self.run = Run::new(pace, begin, end, histogram()?);
        self.connections.iter_mut().for_each(|connection| connection.said = 0);
        (0..self.connections.len()).try_for_each(|at| self.next_burst(at))?;
        let mut events = Vec::with_capacity(256);
        let mut heard_last = begin;
        while self.goes_on() {
            let wait = self.say_what_is_due()?;
            let before = self.progress();
            self.turn(&mut events, wait)?;
            let now = self.now();
            if before != self.progress() || !self.owes() {
                heard_last = now;
            } else if heard_last + nanos(ANSWER_MAX) < now {
                return Err(self.missing());
            }
        }
        let over = Run::new(pace, 0, 0, histogram()?);
        let Run { messages, refused, latency, .. } = std::mem::replace(&mut self.run, over);
        Ok(Measured { messages, refused, took: Duration::from_nanos(self.now() - begin), latency })
    }

    fn missing(&self) -> String {
        let answers = self.run.messages - self.run.answered;
        let deliveries =
            self.other_side.as_ref().map_or(0, |side| side.expected.saturating_sub(side.delivered));
        format!("{answers} answers and {deliveries} deliveries are missing")
    }

    fn now(&self) -> u64 {
        nanos(self.origin.elapsed())
    }

    fn progress(&self) -> (u64, u64) {
        (self.run.answered, self.other_side.as_ref().map_or(0, |side| side.delivered))
    }

    /// Is something said and not answered, or not delivered?
    fn owes(&self) -> bool {
        let behind = self.other_side.as_ref().is_some_and(|side| side.delivered < side.expected);
        self.run.answered < self.run.messages || behind
    }

    /// A closed loop goes on for its time, an open one until it has said all that was due in it, however late.
    fn goes_on(&self) -> bool {
        let says = match self.run.pace {
            Pace::Closed { .. } => self.now() < self.run.end,
            Pace::Open { per_second } => self.run.due(per_second) < self.run.end,
            Pace::Exactly { each, .. } => self.run.messages < each * self.connections.len() as u64,
        };
        says || self.owes()
    }

    /// At a rate: says all that is due. Returns how long to wait for answers at the most.
    fn say_what_is_due(&mut self) -> Result<Duration, String> {
        let Pace::Open { per_second } = self.run.pace else { return Ok(ANSWER_MAX / 10) };
        loop {
            let due = self.run.due(per_second);
            let now = self.now();
            if self.run.end <= due {
                return Ok(ANSWER_MAX / 10);
            }
            if now < due {
                return Ok(Duration::from_nanos(due - now));
            }
            if OWED_MAX as u64 <= self.run.messages - self.run.answered {
                return Err(format!("the server does not keep up with {per_second} messages a second"));
            }
            let at = usize::try_from(self.run.messages).unwrap_or(0) % self.connections.len().max(1);
            self.say(at, 1, due)?;
        }
    }

    /// In a closed loop: the next messages of this connection, unless the time is over, or it has said all.
    fn next_burst(&mut self, at: usize) -> Result<(), String> {
        let now = self.now();
        let burst = match self.run.pace {
            Pace::Open { .. } => return Ok(()),
            Pace::Closed { burst } => burst * u32::from(now < self.run.end),
            Pace::Exactly { burst, each } => {
                let left = each.saturating_sub(self.connections[at].said);
                burst.min(u32::try_from(left).unwrap_or(u32::MAX))
            }
        };
        if burst == 0 {
            return Ok(());
        }
        if let Some(side) = &mut self.other_side
            && BEHIND_MAX <= side.expected.saturating_sub(side.delivered)
        {
            side.waiting.push(at);
            return Ok(());
        }
        self.say(at, burst, now)
    }

    fn say(&mut self, at: usize, count: u32, when: u64) -> Result<(), String> {
        let connection = &mut self.connections[at];
        self.out.clear();
        for _ in 0..count {
            connection.talk.say(&mut self.out);
            connection.said_at.push_back(when);
        }
        connection.said += u64::from(count);
        self.run.messages += u64::from(count);
        if let Some(side) = &mut self.other_side {
            side.expected += u64::from(count);
        }
        connection.send(&self.out, &self.epoll, at)
    }

    /// Waits for sockets, at most so long, and hears what came.
    fn turn(&mut self, events: &mut Vec<Event>, wait: Duration) -> Result<(), String> {
        events.clear();
        let wait = Timespec {
            tv_sec: i64::try_from(wait.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: wait.subsec_nanos().into(),
        };
        match epoll::wait(&self.epoll, spare_capacity(events), Some(&wait)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(why) => return Err(format!("waiting for sockets: {why}")),
        }
        for event in events.iter() {
            match event.data.u64() {
                OTHER_SIDE => self.on_delivery()?,
                at => self.on_ready(usize::try_from(at).unwrap_or(usize::MAX))?,
            }
        }
        Ok(())
    }

    fn on_delivery(&mut self) -> Result<(), String> {
        let Some(side) = &mut self.other_side else { return Ok(()) };
        side.delivered +=
            side.floor.turn(Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).map_err(|why| why.to_string())?;
        let waiting = std::mem::take(&mut side.waiting);
        waiting.into_iter().try_for_each(|at| self.next_burst(at))
    }

    fn on_ready(&mut self, at: usize) -> Result<(), String> {
        let connection = &mut self.connections[at];
        connection.send(&[], &self.epoll, at)?;
        let kept = connection.carry.len();
        if self.buffer.len() < kept + READ_BYTES / 2 {
            return Err("an answer is longer than any should be".to_owned());
        }
        self.buffer[..kept].copy_from_slice(&connection.carry);
        let came = match read(&connection.socket, &mut self.buffer[kept..]) {
            Ok(0) => return Err("the server closed a connection".to_owned()),
            Ok(came) => came,
            Err(Errno::AGAIN | Errno::INTR) => return Ok(()),
            Err(why) => return Err(format!("a connection failed: {why}")),
        };
        self.out.clear();
        let bytes = &mut self.buffer[..kept + came];
        let (done, answered) = connection.talk.hear(bytes, &mut self.out)?;
        connection.carry.clear();
        connection.carry.extend_from_slice(&bytes[done..]);
        connection.send(&self.out, &self.epoll, at)?;
        let now = nanos(self.origin.elapsed());
        for _ in 0..answered {
            let said = connection.said_at.pop_front().ok_or("an answer came that nobody asked for")?;
            self.run.latency.saturating_record(now.saturating_sub(said));
        }
        let refused = u64::from(connection.talk.refused());
        self.run.answered += u64::from(answered);
        self.run.refused += refused;
        if let Some(side) = &mut self.other_side {
            // Nothing is delivered for what was refused.
            side.expected = side.expected.saturating_sub(refused);
        }
        if 0 < answered && connection.said_at.is_empty() {
            self.next_burst(at)?;
        }
        Ok(())
    }

    /// Hears what comes, without saying anything, until each connection has heard `enough`.
    ///
    /// # Errors
    /// A wrong answer, a connection that ends, or one that has not heard enough in `patience`.
    pub fn listen(&mut self, patience: Duration, enough: impl Fn(&Talk) -> bool) -> Result<(), String> {
        let begin = Instant::now();
        let mut events = Vec::with_capacity(256);
        while !self.connections.iter().all(|connection| enough(&connection.talk)) {
            if patience < begin.elapsed() {
                return Err("what was waited for does not come".to_owned());
            }
            self.turn(&mut events, Duration::from_millis(100))?;
        }
        Ok(())
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

impl Connection {
    /// Writes what was left and then this; keeps what the socket does not take until it does.
    fn send(&mut self, bytes: &[u8], epoll: &OwnedFd, at: usize) -> Result<(), String> {
        let left = !self.unsent.is_empty();
        if bytes.is_empty() && !left {
            return Ok(());
        }
        self.unsent.extend_from_slice(if left { bytes } else { &[] });
        let all = if left { self.unsent.as_slice() } else { bytes };
        let taken = match write(&self.socket, all) {
            Ok(taken) => taken,
            Err(Errno::AGAIN | Errno::INTR) => 0,
            Err(why) => return Err(format!("a connection failed: {why}")),
        };
        if left {
            self.unsent.drain(..taken);
        } else {
            self.unsent.extend_from_slice(&bytes[taken..]);
        }
        if left == self.unsent.is_empty() {
            let wanted = if left { EventFlags::IN } else { EventFlags::IN | EventFlags::OUT };
            epoll::modify(epoll, &self.socket, EventData::new_u64(at as u64), wanted)
                .map_err(|why| why.to_string())?;
        }
        Ok(())
    }
}

/// Connects, with the options that every socket here has.
///
/// # Errors
/// The system's.
pub fn connect(address: SocketAddr) -> Result<TcpStream, String> {
    let connected = TcpStream::connect(address).and_then(|socket| {
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(ANSWER_MAX))?;
        Ok(socket)
    });
    connected.map_err(|why| format!("{address}: {why}"))
}

/// Connects and opens a WebSocket.
///
/// # Errors
/// Why it could not be opened.
pub fn connect_websocket(address: SocketAddr) -> Result<TcpStream, String> {
    let mut socket = connect(address)?;
    let key = client_key(*b"figures-figures-");
    let key = core::str::from_utf8(&key).map_err(|why| why.to_string())?;
    let mut request = Vec::new();
    write_upgrade_request(&mut request, "/ws", &address.to_string(), key, &[]);
    socket.write_all(&request).map_err(|why| why.to_string())?;
    let mut response = Vec::new();
    while !response.ends_with(b"\r\n\r\n") {
        // A byte at a time, so that no frame behind the head is taken.
        let mut byte = [0];
        socket.read_exact(&mut byte).map_err(|why| format!("a WebSocket was not opened: {why}"))?;
        response.push(byte[0]);
    }
    let head = parse_response(&response, &HEAD_LIMITS, false).map_err(|refusal| refusal.code().to_owned())?;
    let head = head.ok_or("a head that ends is not whole")?;
    check_upgrade_response(&head, key).map_err(|failure| failure.code().to_owned())?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::floor::{Answer, serve};
    use std::net::TcpListener;

    fn floor(answer: Answer) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        // It ends with the process of the tests.
        std::thread::spawn(move || serve(listener, answer, None));
        address
    }

    #[test]
    fn a_closed_loop_hears_what_it_says() {
        let address = floor(Answer::Echo);
        let mut load = Load::of(8, |_| Ok((connect(address)?, Talk::echo()))).unwrap();
        for burst in [1, 16] {
            let measured = load.run(Pace::Closed { burst }, Duration::from_millis(20)).unwrap();
            assert!(8 * u64::from(burst) <= measured.messages);
            assert_eq!(measured.messages % u64::from(burst), 0);
            assert_eq!(measured.latency.len(), measured.messages);
        }
    }

    #[test]
    fn an_open_loop_says_what_is_due_and_no_more() {
        let address = floor(Answer::Http);
        let open = |at| Ok((connect(address)?, Talk::webhook(at, 4, "message")));
        let mut load = Load::of(3, open).unwrap();
        let measured = load.run(Pace::Open { per_second: 2_000 }, Duration::from_millis(50)).unwrap();
        assert_eq!((measured.messages, measured.latency.len()), (100, 100));
    }

    #[test]
    fn an_exact_loop_says_so_many_on_each_connection() {
        let address = floor(Answer::Echo);
        let mut load = Load::of(3, |_| Ok((connect(address)?, Talk::echo()))).unwrap();
        for (burst, each) in [(1, 5), (16, 40), (16, 3)] {
            let measured = load.run(Pace::Exactly { burst, each }, Duration::ZERO).unwrap();
            assert_eq!((measured.messages, measured.refused), (3 * each, 0));
        }
    }

    #[test]
    fn a_server_that_closes_is_an_error() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let mut load = Load::of(1, |_| Ok((connect(address)?, Talk::echo()))).unwrap();
        drop(listener.accept().unwrap());
        assert!(load.run(Pace::Closed { burst: 1 }, Duration::from_secs(1)).is_err());
    }
}
