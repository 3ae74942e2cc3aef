//! The listening sockets of the process: bound, or taken over from whoever had them before, and spread over the threads.
//!
//! A listening socket that is closed resets the connections that wait in it. So all that came from another process are
//! accepted from, however many threads there are: with fewer than before a thread has several, with more the others get
//! new ones beside them.
use crate::helm::timespec;
use crate::net;
use crate::takeover::Listener;
use rustix::event::poll;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::os::fd::{BorrowedFd, FromRawFd as _, OwnedFd, RawFd};
use std::time::Duration;

/// Connections that the kernel holds for us until we accept them, per listener.
const BACKLOG: i32 = 4_096;
/// How often a taken address is looked at again before it counts as in use, and the wait between: a second in all.
const PROBES_MAX: u32 = 50;
const PROBE_WAIT: Duration = Duration::from_millis(20);
/// The descriptors that systemd passes begin here.
const ACTIVATED_FIRST: RawFd = 3;
/// Names the descriptors of listeners that a process passes to itself when it begins anew.
pub(crate) const INHERITED_VARIABLE: &str = "CLAWGATE_LISTENERS";

/// All listeners.
#[derive(Debug)]
pub(crate) struct Sockets {
    /// Our handles of them, each once: what another process would be given.
    pub(crate) all: Vec<Listener>,
    /// Where we listen, in the order of the configuration.
    pub(crate) bound: Vec<SocketAddr>,
    /// What each thread accepts from.
    pub(crate) by_thread: Vec<Vec<OwnedFd>>,
    /// Listeners of addresses that are not wanted any more: what waits in them is answered, then they are closed.
    pub(crate) retired: Vec<Listener>,
}

impl Sockets {
    /// One listener per address and thread, out of `inherited` as far as there are any. All are there before any is
    /// accepted from, so that a bad address stops the start.
    ///
    /// # Errors
    /// An address is in use or not ours, in words for the operator.
    pub(crate) fn gather(
        wanted: &[SocketAddr],
        inherited: Vec<Listener>,
        cores: u16,
    ) -> Result<Self, String> {
        let cores = usize::from(cores.max(1));
        let mut groups = BTreeMap::<SocketAddr, Vec<OwnedFd>>::new();
        for (address, listener) in inherited {
            groups.entry(address).or_default().push(listener);
        }
        let mut sockets = Self {
            all: Vec::new(),
            bound: Vec::new(),
            by_thread: (0..cores).map(|_| Vec::new()).collect(),
            retired: Vec::new(),
        };
        let mut taken: Vec<Option<(SocketAddr, Vec<OwnedFd>)>> =
            wanted.iter().map(|address| groups.remove_entry(address)).collect();
        for (wanted, taken) in wanted.iter().zip(&mut taken) {
            // Port 0 means any: the one that was got before is as good.
            if taken.is_none() && wanted.port() == 0 {
                let found = groups.keys().find(|address| address.ip() == wanted.ip()).copied();
                *taken = found.and_then(|address| groups.remove_entry(&address));
            }
        }
        for (wanted, taken) in wanted.iter().zip(taken) {
            let bad = |why: std::io::Error| {
                format!(
                    "cannot listen on {wanted}: {why}; is it in use? Another one can be given with --listen"
                )
            };
            match taken {
                None => sockets.bind(*wanted, cores).map_err(bad)?,
                Some((address, listeners)) => sockets.adopt(address, listeners, cores).map_err(bad)?,
            }
        }
        sockets.retired =
            groups.into_iter().flat_map(|(at, group)| group.into_iter().map(move |fd| (at, fd))).collect();
        Ok(sockets)
    }

    fn bind(&mut self, address: SocketAddr, cores: usize) -> std::io::Result<()> {
        // Listening with others on one address is how our threads share it; another process's gateway must not join.
        probe(address)?;
        let mut address = address;
        for core in 0..cores {
            let listener = net::listen(address, BACKLOG)?;
            // Port 0 means any: all threads listen on the one that the first got.
            address = net::local_address(&listener)?;
            self.give(core, address, listener)?;
        }
        self.bound.push(address);
        Ok(())
    }

    fn adopt(&mut self, address: SocketAddr, listeners: Vec<OwnedFd>, cores: usize) -> std::io::Result<()> {
        let count = listeners.len();
        let first = self.all.len();
        for (at, listener) in listeners.into_iter().enumerate() {
            self.give(at % cores, address, listener)?;
        }
        for core in count..cores {
            match net::listen(address, BACKLOG) {
                Ok(listener) => self.give(core, address, listener)?,
                // One that was not made to be shared by address is shared by handle.
                Err(_) => {
                    let shared = self.all[first + core % count].1.try_clone()?;
                    self.by_thread[core].push(shared);
                }
            }
        }
        self.bound.push(address);
        Ok(())
    }

    fn give(&mut self, core: usize, address: SocketAddr, listener: OwnedFd) -> std::io::Result<()> {
        self.by_thread[core].push(listener.try_clone()?);
        self.all.push((address, listener));
        Ok(())
    }
}

/// Is this address free, or soon? A gateway that was killed may hold it after its end: the kernel lets go of a dead
/// ring's sockets in its own time.
fn probe(address: SocketAddr) -> std::io::Result<()> {
    for _ in 0..PROBES_MAX {
        match net::probe(address) {
            Err(why) if why.kind() == std::io::ErrorKind::AddrInUse => {
                // A wait, on nothing; one that is interrupted is a shorter one.
                let _ = poll(&mut [], Some(&timespec(PROBE_WAIT)));
            }
            done => return done,
        }
    }
    net::probe(address)
}

