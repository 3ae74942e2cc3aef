//! Whether this machine allows what a run needs, asked before anything is sent: descriptors, and local ports towards the
//! gateway. A run that lacks them would fail in its middle, and be read as the gateway's failure. Reads `/proc`; changes
//! nothing.

use std::fmt;
use std::fs;
use std::net::{IpAddr, SocketAddr};

use crate::run::Settings;
use crate::scenario::Kind;
use crate::sys;

/// Descriptors of the program itself: standard streams, results, what `/proc` is read through.
const OWN_DESCRIPTORS: u64 = 32;

/// Descriptors of a thread: its ring, its timers, the pipes that wake it.
const LANE_DESCRIPTORS: u64 = 8;

/// Connections that a gateway may open to the simulators of platforms in this process.
const SIMULATOR_DESCRIPTORS: u64 = 256;

/// The lowest port that needs no privilege: the local range can begin there at the earliest.
const PORT_MIN: u64 = 1024;
const PORT_MAX: u64 = 65_535;

/// For how long a port waits after its connection was closed.
const TIME_WAIT_SECONDS: u64 = 60;

/// `TIME_WAIT` in `/proc/net/tcp`.
const TIME_WAIT: &str = "06";

/// What a run needs of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Needs {
    /// Open descriptors.
    pub descriptors: u64,
    /// Local ports towards the gateway.
    pub ports: u64,
    /// Connections that are opened and closed again in a second, and for how many seconds: each leaves its port waiting.
    pub passing: u64,
    /// See `passing`.
    pub seconds: u64,
}

impl Needs {
    /// Of these settings.
    #[must_use]
    pub fn of(settings: &Settings) -> Self {
        let mut ports = 0;
        let mut simulators = 0;
        let mut passing = 0;
        let weights: u32 = settings.scenario.parts().iter().map(|part| part.weight).sum();
        for part in settings.scenario.parts() {
            let connections = match part.kind {
                // Sessions share connections, and no connection is without one.
                Kind::WsChat | Kind::WsStream => settings.connections.min(settings.sessions),
                Kind::Rest | Kind::SseStream | Kind::Churn | Kind::WebhookTelegram | Kind::WebhookSigned => {
                    settings.connections
                }
            };
            if part.kind == Kind::Churn {
                passing += (settings.rate * f64::from(part.weight) / f64::from(weights)).ceil() as u64;
            }
            ports += u64::from(connections);
            if part.kind.is_webhook() {
                simulators += SIMULATOR_DESCRIPTORS;
            }
        }
        let lanes = u64::from(settings.threads) * LANE_DESCRIPTORS;
        let seconds = settings.window().end.div_ceil(1_000_000_000);
        Self { descriptors: OWN_DESCRIPTORS + lanes + ports + simulators, ports, passing, seconds }
    }
}

/// What the machine allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Descriptors that this process may open, and those that are open already.
    pub descriptors: u64,
    /// See `descriptors`.
    pub open: u64,
    /// What `ulimit -n` may be set to at most (`fs.nr_open`).
    pub descriptors_ceiling: u64,
    /// The local ports that the kernel gives out, first and last.
    pub ports: [u64; 2],
    /// Of these, those that go to this gateway already, from whichever process.
    pub ports_taken: u64,
    /// And those that went there and wait for a minute (`TIME_WAIT`), where the kernel does not use them again before.
    pub ports_waiting: u64,
    /// Whether it does, a second after they were closed.
    pub is_reused: bool,
}

impl Limits {
    /// Of this machine and process, towards this gateway. What the kernel does not tell counts as no limit.
    #[must_use]
    pub fn read(target: SocketAddr) -> Self {
        let text = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let number = |path: &str| text(path).trim().parse().ok();
        let is_local = target.ip().to_canonical().is_loopback();
        let [taken, waiting] = match target.ip().to_canonical() {
            IpAddr::V4(_) => count_towards(&text("/proc/net/tcp"), target),
            IpAddr::V6(_) => count_towards(&text("/proc/net/tcp6"), target),
        };
        // 1: waiting ports are used again; 2: on loopback alone, which is what kernels begin with.
        let is_reused = match number("/proc/sys/net/ipv4/tcp_tw_reuse") {
            Some(0) | None => false,
            Some(2) => is_local,
            Some(1_u64..) => true,
        };
        Self {
            descriptors: sys::raise_descriptor_limit().unwrap_or(u64::MAX),
            open: fs::read_dir("/proc/self/fd").map_or(0, |open| open.count() as u64),
            descriptors_ceiling: number("/proc/sys/fs/nr_open").unwrap_or(u64::MAX),
            ports: read_range(&text("/proc/sys/net/ipv4/ip_local_port_range")),
            ports_taken: taken,
            ports_waiting: if is_reused { 0 } else { waiting },
            is_reused,
        }
    }

