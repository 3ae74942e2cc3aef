//! Model providers: OpenAI's chat completions and responses, Anthropic's messages and Ollama's chat, streamed and whole,
//! as a [`Script`] says.
//!
//! By default they repeat the last user message, so that a generator behind the gateway can hold answers against what it
//! asked. Requests are held against what the real services take, and refused in their words. Faults are those that gateways
//! get wrong. A stream whose reader has left is noticed before its next token, and counted.

mod anthropic;
mod check;
mod format;
mod frames;
mod give;
mod ollama;
mod openai;
mod openai_chat;
mod openai_responses;
mod script;
mod stats;
pub mod tls;
mod turn;

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;

use clawgate_wire::http1::{Length, RequestHead, write_response_head};
use serde_json::Value;

use self::check::{Checked, Refusal};
use self::format::Format;
use self::give::Ended;
use self::script::{Fault, Then};
use self::turn::{Asked, Turn};
use crate::mock::peer::{self, Peer, write_json};
pub use script::{BadScript, HELP, Script};
pub use stats::{Left, Stats};

/// How the simulated provider behaves.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Settings {
    /// The API key that it asks for; none if empty.
    pub key: String,
    /// What is done when a request says nothing.
    pub script: Script,
}

struct Provider {
    key: String,
    /// What is done when a request says nothing, at this moment.
    script: Box<dyn Fn() -> Script>,
    stats: RefCell<Stats>,
}

/// What a request leads to.
enum Next {
    /// It is answered.
    Answered,
    /// An answer is to be given, in this format.
    Turn(Format, Box<Turn>),
}

/// Serves an address on the calling thread, for as long as it runs. Tells where it listens.
///
/// # Errors
/// The system's, if nothing can listen there.
pub fn serve(address: SocketAddr, settings: Settings) -> io::Result<SocketAddr> {
    let Settings { key, script } = settings;
    serve_by(address, key, move || script.clone())
}

/// As [`serve`], with a script that may be another one for each request.
///
/// # Errors
/// See [`serve`].
pub fn serve_by(
    address: SocketAddr,
    key: String,
    script: impl Fn() -> Script + 'static,
) -> io::Result<SocketAddr> {
    let provider = Rc::new(Provider { key, script: Box::new(script), stats: RefCell::default() });
    peer::listen(address, move |peer| Rc::clone(&provider).serve_peer(peer))
}

impl Provider {
    async fn serve_peer(self: Rc<Self>, mut peer: Peer) {
        loop {
            let next = peer.next(|head, body, out| self.on_request(head, body, out)).await;
            let (format, turn) = match next {
                Ok(Some(Next::Answered)) => continue,
                Ok(Some(Next::Turn(format, turn))) => (format, turn),
                Ok(None) | Err(_) => return,
            };
            self.stats.borrow_mut().in_flight += 1;
            let given = give::give(&mut peer, format, &turn, &self.stats).await;
            self.stats.borrow_mut().in_flight -= 1;
            match given {
                Ok(()) => self.stats.borrow_mut().completed += 1,
                Err(Ended::Fault) => return,
                Err(Ended::Left(left)) => return self.stats.borrow_mut().on_left(left),
            }
            match turn.script.then {
                Then::Keep => {}
                Then::Close => return,
                Then::CloseOnNext => {
                    // Whatever comes, or whoever leaves: the connection is over.
                    peer.socket().readable().await.ok();
                    return;
                }
            }
        }
    }