/// The listeners that this process was started with: by systemd ("socket activation", sd_listen_fds(3)), or by itself.
///
/// # Errors
/// A descriptor is none, or does not listen.
pub(crate) fn inherited() -> Result<Vec<Listener>, String> {
    let variable = |name| std::env::var(name).unwrap_or_default();
    let ours = variable("LISTEN_PID") == std::process::id().to_string();
    let count: RawFd = if ours { variable("LISTEN_FDS").parse().unwrap_or(0) } else { 0 };
    let own = variable(INHERITED_VARIABLE);
    let own = own.split(',').filter(|number| !number.is_empty()).map(str::parse::<RawFd>);
    let activated = (ACTIVATED_FIRST..ACTIVATED_FIRST.saturating_add(count)).map(Ok);
    let mut listeners = Vec::new();
    for number in activated.chain(own) {
        let bad =
            |why: &dyn std::fmt::Display| format!("a socket that we were started with is of no use: {why}");
        let number = number.map_err(|why| bad(&why))?;
        if number < ACTIVATED_FIRST {
            return Err(bad(&"its number is that of a standard stream"));
        }
        // SAFETY: the descriptor is only looked at here; a number that is not open is refused by the kernel.
        let seen = unsafe { BorrowedFd::borrow_raw(number) };
        let address = net::listening_address(seen).map_err(|why| bad(&why))?;
        // SAFETY: it is open, and whoever started us passed it for us to have; nothing else here took it.
        let listener = unsafe { OwnedFd::from_raw_fd(number) };
        net::make_ours(&listener).map_err(|why| bad(&why))?;
        listeners.push((address, listener));
    }
    Ok(listeners)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::net::TcpStream;

    const ANY: ([u8; 4], u16) = ([127, 0, 0, 1], 0);

    fn any() -> SocketAddr {
        SocketAddr::from(ANY)
    }

    fn all_of(sockets: &Sockets) -> usize {
        sockets.by_thread.iter().map(Vec::len).sum()
    }

    /// Accepts from all that a process has; how many came.
    fn accepted(sockets: &Sockets) -> usize {
        let each = sockets.by_thread.iter().flatten();
        each.map(|listener| std::iter::from_fn(|| net::accept(listener).unwrap()).count()).sum()
    }

    /// From any number of threads to any other, connections wait for whoever comes, and none is lost.
    #[test]
    fn connections_wait_through_every_change_of_threads() {
        let mut sockets = Sockets::gather(&[any(), any()], Vec::new(), 2).unwrap();
        let bound = sockets.bound.clone();
        let mut clients = Vec::new();
        for (cores, listeners) in [(1, 4), (3, 6), (2, 6), (8, 16), (1, 16)] {
            clients.extend((0..40).map(|at| TcpStream::connect(bound[at % 2]).unwrap()));
            let Sockets { all, .. } = sockets;
            sockets = Sockets::gather(&[any(), any()], all, cores).unwrap();
            let mut now = sockets.bound.clone();
            now.sort_unstable();
            let mut before = bound.clone();
            before.sort_unstable();
            assert_eq!(now, before);
            assert_eq!((sockets.by_thread.len(), all_of(&sockets)), (usize::from(cores), listeners));
            assert!(sockets.by_thread.iter().all(|thread| 2 <= thread.len()), "each has both addresses");
            assert!(sockets.retired.is_empty());
            assert_eq!(accepted(&sockets), 40, "with {cores} threads");
        }
    }

    #[test]
    fn addresses_come_and_go() {
        let old = Sockets::gather(&[any()], Vec::new(), 2).unwrap();
        let (kept, client) = (old.bound[0], TcpStream::connect(old.bound[0]).unwrap());
        let new = Sockets::gather(&[any(), kept], old.all, 2).unwrap();
        assert_eq!(new.bound[1], kept);
        assert_ne!(new.bound[0], kept);
        assert_eq!((all_of(&new), new.retired.len()), (4, 0));
        let gone = Sockets::gather(&[new.bound[0]], new.all, 1).unwrap();
        assert_eq!((gone.bound.len(), gone.retired.len()), (1, 2));
        let waits: usize =
            gone.retired.iter().map(|(_, fd)| usize::from(net::accept(fd).unwrap().is_some())).sum();
        assert_eq!(waits, 1, "{client:?} waits to be answered");
    }

    /// A socket that was made without sharing in mind serves all threads all the same.
    #[test]
    fn one_that_cannot_be_shared_by_address_is_shared_by_handle() {
        let single = std::net::TcpListener::bind(any()).unwrap();
        single.set_nonblocking(true).unwrap();
        let address = single.local_addr().unwrap();
        let sockets = Sockets::gather(&[address], vec![(address, single.into())], 3).unwrap();
        assert_eq!((all_of(&sockets), sockets.all.len()), (3, 1));
        let _client = TcpStream::connect(address).unwrap();
        assert!(net::accept(&sockets.by_thread[2][0]).unwrap().is_some());
    }

    #[test]
    fn an_address_of_another_process_is_refused() {
        let first = Sockets::gather(&[any()], Vec::new(), 1).unwrap();
        let refused = Sockets::gather(&first.bound, Vec::new(), 1).unwrap_err();
        assert!(refused.contains(&first.bound[0].to_string()) && refused.contains("--listen"), "{refused}");
    }
}
