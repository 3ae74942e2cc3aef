//! The configuration: one file, read once, checked whole, resolved to plain values. It obeys `router/docs/configuration.md`.
//!
//! It reads files and the environment, and nothing else: it opens no socket, and never changes the environment.
pub mod agents;
pub mod channels;
pub mod diagnostic;
pub mod keys;
pub mod limits;
pub mod models;
pub mod route;
pub mod secret;
pub mod server;

use diagnostic::Diagnostic;
use std::path::{Path, PathBuf};

/// The configuration in force. Ids of agents and models index the vectors, which are sorted by name.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The file it came from; `None` for the built-in one.
    pub file: Option<PathBuf>,
    /// The listeners and the threads behind them.
    pub server: server::Server,
    /// Who may use the API. Empty: everyone who reaches it, which then is loopback only.
    pub keys: Vec<keys::Key>,
    /// How often, where a key does not say.
    pub rates: keys::Rates,
    /// Every bound.
    pub limits: limits::Limits,
    /// The upstreams that can be called; never empty.
    pub models: Vec<models::Model>,
    /// Who answers; never empty.
    pub agents: Vec<agents::Agent>,
    /// Which of them.
    pub route: route::Route,
    /// The platforms that are enabled.
    pub channels: Vec<channels::Channel>,
    /// What is written to standard error.
    pub logging: Logging,
    /// What a careful person would change.
    pub warnings: Vec<Diagnostic>,
}

/// What is written to standard error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Logging {
    /// The least important that is written.
    pub level: Level,
    /// How.
    pub format: Format,
}

/// How important a line is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Something is lost or broken.
    Error,
    /// Something may be soon.
    Warn,
    /// What an operator wants to know.
    Info,
    /// What a developer wants to know.
    Debug,
    /// Every message.
    Trace,
}

/// How lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// What the command line says in place of the file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overrides {
    /// `--listen`, each.
    pub listen: Vec<String>,
    /// `--shards`.
    pub shards: Option<u16>,
    /// `--driver`.
    pub driver: Option<server::Driver>,
}

impl Config {
    /// Finds the file: the one named, else `CLAWGATE_CONFIG`, else `./clawgate.json` if it exists, else none.
    #[must_use]
    pub fn locate(named: Option<&Path>) -> Option<PathBuf> {
        if let Some(path) = named {
            return Some(path.to_path_buf());
        }
        if let Some(path) = std::env::var_os("CLAWGATE_CONFIG").filter(|path| !path.is_empty()) {
            return Some(PathBuf::from(path));
        }
        let here = PathBuf::from("clawgate.json");
        here.exists().then_some(here)
    }
}
