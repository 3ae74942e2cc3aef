//! One process takes another's place without a connection being lost: the listening sockets go from the old one to the
//! new one through a socket in the data directory, and never close on the way.
//!
//! The new process (`N`) asks when all that may fail is done. The old one (`O`) works on until `N` is ready, and goes on
//! as if nothing had been if `N` ends before it accepts: it keeps its own handles of the sockets until then.
//!
//! ```text
//! N → O  takeover 1     O → N  busy | no | listeners (with descriptors, again and again), then drain MILLIS
//! N → O  ready          O stops accepting and drains; connections wait with the sockets
//! O → N  released       the data directory is free
//! N → O  accepting      O ends
//! ```
use crate::data::Folder;
use crate::net;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{AtFlags, Mode};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType, sockopt,
};
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::time::Duration;

/// The socket in the data directory, and its name until it can be used.
const SOCKET: &str = "control.sock";
const SOCKET_NEW: &str = "control.sock.new";
/// The first thing that is said; the number grows when the conversation changes.
const ASK: &str = "takeover 1";
/// The new process can do all that may fail.
pub(crate) const READY: &str = "ready";
/// The old process has let go of the data directory.
pub(crate) const RELEASED: &str = "released";
/// The new process accepts.
pub(crate) const ACCEPTING: &str = "accepting";
/// How long the old process may take to answer.
const ANSWER_AGE_MAX: Duration = Duration::from_secs(10);
/// Descriptors in one message; the kernel takes up to 253.
const DESCRIPTORS_MAX: usize = 64;
/// Listening sockets in all.
const LISTENERS_MAX: usize = 4_096;
/// Bytes of a message.
const MESSAGE_BYTES_MAX: usize = 256;
/// Others that may wait to be heard.
const BACKLOG: i32 = 8;
/// The longest path that a socket's address takes.
const PATH_BYTES_MAX: usize = 100;

/// A listening socket and its address.
pub(crate) type Listener = (SocketAddr, OwnedFd);

/// The old process's end: where others ask.
#[derive(Debug)]
pub(crate) struct Door(OwnedFd);

impl Door {
    /// Opens it, in place of one that another process left.
    ///
    /// # Errors
    /// The kernel's word.
    pub(crate) fn open(folder: &Folder) -> io::Result<Self> {
        let socket = new_socket()?;
        match rustix::fs::unlinkat(folder.fd(), SOCKET_NEW, AtFlags::empty()) {
            Ok(()) | Err(rustix::io::Errno::NOENT) => {}
            Err(why) => return Err(why.into()),
        }
        rustix::net::bind(&socket, &address(folder, SOCKET_NEW)?)?;
        // Nobody else's from the start: it gets its name when that is so.
        let owner = Mode::RUSR | Mode::WUSR;
        rustix::fs::chmodat(folder.fd(), SOCKET_NEW, owner, AtFlags::empty())?;
        rustix::net::listen(&socket, BACKLOG)?;
        rustix::fs::renameat(folder.fd(), SOCKET_NEW, folder.fd(), SOCKET)?;
        Ok(Self(socket))
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    /// Who asks; `None` for nobody, or somebody of another user.
    pub(crate) fn hear(&self) -> Option<Line> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let line = rustix::net::accept_with(&self.0, flags).ok()?;
        Line::with_peer(line).inspect_err(|why| tracing::warn!("the control socket: {why}")).ok()
    }
}

/// Takes the socket's name away, when no process goes on.
pub(crate) fn close_door(folder: &Folder) {
    // It may be gone with its directory.
    let _ = rustix::fs::unlinkat(folder.fd(), SOCKET, AtFlags::empty());
}

fn new_socket() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?)
}

fn address(folder: &Folder, name: &str) -> io::Result<SocketAddrUnix> {
    let plain = folder.path().join(name);
    let path = if plain.as_os_str().len() <= PATH_BYTES_MAX {
        plain
    } else {
        // The kernel takes 107 bytes: longer ones are named by our own handle of the directory.
        PathBuf::from(format!("/proc/self/fd/{}/{name}", folder.fd().as_raw_fd()))
    };
    Ok(SocketAddrUnix::new(path)?)
}

/// A conversation between two processes of the same user.
#[derive(Debug)]
pub(crate) struct Line {
    socket: OwnedFd,
    /// The other process.
    pub(crate) pid: i32,
}

/// What was heard.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    Said(String),
    /// Nothing yet.
    Nothing,
    /// The other process has ended, or hung up.
    Gone,
}

