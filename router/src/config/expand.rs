//! The short forms: what a file leaves out because it is plain, and what `llm` stands for.
use super::agents::AgentEntry;
use super::document::{Node, Value};
use super::models::{ModelEntry, ProviderName};
use super::path::Path;
use super::report::Report;
use super::route::{Route, RouteEntry};
use super::written::File;
use clawgate_core::id::AgentId;
use std::collections::BTreeSet;

/// The model that is meant where none is named.
const DEFAULT_MODEL: &str = "default";
/// The agent that is meant where none is named.
const DEFAULT_AGENT: &str = "main";
/// The models that are there without any in the file; the first is meant where none is named.
const BUILT_IN: [(&str, ProviderName); 2] = [("echo", ProviderName::Echo), ("demo", ProviderName::Scripted)];

/// The channels that are not enabled: their variables need not be set.
pub(super) fn disabled(root: &Node) -> BTreeSet<Path> {
    let channels = Path::of("channels");
    let names = root.keys(&channels).map(|name| channels.key(name));
    let is_off = |at: &Path| {
        let found = root.find(&at.key("enabled"));
        found.whole && found.node.value == Value::Bool(false)
    };
    names.filter(is_off).collect()
}

/// Fills in what the file leaves out: models, agents, and the models of agents.
pub(super) fn expand(file: &mut File, report: &mut Report<'_>) {
    let is_written = |report: &Report<'_>, key: &str| !report.keys(&Path::of(key)).is_empty();
    let built_in = !is_written(report, "models") && !report.is_written(&Path::of("llm"));
    expand_llm(file, report);
    if built_in {
        file.models.extend(BUILT_IN.map(|(name, provider)| (name.to_owned(), ModelEntry::plain(provider))));
    }
    let only = file.models.keys().next().filter(|_| file.models.len() == 1);
    let meant = match (file.models.contains_key(DEFAULT_MODEL), only) {
        (true, _) => Some(DEFAULT_MODEL.to_owned()),
        (false, Some(only)) => Some(only.clone()),
        (false, None) if built_in => Some(BUILT_IN[0].0.to_owned()),
        (false, None) => None,
    };
    if !is_written(report, "agents") {
        if meant.is_none() && report.keys(&Path::of("models")).len() == file.models.len() {
            let message = "there are several models and no agents: which model is meant?";
            report.error(&Path::of("models"), message, "add `agents`, or call one of the models `default`");
        }
        // What the built-in models say needs no memory of what was said.
        let agent = || AgentEntry { history: !built_in, ..AgentEntry::default() };
        file.agents.insert(DEFAULT_AGENT.to_owned(), agent());
        if built_in {
            file.agents.insert("demo".to_owned(), AgentEntry { models: vec!["demo".to_owned()], ..agent() });
        }
    }
    let meant =
        meant.or_else(|| file.models.keys().next().filter(|_| !is_written(report, "agents")).cloned());
    for agent in file.agents.values_mut().filter(|agent| agent.models.is_empty() && !agent.is_outside()) {
        agent.models.extend(meant.clone());
    }
}

fn expand_llm(file: &mut File, report: &mut Report<'_>) {
    let llm = Path::of("llm");
    let Some(short) = file.llm.take() else {
        if report.is_written(&llm) {
            // It is unfit and reported; so that agents have a model, and are not reported for want of one:
            file.models.insert(DEFAULT_MODEL.to_owned(), ModelEntry::plain(ProviderName::Echo));
        }
        return;
    };
    let at = Path::of("models").key(DEFAULT_MODEL);
    if report.is_written(&at) {
        let message = "`llm` makes the model `default`, and `models` has one too";
        report.error(&llm, message, "keep one of the two, or give the other one another name");
        return;
    }
    report.alias(at, llm);
    let model = ModelEntry {
        api_key: short.api_key,
        model: short.model,
        base_url: short.base_url,
        temperature: short.temperature,
        max_tokens: short.max_tokens,
        ..ModelEntry::plain(short.provider)
    };
    file.models.insert(DEFAULT_MODEL.to_owned(), model);
    if !report.is_written(&Path::of("agents").key(DEFAULT_AGENT)) {
        file.agents.insert(DEFAULT_AGENT.to_owned(), AgentEntry::default());
    }
}

/// The route as it is written, or the agent that is plain.
pub(super) fn route(file: &File, agents: &[&str], report: &mut Report<'_>) -> Route {
    let at = Path::of("route");
    let nobody = Route::Agent(AgentId::default());
    if let Some(route) = &file.route {
        return route.resolve(&at, agents, report).unwrap_or(nobody);
    }
    let written = report.keys(&Path::of("agents"));
    if report.is_written(&at) || written.contains(&DEFAULT_AGENT) && !agents.contains(&DEFAULT_AGENT) {
        return nobody;
    }
    let plain = if agents.contains(&DEFAULT_AGENT) { Some(&DEFAULT_AGENT) } else { agents.first() };
    match plain {
        Some(name) if *name == DEFAULT_AGENT || agents.len() == 1 => {
            RouteEntry::Agent((*name).to_owned()).resolve(&at, agents, report).unwrap_or(nobody)
        }
        Some(_) | None => {
            let message = "which agent answers? There are several, and none is called `main`";
            let help = format!("set `route` to one of them: {}", agents.join(", "));
            report.error(&Path::of("agents"), message, help);
            nobody
        }
    }
}