    fn ports_free(&self) -> u64 {
        let [first, last] = self.ports;
        (last + 1).saturating_sub(first).saturating_sub(self.ports_taken + self.ports_waiting)
    }
}

fn read_range(text: &str) -> [u64; 2] {
    let mut ends = text.split_whitespace().filter_map(|end| end.parse().ok());
    [ends.next().unwrap_or(PORT_MIN), ends.next().unwrap_or(PORT_MAX)]
}

/// How many sockets of a table of the kernel go to this address: those in use, and those that wait.
fn count_towards(table: &str, target: SocketAddr) -> [u64; 2] {
    let remote = in_table(target);
    let mut counts = [0, 0];
    for line in table.lines().skip(1) {
        let mut fields = line.split_whitespace().skip(2);
        if fields.next() == Some(&remote) {
            counts[usize::from(fields.next() == Some(TIME_WAIT))] += 1;
        }
    }
    counts
}

/// An address as `/proc/net/tcp` writes it: words of 32 bits in the machine's own order.
fn in_table(address: SocketAddr) -> String {
    let word = |bytes: &[u8]| {
        let word = <[u8; 4]>::try_from(bytes).map_or(0, u32::from_ne_bytes);
        format!("{word:08X}")
    };
    let words: String = match address.ip().to_canonical() {
        IpAddr::V4(ip) => word(&ip.octets()),
        IpAddr::V6(ip) => ip.octets().chunks(4).map(word).collect(),
    };
    format!("{words}:{:04X}", address.port())
}

/// What a run needs and the machine does not allow, and what to set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lack {
    /// So many descriptors are needed, those that are open already included.
    Descriptors {
        /// Needed.
        needed: u64,
        /// Allowed.
        allowed: u64,
        /// What can be allowed without `fs.nr_open`.
        ceiling: u64,
    },
    /// So many local ports.
    Ports {
        /// Needed.
        needed: u64,
        /// What the machine has.
        limits: Limits,
    },
}

/// Checks the one against the other.
///
/// # Errors
/// What is missing.
pub fn check(needs: &Needs, limits: &Limits) -> Result<(), Lack> {
    let needed = needs.descriptors + limits.open;
    if limits.descriptors < needed {
        let (allowed, ceiling) = (limits.descriptors, limits.descriptors_ceiling);
        return Err(Lack::Descriptors { needed, allowed, ceiling });
    }
    let waits = if limits.is_reused { 1 } else { needs.seconds.min(TIME_WAIT_SECONDS) };
    let ports = needs.ports + needs.passing * waits;
    if limits.ports_free() < ports {
        return Err(Lack::Ports { needed: ports, limits: *limits });
    }
    Ok(())
}

impl fmt::Display for Lack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Descriptors { needed, allowed, ceiling } => {
                write!(f, "the run needs {needed} descriptors, and this process may open {allowed}; set ")?;
                if ceiling < needed {
                    write!(f, "`sysctl -w fs.nr_open={needed}`, then ")?;
                }
                write!(
                    f,
                    "`ulimit -n {needed}` (beyond the hard limit as root), or ask for fewer --connections"
                )
            }
            Self::Ports { needed, limits } => {
                let [first, last] = limits.ports;
                write!(
                    f,
                    "the run needs {needed} local ports, and {} are free towards this gateway: of {first} to {last}, {} \
                     are in use and {} in TIME_WAIT; ",
                    limits.ports_free(),
                    limits.ports_taken,
                    limits.ports_waiting,
                )?;
                let reachable = PORT_MAX + 1 - PORT_MIN;
                if needed + limits.ports_taken + limits.ports_waiting <= reachable {
                    let range = format!("net.ipv4.ip_local_port_range=\"{PORT_MIN} {PORT_MAX}\"");
                    return write!(f, "set `sysctl -w {range}`, or ask for less");
                }
                if needed + limits.ports_taken <= reachable {
                    let range = format!("net.ipv4.ip_local_port_range=\"{PORT_MIN} {PORT_MAX}\"");
                    return write!(
                        f,
                        "set `sysctl -w {range} net.ipv4.tcp_tw_reuse=1`, or wait for a minute"
                    );
                }
                write!(f, "one address has {reachable} ports at most: ask for fewer --connections")
            }
        }
    }
}

