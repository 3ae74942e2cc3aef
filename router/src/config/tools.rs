//! What models may call: sections `tools` and `audit`, and the bounds in `limits.tools`. Servers of tools are in `mcp.rs`.
use super::keys::check_name;
use super::mcp::{self, Mcp};
use super::path::Path;
use super::remote::{header_problem, is_open};
use super::report::{Report, quoted};
use super::schema::nearest;
use super::seconds::Seconds;
use super::secret::Secret;
use super::server::pem_file;
use crate::tools::address::{Net, Reach};
use crate::tools::audit::Plan;
use crate::tools::schema::Schema;
use crate::tools::template::Template;
use crate::tools::time;
use core::time::Duration;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path as FilePath, PathBuf};

/// One tool.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Tool {
    /// Its name in the configuration, to models and in metrics.
    pub(crate) name: String,
    /// What it is good for, to models.
    pub(crate) description: String,
    /// Those of this tier and above may use it.
    pub(crate) tier: u8,
    /// How long one call may take.
    pub(crate) age_max: Duration,
    /// Bytes of what it says.
    pub(crate) output_bytes_max: usize,
    /// Calling it twice does no more than calling it once.
    pub(crate) repeatable: bool,
    /// What it does.
    pub(crate) kind: Kind,
}

/// What a tool does.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Kind {
    /// Says what time it is.
    Time,
    /// Sends a request to its address.
    Http(Box<Http>),
    /// A server, whose tools are known once it runs.
    Mcp(Box<Mcp>),
}

/// A request with places for arguments.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Http {
    /// How.
    pub(crate) method: http::Method,
    /// Where to.
    pub(crate) url: Template,
    /// Further header fields.
    pub(crate) headers: Vec<(String, Secret)>,
    /// The schema of its arguments.
    pub(crate) parameters: Value,
    /// Addresses that may be connected to though they are not public.
    pub(crate) allowed: Vec<Net>,
    /// PEM: certificates to trust instead of the public ones.
    pub(crate) ca_file: Option<PathBuf>,
}

/// The bounds of tool calls.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Limits {
    pub(crate) rounds_max: u16,
    pub(crate) calls_max: u16,
    pub(crate) parallel_max: u16,
    pub(crate) arguments_bytes_max: usize,
    pub(crate) output_bytes_max: usize,
    pub(crate) exchange_bytes_max: usize,
    pub(crate) age_max: Duration,
}

/// One tool. Keys that its type has no use for are refused.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct ToolEntry {
    /// What it does.
    #[serde(rename = "type")]
    kind: KindName,
    /// What it is good for, to models: when to call it, and what it answers. Needed for `http`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    description: Option<String>,
    /// Who may use it: users of this tier and above (`keys[].tier`, `channels.*.tier`). 0: everyone.
    #[serde(default)]
    #[schemars(range(min = 0, max = 9))]
    tier: u8,
    /// How long one call may take. Without it: `limits.tools.seconds`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.1, max = 3_600))]
    seconds: Option<Seconds>,
    /// Bytes of what it says that the model is told. Without it: `limits.tools.outputBytesMax`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 16, max = 16_777_216))]
    output_bytes_max: Option<u32>,
    /// Calling it twice does no more than calling it once. A model's failure behind a tool that is not repeatable ends the
    /// turn, for another attempt would call the tool again. Without it: true for the methods `GET` and `HEAD`, false for
    /// servers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    repeatable: Option<bool>,
    /// Only `http`: how. Without it: `GET`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    method: Option<MethodName>,
    /// `http`: where to, with places for arguments in its path and query: `https://api.example.com/v1/{city}`.
    /// Arguments without a place become its query, or with `POST`, `PUT` and `PATCH` a JSON body.
    /// `mcp`: where a server is that speaks streamable HTTP, as `https://example.com/mcp`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) url: Option<String>,
    /// `http` and `mcp` with `url`: further request headers. Their values are treated as secrets.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) headers: BTreeMap<String, Secret>,
    /// Only `http`: the JSON Schema of its arguments, an object's. Without it: the places of `url`, each a text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    parameters: Option<Anything>,
    /// `http` and `mcp` with `url`: addresses that may be connected to though they are not of the public internet, as
    /// `10.1.2.3` or `10.0.0.0/8`. The address that stands in the `url` of a server needs no leave.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    allow_addresses: Vec<String>,
    /// `http` and `mcp` with `url`: a PEM file of certificates to trust instead of the public ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) ca_file: Option<String>,
    /// Only `mcp`: the program of a server that speaks by its standard input and output.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) command: Option<String>,
    /// Only `mcp` with `command`: its arguments. Whoever is on this machine can read them: put secrets into `env`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) args: Vec<String>,
    /// Only `mcp` with `command`: what its environment has beside `PATH`, `HOME` and `LANG`; of ours it gets nothing else.
    /// Values are treated as secrets.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) env: BTreeMap<String, Secret>,
    /// Only `mcp` with `command`: the folder that it starts in. Without it: that of the configuration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) cwd: Option<String>,
    /// Only `mcp` with `command`: bytes of its address space. Without it, or with 0: as many as it wants; programs on Node
    /// reserve far more than they use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1_099_511_627_776_u64))]
    pub(super) memory_bytes_max: Option<u64>,
    /// Only `mcp` with `command`: descriptors that it may have open. Without it: 1,024.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 16, max = 1_048_576))]
    pub(super) descriptors_max: Option<u32>,
}

