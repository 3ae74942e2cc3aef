//! The only file that names monoio: threads with a ring each, sockets, timers. The ring is io_uring where the kernel
//! allows it and epoll where it does not.
//!
//! Reading and writing are direct non-blocking calls on the caller's buffer after `readable` or `writable`: an idle
//! connection then owns no buffer, and dropping a wait never loses a byte.

use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use monoio::net::{ListenerOpts, TcpListener, TcpStream};
use monoio::{IoUringDriver, LegacyDriver, RuntimeBuilder};

/// Entries of a thread's submission queue.
const RING_ENTRIES: u32 = 4096;

/// What waits for the sockets of a thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    /// io_uring, with completions run only when the thread asks for them.
    IoUring,
    /// epoll: slower, but allowed in every container.
    Epoll,
}

impl Backend {
    /// Its name in reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::IoUring => "io_uring",
            Self::Epoll => "epoll",
        }
    }
}

/// Runs a future and all that it spawns on the calling thread, until the future ends; what is still running then is
/// dropped. The future learns which backend it got.
///
/// # Errors
/// The system's, if the thread gets neither a ring nor an epoll.
pub fn run<F: Future>(main: impl FnOnce(Backend) -> F) -> io::Result<F::Output> {
    if monoio::utils::detect_uring() {
        let mut ring = io_uring::IoUring::builder();
        ring.setup_single_issuer().setup_coop_taskrun().setup_defer_taskrun();
        let built = RuntimeBuilder::<IoUringDriver>::new()
            .with_entries(RING_ENTRIES)
            .uring_builder(ring)
            .enable_timer();
        if let Ok(mut runtime) = built.build() {
            return Ok(runtime.block_on(main(Backend::IoUring)));
        }
        // A kernel before 6.1 knows io_uring but not these flags.
        if let Ok(mut runtime) =
            RuntimeBuilder::<IoUringDriver>::new().with_entries(RING_ENTRIES).enable_timer().build()
        {
            return Ok(runtime.block_on(main(Backend::IoUring)));
        }
    }
    let mut runtime = RuntimeBuilder::<LegacyDriver>::new().enable_timer().build()?;
    Ok(runtime.block_on(main(Backend::Epoll)))
}

/// Starts a task on this thread.
pub fn spawn(task: impl Future<Output = ()> + 'static) {
    drop(monoio::spawn(task));
}

/// Waits, to the millisecond. For what is due to the microsecond there is [`Alarm`].
pub async fn sleep(duration: Duration) {
    monoio::time::sleep(duration).await;
}

/// Waits for a future for at most this long. Only for futures that own no bytes of a peer when they are dropped:
/// `readable`, `writable`, `connect`.
pub async fn within<T>(duration: Duration, future: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    match monoio::time::timeout(duration, future).await {
        Ok(result) => result,
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    }
}

/// Which of two futures ended first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum First<A, B> {
    /// This one.
    One(A),
    /// The other one.
    Other(B),
}

/// Waits for two futures until one of them ends, and drops the other one: see [`within`] for which may be dropped.
pub async fn race<A, B>(one: impl Future<Output = A>, other: impl Future<Output = B>) -> First<A, B> {
    let (mut one, mut other) = (pin!(one), pin!(other));
    poll_fn(|cx| {
        if let Poll::Ready(done) = one.as_mut().poll(cx) {
            return Poll::Ready(First::One(done));
        }
        other.as_mut().poll(cx).map(First::Other)
    })
    .await
}

/// A TCP connection. Clones share it; it closes with the last of them.
#[derive(Clone, Debug)]
pub struct Socket {
    stream: Rc<TcpStream>,
}