impl Line {
    fn with_peer(socket: OwnedFd) -> Result<Self, String> {
        let peer = sockopt::socket_peercred(&socket).map_err(|why| why.to_string())?;
        if peer.uid != rustix::process::geteuid() {
            return Err(format!("a process of the user {} is not answered", peer.uid.as_raw()));
        }
        Ok(Self { socket, pid: peer.pid.as_raw_nonzero().get() })
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Says something; false if the other does not listen.
    pub(crate) fn say(&self, text: &str) -> bool {
        self.give(text, &[])
    }

    fn give(&self, text: &str, descriptors: &[BorrowedFd<'_>]) -> bool {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
            return false;
        }
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        rustix::net::sendmsg(&self.socket, &[IoSlice::new(text.as_bytes())], &mut control, flags).is_ok()
    }

    /// Gives the listeners away, and keeps them.
    pub(crate) fn give_listeners(&self, listeners: &[Listener], drain_age_max: Duration) -> bool {
        let all: Vec<_> = listeners.iter().map(|(_, listener)| listener.as_fd()).collect();
        all.chunks(DESCRIPTORS_MAX).all(|some| self.give("listeners", some))
            && self.say(&format!("drain {}", drain_age_max.as_millis()))
    }

    /// What comes next, and the descriptors that came with it.
    pub(crate) fn hear(&self) -> (Heard, Vec<OwnedFd>) {
        let mut text = [0u8; MESSAGE_BYTES_MAX];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
        let mut receive =
            || rustix::net::recvmsg(&self.socket, &mut [IoSliceMut::new(&mut text)], &mut control, flags);
        let received = match receive() {
            // It hung up before it had read all of ours. That is told first, and its last words after it.
            Err(rustix::io::Errno::CONNRESET) => receive(),
            received => received,
        };
        let mut descriptors = Vec::new();
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(some) = message {
                descriptors.extend(some);
            }
        }
        let heard = match received {
            Ok(message) if message.bytes == 0 => Heard::Gone,
            Ok(message) => match std::str::from_utf8(&text[..message.bytes]) {
                Ok(text) => Heard::Said(text.to_owned()),
                Err(_) => Heard::Gone,
            },
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => Heard::Nothing,
            Err(_) => Heard::Gone,
        };
        (heard, descriptors)
    }
}

/// Does this open a conversation that we can lead?
pub(crate) fn is_ask(text: &str) -> bool {
    text == ASK
}

/// The process that is there, as the new one sees it.
#[derive(Debug)]
pub(crate) struct Predecessor {
    pub(crate) line: Line,
    /// Its listeners, which are now ours too.
    pub(crate) listeners: Vec<Listener>,
    /// How long its drain may take.
    pub(crate) drain_age_max: Duration,
}

/// Asks the process that has the data directory for its place; `None` if there is none.
///
/// # Errors
/// It does not give it, in words for the operator.
pub(crate) fn ask(folder: &Folder) -> Result<Option<Predecessor>, String> {
    let failed = |why: io::Error| format!("the process that is to be replaced cannot be asked: {why}");
    let socket = new_socket().map_err(failed)?;
    match rustix::net::connect(&socket, &address(folder, SOCKET).map_err(failed)?) {
        Ok(()) => {}
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::CONNREFUSED) => return Ok(None),
        Err(why) => return Err(failed(why.into())),
    }
    let line = Line::with_peer(socket)?;
    // One that is busy says so at once and hangs up: what it said is still there.
    let _ = line.say(ASK);
    let mut listeners = Vec::new();
    loop {
        let (text, descriptors) = hear_within(&line, ANSWER_AGE_MAX)?;
        for descriptor in descriptors {
            let address = net::listening_address(&descriptor).map_err(failed)?;
            listeners.push((address, descriptor));
        }
        if LISTENERS_MAX < listeners.len() {
            return Err(format!("the process {} has more than {LISTENERS_MAX} sockets", line.pid));
        }
        match text.split_once(' ').unwrap_or((&text, "")) {
            ("listeners", _) => {}
            ("drain", millis) => {
                let millis = millis.parse().map_err(|_| format!("the process {} says {text:?}", line.pid))?;
                let drain_age_max = Duration::from_millis(millis);
                return Ok(Some(Predecessor { line, listeners, drain_age_max }));
            }
            ("busy", by) => {
                return Err(format!("another process takes that place already: {by}; wait for it"));
            }
            _ => {
                let pid = line.pid;
                return Err(format!("the process {pid} does not give its place ({text}): stop it instead"));
            }
        }
    }
}

