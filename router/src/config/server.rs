//! The listeners and the threads behind them: section `server`.
use super::keys::KeyEntry;
use super::path::Path;
use super::report::Report;
use super::seconds::Seconds;
use core::net::SocketAddr;
use core::time::Duration;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::path::{Path as FilePath, PathBuf};

/// The listeners and the threads behind them.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Server {
    /// Where it listens; never empty.
    pub(crate) listen: Vec<SocketAddr>,
    /// The certificate, if the listeners speak TLS.
    pub(crate) tls: Option<Tls>,
    /// Keys may travel over listeners without TLS that others can reach.
    pub(crate) insecure: bool,
    /// Browser origins beside our own that may use the API, as `https://chat.example.com`.
    pub(crate) origins: Vec<String>,
    /// Host names that requests may name, in lower case, beside `localhost` and IP addresses.
    pub(crate) hosts: Vec<String>,
    /// Threads, each with its own listener; 0 for one per core.
    pub(crate) shards: u16,
    /// Each thread stays on one core.
    pub(crate) pin: bool,
    /// How the kernel is asked for work.
    pub(crate) driver: Driver,
    /// How long a shutdown waits for what runs.
    pub(crate) drain_age_max: Duration,
    /// The files of the configuration are watched, and read again when they change.
    pub(crate) watch: bool,
}

/// A certificate and its key; both files existed when the configuration was read.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Tls {
    /// PEM: the certificate, then its chain.
    pub(crate) cert: PathBuf,
    /// PEM: the private key.
    pub(crate) key: PathBuf,
}

/// How the kernel is asked for work.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Driver {
    /// io_uring where the kernel allows it, else epoll.
    #[default]
    Auto,
    /// io_uring, or the start is refused.
    IoUring,
    /// epoll.
    Epoll,
}

/// The listeners and the threads behind them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct ServerSection {
    /// Where it listens: IP address and port. What others can reach needs `keys`, and `tls` or `insecure`.
    pub(super) listen: Vec<String>,
    /// The certificate, if the listeners speak TLS.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) tls: Option<TlsSection>,
    /// Keys may travel over listeners without TLS that others can reach: for a gateway behind a proxy that speaks TLS.
    pub(super) insecure: bool,
    /// Browser origins beside our own that may use the API, as `https://chat.example.com`.
    pub(super) origins: Vec<String>,
    /// Names under which the gateway is reached, as `chat.example.com`: requests that name another host are refused.
    /// `localhost` and IP addresses are always taken.
    pub(super) hosts: Vec<String>,
    /// Threads, each with its own part of the sessions. 0: one per core.
    #[schemars(range(min = 0, max = 1024))]
    pub(super) shards: u16,
    /// Each thread stays on one core.
    pub(super) pin: bool,
    /// How the kernel is asked for work.
    pub(super) driver: Driver,
    /// How long a shutdown waits for what runs.
    #[schemars(range(min = 0, max = 3600))]
    pub(super) drain_seconds: Seconds,
    /// The configuration is read again when it, its `.env` or a certificate changes. SIGHUP does that in any case.
    pub(super) watch: bool,
}

impl Default for ServerSection {
    fn default() -> Self {
        Self {
            listen: vec!["127.0.0.1:8787".to_owned()],
            tls: None,
            insecure: false,
            origins: Vec::new(),
            hosts: Vec::new(),
            shards: 0,
            pin: true,
            driver: Driver::Auto,
            drain_seconds: Seconds::whole(30),
            watch: true,
        }
    }
}

/// A certificate and its key, as PEM files. Paths are relative to the configuration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct TlsSection {
    /// The certificate, then its chain.
    pub(super) cert: String,
    /// The private key.
    pub(super) key: String,
}

impl ServerSection {
    /// Checks and resolves. `folder` is where relative paths begin.
    pub(super) fn resolve(&self, folder: &FilePath, keys: &[KeyEntry], report: &mut Report<'_>) -> Server {
        let at = Path::of("server");
        let listen = self.addresses(&at.key("listen"), report);
        let tls = self.tls.as_ref().map(|tls| tls.resolve(folder, &at.key("tls"), report));
        let has_keys = !keys.is_empty() || !report.is_empty_list(&Path::of("keys"));
        for (index, address) in listen.iter() {
            self.check_reach(*address, &at.key("listen").index(*index), has_keys, report);
        }
        for (index, origin) in self.origins.iter().enumerate() {
            check_origin(origin, &at.key("origins").index(index), report);
        }
        for (index, host) in self.hosts.iter().enumerate() {
            check_host(host, &at.key("hosts").index(index), report);
        }
        let is_far = |(_, address): &(usize, SocketAddr)| !address.ip().to_canonical().is_loopback();
        if has_keys
            && self.hosts.is_empty()
            && listen.iter().any(is_far)
            && !report.is_written(&at.key("hosts"))
        {
            let message = "others can reach the gateway, and requests that name a host will be refused";
            let help = "add the names by which it is reached: \"hosts\": [\"chat.example.com\"]; `[]` if there are none";
            report.warning(&at.key("hosts"), message, help);
        }
        Server {
            listen: listen.into_iter().map(|(_, address)| address).collect(),
            tls,
            insecure: self.insecure,
            origins: self.origins.iter().map(|origin| origin.to_ascii_lowercase()).collect(),
            hosts: self.hosts.iter().map(|host| host.to_ascii_lowercase()).collect(),
            shards: self.shards,
            pin: self.pin,
            driver: self.driver,
            drain_age_max: self.drain_seconds.duration(),
            watch: self.watch,
        }
    }

