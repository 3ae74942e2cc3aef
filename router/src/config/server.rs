//! The listeners and the threads behind them: section `server`.
use core::net::SocketAddr;
use core::time::Duration;
use std::path::PathBuf;

/// The listeners and the threads behind them.
#[derive(Clone, Debug, PartialEq)]
pub struct Server {
    /// Where it listens; never empty.
    pub listen: Vec<SocketAddr>,
    /// The certificate, if the listeners speak TLS.
    pub tls: Option<Tls>,
    /// Keys may travel over listeners without TLS that others can reach.
    pub insecure: bool,
    /// Browser origins beside our own that may use the API, as `https://chat.example.com`.
    pub origins: Vec<String>,
    /// Host names that requests may name; empty for the loopback names and the addresses in `listen`.
    pub hosts: Vec<String>,
    /// Threads, each with its own listener; 0 for one per core.
    pub shards: u16,
    /// Each thread stays on one core.
    pub pin: bool,
    /// How the kernel is asked for work.
    pub driver: Driver,
    /// How long a shutdown waits for what runs.
    pub drain_age_max: Duration,
}

/// A certificate and its key; both files existed when the configuration was read.
#[derive(Clone, Debug, PartialEq)]
pub struct Tls {
    /// PEM: the certificate, then its chain.
    pub cert: PathBuf,
    /// PEM: the private key.
    pub key: PathBuf,
}

/// How the kernel is asked for work.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Driver {
    /// io_uring where the kernel allows it, else epoll.
    #[default]
    Auto,
    /// io_uring, or the start is refused.
    IoUring,
    /// epoll.
    Epoll,
}
