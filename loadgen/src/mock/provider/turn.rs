//! One answer to be given: its words, in the order in which they are said. Knows no format and no socket.

use std::borrow::Cow;

use serde_json::{Value, json};

use super::script::{Reply, Script};
use crate::stamp;
use crate::sys;

/// A tool that the request offers.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Tool {
    pub(super) name: String,
    /// The JSON Schema of its arguments.
    pub(super) schema: Value,
}

/// What a request asks for, whatever its format.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Asked {
    pub(super) model: String,
    pub(super) stream: bool,
    pub(super) wants_usage: bool,
    /// The field `mock`.
    pub(super) script: Option<String>,
    /// The text of the last message of the user.
    pub(super) last_user: String,
    /// What tools answered, if that is the last that was said.
    pub(super) results: Vec<String>,
    pub(super) tools: Vec<Tool>,
    /// Of all that was said.
    pub(super) prompt_bytes: usize,
    pub(super) messages: u64,
    pub(super) images: u64,
}

/// A call of a tool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Call {
    pub(super) name: String,
    /// JSON.
    pub(super) arguments: String,
}

/// One thing to say. All but the end of a call count as tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Thought(u32),
    Text(u32),
    CallBegin(usize),
    /// These bytes of the call's arguments.
    Arguments {
        call: usize,
        from: usize,
        to: usize,
    },
    CallEnd(usize),
}

impl Step {
    pub(super) const fn is_token(self) -> bool {
        !matches!(self, Self::CallEnd(_))
    }
}

/// One answer to be given.
#[derive(Clone, Debug)]
pub(super) struct Turn {
    pub(super) script: Script,
    pub(super) model: String,
    pub(super) number: u64,
    pub(super) stream: bool,
    pub(super) wants_usage: bool,
    pub(super) prompt_tokens: u64,
    pub(super) calls: Vec<Call>,
    text: String,
    /// Tokens of the text.
    tokens: u32,
}

const WORDS: [&str; 12] =
    ["Messages", " go", " in", " and", " answers", " come", " out", ",", " one", " by", " one", ". "];

impl Turn {
    pub(super) fn new(asked: Asked, script: Script, number: u64) -> Self {
        let calls = calls(&asked, &script);
        let text = match asked.results.is_empty() {
            true => asked.last_user,
            false => asked.results.join(" "),
        };
        let tokens = if calls.is_empty() || script.tokens.is_some() { tokens_of(&script, &text) } else { 0 };
        Self {
            model: asked.model,
            number,
            stream: asked.stream,
            wants_usage: asked.wants_usage,
            prompt_tokens: asked.messages * 4 + asked.prompt_bytes.div_ceil(4) as u64,
            calls,
            text,
            tokens,
            script,
        }
    }

    /// All that is to be said, in its order.
    pub(super) fn steps(&self) -> Vec<Step> {
        let mut steps: Vec<Step> = (0..self.script.thoughts).map(Step::Thought).collect();
        steps.extend((0..self.tokens).map(Step::Text));
        let fragments = |call: usize| {
            let text = &self.calls[call].arguments;
            let mut cuts: Vec<usize> = (0..text.len())
                .step_by(self.script.fragment)
                .map(|at| text.floor_char_boundary(at))
                .collect();
            cuts.push(text.len());
            cuts.dedup();
            let pieces: Vec<Step> =
                cuts.windows(2).map(|cut| Step::Arguments { call, from: cut[0], to: cut[1] }).collect();
            pieces
        };
        if !self.script.interleave {
            for call in 0..self.calls.len() {
                steps.push(Step::CallBegin(call));
                steps.extend(fragments(call));
                steps.push(Step::CallEnd(call));
            }
            return steps;
        }
        steps.extend((0..self.calls.len()).map(Step::CallBegin));
        let all: Vec<Vec<Step>> = (0..self.calls.len()).map(fragments).collect();
        let longest = all.iter().map(Vec::len).max().unwrap_or(0);
        for at in 0..longest {
            steps.extend(all.iter().filter_map(|pieces| pieces.get(at)));
        }
        steps.extend((0..self.calls.len()).map(Step::CallEnd));
        steps
    }

    /// How many tokens the whole answer has.
    pub(super) fn count(&self) -> u64 {
        self.steps().iter().filter(|step| step.is_token()).count() as u64
    }