impl std::error::Error for Lack {}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const ROOMY: Limits = Limits {
        descriptors: 1_000_000,
        open: 10,
        descriptors_ceiling: 1_048_576,
        ports: [32_768, 60_999],
        ports_taken: 0,
        ports_waiting: 0,
        is_reused: false,
    };
    const NONE: Needs = Needs { descriptors: 0, ports: 0, passing: 0, seconds: 0 };

    fn told(needs: Needs, limits: Limits) -> String {
        check(&needs, &limits).unwrap_err().to_string()
    }

    #[test]
    fn what_fits_is_let_through_and_one_more_is_not() {
        assert_eq!(check(&Needs { descriptors: 999_990, ports: 28_232, ..NONE }, &ROOMY), Ok(()));
        let one_more = told(Needs { descriptors: 999_991, ports: 0, ..NONE }, ROOMY);
        assert!(one_more.contains("`ulimit -n 1000001`") && !one_more.contains("nr_open"), "{one_more}");
        let one_more = told(Needs { descriptors: 0, ports: 28_233, ..NONE }, ROOMY);
        assert!(one_more.contains("ip_local_port_range=\"1024 65535\""), "{one_more}");
    }

    #[test]
    fn beyond_what_the_system_can_be_set_to_there_is_another_way() {
        let many = told(Needs { descriptors: 2_000_000, ports: 0, ..NONE }, ROOMY);
        assert!(many.contains("fs.nr_open=2000010"), "{many}");
        let waiting = Limits { ports_taken: 1_000, ports_waiting: 20_000, ..ROOMY };
        assert!(
            told(Needs { descriptors: 0, ports: 30_000, ..NONE }, waiting).contains("20000 in TIME_WAIT")
        );
        assert!(told(Needs { descriptors: 0, ports: 50_000, ..NONE }, waiting).contains("tcp_tw_reuse"));
        assert!(
            told(Needs { descriptors: 0, ports: 64_000, ..NONE }, waiting).contains("fewer --connections")
        );
    }

    #[test]
    fn connections_that_pass_leave_their_ports_waiting() {
        let churn = Needs { ports: 100, passing: 1_000, seconds: 10, ..NONE };
        assert_eq!(check(&churn, &ROOMY), Ok(()));
        let longer = Needs { seconds: 30, ..churn };
        assert!(told(longer, ROOMY).contains("needs 30100 local ports"));
        assert_eq!(check(&longer, &Limits { is_reused: true, ..ROOMY }), Ok(()));
    }

    #[test]
    fn the_kernels_table_is_read_for_one_gateway() {
        let target: SocketAddr = "127.0.0.1:8787".parse().unwrap();
        let remote = in_table(target);
        let other = in_table("127.0.0.1:8788".parse().unwrap());
        let line = |remote: &str, state: &str| format!("   0: 0100007F:9999 {remote} {state} 0:0 0:0 0 0\n");
        let table = format!(
            "  sl  local_address rem_address   st\n{}{}{}{}",
            line(&remote, "01"),
            line(&remote, "06"),
            line(&remote, "06"),
            line(&other, "01"),
        );
        assert_eq!(count_towards(&table, target), [1, 2]);
        assert_eq!(read_range("32768\t60999\n"), [32_768, 60_999]);
    }

    /// The format is the kernel's, so that a real connection has to be found in it.
    #[test]
    fn a_connection_of_this_process_is_counted() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let target = listener.local_addr().unwrap();
        assert_eq!(Limits::read(target).ports_taken, 0);
        let _client = std::net::TcpStream::connect(target).unwrap();
        let limits = Limits::read(target);
        assert_eq!(limits.ports_taken, 1);
        assert!(3 <= limits.open && limits.open < limits.descriptors);
    }
}
