//! What a model says, whatever format it came in: pieces, tool calls, counts, then one end.
//!
//! Owns the words between the formats. The core knows text, reasoning and counts alone; tool calls are the tool loop's and
//! the doors'.
use clawgate_core::event::{self, Failure, Piece};

/// Something that a model said: any number of pieces, then one end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Said<'a> {
    /// A piece of the answer: text, reasoning, or a sign of life.
    Piece(Piece<'a>),
    /// Token counts so far; the last ones count.
    Usage(Counts),
    /// Part of a tool call. Calls may interleave; each begins once, and ends once if the answer finishes. They are to be
    /// carried out only if it finishes with [`Stop::ToolCalls`]: the last one of an answer that was cut may be cut too.
    Call(CallPart<'a>),
    /// What belongs to the reasoning before it and is given back to the same provider unread.
    Thought(Thought<'a>),
    /// The call is over.
    Ended(End<'a>),
}

/// Part of a tool call. `index` counts the calls of an answer from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallPart<'a> {
    /// A call begins.
    Begin {
        /// Which call.
        index: u32,
        /// Its id, which the result names.
        id: &'a str,
        /// The tool.
        name: &'a str,
    },
    /// More of its arguments: all of them together are JSON text, or nothing, which is `{}`.
    Arguments {
        /// Which call.
        index: u32,
        /// The fragment.
        text: &'a str,
    },
    /// Nothing more of it comes.
    End {
        /// Which call.
        index: u32,
    },
}

/// What a provider wants to have back with its reasoning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Thought<'a> {
    /// The signature of the reasoning before it.
    Signature(&'a str),
    /// Reasoning that only the provider can read.
    Redacted(&'a str),
    /// A reasoning item of the responses format.
    Item {
        /// Its id.
        id: &'a str,
        /// What only the provider can read; empty where it gave none.
        encrypted: &'a str,
    },
}

/// Token counts of a turn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Tokens of the prompt, those from and to a cache included.
    pub prompt: u32,
    /// Tokens of the answer, its reasoning included.
    pub completion: u32,
    /// Tokens of the prompt that came from a cache.
    pub cached: u32,
    /// Tokens of the prompt that were written to a cache.
    pub cache_created: u32,
    /// Tokens of the answer that were reasoning.
    pub reasoning: u32,
    /// Our estimate, because the provider did not say.
    pub estimated: bool,
}

impl From<Counts> for event::Usage {
    fn from(counts: Counts) -> Self {
        Self { prompt: counts.prompt, completion: counts.completion, estimated: counts.estimated }
    }
}

/// How a call to a model ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End<'a> {
    /// It said all that it had to say.
    Finished(Stop<'a>),
    /// It failed.
    Failed(Failure<'a>),
}

/// Why a model stopped, when it stopped by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Stop<'a> {
    /// The answer is complete.
    #[default]
    Complete,
    /// A limit on length was reached.
    Length,
    /// The provider's filter cut it, or the model refused.
    Filtered,
    /// It waits for the results of its tool calls.
    ToolCalls,
    /// It came to this stop sequence.
    Sequence(&'a str),
}

impl<'a> From<End<'a>> for event::End<'a> {
    fn from(end: End<'a>) -> Self {
        match end {
            End::Finished(Stop::Complete | Stop::ToolCalls | Stop::Sequence(_)) => {
                Self::Finished(event::Stop::Complete)
            }
            End::Finished(Stop::Length) => Self::Finished(event::Stop::Length),
            End::Finished(Stop::Filtered) => Self::Finished(event::Stop::Filtered),
            End::Failed(failure) => Self::Failed(failure),
        }
    }
}