/// A JSON object that we only pass on.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
struct Anything(Map<String, Value>);

/// What a tool does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum KindName {
    /// Says what time it is, in any time zone.
    Time,
    /// Sends a request to one address.
    Http,
    /// A server of tools (Model Context Protocol): its tools are `<name>.<tool>`.
    Mcp,
}

/// A method of HTTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
enum MethodName {
    Get,
    Head,
    Post,
    Put,
    Patch,
    Delete,
}

impl MethodName {
    fn resolve(self) -> http::Method {
        match self {
            Self::Get => http::Method::GET,
            Self::Head => http::Method::HEAD,
            Self::Post => http::Method::POST,
            Self::Put => http::Method::PUT,
            Self::Patch => http::Method::PATCH,
            Self::Delete => http::Method::DELETE,
        }
    }
}

const HTTP: &[&str] = &["method", "url", "headers", "parameters", "allowAddresses", "caFile"];

impl ToolEntry {
    /// Checks and resolves.
    fn resolve(
        &self,
        name: &str,
        (limits, servers): (&Limits, mcp::Limits),
        folder: &FilePath,
        report: &mut Report<'_>,
    ) -> Option<Tool> {
        let at = Path::of("tools").key(name);
        check_name(name, &at, report);
        let description = self.description.clone().filter(|text| !text.trim().is_empty());
        let (kind, description) = match self.kind {
            KindName::Time => {
                report.useless(&at, HTTP, "is of no use to this type", "leave it out");
                report.useless(&at, mcp::OWN, "is of no use to this type", "leave it out");
                (Kind::Time, description.unwrap_or_else(|| time::DESCRIPTION.to_owned()))
            }
            KindName::Mcp => (Kind::Mcp(Box::new(self.mcp(servers, folder, &at, report)?)), String::new()),
            KindName::Http => {
                report.useless(&at, mcp::OWN, "is of no use to this type", "leave it out");
                if description.is_none() {
                    let help = "say when to call it and what it answers: models go by that alone";
                    report.error(&at.key("description"), "`description` is missing here", help);
                }
                (Kind::Http(Box::new(self.http(folder, &at, report)?)), description.unwrap_or_default())
            }
        };
        let safe = match &kind {
            Kind::Time => true,
            Kind::Http(http) => matches!(http.method, http::Method::GET | http::Method::HEAD),
            // What a server says of itself is a hint, not a promise.
            Kind::Mcp(_) => false,
        };
        Some(Tool {
            name: name.to_owned(),
            description,
            tier: self.tier,
            age_max: self.seconds.map_or(limits.age_max, Seconds::duration),
            output_bytes_max: self.output_bytes_max.map_or(limits.output_bytes_max, bytes),
            repeatable: self.repeatable.unwrap_or(safe),
            kind,
        })
    }

    fn http(&self, folder: &FilePath, at: &Path, report: &mut Report<'_>) -> Option<Http> {
        let allowed = self.allowed(&at.key("allowAddresses"), report);
        let url = self.url(&allowed, &at.key("url"), report)?;
        let parameters = self.parameters(&url, &at.key("parameters"), report);
        let at_headers = at.key("headers");
        for (name, value) in &self.headers {
            if let Some((message, help)) = header_problem(name, value) {
                report.error(&at_headers.key(name), message, help);
            }
        }
        if !self.headers.is_empty() && is_open(&format!("http://{}", url.authority())) && !url.is_secure() {
            let message = "the headers travel there without TLS";
            report.warning(&at.key("url"), message, "use https, or an address on this machine");
        }
        let headers = self.headers.iter().map(|(name, value)| (name.to_ascii_lowercase(), value.clone()));
        let ca_file = self.ca_file.as_ref();
        Some(Http {
            method: self.method.unwrap_or(MethodName::Get).resolve(),
            headers: headers.collect(),
            parameters,
            allowed,
            ca_file: ca_file
                .map(|file| pem_file(file, "CERTIFICATE-----", folder, &at.key("caFile"), report)),
            url,
        })
    }

