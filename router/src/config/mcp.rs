//! Servers of tools: how an MCP server is started or reached, and the bounds in `limits.mcp`.
use super::path::Path;
use super::remote::{check_url, header_problem, is_open};
use super::report::Report;
use super::seconds::Seconds;
use super::secret::Secret;
use super::server::pem_file;
use super::tools::ToolEntry;
use crate::tools::address::Net;
use core::time::Duration;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::path::{Path as FilePath, PathBuf};

/// A server of tools. Two that are equal are one server, which a new configuration leaves running.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Mcp {
    /// How it is spoken to.
    pub(crate) way: Way,
    /// Its bounds.
    pub(crate) limits: Limits,
}

/// How a server is spoken to.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Way {
    /// By the standard input and output of a process that we start.
    Stdio(Stdio),
    /// By HTTP.
    Http(Http),
}

/// A process that we start.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Stdio {
    pub(crate) command: String,
    pub(crate) args: Vec<String>,
    /// What its environment has beside `PATH`, `HOME` and `LANG`.
    pub(crate) env: Vec<(String, Secret)>,
    /// The folder that it starts in.
    pub(crate) cwd: PathBuf,
    /// Bytes of its address space; 0 for as many as it wants.
    pub(crate) memory_bytes_max: u64,
    /// Descriptors that it may have open.
    pub(crate) descriptors_max: u32,
}

/// A server of somebody's.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Http {
    pub(crate) url: String,
    /// Further header fields; names are lower-case tokens.
    pub(crate) headers: Vec<(String, Secret)>,
    /// Addresses that may be connected to though they are not public.
    pub(crate) allowed: Vec<Net>,
    /// PEM: certificates to trust instead of the public ones.
    pub(crate) ca_file: Option<PathBuf>,
}

/// The bounds of servers of tools, of each of them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Limits {
    pub(crate) start_age_max: Duration,
    pub(crate) ping_every: Duration,
    pub(crate) restart_min: Duration,
    pub(crate) restart_max: Duration,
    pub(crate) tools_max: usize,
    pub(crate) description_bytes_max: usize,
    pub(crate) message_bytes_max: usize,
    pub(crate) messages_per_second: u32,
    pub(crate) calls_max: usize,
}

#[cfg(test)]
impl Limits {
    /// Chosen so that every one of them is reached.
    pub(crate) const TEST: Self = Self {
        start_age_max: Duration::from_secs(1),
        ping_every: Duration::from_secs(1),
        restart_min: Duration::from_millis(100),
        restart_max: Duration::from_secs(1),
        tools_max: 3,
        description_bytes_max: 5,
        message_bytes_max: 10,
        messages_per_second: 2,
        calls_max: 1,
    };
}

/// The bounds of servers of tools (MCP), of each of them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct LimitsSection {
    /// To start it, or to connect, and to list its tools.
    #[schemars(range(min = 0.1, max = 600))]
    start_seconds: Seconds,
    /// How often it is asked whether it lives while nothing is called, and how long it may take to say so.
    #[schemars(range(min = 0.1, max = 3_600))]
    ping_seconds: Seconds,
    /// How long until one that failed is started again, the first time; each time after that twice as long.
    #[schemars(range(min = 10, max = 3_600_000))]
    restart_min_millis: u32,
    /// The longest that this becomes.
    #[schemars(range(min = 10, max = 3_600_000))]
    restart_max_millis: u32,
    /// Tools that it may have; those that are more are left out.
    #[schemars(range(min = 1, max = 1_024))]
    tools_max: u16,
    /// Bytes of a tool's description that models are told; the rest is cut off.
    #[schemars(range(min = 16, max = 65_536))]
    description_bytes_max: u32,
    /// Bytes of one message that it sends; one that sends more is stopped and started again.
    #[schemars(range(min = 4_096, max = 67_108_864))]
    message_bytes_max: u32,
    /// Messages that it may send in a second, four times as many at once; one that sends more, or eight times
    /// `messageBytesMax` in a second, is stopped and started again.
    #[schemars(range(min = 10, max = 100_000))]
    messages_per_second_max: u32,
    /// Calls that it works on at once; those that are more are refused with `TOOL_UNAVAILABLE`.
    #[schemars(range(min = 1, max = 1_024))]
    calls_max: u16,
}

impl Default for LimitsSection {
    fn default() -> Self {
        Self {
            start_seconds: Seconds::whole(30),
            ping_seconds: Seconds::whole(30),
            restart_min_millis: 500,
            restart_max_millis: 60_000,
            tools_max: 128,
            description_bytes_max: 4_096,
            message_bytes_max: 4 << 20,
            messages_per_second_max: 1_000,
            calls_max: 32,
        }
    }
}

impl LimitsSection {
    /// Checks and resolves.
    pub(super) fn resolve(&self, report: &mut Report<'_>) -> Limits {
        let at = Path::of("limits").key("mcp");
        if self.restart_max_millis < self.restart_min_millis {
            let message = "it is less than `restartMinMillis`";
            report.error(&at.key("restartMaxMillis"), message, "raise it, or lower the other one");
        }
        let size = |count: u32| usize::try_from(count).unwrap_or(usize::MAX);
        Limits {
            start_age_max: self.start_seconds.duration(),
            ping_every: self.ping_seconds.duration(),
            restart_min: Duration::from_millis(self.restart_min_millis.into()),
            restart_max: Duration::from_millis(self.restart_max_millis.into()),
            tools_max: self.tools_max.into(),
            description_bytes_max: size(self.description_bytes_max),
            message_bytes_max: size(self.message_bytes_max),
            messages_per_second: self.messages_per_second_max,
            calls_max: self.calls_max.into(),
        }
    }
}

