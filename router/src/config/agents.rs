//! Who answers: section `agents`.
use clawgate_core::id::ModelId;

/// One agent.
#[derive(Clone, Debug, PartialEq)]
pub struct Agent {
    /// Its name in the configuration.
    pub name: String,
    /// The models it may call, in order of preference, as indices of `Config::models`; never empty.
    pub models: Vec<ModelId>,
    /// What each prompt begins with; empty for none.
    pub system: String,
    /// Does a session keep what was said for this agent's prompts?
    pub history: bool,
    /// Turns that run at once, process; 0 for no bound.
    pub running_max: u32,
    /// Messages that wait, process.
    pub waiting_max: u32,
    /// Calls per turn on one model before the next is tried.
    pub attempts_max: u16,
    /// What people on a platform are told when no answer can be had.
    pub failure_text: Option<String>,
}