fn hear_within(line: &Line, limit: Duration) -> Result<(String, Vec<OwnedFd>), String> {
    let pid = line.pid;
    let wait = Timespec {
        tv_sec: i64::try_from(limit.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(limit.subsec_nanos()),
    };
    loop {
        match line.hear() {
            (Heard::Said(text), descriptors) => return Ok((text, descriptors)),
            (Heard::Gone, _) => {
                return Err(format!("the process {pid} hung up: it may be stopping; try again"));
            }
            (Heard::Nothing, _) => {}
        }
        let mut fds = [PollFd::from_borrowed_fd(line.fd(), PollFlags::IN)];
        match poll(&mut fds, Some(&wait)) {
            Ok(0) => return Err(format!("the process {pid} does not answer within {limit:?}")),
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(why) => return Err(why.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    fn folder(name: &str) -> Folder {
        let path = std::env::temp_dir().join(format!("clawgate-takeover-{}-{name}", std::process::id()));
        Folder::open(&path).unwrap()
    }

    fn remove(folder: &Folder) {
        std::fs::remove_dir_all(folder.path()).unwrap();
    }

    #[test]
    fn listeners_go_over_and_stay() {
        // A name that is longer than a socket's address may be.
        let folder = folder(&"long".repeat(40));
        let door = Door::open(&folder).unwrap();
        let mode = std::fs::metadata(folder.path().join(SOCKET)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let listeners: Vec<Listener> = (0..DESCRIPTORS_MAX + 3)
            .map(|_| {
                let listener = net::listen(any, 16).unwrap();
                (net::local_address(&listener).unwrap(), listener)
            })
            .collect();
        let got = std::thread::scope(|scope| {
            let asks = scope.spawn(|| ask(&folder).unwrap().unwrap());
            let line = loop {
                poll(&mut [PollFd::from_borrowed_fd(door.fd(), PollFlags::IN)], None).unwrap();
                if let Some(line) = door.hear() {
                    break line;
                }
            };
            let (said, _) = hear_within(&line, ANSWER_AGE_MAX).unwrap();
            assert!(is_ask(&said));
            assert!(line.give_listeners(&listeners, Duration::from_secs(7)));
            asks.join().unwrap()
        });
        assert_eq!(got.drain_age_max, Duration::from_secs(7));
        let addresses = |listeners: &[Listener]| listeners.iter().map(|(at, _)| *at).collect::<Vec<_>>();
        assert_eq!(addresses(&got.listeners), addresses(&listeners));
        // A connection that came to one of them waits for whoever accepts.
        let at = listeners[5].0;
        drop(listeners);
        let client = std::net::TcpStream::connect(at).unwrap();
        let (_, peer) = net::accept(&got.listeners[5].1).unwrap().unwrap();
        assert_eq!(peer, client.local_addr().unwrap());
        remove(&folder);
    }

    #[test]
    fn nobody_is_no_fault_and_a_refusal_is_told() {
        let folder = folder("nobody");
        assert!(ask(&folder).unwrap().is_none(), "no socket");
        drop(Door::open(&folder).unwrap());
        assert!(ask(&folder).unwrap().is_none(), "nobody at it");
        for (answer, expected) in [("busy 17", "17"), ("no", "does not give"), ("drain soon", "says")] {
            let door = Door::open(&folder).unwrap();
            let refused = std::thread::scope(|scope| {
                let asks = scope.spawn(|| ask(&folder).unwrap_err());
                poll(&mut [PollFd::from_borrowed_fd(door.fd(), PollFlags::IN)], None).unwrap();
                let line = door.hear().unwrap();
                assert!(line.say(answer));
                asks.join().unwrap()
            });
            assert!(refused.contains(expected), "{refused}");
        }
        remove(&folder);
    }

    #[test]
    fn what_is_no_listener_is_refused() {
        let folder = folder("no-listener");
        let door = Door::open(&folder).unwrap();
        let refused = std::thread::scope(|scope| {
            let asks = scope.spawn(|| ask(&folder).unwrap_err());
            poll(&mut [PollFd::from_borrowed_fd(door.fd(), PollFlags::IN)], None).unwrap();
            let line = door.hear().unwrap();
            assert!(line.give("listeners", &[line.fd()]));
            asks.join().unwrap()
        });
        assert!(refused.contains("cannot be asked"), "{refused}");
        remove(&folder);
    }
}
