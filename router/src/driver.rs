//! The seam to the runtime: the only file that names monoio. Readiness of descriptors, timers, tasks of one thread.
//!
//! Sockets are waited for through the ring (`POLL_ADD`) and read and written by direct, non-blocking calls: an idle
//! connection owns no buffer, a read that is abandoned loses nothing, and nothing is allocated per operation.
//! `ARCHITECTURE.md` ("The I/O loop") has the measurements behind this.
use crate::clock::Clock;
use clawgate_core::time::Time;
use monoio::time::Sleep;
use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

/// Submission queue entries of a ring. Full rings are flushed by the driver; this many make that rare.
const RING_ENTRIES: u32 = 4_096;

/// Which driver the configuration asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// io_uring where the kernel allows it, else epoll.
    Auto,
    /// io_uring, or refuse to start.
    IoUring,
    /// epoll.
    Epoll,
}

/// Which driver a thread got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// io_uring with SINGLE_ISSUER, COOP_TASKRUN and DEFER_TASKRUN (Linux 6.1).
    IoUringDeferred,
    /// io_uring with the flags of older kernels.
    IoUring,
    /// epoll.
    Epoll,
}

impl Kind {
    /// Its name in logs and in `/health/detailed`.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::IoUringDeferred => "io_uring (single issuer, deferred task work)",
            Self::IoUring => "io_uring",
            Self::Epoll => "epoll",
        }
    }
}

/// The runtime of one thread, not yet running.
pub(crate) enum Driver {
    Ring(Kind, monoio::Runtime<monoio::time::TimeDriver<monoio::IoUringDriver>>),
    Epoll(monoio::Runtime<monoio::time::TimeDriver<monoio::LegacyDriver>>),
}

impl fmt::Debug for Driver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind().name())
    }
}

impl Driver {
    /// Builds the runtime on the thread that will run it (a ring with a single issuer belongs to its maker).
    ///
    /// # Errors
    /// The kernel's refusal, when the driver asked for cannot be had.
    pub(crate) fn build(wanted: Wanted) -> io::Result<Self> {
        if wanted == Wanted::Epoll {
            return Self::epoll();
        }
        let mut deferred = io_uring::IoUring::builder();
        deferred.setup_single_issuer().setup_coop_taskrun().setup_defer_taskrun();
        match Self::ring(Kind::IoUringDeferred, deferred) {
            Err(_) => match Self::ring(Kind::IoUring, io_uring::IoUring::builder()) {
                Err(refusal) if wanted == Wanted::IoUring => Err(refusal),
                Err(_) => Self::epoll(),
                ring => ring,
            },
            ring => ring,
        }
    }

    fn ring(kind: Kind, builder: io_uring::Builder) -> io::Result<Self> {
        let runtime = monoio::RuntimeBuilder::<monoio::IoUringDriver>::new()
            .with_entries(RING_ENTRIES)
            .uring_builder(builder)
            .enable_timer()
            .build()?;
        Ok(Self::Ring(kind, runtime))
    }

    fn epoll() -> io::Result<Self> {
        let runtime = monoio::RuntimeBuilder::<monoio::LegacyDriver>::new()
            .with_entries(RING_ENTRIES)
            .enable_timer()
            .build()?;
        Ok(Self::Epoll(runtime))
    }

    /// What was built.
    pub(crate) const fn kind(&self) -> Kind {
        match self {
            Self::Ring(kind, _) => *kind,
            Self::Epoll(_) => Kind::Epoll,
        }
    }

    /// Runs `turn` once all runnable tasks ran, whenever it was woken, until it is ready. Between two calls the
    /// thread sleeps in the kernel.
    pub(crate) fn run(mut self, turn: impl Future<Output = ()>) {
        match &mut self {
            Self::Ring(_, runtime) => runtime.block_on(turn),
            Self::Epoll(runtime) => runtime.block_on(turn),
        }
    }
}

/// Runs a task on this thread.
pub(crate) fn spawn(task: impl Future<Output = ()> + 'static) {
    drop(monoio::spawn(task));
}

/// A descriptor that can be waited for.
pub(crate) struct Socket(monoio::net::TcpStream);

impl fmt::Debug for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Socket({})", self.0.as_raw_fd())
    }
}

