//! Direct, non-blocking calls on sockets. Nothing here waits.
use rustix::net::sockopt;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, Shutdown, SocketFlags, SocketType};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};

/// What a non-blocking transfer did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Moved {
    /// This many bytes; 0 when reading means that the peer closed its side.
    Bytes(usize),
    /// Nothing: wait for readiness.
    NotReady,
    /// The connection is gone.
    Broken,
}

/// Reads what is there into `buf`.
pub(crate) fn receive(socket: impl AsFd, buf: &mut [u8]) -> Moved {
    match rustix::net::recv(socket, buf, RecvFlags::DONTWAIT) {
        Ok((_, bytes)) => Moved::Bytes(bytes),
        Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => Moved::NotReady,
        Err(_) => Moved::Broken,
    }
}

/// Has the peer of an idle connection closed it, or spoken out of turn? Either way it is of no use any more.
pub(crate) fn is_stale(socket: impl AsFd) -> bool {
    let mut byte = [0u8; 1];
    let peeked = rustix::net::recv(socket, &mut byte[..], RecvFlags::DONTWAIT | RecvFlags::PEEK);
    !matches!(peeked, Err(rustix::io::Errno::AGAIN))
}

/// Writes as much as the socket takes.
pub(crate) fn send(socket: impl AsFd, bytes: &[u8]) -> Moved {
    match rustix::net::send(socket, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
        Ok(bytes) => Moved::Bytes(bytes),
        Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => Moved::NotReady,
        Err(_) => Moved::Broken,
    }
}

/// Ends both directions: whoever waits for the socket wakes and reads an end.
pub(crate) fn shut(socket: impl AsFd) {
    // A socket that is already gone needs no shutting.
    let _ = rustix::net::shutdown(socket, Shutdown::Both);
}

/// Ends our direction, so that the peer reads all that was sent before it reads the end.
pub(crate) fn shut_write(socket: impl AsFd) {
    let _ = rustix::net::shutdown(socket, Shutdown::Write);
}

/// Begins to connect; true if that was all.
///
/// # Errors
/// The kernel's word.
pub(crate) fn start_connect(to: SocketAddr) -> io::Result<(OwnedFd, bool)> {
    let fd = new_socket(to)?;
    sockopt::set_tcp_nodelay(&fd, true)?;
    match rustix::net::connect(&fd, &to) {
        Ok(()) => Ok((fd, true)),
        Err(rustix::io::Errno::INPROGRESS) => Ok((fd, false)),
        Err(errno) => Err(errno.into()),
    }
}

/// How a connect that was waited for ended.
///
/// # Errors
/// Why it failed.
pub(crate) fn connect_result(socket: impl AsFd) -> io::Result<()> {
    sockopt::socket_error(socket)?.map_err(Into::into)
}

/// A listening socket of one thread; the kernel spreads connections over all that listen on the same address.
///
/// # Errors
/// The kernel's word: the address is in use, or not ours.
pub(crate) fn listen(on: SocketAddr, backlog: i32) -> io::Result<OwnedFd> {
    let fd = new_socket(on)?;
    sockopt::set_socket_reuseaddr(&fd, true)?;
    sockopt::set_socket_reuseport(&fd, true)?;
    rustix::net::bind(&fd, &on)?;
    rustix::net::listen(&fd, backlog)?;
    Ok(fd)
}

/// Is this address free? Listening with others on one address is how our threads share it; another process's gateway
/// must not join them unnoticed.
///
/// # Errors
/// The kernel's word: the address is in use, or not ours.
pub(crate) fn probe(on: SocketAddr) -> io::Result<()> {
    let fd = new_socket(on)?;
    sockopt::set_socket_reuseaddr(&fd, true)?;
    rustix::net::bind(&fd, &on)?;
    rustix::net::listen(&fd, 1)?;
    Ok(())
}

/// The address that a listener got, which differs from the one asked for when that had port 0.
///
/// # Errors
/// The kernel's word.
pub(crate) fn local_address(socket: impl AsFd) -> io::Result<SocketAddr> {
    SocketAddr::try_from(rustix::net::getsockname(socket)?)
        .map_err(|_| io::ErrorKind::AddrNotAvailable.into())
}

/// The address of a socket that listens.
///
/// # Errors
/// It is none, or does not.
pub(crate) fn listening_address(socket: impl AsFd) -> io::Result<SocketAddr> {
    if !sockopt::socket_acceptconn(socket.as_fd())? {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "a socket that does not listen"));
    }
    local_address(socket)
}

/// Makes a descriptor that another program passed what ours are: it never blocks, and goes to no child.
///
/// # Errors
/// The kernel's word.
pub(crate) fn make_ours(socket: impl AsFd) -> io::Result<()> {
    rustix::io::ioctl_fionbio(socket.as_fd(), true)?;
    rustix::io::fcntl_setfd(socket, rustix::io::FdFlags::CLOEXEC)?;
    Ok(())
}

/// Takes one connection off a listener; `None` when none waits.
///
/// # Errors
/// The kernel's word: out of descriptors, for one.
pub(crate) fn accept(listener: impl AsFd) -> io::Result<Option<(OwnedFd, SocketAddr)>> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    match rustix::net::acceptfrom_with(listener, flags) {
        Ok((fd, from)) => {
            let peer = from.and_then(|from| SocketAddr::try_from(from).ok());
            // RFC 896 against token streams: without this each piece waits for the last one's acknowledgement.
            sockopt::set_tcp_nodelay(&fd, true)?;
            Ok(peer.map(|peer| (fd, peer)))
        }
        Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR | rustix::io::Errno::CONNABORTED) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

fn new_socket(for_address: SocketAddr) -> io::Result<OwnedFd> {
    let family = if for_address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    Ok(rustix::net::socket_with(family, SocketType::STREAM, flags, None)?)
}
