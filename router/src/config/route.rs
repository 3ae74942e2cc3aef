//! Which agent answers: section `route`.
use clawgate_core::id::AgentId;

/// Which agent answers, where neither the session nor the channel says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route {
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
pub struct Rule {
    /// Whole words, in any case.
    pub keywords: Vec<String>,
    /// What the text begins with.
    pub prefixes: Vec<String>,
    /// Regular expressions; each compiles.
    pub patterns: Vec<String>,
    /// Who answers.
    pub agent: AgentId,
}
