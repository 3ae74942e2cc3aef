//! Who runs models: the providers that are known by name, what they speak, and where they are.
//!
//! Owns the list. A provider of a known format is a line here, or none at all: `openai-compatible` and
//! `anthropic-compatible` with a `baseUrl` do for all others.
use clawgate_providers::Kind;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Who runs a model. What it speaks stands in its name, or in `format`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub(super) enum ProviderName {
    /// Answers with the text it was asked. Needs nothing.
    #[serde(rename = "echo")]
    Echo,
    /// Plays a `script`. Needs nothing.
    #[serde(rename = "scripted")]
    Scripted,
    /// OpenAI, <https://api.openai.com/v1>; chat completions, or with `format` responses.
    #[serde(rename = "openai")]
    OpenAi,
    /// Anthropic, <https://api.anthropic.com>.
    #[serde(rename = "anthropic")]
    Anthropic,
    /// Moonshot AI, international, <https://api.moonshot.ai/v1>.
    #[serde(rename = "kimi")]
    Kimi,
    /// Moonshot AI, China, <https://api.moonshot.cn/v1>; its keys are not those of `kimi`.
    #[serde(rename = "kimi-cn")]
    KimiCn,
    /// XRoute.AI, <https://api.xroute.ai/openai/v1>.
    #[serde(rename = "xroute")]
    XRoute,
    /// OpenRouter, <https://openrouter.ai/api/v1>.
    #[serde(rename = "openrouter")]
    OpenRouter,
    /// DeepSeek, <https://api.deepseek.com/v1>.
    #[serde(rename = "deepseek")]
    DeepSeek,
    /// Groq, <https://api.groq.com/openai/v1>.
    #[serde(rename = "groq")]
    Groq,
    /// Mistral AI, <https://api.mistral.ai/v1>.
    #[serde(rename = "mistral")]
    Mistral,
    /// Ollama on this machine, <http://127.0.0.1:11434>, by its own format.
    #[serde(rename = "ollama")]
    Ollama,
    /// vLLM on this machine, <http://127.0.0.1:8000/v1>.
    #[serde(rename = "vllm")]
    Vllm,
    /// Anything else that speaks OpenAI's chat completions, or with `format` its responses; needs `baseUrl`.
    #[serde(rename = "openai-compatible")]
    OpenAiCompatible,
    /// Anything else that speaks Anthropic's messages; needs `baseUrl`.
    #[serde(rename = "anthropic-compatible")]
    AnthropicCompatible,
}

/// A wire format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub(super) enum Format {
    /// OpenAI's chat completions.
    #[serde(rename = "openai")]
    OpenAi,
    /// OpenAI's responses.
    #[serde(rename = "openai-responses")]
    OpenAiResponses,
    /// Anthropic's messages.
    #[serde(rename = "anthropic")]
    Anthropic,
    /// Ollama's own chat.
    #[serde(rename = "ollama")]
    Ollama,
}

impl Format {
    /// The codec.
    pub(super) const fn kind(self) -> Kind {
        match self {
            Self::OpenAi => Kind::OpenAiChat,
            Self::OpenAiResponses => Kind::OpenAiResponses,
            Self::Anthropic => Kind::Anthropic,
            Self::Ollama => Kind::Ollama,
        }
    }
}

/// What is known of a provider that is called over the network.
pub(super) struct Known {
    pub(super) name: &'static str,
    /// What it speaks, the usual one first, and what stands before the format's path.
    pub(super) formats: &'static [(Kind, Option<&'static str>)],
    /// Where a key comes from and what its variable is called, if one is needed.
    pub(super) key: Option<(&'static str, &'static str)>,
    /// Its chat completions want the model's reasoning of earlier messages back.
    pub(super) replays: bool,
}

const CHAT: Kind = Kind::OpenAiChat;
const RESPONSES: Kind = Kind::OpenAiResponses;

const OPENAI: Known = Known {
    name: "openai",
    formats: &[(CHAT, Some("https://api.openai.com/v1")), (RESPONSES, Some("https://api.openai.com/v1"))],
    key: Some(("https://platform.openai.com/api-keys", "OPENAI_API_KEY")),
    replays: false,
};

