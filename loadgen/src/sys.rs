//! What the operating system alone knows: the clock, the processor time of a thread, descriptor limits, the interrupt
//! key. Owns the `unsafe` of those calls and nothing else; sockets are `driver`'s.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};

/// Nanoseconds of the machine's monotonic clock (`CLOCK_MONOTONIC`): the same reading in every thread and process, which
/// is what lets a token's stamp, written by the provider simulator, be read by the generator.
#[inline]
#[must_use]
pub fn now_ns() -> u64 {
    read_clock(libc::CLOCK_MONOTONIC)
}

/// Nanoseconds since 1970 (`CLOCK_REALTIME`), as strace stamps what it sees.
#[must_use]
pub fn unix_ns() -> u64 {
    read_clock(libc::CLOCK_REALTIME)
}

/// Nanoseconds of processor time that the calling thread has used.
#[must_use]
pub fn thread_cpu_ns() -> u64 {
    read_clock(libc::CLOCK_THREAD_CPUTIME_ID)
}

#[inline]
fn read_clock(clock: libc::clockid_t) -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a valid place for one timespec, and both clocks exist on every Linux that we run on; were the
    // call to fail, the zero that is there already would be read.
    unsafe { libc::clock_gettime(clock, &raw mut time) };
    time.tv_sec.cast_unsigned() * 1_000_000_000 + time.tv_nsec.cast_unsigned()
}

/// Raises the limit of open descriptors to what the system allows this process, and tells what it is.
///
/// # Errors
/// The system's, if it does not say what the limit is.
pub fn raise_descriptor_limit() -> io::Result<u64> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is a valid place for one rlimit.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let raised = libc::rlimit { rlim_cur: limit.rlim_max, rlim_max: limit.rlim_max };
    // SAFETY: `raised` is a valid rlimit, and raising the soft limit to the hard one is always allowed.
    if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const raised) } == 0 {
        return Ok(raised.rlim_cur);
    }
    Ok(limit.rlim_cur)
}

/// Columns and rows of the terminal that the standard output is; `None` if it is none.
#[must_use]
pub fn terminal_size() -> Option<(u16, u16)> {
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: `size` is a valid place for the one winsize that this request writes.
    let told = unsafe { libc::ioctl(libc::STDOUT_FILENO, libc::TIOCGWINSZ, &raw mut size) };
    (told == 0 && size.ws_col != 0 && size.ws_row != 0).then_some((size.ws_col, size.ws_row))
}

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

extern "C" fn on_interrupt(_signal: libc::c_int) {
    INTERRUPTED.store(true, Ordering::Relaxed);
}

/// Makes the interrupt key and SIGTERM end a run early with its report; a second one ends the process.
pub fn watch_interrupt() {
    for signal in [libc::SIGINT, libc::SIGTERM] {
        // SAFETY: an all-zero sigaction is a valid one: no flags, no blocked signals.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        action.sa_sigaction = on_interrupt as *const () as usize;
        // SA_RESETHAND: the second signal finds the system's own handler, which ends the process.
        action.sa_flags = libc::SA_RESETHAND | libc::SA_RESTART;
        // SAFETY: `action` is valid, and the handler does nothing but store to an atomic, which is async-signal-safe.
        unsafe { libc::sigaction(signal, &raw const action, std::ptr::null_mut()) };
    }
}

/// Asks a process of ours to end (SIGTERM). One that is gone already needs no asking.
pub fn terminate(pid: u32) {
    if let Ok(pid) = libc::pid_t::try_from(pid) {
        // SAFETY: the call takes no memory. The pid is that of a child that was not waited for, so it is nobody else's.
        unsafe { libc::kill(pid, libc::SIGTERM) };
    }
}

/// A handle of a child of ours that was not waited for: whoever has it learns of the end without taking the child's status.
///
/// # Errors
/// The system's: a kernel before 5.3, or no descriptors.
pub fn watch_process(pid: u32) -> io::Result<OwnedFd> {
    // SAFETY: the call takes two numbers and touches no memory of ours.
    let handle = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    if handle < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel gave this descriptor to us just now, and it fits: descriptors are numbers of this type.
    Ok(unsafe { OwnedFd::from_raw_fd(handle as RawFd) })
}

/// Blocks until the process of this handle has ended, and tells when that was.
#[must_use]
pub fn wait_for_end(process: &OwnedFd) -> u64 {
    let mut watched = libc::pollfd { fd: process.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    loop {
        // SAFETY: `watched` is a valid place for the one entry that the call is told of.
        let count = unsafe { libc::poll(&raw mut watched, 1, -1) };
        // A wait that a signal cut short is begun again; for any other error there is nothing to wait for.
        if 0 <= count || io::Error::last_os_error().kind() != io::ErrorKind::Interrupted {
            return now_ns();
        }
    }
}

/// Whether the user asked to end the run.
#[inline]
#[must_use]
pub fn interrupted() -> bool {
    INTERRUPTED.load(Ordering::Relaxed)
}