    fn url(&self, allowed: &[Net], at: &Path, report: &mut Report<'_>) -> Option<Template> {
        let Some(text) = &self.url else {
            if !report.is_written(at) {
                let help = "add its address, as \"https://api.example.com/v1/weather/{city}\"";
                report.error(at, "`url` is missing here", help);
            }
            return None;
        };
        let template = match Template::parse(text) {
            Ok(template) => template,
            Err(why) => {
                report.error(
                    at,
                    format!("this is no address of a tool: {why}"),
                    "write it as https://host/path/{argument}?name={other}",
                );
                return None;
            }
        };
        let host = template.authority();
        let host =
            host.rsplit_once(':').filter(|(_, port)| !port.contains(']')).map_or(host, |(host, _)| host);
        if let Ok(address) = host.trim_matches(['[', ']']).parse::<IpAddr>()
            && !(Reach { allowed: allowed.to_vec() }).permits(address)
        {
            let message = format!("{address} is not of the public internet and is never connected to");
            report.error(at, message, format!("if it is meant, add \"allowAddresses\": [\"{address}\"]"));
        }
        Some(template)
    }

    pub(super) fn allowed(&self, at: &Path, report: &mut Report<'_>) -> Vec<Net> {
        let mut nets = Vec::with_capacity(self.allow_addresses.len());
        for (index, text) in self.allow_addresses.iter().enumerate() {
            match text.parse() {
                Ok(net) => nets.push(net),
                Err(()) => {
                    let at = at.index(index);
                    let message = format!("{} is no address", report.quote(&at, text));
                    report.error(
                        &at,
                        message,
                        "write it as 10.1.2.3, 10.0.0.0/8 or fd00::/8; names are resolved and not listed",
                    );
                }
            }
        }
        nets
    }

    fn parameters(&self, url: &Template, at: &Path, report: &mut Report<'_>) -> Value {
        let Some(Anything(fields)) = &self.parameters else {
            let places: Map<String, Value> =
                url.names().map(|name| (name.to_owned(), json!({ "type": "string" }))).collect();
            let needed: Vec<&str> = url.names().collect();
            return json!({
                "type": "object", "properties": places, "required": needed, "additionalProperties": false,
            });
        };
        let parameters = Value::Object(fields.clone());
        if let Err(why) = Schema::compile(&parameters) {
            let help = "it is a JSON Schema: {\"type\": \"object\", \"properties\": {…}, \"required\": […]}";
            report.error(at, format!("no schema of arguments: {why}"), help);
        }
        let known = fields.get("properties").and_then(Value::as_object);
        for name in url.names().filter(|name| known.is_none_or(|known| !known.contains_key(*name))) {
            let names = known.into_iter().flat_map(Map::keys).map(String::as_str);
            let help = match nearest(name, names) {
                Some(near) => format!("did you mean {{{near}}}?"),
                None => format!("add it to `properties`, or take {{{name}}} out of the URL"),
            };
            report.error(at, format!("the URL has a place for {}, which is no argument", quoted(name)), help);
        }
        parameters
    }
}

/// Checks and resolves the tools.
pub(super) fn resolve(
    entries: &BTreeMap<String, ToolEntry>,
    limits: (&Limits, mcp::Limits),
    folder: &FilePath,
    report: &mut Report<'_>,
) -> Vec<Tool> {
    entries.iter().filter_map(|(name, entry)| entry.resolve(name, limits, folder, report)).collect()
}

/// Checks the tools that an agent may use against those that there are; `sources` are the names whose tools nobody knows
/// yet.
pub(super) fn check_patterns(
    patterns: &[String],
    known: &[&str],
    sources: &[&str],
    at: &Path,
    report: &mut Report<'_>,
) {
    for (index, pattern) in patterns.iter().enumerate() {
        let at = at.index(index);
        if sources.contains(&pattern.as_str()) {
            let message = format!("{} is a server, and no tool", report.quote(&at, pattern));
            report.error(&at, message, format!("write \"{pattern}.*\" for all of its tools"));
            continue;
        }
        let of_source =
            |source: &&str| pattern.strip_prefix(*source).is_some_and(|rest| rest.starts_with('.'));
        if pattern.contains('*') || sources.iter().any(of_source) || known.contains(&pattern.as_str()) {
            continue;
        }
        // What was written but is unfit has been reported already.
        if report.keys(&Path::of("tools")).contains(&pattern.as_str()) {
            continue;
        }
        let message = format!("there is no {} in `tools`", report.quote(&at, pattern));
        let help = match nearest(pattern, known.iter().copied()) {
            Some(near) => format!("did you mean {near:?}?"),
            None if known.is_empty() => "add it to `tools`".to_owned(),
            None => format!(
                "add it to `tools`, or name one that is there: {}; `*` stands for any characters",
                known.join(", ")
            ),
        };
        report.error(&at, message, help);
    }
}

