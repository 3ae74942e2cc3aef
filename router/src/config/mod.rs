//! The configuration: one file, read once, checked whole, resolved to plain values. It obeys `router/docs/configuration.md`.
//!
//! It reads files and the environment, and nothing else: it opens no socket, and never changes the environment.
//!
//! The way of a file: [`document`] makes text a tree with places, [`environment`] puts variables in, [`mod@schema`] finds
//! what does not fit, [`written`] is what fits, [`mod@expand`] fills in the short forms, and each section resolves itself
//! and says what contradicts. Problems gather in a [`report`], so that all are told at once.
pub(crate) mod agents;
pub(crate) mod changes;
pub(crate) mod channels;
mod criteria;
pub(crate) mod data;
pub(crate) mod diagnostic;
mod docs;
mod document;
mod environment;
mod expand;
pub(crate) mod journal;
pub(crate) mod keys;
pub(crate) mod limits;
mod mask;
pub(crate) mod mcp;
pub(crate) mod models;
pub(crate) mod outside;
mod path;
mod providers;
pub(crate) mod remote;
mod report;
pub(crate) mod route;
mod schema;
mod seconds;
pub(crate) mod secret;
pub(crate) mod server;
pub(crate) mod session;
pub(crate) mod store;
#[cfg(test)]
mod tests;
pub(crate) mod tools;
mod written;

pub(crate) use docs::{STARTER, docs};
pub(crate) use schema::schema;

use diagnostic::{Diagnostic, Place, Severity};
use environment::{DotenvProblem, Environment};
use report::Report;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::io::Read;
use std::path::{Path, PathBuf};
use written::File;

/// The configuration in force. Ids of agents and models index the vectors, which are sorted by name.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Config {
    /// The file it came from; `None` for the built-in one.
    pub(crate) file: Option<PathBuf>,
    /// The listeners and the threads behind them.
    pub(crate) server: server::Server,
    /// What outlives the process.
    pub(crate) data: data::Data,
    /// What is acknowledged and survives a crash.
    pub(crate) journal: journal::Journal,
    /// Where sessions, history, dead letters and marks are kept.
    pub(crate) store: store::Store,
    /// Who may use the API. Empty: everyone who reaches it, which then is loopback only.
    pub(crate) keys: Vec<keys::Key>,
    /// How often, where a key does not say.
    pub(crate) rates: keys::Rates,
    /// Every bound.
    pub(crate) limits: limits::Limits,
    /// The upstreams that can be called; never empty. Behind those of the file, one for each agent that lives elsewhere.
    pub(crate) models: Vec<models::Model>,
    /// Who answers; never empty.
    pub(crate) agents: Vec<agents::Agent>,
    /// What models may call, sorted by name.
    pub(crate) tools: Vec<tools::Tool>,
    /// How tool calls are written down; `None` if they are not.
    pub(crate) audit: Option<crate::tools::audit::Plan>,
    /// Which of them.
    pub(crate) route: route::Route,
    /// The platforms that are enabled.
    pub(crate) channels: Vec<channels::Channel>,
    /// Accounts that share their person's conversation.
    pub(crate) accounts: Vec<session::Account>,
    /// What is written to standard error.
    pub(crate) logging: Logging,
    /// What a careful person would change.
    pub(crate) warnings: Vec<Diagnostic>,
}

/// What is written to standard error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct Logging {
    /// The least important that is written.
    pub(crate) level: Level,
    /// How a line looks.
    pub(crate) format: Format,
}

impl Default for Logging {
    fn default() -> Self {
        Self { level: Level::Info, format: Format::Text }
    }
}

/// How important a line is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Level {
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

/// How a line looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Format {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// What the command line says in place of the file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Overrides {
    /// `--listen`, each.
    pub(crate) listen: Vec<String>,
    /// `--shards`.
    pub(crate) shards: Option<u16>,
    /// `--driver`.
    pub(crate) driver: Option<server::Driver>,
}

/// What says where the configuration is, if the command line does not.
pub(crate) const FILE_VARIABLE: &str = "CLAWGATE_CONFIG";

/// The file that is taken if neither the command line nor the environment names one.
pub(crate) const FILE_DEFAULT: &str = "clawgate.json";

impl Config {
    /// Finds the file: the one named, else [`FILE_VARIABLE`], else [`FILE_DEFAULT`] if it is there, else none.
    #[must_use]
    pub(crate) fn locate(named: Option<&Path>) -> Option<PathBuf> {
        if let Some(path) = named {
            return Some(path.to_path_buf());
        }
        if let Some(path) = std::env::var_os(FILE_VARIABLE).filter(|path| !path.is_empty()) {
            return Some(PathBuf::from(path));
        }
        let here = PathBuf::from(FILE_DEFAULT);
        here.exists().then_some(here)
    }

