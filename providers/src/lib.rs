//! Providers: a request for a model is read and written in any format, and so is what comes back. One folder a wire format,
//! and two models that need no network.
//!
//! Pure: no socket, no clock, no thread. The shell sends, reads and waits; retries, breakers and time-outs are the core's.
#![forbid(unsafe_code)]

pub mod agent;
pub mod answer;
mod anthropic;
mod decoder;
pub mod door;
pub mod echo;
mod endpoint;
#[cfg(test)]
mod example;
#[cfg(test)]
mod example_tests;
pub mod failure;
mod format;
mod json;
mod ollama;
mod openai_chat;
mod openai_responses;
mod prompt;
mod proof;
pub mod rates;
pub mod raw;
pub mod reply;
pub mod request;
pub mod said;
pub mod scripted;

pub use decoder::{Decoder, Limits};
pub use endpoint::{Endpoint, Settings};
pub use format::{Abilities, Kind};
pub use json::Json;
pub use said::{End, Said, Stop};

use clawgate_core::view::Role;

/// What a model is asked.
#[expect(missing_debug_implementations, reason = "iterators have none, and texts do not belong into logs")]
pub struct Turn<'i, 'a> {
    /// What the agent is told first; may be empty.
    pub system: &'a str,
    /// The session's context variables, names and values.
    pub context: &'i mut dyn Iterator<Item = (&'a str, &'a str)>,
    /// What was said before, oldest first.
    pub history: &'i mut dyn Iterator<Item = (Role, &'a str)>,
    /// The message.
    pub text: &'a str,
    /// Who asks, for the provider's own abuse detection; empty to say nothing.
    pub user: &'a str,
}

/// Settings that no provider can be made from: the operator's fault, told at start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unusable {
    /// The setting, as the configuration names it.
    pub key: &'static str,
    /// What is wrong with it.
    pub text: &'static str,
}

/// A configured model. Closed: a new kind is a new variant, and the compiler shows every place.
#[derive(Debug)]
pub enum Provider {
    /// Says what it was told.
    Echo(echo::Echo),
    /// Says what its script says.
    Scripted(scripted::Script),
    /// An endpoint of any format.
    Endpoint(Box<Endpoint>),
}