impl ToolEntry {
    /// Is it a server of tools?
    pub(super) fn is_source(&self) -> bool {
        self.kind == KindName::Mcp
    }
}

/// The bounds of tool calls.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct LimitsSection {
    /// Rounds of calls and results in one turn; after them the model must answer.
    #[schemars(range(min = 0, max = 100))]
    rounds_max: u16,
    /// Calls of one round that are carried out; the model is told to repeat those that are more.
    #[schemars(range(min = 1, max = 128))]
    calls_max: u16,
    /// Calls of one turn that run at once.
    #[schemars(range(min = 1, max = 128))]
    parallel_max: u16,
    /// Bytes of the arguments of one call.
    #[schemars(range(min = 64, max = 1_048_576))]
    arguments_bytes_max: u32,
    /// Bytes of what a tool says that the model is told; the rest is cut off.
    #[schemars(range(min = 16, max = 16_777_216))]
    output_bytes_max: u32,
    /// Bytes of all calls and results of one turn; a turn that needs more fails with `TOOL_LIMIT`.
    #[schemars(range(min = 1_024, max = 67_108_864))]
    exchange_bytes_max: u32,
    /// How long one call may take; its model is told that it took too long.
    #[schemars(range(min = 0.1, max = 3_600))]
    seconds: Seconds,
}

impl Default for LimitsSection {
    fn default() -> Self {
        Self {
            rounds_max: 8,
            calls_max: 16,
            parallel_max: 4,
            arguments_bytes_max: 32 << 10,
            output_bytes_max: 64 << 10,
            exchange_bytes_max: 1 << 20,
            seconds: Seconds::whole(30),
        }
    }
}

impl LimitsSection {
    /// Resolves.
    pub(super) fn resolve(&self) -> Limits {
        Limits {
            rounds_max: self.rounds_max,
            calls_max: self.calls_max,
            parallel_max: self.parallel_max,
            arguments_bytes_max: bytes(self.arguments_bytes_max),
            output_bytes_max: bytes(self.output_bytes_max),
            exchange_bytes_max: bytes(self.exchange_bytes_max),
            age_max: self.seconds.duration(),
        }
    }
}

/// What tools did, written down in the folder `audit` of the data directory: one JSON object a line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct AuditSection {
    /// Every tool call is written down, or not made.
    enabled: bool,
    /// Bytes of one file.
    #[schemars(range(min = 4_096, max = 17_179_869_184_u64))]
    file_bytes_max: u64,
    /// Files that are kept, the one that is written among them; the oldest goes.
    #[schemars(range(min = 2, max = 10_000))]
    files_max: u16,
    /// Lines that wait for the disk, two for each call. Where there is no room for them, tools are refused with
    /// `TOOL_UNAVAILABLE`.
    #[schemars(range(min = 2, max = 100_000))]
    waiting_max: u32,
}

impl Default for AuditSection {
    fn default() -> Self {
        Self { enabled: true, file_bytes_max: 64 << 20, files_max: 16, waiting_max: 4_096 }
    }
}

impl AuditSection {
    /// Checks and resolves; `has_folder` if there is a data directory, `has_tools` if there is something to write down.
    pub(super) fn resolve(&self, has_folder: bool, has_tools: bool, report: &mut Report<'_>) -> Option<Plan> {
        if self.enabled && has_tools && !has_folder {
            let message = "tool calls cannot be written down: there is no data directory";
            let help = "name one by `data.folder`, or set `audit.enabled` to false";
            report.error(&Path::of("tools"), message, help);
        }
        self.enabled.then_some(Plan {
            file_bytes_max: self.file_bytes_max,
            files_max: self.files_max,
            waiting_max: self.waiting_max as usize,
        })
    }
}

fn bytes(count: u32) -> usize {
    usize::try_from(count).unwrap_or(usize::MAX)
}