    /// Reads this file, the `.env` beside it and the environment, or takes the built-in configuration; what the command
    /// line says stands above both.
    ///
    /// # Errors
    /// Everything that is wrong, in the order of the file; warnings are among it.
    pub(crate) fn open(file: Option<&Path>, overrides: &Overrides) -> Result<Self, Vec<Diagnostic>> {
        open(file, overrides).map(|(config, _)| config)
    }
}

/// What the command line needs to ask the gateway that runs by a configuration.
#[derive(Debug)]
pub(crate) struct Door {
    /// Where it listens.
    pub(crate) listen: Vec<std::net::SocketAddr>,
    /// Its certificate, if it speaks TLS there.
    pub(crate) cert: Option<PathBuf>,
    /// The first key that may operate, if one stands in the configuration itself.
    pub(crate) key: Option<secret::Secret>,
}

/// Reads how the gateway of this configuration is asked.
///
/// # Errors
/// As [`Config::open`].
pub(crate) fn door(file: Option<&Path>, overrides: &Overrides) -> Result<Door, Vec<Diagnostic>> {
    let (config, file) = open(file, overrides)?;
    let key = file.keys.iter().find_map(keys::KeyEntry::operates).cloned();
    Ok(Door { listen: config.server.listen, cert: config.server.tls.map(|tls| tls.cert), key })
}

/// The configuration in force as a file, every default filled in and every secret hidden.
///
/// # Errors
/// As [`Config::open`].
pub(crate) fn show(file: Option<&Path>, overrides: &Overrides) -> Result<String, Vec<Diagnostic>> {
    let (_, file) = open(file, overrides)?;
    let shown = serde_json::to_string_pretty(&file);
    Ok(shown.unwrap_or_else(|error| format!("cannot be shown: {error}")))
}

fn open(file: Option<&Path>, overrides: &Overrides) -> Result<(Config, File), Vec<Diagnostic>> {
    let Some(path) = file else {
        let source = Source {
            name: Path::new("(built-in configuration)"),
            text: "{}",
            folder: Path::new(""),
            file: None,
        };
        return source.resolve(&Environment::default(), Vec::new(), overrides);
    };
    let text = read(path).map_err(|problem| vec![*problem])?;
    let folder = path.parent().unwrap_or(Path::new(""));
    let (environment, problems) = Environment::of_process(folder);
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    let source = Source { name: path, text, folder, file: Some(path) };
    source.resolve(&environment, problems, overrides)
}

fn read(path: &Path) -> Result<String, Box<Diagnostic>> {
    let refuse = |message: String, help: &str| {
        Box::new(Diagnostic {
            severity: Severity::Error,
            place: Place::whole(path.to_path_buf()),
            path: String::new(),
            message,
            help: help.to_owned(),
        })
    };
    let mut bytes = Vec::new();
    let opened = std::fs::File::open(path);
    let length_max = u64::try_from(document::BYTES_MAX).unwrap_or(u64::MAX);
    opened.and_then(|file| file.take(length_max + 1).read_to_end(&mut bytes)).map_err(|error| {
        let help =
            "name another by --config or CLAWGATE_CONFIG; `clawgate config default` prints one to start from";
        refuse(format!("the configuration cannot be read: {error}"), help)
    })?;
    if document::BYTES_MAX < bytes.len() {
        return Err(refuse(
            "this is too long for a configuration".to_owned(),
            "4 MiB are enough for everything",
        ));
    }
    String::from_utf8(bytes)
        .map_err(|_| refuse("the configuration is not UTF-8".to_owned(), "save it as UTF-8, without UTF-16"))
}

/// A text, and what its places are relative to.
struct Source<'s> {
    name: &'s Path,
    text: &'s str,
    folder: &'s Path,
    file: Option<&'s Path>,
}

