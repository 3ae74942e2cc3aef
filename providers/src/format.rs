//! The wire formats, each with its name and what it can carry.
//!
//! Owns the list. A provider of a known format is configuration; a new format is a variant here, and the compiler shows
//! every place where it is to be read and written.

/// A wire format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// OpenAI's chat completions, and all that are compatible with them (vLLM, Kimi, XRoute, OpenRouter).
    OpenAiChat,
    /// OpenAI's responses.
    OpenAiResponses,
    /// Anthropic's messages.
    Anthropic,
    /// Ollama's own chat.
    Ollama,
}

/// What a format can carry. Whether a model behind it can do it too, its operator knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Abilities {
    /// Answers in pieces.
    pub stream: bool,
    /// Tool calls.
    pub tools: bool,
    /// Images in messages.
    pub vision: bool,
    /// Images by their address.
    pub image_urls: bool,
    /// Reasoning, apart from the text.
    pub reasoning: bool,
    /// Clients may speak it to us.
    pub door: bool,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::OpenAiChat, Self::OpenAiResponses, Self::Anthropic, Self::Ollama];

    /// Its name in a configuration.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::OpenAiChat => "openai",
            Self::OpenAiResponses => "openai-responses",
            Self::Anthropic => "anthropic",
            Self::Ollama => "ollama",
        }
    }

    /// The format of this name.
    #[must_use]
    pub fn of(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// What it can carry.
    #[must_use]
    pub const fn abilities(self) -> Abilities {
        let all = Abilities {
            stream: true,
            tools: true,
            vision: true,
            image_urls: true,
            reasoning: true,
            door: true,
        };
        match self {
            Self::OpenAiChat | Self::OpenAiResponses | Self::Anthropic => all,
            Self::Ollama => Abilities { image_urls: false, door: false, ..all },
        }
    }

    /// The end of an endpoint's address, behind its base.
    #[must_use]
    pub const fn path(self) -> &'static str {
        match self {
            Self::OpenAiChat => "/chat/completions",
            Self::OpenAiResponses => "/responses",
            Self::Anthropic => "/v1/messages",
            Self::Ollama => "/api/chat",
        }
    }

    /// What holds the conversation in a request.
    #[must_use]
    pub const fn conversation(self) -> &'static str {
        match self {
            Self::OpenAiResponses => "input",
            Self::OpenAiChat | Self::Anthropic | Self::Ollama => "messages",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_have_names() {
        for kind in Kind::ALL {
            assert_eq!(Kind::of(kind.name()), Some(kind));
            assert!(kind.abilities().stream && kind.abilities().tools);
        }
        assert_eq!(Kind::of("gopher"), None);
    }
}