    fn on_request(&self, head: &RequestHead<'_>, body: &[u8], out: &mut Vec<u8>) -> Next {
        let path = head.target.split('?').next().unwrap_or_default();
        match (head.method, path, Format::of_path(path)) {
            ("POST", _, Some(format)) => return self.on_turn(format, head, body, out),
            ("GET", "/stats", _) => {
                write_json(out, 200, &serde_json::to_vec(&*self.stats.borrow()).unwrap_or_default());
            }
            ("GET", "/v1/models", _) => write_json(
                out,
                200,
                br#"{"object":"list","data":[{"id":"mock","object":"model","created":1,"owned_by":"loadgen"}]}"#,
            ),
            ("GET", "/api/tags", _) => {
                write_json(out, 200, br#"{"models":[{"name":"mock","model":"mock","size":1}]}"#);
            }
            _ => Format::Chat.write_refusal(out, &Refusal::new(404, "there is no such path"), 0),
        }
        Next::Answered
    }

    fn on_turn(&self, format: Format, head: &RequestHead<'_>, body: &[u8], out: &mut Vec<u8>) -> Next {
        let number = self.stats.borrow_mut().on_request(format);
        let asked = self.read(format, head, body).and_then(|mut asked| {
            let script = self.script(&mut asked, number)?;
            Ok((asked, script))
        });
        let (asked, script) = match asked {
            Ok(asked) => asked,
            Err(refusal) => {
                self.stats.borrow_mut().on_refused(format, &refusal.message);
                format.write_refusal(out, &refusal, number);
                return Next::Answered;
            }
        };
        self.stats.borrow_mut().on_asked(&asked, &script);
        if script.status != 200 {
            let retry_after_seconds = script.retry_after_seconds.filter(|_| script.status != 500);
            let refusal = Refusal {
                spent: script.spent,
                retry_after_seconds,
                ..Refusal::new(script.status, "the script says so")
            };
            format.write_refusal(out, &refusal, number);
            return Next::Answered;
        }
        match script.fault {
            Some(Fault::Redirect) => {
                let headers = [("Location", "/elsewhere")];
                write_response_head(out, 307, &headers, Length::Exact(0), true);
                Next::Answered
            }
            Some(Fault::Html) => {
                let page = "<html><body>Sign in to this network</body></html>";
                let headers = [("Content-Type", "text/html")];
                write_response_head(out, 200, &headers, Length::Exact(page.len() as u64), true);
                out.extend_from_slice(page.as_bytes());
                Next::Answered
            }
            _ => Next::Turn(format, Box::new(Turn::new(asked, script, number))),
        }
    }

    fn read(&self, format: Format, head: &RequestHead<'_>, body: &[u8]) -> Checked<Asked> {
        format.check_head(&head.headers, &self.key)?;
        let body: Value = serde_json::from_slice(body)
            .map_err(|error| Refusal::new(400, format!("the body is no JSON: {error}")))?;
        format.read(&body)
    }

    /// The script that the request asks for, without its faults if it is not their turn.
    fn script(&self, asked: &mut Asked, number: u64) -> Checked<Script> {
        let marked = asked.last_user.strip_prefix("[mock:").and_then(|rest| rest.split_once(']'));
        let marked = marked.map(|(script, text)| (script.to_owned(), text.trim_start().to_owned()));
        let written = match (&asked.script, marked) {
            (Some(script), _) => Some(script.clone()),
            (None, Some((script, text))) => {
                asked.last_user = text;
                Some(script)
            }
            (None, None) => asked.model.strip_prefix("mock:").map(str::to_owned),
        };
        let script = match written {
            Some(script) => script.parse().map_err(|bad: BadScript| Refusal::new(400, bad.to_string()))?,
            None => (self.script)(),
        };
        Ok(if script.is_hit(number) { script } else { script.faultless() })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    fn provider() -> Provider {
        Provider { key: String::new(), script: Box::new(Script::default), stats: RefCell::default() }
    }

    #[test]
    fn a_script_stands_in_the_body_the_prompt_or_the_model() {
        let ask = |mock: Option<&str>, prompt: &str, model: &str| {
            let mut asked = Asked {
                script: mock.map(str::to_owned),
                last_user: prompt.to_owned(),
                model: model.to_owned(),
                ..Asked::default()
            };
            let script = provider().script(&mut asked, 1).map(|script| script.tokens);
            (script.map_err(|refusal| refusal.status), asked.last_user)
        };
        assert_eq!(ask(Some("tokens=1"), "[mock:tokens=2] a", "mock:tokens=3").0, Ok(Some(1)));
        assert_eq!(ask(None, "[mock:tokens=2] a", "mock:tokens=3"), (Ok(Some(2)), "a".to_owned()));
        assert_eq!(ask(None, "[mock a", "mock:tokens=3"), (Ok(Some(3)), "[mock a".to_owned()));
        assert_eq!(ask(None, "a", "m").0, Ok(None));
        assert_eq!(ask(None, "[mock:nonsense] a", "m").0, Err(400));
    }

    #[test]
    fn each_format_refuses_what_its_service_would() {
        let user = json!({"role": "user", "content": "a"});
        let called = json!({"role": "assistant", "content": null, "tool_calls": [
            {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]});
        let answered = json!({"role": "tool", "tool_call_id": "c1", "content": "b"});
        let used = json!({"type": "tool_use", "id": "t1", "name": "f", "input": {}});
        let used = json!({"role": "assistant", "content": [used]});
        let result = json!({"role": "user", "content": [
            {"type": "tool_result", "tool_use_id": "t1", "content": "b"}, {"type": "text", "text": "so?"}]});
        let call = json!({"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"});
        let output = json!({"type": "function_call_output", "call_id": "c1", "output": "b"});
        let png = "data:image/png;base64,aGk=";
        let chat = |messages: Value| (Format::Chat, json!({"model": "m", "messages": messages}));
        let messages = |messages: Value| {
            (Format::Messages, json!({"model": "m", "max_tokens": 9, "messages": messages}))
        };
        let responses = |input: Value| (Format::Responses, json!({"model": "m", "input": input}));
        let with = |(format, mut body): (Format, Value), key: &str, value: Value| {
            body[key] = value;
            (format, body)
        };
        let image = json!([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": png}}]}]);
        for (request, wrong) in [
            (chat(json!([user, called, answered])), ""),
            (chat(image), ""),
            (chat(json!([])), "messages"),
            (chat(json!([user, called])), "messages"),
            (chat(json!([user, called, user])), "messages[2]"),
            (chat(json!([user, answered])), "messages[1].tool_call_id"),
            (chat(json!([{"role": "robot", "content": "a"}])), "messages[0].role"),
            (chat(json!([{"role": "user"}])), "messages[0]"),
            (with(chat(json!([user])), "stream_options", json!({"include_usage": true})), "stream_options"),
            (with(chat(json!([user])), "tool_choice", json!("auto")), "tool_choice"),
            (with(chat(json!([user])), "top_k", json!(5)), "top_k"),
            (with(chat(json!([user])), "temperature", json!(3)), "temperature"),
            (messages(json!([user, used, result])), ""),
            (messages(json!([user, used, user])), "messages[2]"),
            (messages(json!([used])), "messages[0]"),
            (messages(json!([user, {"role": "tool", "content": "x"}])), "messages[1].role"),
            (messages(json!([{"role": "user", "content": ""}])), "messages[0].content"),
            (with(messages(json!([user])), "max_tokens", Value::Null), "max_tokens"),
            (with(messages(json!([user])), "seed", json!(1)), "seed"),
            (with(messages(json!([user])), "tools", json!([{"name": "f"}])), "tools[0].input_schema"),
            (responses(json!("hi")), ""),
            (responses(json!([user, call, output])), ""),
            (responses(json!([user, output])), "input[1].call_id"),
            (responses(json!([user, call])), "input"),
            (
                responses(json!([{"role": "user", "content": [{"type": "text", "text": "a"}]}])),
                "input[0].content[0].type",
            ),
            (with(responses(json!("hi")), "messages", json!([])), "messages"),
            ((Format::Ollama, json!({"model": "m", "messages": [user], "sparkle": 1})), ""),
            ((Format::Ollama, json!({"messages": [user]})), "model"),
            (
                (Format::Ollama, json!({"model": "m", "messages": [called]})),
                "messages[0].tool_calls[0].function.arguments",
            ),
        ] {
            let (format, body) = request;
            let param = format.read(&body).err().map_or(String::new(), |refusal| refusal.param);
            assert_eq!(param, wrong, "{format:?} {body}");
        }
    }
}