impl Socket {
    /// Connects, without delayed sending.
    ///
    /// # Errors
    /// The system's.
    pub async fn connect(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect_addr(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream: Rc::new(stream) })
    }

    /// Waits until there is something to receive, or the peer is gone.
    ///
    /// # Errors
    /// The system's.
    #[inline]
    pub async fn readable(&self) -> io::Result<()> {
        self.stream.readable(false).await
    }

    /// Waits until there is room to send.
    ///
    /// # Errors
    /// The system's.
    pub async fn writable(&self) -> io::Result<()> {
        self.stream.writable(false).await
    }

    /// Receives what is there: `None` if nothing is, `Some(0)` if the peer has closed its side.
    ///
    /// # Errors
    /// The system's: the connection is gone.
    #[inline]
    pub fn receive(&self, buf: &mut [u8]) -> io::Result<Option<usize>> {
        self.receive_flags(buf, libc::MSG_DONTWAIT)
    }

    /// Whether the peer has closed its side or the connection is gone. Takes no bytes.
    #[must_use]
    pub fn peer_left(&self) -> bool {
        let mut byte = [0];
        !matches!(
            self.receive_flags(&mut byte, libc::MSG_DONTWAIT | libc::MSG_PEEK),
            Ok(None) | Ok(Some(1..))
        )
    }

    #[inline]
    fn receive_flags(&self, buf: &mut [u8], flags: libc::c_int) -> io::Result<Option<usize>> {
        // SAFETY: the descriptor is open for as long as `self.stream` lives, and the kernel writes at most `buf.len()`
        // bytes to `buf`, which is borrowed exclusively.
        let count = unsafe { libc::recv(self.stream.as_raw_fd(), buf.as_mut_ptr().cast(), buf.len(), flags) };
        to_progress(count)
    }

    /// Sends what there is room for, possibly nothing.
    ///
    /// # Errors
    /// The system's: the connection is gone.
    #[inline]
    pub fn send(&self, bytes: &[u8]) -> io::Result<usize> {
        let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
        // SAFETY: the descriptor is open for as long as `self.stream` lives, and the kernel only reads `bytes`.
        let count = unsafe { libc::send(self.stream.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), flags) };
        to_progress(count).map(|sent| sent.unwrap_or(0))
    }

    /// Sends all of it, however long the peer takes to read.
    ///
    /// # Errors
    /// The system's: the connection is gone.
    pub async fn send_all(&self, bytes: &[u8]) -> io::Result<()> {
        let mut rest = bytes;
        loop {
            let sent = self.send(rest)?;
            rest = rest.get(sent..).unwrap_or(&[]);
            if rest.is_empty() {
                return Ok(());
            }
            self.writable().await?;
        }
    }

    /// Asks the kernel to hold no more than so many bytes that were not received yet.
    ///
    /// # Errors
    /// The system's.
    pub fn set_receive_buffer(&self, bytes: i32) -> io::Result<()> {
        // SAFETY: the descriptor is open for as long as `self.stream` lives, and the kernel reads one int from `bytes`.
        let set = unsafe {
            libc::setsockopt(
                self.stream.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_RCVBUF,
                (&raw const bytes).cast(),
                size_of::<i32>() as libc::socklen_t,
            )
        };
        if set == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// When it is closed, the peer sees a reset instead of an end.
    ///
    /// # Errors
    /// The system's.
    pub fn reset_on_close(&self) -> io::Result<()> {
        let linger = libc::linger { l_onoff: 1, l_linger: 0 };
        // SAFETY: the descriptor is open for as long as `self.stream` lives, and the kernel reads one linger from `linger`.
        let set = unsafe {
            libc::setsockopt(
                self.stream.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_LINGER,
                (&raw const linger).cast(),
                size_of::<libc::linger>() as libc::socklen_t,
            )
        };
        if set == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// Reads nothing more, and wakes whoever waits to read. The peer is told nothing.
    pub fn stop_reading(&self) {
        // SAFETY: the descriptor is open for as long as `self.stream` lives; shutting down a socket touches no memory.
        unsafe { libc::shutdown(self.stream.as_raw_fd(), libc::SHUT_RD) };
    }

    /// Tells the peer that nothing more will come, and wakes whoever waits to read.
    pub fn shut_down(&self) {
        // SAFETY: the descriptor is open for as long as `self.stream` lives; shutting down a socket touches no memory.
        unsafe { libc::shutdown(self.stream.as_raw_fd(), libc::SHUT_RDWR) };
    }
}

/// A count from the kernel: bytes, "not now", or a dead connection.
#[inline]
fn to_progress(count: isize) -> io::Result<Option<usize>> {
    if let Ok(bytes) = usize::try_from(count) {
        return Ok(Some(bytes));
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        // An interrupted call did nothing; the caller comes back when the socket is ready, which it is.
        Some(libc::EAGAIN | libc::EINTR) => Ok(None),
        Some(_) | None => Err(error),
    }
}

/// A listening socket.
pub struct Listener {
    listener: TcpListener,
}

impl core::fmt::Debug for Listener {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Listener").field("address", &self.listener.local_addr().ok()).finish()
    }
}