impl Socket {
    /// Takes a non-blocking descriptor (a TCP socket, a listener or an eventfd) under this thread's driver.
    ///
    /// # Errors
    /// The driver cannot register it.
    pub(crate) fn new(fd: OwnedFd) -> io::Result<Self> {
        // The type is only a handle here: nothing of TCP is used but readiness.
        monoio::net::TcpStream::from_std(std::net::TcpStream::from(fd)).map(Self)
    }

    /// Connects.
    ///
    /// # Errors
    /// The kernel's word, or `TimedOut`.
    pub(crate) async fn connect(to: SocketAddr, limit: Duration) -> io::Result<Self> {
        let (fd, connected) = crate::net::start_connect(to)?;
        let socket = Self::new(fd)?;
        if !connected {
            // Waiting for readiness moves no bytes, so that giving it up loses none.
            match monoio::time::timeout(limit, socket.writable()).await {
                Ok(ready) => ready?,
                Err(_) => return Err(io::ErrorKind::TimedOut.into()),
            }
            crate::net::connect_result(&socket)?;
        }
        Ok(socket)
    }

    /// Waits until a read would not block.
    pub(crate) async fn readable(&self) -> io::Result<()> {
        self.0.readable(false).await
    }

    /// As [`Self::readable`], for so long; false if nothing came. No bytes move here, so none are lost by giving up.
    pub(crate) async fn readable_within(&self, limit: Duration) -> io::Result<bool> {
        match monoio::time::timeout(limit, self.readable()).await {
            Ok(ready) => ready.map(|()| true),
            Err(_) => Ok(false),
        }
    }

    /// Waits until a write would not block.
    pub(crate) async fn writable(&self) -> io::Result<()> {
        self.0.writable(false).await
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        let raw = self.0.as_raw_fd();
        // SAFETY: the descriptor is open as long as the stream, which the returned borrow keeps alive.
        unsafe { BorrowedFd::borrow_raw(raw) }
    }
}

/// A file that is written through the ring. Only for threads that have one: without, the calls would block the thread.
pub(crate) struct File(monoio::fs::File);

impl fmt::Debug for File {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "File({})", self.0.as_raw_fd())
    }
}

impl File {
    /// Takes a file under this thread's ring.
    ///
    /// # Errors
    /// The driver cannot take it.
    pub(crate) fn new(file: std::fs::File) -> io::Result<Self> {
        monoio::fs::File::from_std(file).map(Self)
    }

    /// Writes all of these bytes at this place. They come back, whatever became of it.
    pub(crate) async fn write_at(&self, bytes: Vec<u8>, offset: u64) -> (io::Result<()>, Vec<u8>) {
        self.0.write_all_at(bytes, offset).await
    }

    /// Waits until what was written is on the disk, with what is needed to read it again.
    pub(crate) async fn sync(&self) -> io::Result<()> {
        self.0.sync_data().await
    }
}

/// Waits at least this long (timers tick in milliseconds).
pub(crate) async fn sleep(duration: Duration) {
    monoio::time::sleep(duration).await;
}

/// Waits for something, at most so long; false if it did not come. Only for what loses nothing when it is given up.
pub(crate) async fn within(limit: Duration, waiting: impl Future<Output = ()>) -> bool {
    monoio::time::timeout(limit, waiting).await.is_ok()
}

/// One timer of a thread's loop that can be moved.
pub(crate) struct Alarm {
    sleep: Pin<Box<Sleep>>,
    at: Option<Time>,
}

impl fmt::Debug for Alarm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Alarm({:?})", self.at)
    }
}

impl Alarm {
    /// A timer that is not set. Must be called inside the runtime.
    pub(crate) fn new() -> Self {
        Self { sleep: Box::pin(monoio::time::sleep(Duration::from_secs(86_400))), at: None }
    }

    /// Makes sure that the loop runs at `next`; true if it is due. An earlier setting stays: it fires early, which
    /// costs one empty turn, where moving it at every turn would cost each of them.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>, clock: &Clock, next: Option<Time>) -> bool {
        if let Some(next) = next
            && self.at.is_none_or(|at| next < at)
        {
            self.sleep.as_mut().reset(clock.instant(next).into());
            self.at = Some(next);
        }
        if self.at.is_none() {
            return false;
        }
        match self.sleep.as_mut().poll(cx) {
            Poll::Ready(()) => {
                self.at = None;
                true
            }
            Poll::Pending => false,
        }
    }
}