const ANTHROPIC: Known = Known {
    name: "anthropic",
    formats: &[(Kind::Anthropic, Some("https://api.anthropic.com"))],
    key: Some(("https://console.anthropic.com/settings/keys", "ANTHROPIC_API_KEY")),
    replays: false,
};

const KIMI: Known = Known {
    name: "kimi",
    formats: &[
        (CHAT, Some("https://api.moonshot.ai/v1")),
        (Kind::Anthropic, Some("https://api.moonshot.ai/anthropic")),
    ],
    key: Some(("https://platform.moonshot.ai", "KIMI_API_KEY")),
    replays: true,
};

const KIMI_CN: Known = Known {
    name: "kimi-cn",
    formats: &[
        (CHAT, Some("https://api.moonshot.cn/v1")),
        (Kind::Anthropic, Some("https://api.moonshot.cn/anthropic")),
    ],
    key: Some(("https://platform.moonshot.cn", "KIMI_API_KEY")),
    replays: true,
};

const XROUTE: Known = Known {
    name: "xroute",
    formats: &[(CHAT, Some("https://api.xroute.ai/openai/v1"))],
    key: Some(("https://xroute.ai", "XROUTE_API_KEY")),
    replays: false,
};

const OPENROUTER: Known = Known {
    name: "openrouter",
    formats: &[(CHAT, Some("https://openrouter.ai/api/v1"))],
    key: Some(("https://openrouter.ai/keys", "OPENROUTER_API_KEY")),
    replays: false,
};

const DEEPSEEK: Known = Known {
    name: "deepseek",
    formats: &[
        (CHAT, Some("https://api.deepseek.com/v1")),
        (Kind::Anthropic, Some("https://api.deepseek.com/anthropic")),
    ],
    key: Some(("https://platform.deepseek.com/api_keys", "DEEPSEEK_API_KEY")),
    replays: false,
};

const GROQ: Known = Known {
    name: "groq",
    formats: &[(CHAT, Some("https://api.groq.com/openai/v1"))],
    key: Some(("https://console.groq.com/keys", "GROQ_API_KEY")),
    replays: false,
};

const MISTRAL: Known = Known {
    name: "mistral",
    formats: &[(CHAT, Some("https://api.mistral.ai/v1"))],
    key: Some(("https://console.mistral.ai/api-keys", "MISTRAL_API_KEY")),
    replays: false,
};

const OLLAMA: Known = Known {
    name: "ollama",
    formats: &[(Kind::Ollama, Some("http://127.0.0.1:11434")), (CHAT, Some("http://127.0.0.1:11434/v1"))],
    key: None,
    replays: false,
};

const VLLM: Known = Known {
    name: "vllm",
    formats: &[(CHAT, Some("http://127.0.0.1:8000/v1")), (RESPONSES, Some("http://127.0.0.1:8000/v1"))],
    key: None,
    replays: false,
};

const OPENAI_COMPATIBLE: Known = Known {
    name: "openai-compatible",
    formats: &[(CHAT, None), (RESPONSES, None)],
    key: None,
    replays: false,
};

const ANTHROPIC_COMPATIBLE: Known =
    Known { name: "anthropic-compatible", formats: &[(Kind::Anthropic, None)], key: None, replays: false };

impl ProviderName {
    /// `None` for those that are not called over the network.
    pub(super) const fn known(self) -> Option<Known> {
        let known = match self {
            Self::Echo | Self::Scripted => return None,
            Self::OpenAi => OPENAI,
            Self::Anthropic => ANTHROPIC,
            Self::Kimi => KIMI,
            Self::KimiCn => KIMI_CN,
            Self::XRoute => XROUTE,
            Self::OpenRouter => OPENROUTER,
            Self::DeepSeek => DEEPSEEK,
            Self::Groq => GROQ,
            Self::Mistral => MISTRAL,
            Self::Ollama => OLLAMA,
            Self::Vllm => VLLM,
            Self::OpenAiCompatible => OPENAI_COMPATIBLE,
            Self::AnthropicCompatible => ANTHROPIC_COMPATIBLE,
        };
        Some(known)
    }
}