    fn addresses(&self, at: &Path, report: &mut Report<'_>) -> Vec<(usize, SocketAddr)> {
        if self.listen.is_empty() && !report.is_thinned(at) {
            report.error(at, "no address to listen on", "name at least one, as \"127.0.0.1:8787\"");
        }
        let mut addresses: Vec<(usize, SocketAddr)> = Vec::with_capacity(self.listen.len());
        for (index, text) in self.listen.iter().enumerate() {
            let at = at.index(index);
            let Ok(address) = text.parse::<SocketAddr>() else {
                let message = format!("{} is not an IP address and a port", report.quote(&at, text));
                let help = if report.is_filled(&at) { LISTEN_FORM.to_owned() } else { listen_help(text) };
                report.error(&at, message, help);
                continue;
            };
            // Port 0 asks the kernel for any, so it may come twice.
            if address.port() != 0 && addresses.iter().any(|(_, other)| *other == address) {
                report.error(&at, format!("{address} is listed twice"), "keep one of the two");
                continue;
            }
            addresses.push((index, address));
        }
        addresses
    }

    fn check_reach(&self, address: SocketAddr, at: &Path, has_keys: bool, report: &mut Report<'_>) {
        if address.ip().to_canonical().is_loopback() {
            return;
        }
        if !has_keys {
            report.error(
                at,
                format!("others can reach {address}, and there are no keys: anyone could use the gateway"),
                "add `keys`, or listen on 127.0.0.1 only",
            );
        } else if self.tls.is_none() && !self.insecure {
            report.error(
                at,
                format!("others can reach {address} without TLS: keys and messages could be read on the way"),
                "set `server.tls`; or, behind a proxy that speaks TLS, say so by `\"insecure\": true` in `server`",
            );
        }
    }
}

const LISTEN_FORM: &str = "write it as 127.0.0.1:8787 or [::1]:8787; a port is 0 to 65535";

fn listen_help(text: &str) -> String {
    let port = text.rsplit(':').next().unwrap_or_default().parse::<u16>();
    let host = text.rsplit_once(':').map_or("", |(host, _)| host);
    match (host, port) {
        _ if text.contains("://") => "leave out what stands before the address".to_owned(),
        ("" | "*", Ok(port)) => {
            format!("write 127.0.0.1:{port}, or 0.0.0.0:{port} for every address of the machine")
        }
        ("localhost", Ok(port)) => format!("write 127.0.0.1:{port} or [::1]:{port}"),
        (host, Ok(port)) if host.contains(':') && !host.starts_with('[') => format!("write [{host}]:{port}"),
        (_, Ok(port)) => format!("names are not looked up: write the IP address, as 127.0.0.1:{port}"),
        (_, Err(_)) => LISTEN_FORM.to_owned(),
    }
}

fn check_origin(origin: &str, at: &Path, report: &mut Report<'_>) {
    let rest = origin.strip_prefix("https://").or_else(|| origin.strip_prefix("http://"));
    if rest.is_none_or(|rest| rest.is_empty() || rest.contains(['/', '*', '@', ' ', '?', '#'])) {
        let message = format!("{} is not an origin", report.quote(at, origin));
        report.error(at, message, "write scheme and host as browsers send them: https://chat.example.com");
    }
}

fn check_host(host: &str, at: &Path, report: &mut Report<'_>) {
    let is_name = |name: &str| {
        !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-.".contains(&byte))
    };
    let is_address = |host: &str| {
        let inside = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        inside.is_some_and(|inside| inside.parse::<core::net::Ipv6Addr>().is_ok())
    };
    if !is_name(host) && !is_address(host) {
        let message = format!("{} is not a host name", report.quote(at, host));
        report.error(at, message, "write the name alone, without scheme, port or path: chat.example.com");
    }
}

impl TlsSection {
    fn resolve(&self, folder: &FilePath, at: &Path, report: &mut Report<'_>) -> Tls {
        let cert = pem_file(&self.cert, "CERTIFICATE-----", folder, &at.key("cert"), report);
        let key = pem_file(&self.key, "PRIVATE KEY-----", folder, &at.key("key"), report);
        Tls { cert, key }
    }
}

/// A PEM file that must be there and hold a section whose mark ends so. Its content is never shown.
pub(super) fn pem_file(
    name: &str,
    mark: &str,
    folder: &FilePath,
    at: &Path,
    report: &mut Report<'_>,
) -> PathBuf {
    let path = folder.join(name);
    match std::fs::read_to_string(&path) {
        Ok(text) if text.contains(mark) => {}
        Ok(_) => {
            let message = format!("{} has no PEM section `-----BEGIN … {mark}`", report.quote(at, name));
            report.error(at, message, "name a file in PEM form");
        }
        Err(error) => {
            let message = format!("{} cannot be read: {error}", report.quote(at, name));
            report.error(at, message, "paths are relative to the folder of the configuration");
        }
    }
    path
}