/// Keys of servers that are processes.
const STDIO: &[&str] = &["args", "env", "cwd", "memoryBytesMax", "descriptorsMax"];
/// Keys of servers that are reached by HTTP.
const HTTP: &[&str] = &["headers", "allowAddresses", "caFile"];
/// Keys of servers alone.
pub(super) const OWN: &[&str] = &["command", "args", "env", "cwd", "memoryBytesMax", "descriptorsMax"];

/// Descriptors that a process may have open if nothing is said.
const DESCRIPTORS_MAX: u32 = 1_024;

impl ToolEntry {
    /// Checks and resolves a server.
    pub(super) fn mcp(
        &self,
        limits: Limits,
        folder: &FilePath,
        at: &Path,
        report: &mut Report<'_>,
    ) -> Option<Mcp> {
        report.useless(at, &["description"], "is said by the server itself", "leave it out");
        report.useless(at, &["method", "parameters"], "is of no use to this type", "leave it out");
        let way = match (&self.command, &self.url) {
            (Some(command), None) => {
                report.useless(at, HTTP, "is of no use to a `command`", "leave it out");
                Way::Stdio(self.stdio(command, folder, at, report))
            }
            (None, Some(url)) => {
                report.useless(at, STDIO, "is of no use to a `url`", "leave it out");
                Way::Http(self.web(url, folder, at, report))
            }
            (Some(_), Some(_)) => {
                let help =
                    "keep `command` for a process that is started here, or `url` for a server that runs";
                report.error(&at.key("url"), "a server has a `command` or a `url`", help);
                return None;
            }
            (None, None) => {
                if !report.is_written(&at.key("command")) && !report.is_written(&at.key("url")) {
                    let help = "add \"command\": \"npx\" with its \"args\", or \"url\": \"https://host/mcp\"";
                    report.error(at, "a server has a `command` or a `url`", help);
                }
                return None;
            }
        };
        Some(Mcp { way, limits })
    }

    fn stdio(&self, command: &str, folder: &FilePath, at: &Path, report: &mut Report<'_>) -> Stdio {
        let is_text = |text: &str| !text.contains('\0');
        if command.trim().is_empty() || !is_text(command) {
            report.error(&at.key("command"), "this is no program", "name one, as \"npx\" or \"/opt/tool\"");
        }
        for (index, arg) in self.args.iter().enumerate().filter(|(_, arg)| !is_text(arg)) {
            let at = at.key("args").index(index);
            let message = format!("{} cannot be an argument", report.quote(&at, arg));
            report.error(&at, message, "leave the NUL character out");
        }
        for (name, value) in &self.env {
            if name.is_empty() || name.contains('=') || !is_text(name) || !is_text(value.expose()) {
                let at = at.key("env").key(name);
                report.error(&at, "an environment cannot hold this", "use a name without `=`, and no NUL");
            }
        }
        let cwd = self.cwd.as_ref().map_or_else(|| folder.to_owned(), |cwd| folder.join(cwd));
        if self.cwd.is_some() && !cwd.is_dir() {
            let help = "paths are relative to the folder of the configuration";
            report.error(&at.key("cwd"), "there is no such folder", help);
        }
        // Where the folder is not named, the configuration was found in the one that we run in.
        let cwd = if cwd.as_os_str().is_empty() { PathBuf::from(".") } else { cwd };
        Stdio {
            command: command.to_owned(),
            args: self.args.clone(),
            env: self.env.iter().map(|(name, value)| (name.clone(), value.clone())).collect(),
            cwd,
            memory_bytes_max: self.memory_bytes_max.unwrap_or(0),
            descriptors_max: self.descriptors_max.unwrap_or(DESCRIPTORS_MAX),
        }
    }

    fn web(&self, url: &str, folder: &FilePath, at: &Path, report: &mut Report<'_>) -> Http {
        let url = check_url(url, &at.key("url"), report);
        for (name, value) in &self.headers {
            if let Some((message, help)) = header_problem(name, value) {
                report.error(&at.key("headers").key(name), message, help);
            }
        }
        if !self.headers.is_empty() && is_open(&url) {
            let message = "the headers travel there without TLS";
            report.warning(&at.key("url"), message, "use https, or an address on this machine");
        }
        let mut allowed = self.allowed(&at.key("allowAddresses"), report);
        // Who writes an address means it.
        let host = url.parse::<http::Uri>().ok().and_then(|uri| uri.host().map(str::to_owned));
        let host = host.unwrap_or_default();
        let written = if host == "localhost" { &["127.0.0.0/8", "::1"][..] } else { &[host.as_str()] };
        allowed.extend(written.iter().filter_map(|host| host.trim_matches(['[', ']']).parse::<Net>().ok()));
        let headers = self.headers.iter().map(|(name, value)| (name.to_ascii_lowercase(), value.clone()));
        let ca_file = self.ca_file.as_ref();
        Http {
            url,
            headers: headers.collect(),
            allowed,
            ca_file: ca_file
                .map(|file| pem_file(file, "CERTIFICATE-----", folder, &at.key("caFile"), report)),
        }
    }
}