    /// A token of the text.
    pub(super) fn token(&self, number: u32) -> Cow<'_, str> {
        match self.script.reply {
            Reply::Echo => Cow::Borrowed(self.echo_piece(number)),
            Reply::Words => Cow::Borrowed(word(number)),
            Reply::Stamps => {
                let mut digits = [b'@'; 17];
                stamp::write_hex(&mut digits[1..], sys::now_ns());
                Cow::Owned(String::from_utf8_lossy(&digits).into_owned())
            }
        }
    }

    /// The text in so many pieces, as even as its characters allow.
    fn echo_piece(&self, number: u32) -> &str {
        let bytes = self.text.len() as u64;
        let cut = |number: u32| {
            let at = bytes * u64::from(number) / u64::from(self.tokens.max(1));
            self.text.floor_char_boundary(at as usize)
        };
        &self.text[cut(number)..cut(number + 1)]
    }

    pub(super) fn whole_text(&self) -> String {
        (0..self.tokens).map(|number| self.token(number)).collect()
    }

    pub(super) fn whole_thought(&self) -> String {
        (0..self.script.thoughts).map(word).collect()
    }

    /// A part of a call's arguments.
    pub(super) fn fragment(&self, call: usize, from: usize, to: usize) -> &str {
        self.calls.get(call).and_then(|call| call.arguments.get(from..to)).unwrap_or_default()
    }
}

/// A token of what is thought, or of the canned text.
pub(super) fn word(number: u32) -> &'static str {
    WORDS[number as usize % WORDS.len()]
}

/// How many tokens the text of an answer has: an echo no more than it has characters.
fn tokens_of(script: &Script, text: &str) -> u32 {
    match script.reply {
        Reply::Echo => {
            let characters = text.chars().count() as u32;
            script.tokens.unwrap_or(text.len().div_ceil(4) as u32).min(characters)
        }
        Reply::Words | Reply::Stamps => script.tokens.unwrap_or(50),
    }
}

/// The calls that answer: as many as the script says, of the tools in their order. What a tool has answered is not asked
/// again.
fn calls(asked: &Asked, script: &Script) -> Vec<Call> {
    if asked.tools.is_empty() || !asked.results.is_empty() {
        return Vec::new();
    }
    let tools = asked.tools.iter().cycle().take(script.tools as usize);
    let call = |(number, tool): (usize, &Tool)| Call {
        name: tool.name.clone(),
        arguments: arguments(&tool.schema, number).to_string(),
    };
    tools.enumerate().map(call).collect()
}

/// Arguments that fit a schema of plain properties.
fn arguments(schema: &Value, call: usize) -> Value {
    let mut made = serde_json::Map::new();
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        let value = match (property["enum"].get(0), property["type"].as_str()) {
            (Some(first), _) => first.clone(),
            (None, Some("integer")) => json!(call + 7),
            (None, Some("number")) => json!(1.5),
            (None, Some("boolean")) => json!(true),
            (None, Some("array")) => json!([]),
            (None, Some("object")) => json!({}),
            (None, _) => json!(format!("Zürich \"{call}\" 😀")),
        };
        made.insert(name.clone(), value);
    }
    Value::Object(made)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn turn(script: &str, text: &str, tools: usize) -> Turn {
        let schema =
            json!({"type": "object", "properties": {"city": {"type": "string"}, "n": {"type": "integer"}}});
        let tool = |number| Tool { name: format!("tool{number}"), schema: schema.clone() };
        let asked =
            Asked { last_user: text.to_owned(), tools: (0..tools).map(tool).collect(), ..Asked::default() };
        Turn::new(asked, script.parse().unwrap(), 1)
    }

    #[test]
    fn an_echo_is_the_text_again_in_any_number_of_tokens() {
        for text in ["", "a", "hello there", "日本語のテキスト🦀é"] {
            for script in ["", "tokens=1", "tokens=3", "tokens=100"] {
                assert_eq!(turn(script, text, 0).whole_text(), text, "{script}");
            }
        }
    }

    #[test]
    fn fragments_make_the_arguments_again_however_they_are_cut_and_mixed() {
        for (bytes, mixed) in [(1, ""), (1, ",interleave"), (7, ",interleave"), (1_000, "")] {
            let turn = turn(&format!("tools=3,arguments={bytes}{mixed}"), "hi", 2);
            let mut told = vec![String::new(); 3];
            for step in turn.steps() {
                if let Step::Arguments { call, from, to } = step {
                    told[call].push_str(turn.fragment(call, from, to));
                }
            }
            let expected: Vec<&str> = turn.calls.iter().map(|call| call.arguments.as_str()).collect();
            assert_eq!(told, expected);
            let names: Vec<&str> = turn.calls.iter().map(|call| call.name.as_str()).collect();
            assert_eq!(names, ["tool0", "tool1", "tool0"]);
            assert!(serde_json::from_str::<Value>(&told[1]).unwrap()["city"].is_string());
        }
    }

    #[test]
    fn what_a_tool_answered_is_said() {
        let mut asked = Asked { last_user: "how is it?".to_owned(), ..Asked::default() };
        asked.tools = vec![Tool { name: "weather".to_owned(), schema: json!({}) }];
        let script: Script = "tools=1".parse().unwrap();
        let first = Turn::new(asked.clone(), script.clone(), 1);
        assert_eq!((first.calls.len(), first.whole_text().as_str()), (1, ""));
        asked.results = vec!["sunny".to_owned(), "warm".to_owned()];
        let second = Turn::new(asked, script, 2);
        assert_eq!((second.calls.len(), second.whole_text().as_str()), (0, "sunny warm"));
    }
}