impl Listener {
    /// Listens on the address; several threads may listen on the same one, and the kernel spreads the connections.
    ///
    /// # Errors
    /// The system's.
    pub fn bind(address: SocketAddr) -> io::Result<Self> {
        let options = ListenerOpts::new().backlog(4096).reuse_port(true);
        Ok(Self { listener: TcpListener::bind_with_config(address, &options)? })
    }

    /// Where it listens: the port that the system chose, where it was asked to.
    ///
    /// # Errors
    /// The system's.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Waits for the next connection.
    ///
    /// # Errors
    /// The system's; those of one connection pass, a lack of descriptors may not.
    pub async fn accept(&self) -> io::Result<Socket> {
        let (stream, _) = self.listener.accept().await?;
        stream.set_nodelay(true)?;
        Ok(Socket { stream: Rc::new(stream) })
    }
}

/// A timer to the nanosecond, where the runtime's own knows milliseconds: a timerfd that the ring polls.
#[derive(Debug)]
pub struct Alarm {
    timer: TcpStream,
}

impl Alarm {
    /// A timer of the calling thread.
    ///
    /// # Errors
    /// The system's.
    pub fn new() -> io::Result<Self> {
        // SAFETY: the call takes no memory; what it returns is checked before it is used.
        let fd =
            unsafe { libc::timerfd_create(libc::CLOCK_MONOTONIC, libc::TFD_NONBLOCK | libc::TFD_CLOEXEC) };
        Ok(Self { timer: poll_descriptor(fd)? })
    }

    /// Waits until [`now_ns`](crate::sys::now_ns) has reached `deadline_ns`.
    ///
    /// # Errors
    /// The system's.
    pub async fn wait_until(&self, deadline_ns: u64) -> io::Result<()> {
        // Setting a timer again forgets that it fired, so it never has to be read.
        let at = libc::itimerspec {
            it_interval: libc::timespec { tv_sec: 0, tv_nsec: 0 },
            it_value: libc::timespec {
                tv_sec: (deadline_ns / 1_000_000_000).cast_signed(),
                // A time of zero would disarm it.
                tv_nsec: (deadline_ns % 1_000_000_000).max(1).cast_signed(),
            },
        };
        let fd = self.timer.as_raw_fd();
        // SAFETY: the descriptor is a timerfd that `self` keeps open, `at` is a valid itimerspec, and a null pointer says
        // that the old setting is not wanted.
        let set = unsafe {
            libc::timerfd_settime(fd, libc::TFD_TIMER_ABSTIME, &raw const at, std::ptr::null_mut())
        };
        if set != 0 {
            return Err(io::Error::last_os_error());
        }
        self.timer.readable(false).await
    }
}

/// Lets the thread's other tasks and its sockets have a turn: a wait on something that is always there. A task that woke
/// itself would be run again before anything was read.
#[derive(Debug)]
pub struct Turn {
    always: TcpStream,
}

impl Turn {
    /// A turnstile of the calling thread.
    ///
    /// # Errors
    /// The system's.
    pub fn new() -> io::Result<Self> {
        // SAFETY: the call takes no memory; what it returns is checked before it is used. Its count of one is never
        // read, so that the descriptor is readable for ever.
        let fd = unsafe { libc::eventfd(1, libc::EFD_NONBLOCK | libc::EFD_CLOEXEC) };
        Ok(Self { always: poll_descriptor(fd)? })
    }

    /// One turn of the thread's loop.
    ///
    /// # Errors
    /// The system's.
    pub async fn pass(&self) -> io::Result<()> {
        self.always.readable(false).await
    }
}

/// Makes a descriptor that can be polled known to the runtime. monoio has no type for a bare one; a stream that is only
/// ever asked for its readiness, and that closes the descriptor, is the same thing.
fn poll_descriptor(fd: RawFd) -> io::Result<TcpStream> {
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor was just made by the caller, is open, and belongs to nobody else.
    let owned = unsafe { OwnedFd::from_raw_fd(fd) };
    TcpStream::from_std(owned.into())
}
