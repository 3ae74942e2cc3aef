//! The upstreams that can be called: sections `models` and `llm`.
use super::secret::Secret;
use clawgate_core::plan::BreakerPlan;
use core::time::Duration;
use std::path::PathBuf;

/// One model.
#[derive(Clone, Debug, PartialEq)]
pub struct Model {
    /// Its name in the configuration, in answers and metrics.
    pub name: String,
    /// Who runs it.
    pub provider: Provider,
    /// Calls that run at once, process; 0 for no bound.
    pub running_max: u32,
    /// From the start to the response header, connecting included.
    pub header_age_max: Duration,
    /// From the start to the first text or thought.
    pub first_piece_age_max: Duration,
    /// Between two pieces.
    pub silence_max: Duration,
    /// For the whole call.
    pub call_age_max: Duration,
    /// When it counts as broken.
    pub breaker: BreakerPlan,
}

/// Who runs a model.
#[derive(Clone, Debug, PartialEq)]
pub enum Provider {
    /// Answers with the text that was asked.
    Echo {
        /// Word by word instead of in one piece.
        words: bool,
    },
    /// Answers by a script.
    Scripted {
        /// The steps, in order; empty for the built-in demonstration.
        script: Vec<Step>,
    },
    /// Speaks the chat completions format of OpenAI.
    OpenAi(Box<Endpoint>),
}

/// One step of a script.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// The pause before it.
    pub after: Duration,
    /// What happens.
    pub action: Action,
}

/// What a step of a script does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Says a text, so many times.
    Say {
        /// The text; `{prompt}` stands for what was asked.
        text: String,
        /// At least 1.
        times: u32,
    },
    /// Falls silent for good.
    Stall,
    /// Fails with this HTTP status.
    Fail {
        /// 400 to 599.
        status: u16,
    },
    /// Closes without a finish.
    Truncate,
    /// Sends what cannot be read.
    Malformed,
}

/// An upstream that speaks the chat completions format of OpenAI.
#[derive(Clone, Debug, PartialEq)]
pub struct Endpoint {
    /// The provider's name in the configuration (`kimi`).
    pub provider: String,
    /// Absolute, without a slash at its end: `https://api.openai.com/v1`.
    pub base_url: String,
    /// Sent as a bearer token.
    pub api_key: Option<Secret>,
    /// The model's name at the upstream.
    pub model: String,
    /// Ask for a stream.
    pub stream: bool,
    /// Sampling temperature.
    pub temperature: Option<f64>,
    /// Tokens of an answer.
    pub max_tokens: Option<u32>,
    /// Further request headers; names are lower-case tokens, values printable ASCII.
    pub headers: Vec<(String, Secret)>,
    /// Further fields of the request, as the text of a JSON object; empty for none.
    pub extra_body: String,
    /// PEM: certificates to trust instead of the public ones.
    pub ca_file: Option<PathBuf>,
}
