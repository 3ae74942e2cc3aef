//! A tool, what a turn is offered of them, and what comes of a call.
use super::allow::wire_name;
use super::http::HttpTool;
use super::mcp::McpTool;
use super::schema::Schema;
use clawgate_core::codes::Code;
use clawgate_providers::raw::Raw;
use clawgate_providers::request;
use clawgate_wire::json;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

/// Tools that one request offers: as many as OpenAI takes.
const OFFERED_MAX: usize = 128;

/// Something that a model may call.
#[derive(Debug)]
pub(crate) struct Tool {
    /// Its name: that of the configuration, or `server.tool`.
    pub(crate) name: String,
    /// What it is counted under: its name, or that of its server.
    pub(crate) source: Arc<str>,
    /// What it is good for.
    pub(crate) description: String,
    /// What its arguments are.
    pub(crate) parameters: Arc<Schema>,
    /// Who may use it: those of this tier and above.
    pub(crate) tier: u8,
    /// How long one call may take.
    pub(crate) age_max: Duration,
    /// Bytes of what it says.
    pub(crate) output_bytes_max: usize,
    /// Calling it twice does no more than calling it once.
    pub(crate) repeatable: bool,
    /// What it does.
    pub(crate) work: Work,
}

/// What a tool does.
#[derive(Debug)]
pub(crate) enum Work {
    /// Says what time it is.
    Time,
    /// Sends a request to its address.
    Http(Box<HttpTool>),
    /// Calls a tool of a server.
    Mcp(McpTool),
}

/// Why a call is not carried out, or failed; told to the model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) code: Code,
    pub(crate) why: String,
}

impl Refusal {
    pub(crate) fn new(code: Code, why: impl Into<String>) -> Self {
        Self { code, why: why.into() }
    }
}

/// What came of a call.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Outcome {
    /// What the model is told.
    pub(crate) text: String,
    /// `None` if all went well.
    pub(crate) code: Option<Code>,
    /// Bytes that the tool said; more than there are of `text` where that was cut.
    pub(crate) bytes: usize,
}

impl Outcome {
    /// The tool said this, of which no more than so many bytes are told.
    pub(crate) fn said(mut text: String, output_bytes_max: usize) -> Self {
        let bytes = text.len();
        if output_bytes_max < bytes {
            text.truncate(text.floor_char_boundary(output_bytes_max));
            text.push_str("\n[cut: the tool said more than it may]");
        }
        Self { text, code: None, bytes }
    }

    /// The tool failed, and said this.
    pub(crate) fn failed(refusal: &Refusal) -> Self {
        let Refusal { code, why } = refusal;
        let mut text = b"{\"error\":{\"code\":".to_vec();
        json::write_str(&mut text, code.name());
        text.extend_from_slice(b",\"message\":");
        json::write_str(&mut text, why);
        text.extend_from_slice(b"}}");
        // It was made of texts.
        let text = String::from_utf8(text).unwrap_or_default();
        Self { text, code: Some(*code), bytes: 0 }
    }
}

/// The tools of one turn, as its model is told of them.
#[derive(Debug)]
pub(crate) struct Offer {
    tools: Vec<(String, Arc<Tool>)>,
}

impl Offer {
    /// These tools; what is more than a request may offer is left out.
    pub(crate) fn new(tools: Vec<Arc<Tool>>) -> Self {
        let mut taken = BTreeSet::new();
        let mut named = Vec::with_capacity(tools.len());
        for tool in tools.into_iter().take(OFFERED_MAX) {
            let name = wire_name(&tool.name, &taken);
            taken.insert(name.clone());
            named.push((name, tool));
        }
        Self { tools: named }
    }

    /// Is nothing offered?
    pub(crate) const fn is_empty(&self) -> bool {
        self.tools.is_empty()
    }

    /// The tool that was offered under this name.
    pub(crate) fn find(&self, name: &str) -> Option<&Arc<Tool>> {
        self.tools.iter().find(|(offered, _)| offered == name).map(|(_, tool)| tool)
    }

    /// Their names, for a model that made one up.
    pub(crate) fn names(&self) -> String {
        let names: Vec<&str> = self.tools.iter().map(|(name, _)| name.as_str()).collect();
        names.join(", ")
    }

    /// As a request has them.
    pub(crate) fn definitions(&self) -> Vec<request::Tool<'_>> {
        self.tools
            .iter()
            .map(|(name, tool)| request::Tool {
                name: name.as_str().into(),
                description: (!tool.description.is_empty()).then(|| tool.description.as_str().into()),
                parameters: Raw::parse(tool.parameters.text().as_bytes()),
                strict: None,
                raw: None,
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_tool_says_is_cut_where_it_must_be() {
        assert_eq!(
            Outcome::said("ab".to_owned(), 2),
            Outcome { text: "ab".to_owned(), code: None, bytes: 2 }
        );
        let cut = Outcome::said("aé".repeat(5_000_000), 8);
        assert_eq!(
            (cut.text.as_str(), cut.bytes),
            ("aéaéa\n[cut: the tool said more than it may]", 15_000_000)
        );
        let failed = Outcome::failed(&Refusal::new(Code::ToolTimeout, "it \"slept\""));
        let value: serde_json::Value = serde_json::from_str(&failed.text).unwrap_or_default();
        assert_eq!(value["error"]["code"], "TOOL_TIMEOUT");
        assert_eq!(value["error"]["message"], "it \"slept\"");
    }
}
