//! One connection's bytes, in and out: what was read and not yet understood, what was written and not yet sent.
//!
//! Reading goes through a buffer that all connections of a thread share; only the rest of an unfinished frame is kept.
//! Writing collects and sends at once; what the peer has no room for waits for it in a task of its own, so that a peer who
//! does not read blocks nobody.

use std::cell::{Cell, RefCell, RefMut};
use std::io;
use std::rc::Rc;

use crate::driver::{self, Socket};

/// Bytes of the shared read buffer at the start; it grows with the longest frame.
const SCRATCH_BYTES: usize = 256 * 1024;

/// The longest frame that is collected; a peer that sends a longer one is hung up on.
const FRAME_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Bytes that an unfinished frame may leave allocated with its connection once it is finished.
const KEPT_BYTES_MAX: usize = 4096;

/// Write buffers that wait for a connection with something to say, and the most that one of them may have grown to.
const SPARES_MAX: usize = 256;
const SPARE_BYTES_MAX: usize = 256 * 1024;

/// What the connections of one thread share: the buffer that is read into, and write buffers. A connection that is idle
/// owns none.
#[derive(Debug)]
pub struct Scratch {
    bytes: RefCell<Vec<u8>>,
    spares: RefCell<Vec<Vec<u8>>>,
}

impl Default for Scratch {
    fn default() -> Self {
        Self { bytes: RefCell::new(vec![0; SCRATCH_BYTES]), spares: RefCell::default() }
    }
}

impl Scratch {
    #[inline]
    fn lend(&self, out: &mut Vec<u8>) {
        if let Some(spare) = self.spares.borrow_mut().pop() {
            *out = spare;
        }
    }

    #[inline]
    fn take_back(&self, out: &mut Vec<u8>) {
        let mut spare = std::mem::take(out);
        let mut spares = self.spares.borrow_mut();
        if spares.len() < SPARES_MAX && spare.capacity() <= SPARE_BYTES_MAX {
            spare.clear();
            spares.push(spare);
        }
    }
}

/// What a read found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Read {
    /// So many bytes, and no more for now.
    Some(usize),
    /// The peer has closed its side.
    Closed,
}

/// A connection.
#[derive(Debug)]
pub struct Pipe {
    socket: Socket,
    scratch: Rc<Scratch>,
    /// Bytes of an unfinished frame.
    rest: RefCell<Vec<u8>>,
    out: RefCell<Vec<u8>>,
    /// A task waits for the peer to make room.
    blocked: Cell<bool>,
    /// Something could not be sent: the connection is gone, even if there is something left to read.
    broken: Cell<bool>,
    writes: Cell<u64>,
}

impl Pipe {
    /// A connection over this socket, of which `rest` was read already.
    #[must_use]
    pub fn new(socket: Socket, rest: Vec<u8>, scratch: &Rc<Scratch>) -> Rc<Self> {
        Rc::new(Self {
            socket,
            scratch: Rc::clone(scratch),
            rest: RefCell::new(rest),
            out: RefCell::default(),
            blocked: Cell::new(false),
            broken: Cell::new(false),
            writes: Cell::new(0),
        })
    }

    /// The socket.
    #[must_use]
    pub const fn socket(&self) -> &Socket {
        &self.socket
    }

