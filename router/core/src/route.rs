//! Which agent answers: strategies, composed in the configuration. See [`Strategy`].
use crate::id::AgentId;
use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

/// How an agent is chosen, where neither the session nor its channel says.
#[derive(Clone, Debug)]
pub enum Strategy {
    /// Always this one.
    Static(AgentId),
    /// By what the message says: the first rule that matches decides, else `otherwise`.
    Content {
        /// The rules, compiled.
        rules: Matcher,
        /// Where no rule matches.
        otherwise: Box<Self>,
    },
    /// The least loaded: running and waiting turns per weight, over the process; ties by chance. An agent of weight 0
    /// is taken only if all are, one whose models are all broken only if all are.
    Balance(Vec<(AgentId, u32)>),
    /// A session keeps the agent that it got first; and where the inner strategy balances, all sessions of a peer get
    /// the same one, by the hash of the peer and the weights.
    Affinity(Box<Self>),
}

/// One rule of [`Strategy::Content`]: it matches if any of its keywords, prefixes or patterns does.
#[derive(Clone, Debug)]
pub struct Rule {
    /// Words, anywhere in the text, in any case, not inside other words.
    pub keywords: Vec<String>,
    /// How the text begins, after white space, in any case of ASCII.
    pub prefixes: Vec<String>,
    /// Regular expressions (syntax of the `regex` crate), searched anywhere in the text.
    pub patterns: Vec<String>,
    /// Who answers then.
    pub then: Strategy,
}

/// Compiled rules.
#[derive(Clone, Debug)]
pub struct Matcher {
    rules: Vec<Rule>,
}

/// Why rules could not be compiled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleError {
    /// Which rule, from 0.
    pub rule: usize,
    /// What is wrong with it.
    pub message: String,
}

impl fmt::Display for RuleError {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(to, "rule {}: {}", self.rule, self.message)
    }
}

impl core::error::Error for RuleError {}

impl Matcher {
    /// Compiles the rules.
    ///
    /// # Errors
    /// A pattern that is no regular expression or too large, an empty keyword or prefix.
    pub fn compile(rules: &[Rule]) -> Result<Self, RuleError> {
        Ok(Self { rules: rules.to_vec() })
    }

    /// What the first rule that matches says.
    #[must_use]
    pub fn find(&self, text: &str) -> Option<&Strategy> {
        self.rules
            .iter()
            .find(|rule| rule.prefixes.iter().any(|prefix| text.starts_with(prefix.as_str())))
            .map(|rule| &rule.then)
    }
}