impl Source<'_> {
    fn resolve(
        &self,
        environment: &Environment,
        problems: Vec<DotenvProblem>,
        overrides: &Overrides,
    ) -> Result<(Config, File), Vec<Diagnostic>> {
        let (mut root, slips) = document::read(self.text);
        let mut missing = Vec::new();
        if let Some(root) = &mut root {
            let off = expand::disabled(root);
            let skip = |path: &path::Path| off.contains(path);
            environment.fill(root, self.text, &path::Path::default(), &skip, &mut missing);
        }
        let mut report = Report::new(self.name, self.text, root.as_ref());
        report.dotenv(problems);
        report.slips(slips);
        report.missing(missing);
        let Some(mut file) = root.as_ref().and_then(|root| fitting(root, &mut report)) else {
            return Err(report.finish());
        };
        overrides.apply(&mut file, &mut report);
        expand::expand(&mut file, &mut report);
        let mut config = file.resolve(self.folder, self.file.is_some(), &mut report);
        if report.has_errors() {
            return Err(report.finish());
        }
        config.file = self.file.map(Path::to_path_buf);
        config.warnings = report.finish();
        Ok((config, file))
    }
}

// What fits the schema fits the types; should the two ever differ, the place is still told.
fn fitting(root: &document::Node, report: &mut Report<'_>) -> Option<File> {
    let value = schema::Reader::new(schema()).read(root, report)?;
    serde_path_to_error::deserialize(value)
        .inspect_err(|error: &serde_path_to_error::Error<serde_json::Error>| {
            let mut at = path::Path::default();
            for segment in error.path() {
                at = match segment {
                    serde_path_to_error::Segment::Seq { index } => at.index(*index),
                    serde_path_to_error::Segment::Map { key } => at.key(key),
                    serde_path_to_error::Segment::Enum { .. } | serde_path_to_error::Segment::Unknown => {
                        break;
                    }
                };
            }
            report.error(&at, "this value does not fit here", "see `clawgate config docs`");
        })
        .ok()
}

impl Overrides {
    fn apply(&self, file: &mut File, report: &mut Report<'_>) {
        let at = path::Path::of("server");
        if !self.listen.is_empty() {
            file.server.listen.clone_from(&self.listen);
            report.flag(at.key("listen"), "--listen");
        }
        if let Some(shards) = self.shards {
            file.server.shards = shards;
            report.flag(at.key("shards"), "--shards");
        }
        if let Some(driver) = self.driver {
            file.server.driver = driver;
            report.flag(at.key("driver"), "--driver");
        }
    }
}

impl File {
    /// Checks what one value cannot say by itself, and resolves. What is returned is usable if nothing was reported.
    fn resolve(&self, folder: &Path, has_file: bool, report: &mut Report<'_>) -> Config {
        let rates = self.rate.resolve();
        let mut models: Vec<_> =
            self.models.iter().map(|(name, model)| model.resolve(name, folder, report)).collect();
        let mut agents: Vec<_> =
            self.agents.iter().map(|(name, agent)| agent.resolve(name, &models, folder, report)).collect();
        agents.iter_mut().for_each(|agent| agent.call_outside(&mut models));
        let names: Vec<&str> = self.agents.keys().map(String::as_str).collect();
        let route = expand::route(self, &names, report);
        let channels: Vec<_> = self
            .channels
            .iter()
            .filter_map(|(name, channel)| channel.resolve(name, &names, report))
            .collect();
        let known: Vec<&str> = self.channels.keys().map(String::as_str).collect();
        let accounts = self.session.resolve(&known, &channels, report);
        let data = self.data.resolve(folder, has_file, report);
        let store = self.store.resolve(folder, &data, report);
        let mut limits = self.limits.resolve(report);
        limits.core.load_age_max = store.load_age_max;
        limits.core.session_idle_max = limits.core.session_idle_max.min(store.cache_age_max);
        let tools = tools::resolve(&self.tools, (&limits.tools, limits.mcp), folder, report);
        self.check_agents(report);
        let audit = self.audit.resolve(data.folder.is_some(), !self.tools.is_empty(), report);
        Config {
            file: None,
            server: self.server.resolve(folder, &self.keys, report),
            store,
            data,
            journal: self.journal.resolve(&limits.core, self.server.shards, report),
            keys: keys::resolve(&self.keys, &rates, report),
            rates,
            limits,
            models,
            agents,
            tools,
            audit,
            route,
            channels,
            accounts,
            logging: self.logging,
            warnings: Vec::new(),
        }
    }

    /// The tools that agents may use are there.
    fn check_agents(&self, report: &mut Report<'_>) {
        let (mut sources, mut known) = (Vec::new(), Vec::new());
        for (name, tool) in &self.tools {
            if tool.is_source() { &mut sources } else { &mut known }.push(name.as_str());
        }
        for (name, agent) in &self.agents {
            let at = path::Path::of("agents").key(name).key("tools");
            tools::check_patterns(&agent.tools, &known, &sources, &at, report);
        }
    }
}