    /// What is to be sent with the next [`flush`](Self::flush): append to it.
    #[inline]
    pub fn out(&self) -> RefMut<'_, Vec<u8>> {
        let mut out = self.out.borrow_mut();
        if out.capacity() == 0 {
            self.scratch.lend(&mut out);
        }
        out
    }

    /// Whether anything waits to be sent.
    #[must_use]
    pub fn has_output(&self) -> bool {
        !self.out.borrow().is_empty()
    }

    /// Bytes that wait to be sent.
    #[must_use]
    pub fn output_bytes(&self) -> usize {
        self.out.borrow().len()
    }

    /// Whether something could not be sent, ever since the peer is gone.
    #[must_use]
    pub const fn is_broken(&self) -> bool {
        self.broken.get()
    }

    /// Writes since the last call.
    pub fn take_writes(&self) -> u64 {
        self.writes.take()
    }

    /// Reads what is there. `on_bytes` gets all that is not understood yet and tells how much of it is done with.
    ///
    /// # Errors
    /// The connection is gone, its frame is too long, or what `on_bytes` says.
    pub fn read(&self, on_bytes: impl FnMut(&mut [u8]) -> io::Result<usize>) -> io::Result<Read> {
        self.read_within(usize::MAX, on_bytes)
    }

    /// As [`read`](Self::read), but takes no more than so many bytes of what is there.
    ///
    /// # Errors
    /// See [`read`](Self::read).
    pub fn read_within(
        &self,
        bytes_max: usize,
        mut on_bytes: impl FnMut(&mut [u8]) -> io::Result<usize>,
    ) -> io::Result<Read> {
        let mut buf = self.scratch.bytes.borrow_mut();
        let mut total = 0;
        while total < bytes_max {
            let kept = {
                let mut rest = self.rest.borrow_mut();
                make_room(&mut buf, rest.len())?;
                buf[..rest.len()].copy_from_slice(&rest);
                let kept = rest.len();
                rest.clear();
                kept
            };
            let room = (buf.len() - kept).min(bytes_max - total);
            let (fresh, end) = match self.socket.receive(&mut buf[kept..kept + room]) {
                Ok(Some(0)) => (0, Some(Read::Closed)),
                Ok(Some(count)) => (count, (count < room).then_some(Read::Some(total + count))),
                Ok(None) => (0, Some(Read::Some(total))),
                Err(error) => return Err(error),
            };
            total += fresh;
            let bytes = &mut buf[..kept + fresh];
            // What was kept is looked at once even if nothing new came: it may have come with a handshake.
            let done = on_bytes(bytes)?.min(bytes.len());
            self.keep(&buf[done..kept + fresh]);
            if let Some(end) = end {
                return Ok(end);
            }
        }
        Ok(Read::Some(total))
    }

    fn keep(&self, bytes: &[u8]) {
        let mut rest = self.rest.borrow_mut();
        if bytes.is_empty() && KEPT_BYTES_MAX < rest.capacity() {
            *rest = Vec::new();
        }
        rest.extend_from_slice(bytes);
    }

    /// Sends what is collected, in one write. What the peer has no room for is sent when it has. Tells whether a write
    /// was tried: not while an earlier one waits.
    ///
    /// # Errors
    /// The connection is gone.
    pub fn flush(self: &Rc<Self>) -> io::Result<bool> {
        if self.blocked.get() {
            return Ok(false);
        }
        let mut out = self.out.borrow_mut();
        if out.is_empty() {
            return Ok(false);
        }
        let sent = self.socket.send(&out).inspect_err(|_| self.broken.set(true))?;
        self.writes.set(self.writes.get() + 1);
        if sent == out.len() {
            self.scratch.take_back(&mut out);
        } else {
            out.drain(..sent);
            self.blocked.set(true);
            driver::spawn(Rc::clone(self).send_rest());
        }
        Ok(true)
    }

    /// Sends the rest as the peer makes room for it.
    async fn send_rest(self: Rc<Self>) {
        while self.has_output() {
            let sent = match self.socket.writable().await {
                Ok(()) => self.socket.send(&self.out.borrow()),
                Err(error) => Err(error),
            };
            self.writes.set(self.writes.get() + 1);
            let Ok(sent) = sent else {
                self.broken.set(true);
                break;
            };
            self.out.borrow_mut().drain(..sent);
        }
        // After an error the reader finds the connection gone too, and ends it.
        self.blocked.set(false);
    }
}

/// Makes the buffer longer than what is kept of a frame.
fn make_room(buf: &mut Vec<u8>, kept: usize) -> io::Result<()> {
    if FRAME_BYTES_MAX < kept {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a frame is too long"));
    }
    if buf.len() < kept * 2 {
        buf.resize(kept * 2, 0);
    }
    Ok(())
}
