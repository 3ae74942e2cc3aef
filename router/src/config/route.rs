//! Which agent answers: section `route`.
use super::agents::find_agent;
use super::path::Path;
use super::report::Report;
use clawgate_core::id::AgentId;
use clawgate_core::route::{Matcher, Rule as Compiled, Strategy};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Which agent answers, where neither the session nor the channel says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Route {
    /// This one.
    Agent(AgentId),
    /// By what the message says; the first rule that matches wins.
    Content {
        /// The rules, in order.
        rules: Vec<Rule>,
        /// Where none matches.
        otherwise: Box<Self>,
    },
    /// The one with the least to do for its weight (at least 1).
    Balance(Vec<(AgentId, u32)>),
    /// A session, and a person, stay with the agent that they got first.
    Affinity(Box<Self>),
}

/// One rule: it matches if any of its keywords, prefixes or patterns does. At least one is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rule {
    /// Whole words, in any case.
    pub(crate) keywords: Vec<String>,
    /// What the text begins with, after white space, in any case of ASCII.
    pub(crate) prefixes: Vec<String>,
    /// Regular expressions; each compiles.
    pub(crate) patterns: Vec<String>,
    /// Who answers.
    pub(crate) agent: AgentId,
}

/// Which agent answers: the name of one, or one of the forms below, which can be put into each other.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub(super) enum RouteEntry {
    /// This one.
    Agent(String),
    /// By what the message says.
    Content(ContentRoute),
    /// By who has the least to do.
    Balance(BalanceRoute),
    /// As before.
    Affinity(AffinityRoute),
}

/// By what the message says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct ContentRoute {
    /// The rules; the first that matches wins.
    content: Vec<RuleEntry>,
    /// Where none matches: a route.
    otherwise: Box<RouteEntry>,
}

/// One rule. It matches if any of its keywords, prefixes or patterns does.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct RuleEntry {
    /// Words anywhere in the text, in any case, not inside other words.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    keywords: Vec<String>,
    /// What the text begins with, after white space, in any case of ASCII.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    prefixes: Vec<String>,
    /// Regular expressions (syntax of Rust's `regex`), anywhere in the text.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    patterns: Vec<String>,
    /// Who answers: the name of an agent.
    agent: String,
}

/// By who has the least to do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct BalanceRoute {
    /// Agents by name, each with its weight: one of weight 2 gets twice as much as one of weight 1.
    balance: BTreeMap<String, Weight>,
}

/// How much an agent can take, compared with the others.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
struct Weight(#[schemars(range(min = 1, max = 1000))] u32);

/// A session stays with the agent that it got first, and so do the other sessions of the same person.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct AffinityRoute {
    /// How the first agent is found: a route.
    affinity: Box<RouteEntry>,
}

impl RouteEntry {
    /// Checks and resolves. `None` if it names nobody who is there.
    pub(super) fn resolve(&self, at: &Path, agents: &[&str], report: &mut Report<'_>) -> Option<Route> {
        match self {
            Self::Agent(name) => find_agent(name, agents, at, report).map(Route::Agent),
            Self::Content(route) => route.resolve(at, agents, report),
            Self::Balance(BalanceRoute { balance }) => {
                let at = at.key("balance");
                if balance.is_empty() && report.keys(&at).is_empty() {
                    report.error(
                        &at,
                        "nobody to choose from",
                        "name agents with their weights: {\"main\": 1}",
                    );
                }
                let find = |(name, weight): (&String, &Weight)| {
                    find_agent(name, agents, &at.key(name), report).map(|agent| (agent, weight.0))
                };
                Some(Route::Balance(balance.iter().filter_map(find).collect()))
            }
            Self::Affinity(AffinityRoute { affinity }) => {
                let inner = affinity.resolve(&at.key("affinity"), agents, report)?;
                Some(Route::Affinity(Box::new(inner)))
            }
        }
    }
}

impl ContentRoute {
    fn resolve(&self, at: &Path, agents: &[&str], report: &mut Report<'_>) -> Option<Route> {
        let rules = self.content.iter().enumerate();
        let rules = rules
            .filter_map(|(index, rule)| rule.resolve(&at.key("content").index(index), agents, report))
            .collect();
        let otherwise = self.otherwise.resolve(&at.key("otherwise"), agents, report)?;
        Some(Route::Content { rules, otherwise: Box::new(otherwise) })
    }
}

impl RuleEntry {
    fn resolve(&self, at: &Path, agents: &[&str], report: &mut Report<'_>) -> Option<Rule> {
        let lists =
            [("keywords", &self.keywords), ("prefixes", &self.prefixes), ("patterns", &self.patterns)];
        if lists.iter().all(|(key, list)| list.is_empty() && !report.is_thinned(&at.key(key))) {
            report.error(at, "this rule matches nothing", "give it `keywords`, `prefixes` or `patterns`");
        }
        for (key, list) in lists {
            for (index, text) in list.iter().enumerate() {
                check_text(key, text, &at.key(key).index(index), report);
            }
        }
        let agent = find_agent(&self.agent, agents, &at.key("agent"), report)?;
        Some(Rule {
            keywords: self.keywords.clone(),
            prefixes: self.prefixes.clone(),
            patterns: self.patterns.clone(),
            agent,
        })
    }
}

// Each text by itself, as the core will take it, so that each problem has its place.
fn check_text(key: &str, text: &str, at: &Path, report: &mut Report<'_>) {
    let only = |wanted: &str| if key == wanted { vec![text.to_owned()] } else { Vec::new() };
    let rule = Compiled {
        keywords: only("keywords"),
        prefixes: only("prefixes"),
        patterns: only("patterns"),
        then: Strategy::Static(AgentId(0)),
    };
    if let Err(error) = Matcher::compile(&[rule]) {
        // Of the several lines about a pattern the last says what is wrong; those before it repeat the pattern.
        let reason = error.message.lines().last().unwrap_or_default().trim().trim_start_matches("error: ");
        let (message, help) = match key {
            "patterns" => (
                format!("this is no regular expression that is taken: {reason}"),
                "the syntax is that of Rust's `regex`: no look-around, no back-references",
            ),
            _ => (reason.to_owned(), "write a text, or leave it out"),
        };
        report.error(at, message, help);
    }
}
