//! What a server says, as models are told it: its tools, bounded, and the results of its calls, as text.
use super::{List, Listed};
use crate::config::mcp::Limits;
use crate::tools::schema::Schema;
use crate::tools::tool::{Outcome, Refusal};
use clawgate_core::codes::Code;
use rmcp::model::{CallToolResult, ContentBlock, ResourceContents, Tool};
use serde_json::Value;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Bytes of a tool's name at its server.
const NAME_BYTES_MAX: usize = 128;

/// The tools that can be offered, and what is wrong with the others, in words for the operator.
pub(super) fn list(tools: Vec<Tool>, limits: &Limits) -> (List, Vec<String>) {
    let (mut listed, mut refused, mut names) = (Vec::new(), Vec::new(), BTreeSet::new());
    for tool in tools {
        // Quoted: it is a stranger's text.
        let shown = format!("{:?}", bounded(&tool.name, NAME_BYTES_MAX));
        if limits.tools_max <= listed.len() {
            refused.push(format!("{shown} is one more than limits.mcp.toolsMax"));
            break;
        }
        if tool.name.is_empty() || NAME_BYTES_MAX < tool.name.len() {
            refused.push(format!("{shown} has no name of 1 to {NAME_BYTES_MAX} bytes"));
            continue;
        }
        if !names.insert(tool.name.to_string()) {
            refused.push(format!("{shown} is there twice"));
            continue;
        }
        match Schema::compile(&Value::Object((*tool.input_schema).clone())) {
            Ok(parameters) => listed.push(Listed {
                description: description(&tool, limits.description_bytes_max),
                name: tool.name.into_owned(),
                parameters: Arc::new(parameters),
            }),
            Err(why) => refused.push(format!("the schema of {shown} cannot be used: {why:?}")),
        }
    }
    (listed.into(), refused)
}

fn description(tool: &Tool, bytes_max: usize) -> String {
    let title = tool.title.as_deref().or_else(|| tool.annotations.as_ref()?.title.as_deref());
    bounded(tool.description.as_deref().or(title).unwrap_or_default(), bytes_max).to_owned()
}

fn bounded(text: &str, bytes_max: usize) -> &str {
    &text[..text.floor_char_boundary(bytes_max)]
}

/// What a call came to.
pub(super) fn outcome(result: &CallToolResult, output_bytes_max: usize) -> Outcome {
    let mut text = String::new();
    for block in &result.content {
        if !text.is_empty() {
            text.push('\n');
        }
        say(block, &mut text);
    }
    if result.content.is_empty()
        && let Some(structured) = &result.structured_content
    {
        text = structured.to_string();
    }
    if result.is_error == Some(true) {
        let text = bounded(&text, output_bytes_max);
        return Outcome::failed(&Refusal::new(Code::ToolFailed, text));
    }
    Outcome::said(text, output_bytes_max)
}

fn say(block: &ContentBlock, text: &mut String) {
    match block {
        ContentBlock::Text(said) => text.push_str(&said.text),
        ContentBlock::Image(image) => unseen("an image", &image.mime_type, image.data.len(), text),
        ContentBlock::Audio(audio) => unseen("a sound", &audio.mime_type, audio.data.len(), text),
        ContentBlock::Resource(embedded) => match &embedded.resource {
            ResourceContents::TextResourceContents { text: said, .. } => text.push_str(said),
            ResourceContents::BlobResourceContents { mime_type, blob, .. } => {
                unseen("a resource", mime_type.as_deref().unwrap_or("unknown"), blob.len(), text);
            }
            _ => text.push_str("[the tool answered with a resource that is not shown]"),
        },
        ContentBlock::ResourceLink(link) => {
            text.push_str(&link.name);
            text.push_str(": ");
            text.push_str(&link.uri);
        }
        _ => text.push_str("[the tool answered with something that is not shown]"),
    }
}

/// What models are not shown here.
fn unseen(what: &str, kind: &str, base64_bytes: usize, text: &mut String) {
    let kind = bounded(kind, NAME_BYTES_MAX);
    let said = format!("[the tool answered with {what} ({kind}, {} bytes), not shown]", base64_bytes / 4 * 3);
    text.push_str(&said);
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    fn tools(list: &[(&str, Value)]) -> Vec<Tool> {
        let tool = |(name, schema): &(&str, Value)| {
            let tool = json!({ "name": name, "description": "Größe", "inputSchema": schema });
            serde_json::from_value(tool).unwrap()
        };
        list.iter().map(tool).collect()
    }

    #[test]
    fn tools_that_can_be_offered_are() {
        let object = || json!({ "type": "object" });
        let long = "x".repeat(129);
        let (list, refused) = list(
            tools(&[
                ("a", object()),
                ("a", object()),
                ("", object()),
                (&long, object()),
                ("no\nschema", json!({ "type": "array" })),
                ("b", object()),
                ("c", object()),
                ("d", object()),
                ("e", object()),
            ]),
            &Limits::TEST,
        );
        assert_eq!(list.iter().map(|tool| tool.name.as_str()).collect::<Vec<_>>(), ["a", "b", "c"]);
        assert_eq!(list[0].description, "Grö", "cut between characters");
        let parts = ["twice", "1 to 128", "1 to 128", "\"no\\nschema\"", "toolsMax"];
        assert_eq!(refused.len(), parts.len(), "{refused:?}");
        for (told, part) in refused.iter().zip(parts) {
            assert!(told.contains(part), "{told}");
        }
    }

    #[test]
    fn what_a_server_answers_is_told_as_text() {
        let told = |result: Value| outcome(&serde_json::from_value(result).unwrap(), 60);
        let text = |text: &str| json!({ "type": "text", "text": text });
        let said = told(json!({ "content": [text("one"), text("two")] }));
        assert_eq!((said.text.as_str(), said.code), ("one\ntwo", None));
        assert_eq!(told(json!({ "content": [], "structuredContent": { "a": 1 } })).text, "{\"a\":1}");
        assert!(told(json!({ "content": [text(&"x".repeat(99))] })).text.contains("[cut"));
        let image = json!({ "type": "image", "data": "AAAA", "mimeType": "image/png" });
        assert!(told(json!({ "content": [image] })).text.contains("an image (image/png, 3 bytes)"));
        let link = json!({ "type": "resource_link", "name": "n", "uri": "file:///x" });
        assert_eq!(told(json!({ "content": [link] })).text, "n: file:///x");
        let inner = json!({ "uri": "a:b", "text": "inside" });
        assert_eq!(told(json!({ "content": [{ "type": "resource", "resource": inner }] })).text, "inside");
        let failed = told(json!({ "content": [text("no such \"file\"")], "isError": true }));
        assert_eq!(failed.code, Some(Code::ToolFailed));
        assert!(failed.text.contains("no such \\\"file\\\""), "{}", failed.text);
    }
}
