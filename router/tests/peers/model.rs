//! A simulated model behind an OpenAI-compatible endpoint: "Create chat completion", streamed, as OpenAI's servers
//! write it, and each way in which such a stream goes wrong.
use super::Watched;
use super::server::{After, Asked, Line, Server};
use rustls::ServerConfig;
use serde_json::{Value, json};
use std::sync::Arc;

/// A running endpoint.
#[derive(Debug)]
pub(crate) struct Model {
    pub(crate) server: Server,
    pub(crate) seen: Arc<Watched<Seen>>,
}

/// What happened to it, for the test.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// The requests, as they came.
    pub(crate) asked: Vec<Asked>,
    /// Streams that the caller left before their end, with the tokens that were sent until then.
    pub(crate) left: Vec<u32>,
    /// Tokens that the test lets pass, where the handler waits for that.
    pub(crate) released: u32,
}

impl Model {
    /// Starts one. The handler answers each request.
    pub(crate) fn start(handler: impl Fn(&Asked, &mut Speech<'_>) -> After + Send + Sync + 'static) -> Self {
        Self::start_with(None, handler)
    }

    /// As [`Self::start`], over TLS.
    pub(crate) fn start_with(
        tls: Option<Arc<ServerConfig>>,
        handler: impl Fn(&Asked, &mut Speech<'_>) -> After + Send + Sync + 'static,
    ) -> Self {
        let seen = Arc::new(Watched::<Seen>::default());
        let noted = seen.clone();
        let server = Server::start(tls, move |asked, line| {
            noted.with(|seen| seen.asked.push(asked.clone()));
            handler(asked, &mut Speech { line, tokens: 0, seen: noted.clone() })
        });
        Self { server, seen }
    }

    /// One that streams these words and finishes as it should.
    pub(crate) fn saying(words: &'static [&'static str]) -> Self {
        Self::start(move |_, speech| {
            speech.begin();
            words.iter().for_each(|word| assert!(speech.token(word)));
            speech.finish("stop");
            speech.usage(15, 12);
            speech.done();
            After::Keep
        })
    }

    /// One that streams `word0 `, `word1 ` and so on, each when the test lets it pass, until `count` were said or the
    /// caller leaves.
    pub(crate) fn held(count: u32) -> Self {
        Self::start(move |_, speech| {
            speech.begin();
            for number in 0..count {
                let seen = speech.seen.clone();
                seen.wait("the test releases a token", |seen| (number < seen.released).then_some(()));
                if !speech.token(&format!("word{number} ")) {
                    return After::Close;
                }
            }
            speech.finish("stop");
            speech.done();
            After::Keep
        })
    }

    /// Lets one more token pass.
    pub(crate) fn release(&self, tokens: u32) {
        self.seen.with(|seen| seen.released += tokens);
    }

    /// What stands in the configuration for it, beside what `more` says.
    pub(crate) fn config(&self, more: Value) -> Value {
        self.config_at(&format!("http://{}/v1", self.server.address), more)
    }

    /// As [`Self::config`], at this base URL.
    pub(crate) fn config_at(&self, base_url: &str, more: Value) -> Value {
        let mut config = json!({
            "provider": "openai-compatible", "baseUrl": base_url, "model": "sim-1",
            "apiKey": "sk-canary-model-key",
        });
        super::gateway::merge(&mut config, more);
        config
    }

    /// The bodies of all requests so far.
    pub(crate) fn bodies(&self) -> Vec<Value> {
        self.seen.with(|seen| seen.asked.iter().map(Asked::json).collect())
    }

    /// Waits until it was asked so often.
    #[track_caller]
    pub(crate) fn await_asked(&self, times: usize) {
        self.seen.wait("the model is asked", |seen| (times <= seen.asked.len()).then_some(()));
    }
}

fn in_a_chunk(text: &[u8]) -> Vec<u8> {
    let mut chunk = format!("{:x}\r\n", text.len()).into_bytes();
    chunk.extend_from_slice(text);
    chunk.extend_from_slice(b"\r\n");
    chunk
}

/// The answer that a model gives on a connection.
pub(crate) struct Speech<'a> {
    pub(crate) line: &'a mut Line,
    tokens: u32,
    pub(crate) seen: Arc<Watched<Seen>>,
}

impl Speech<'_> {
    /// Writes the head of a stream.
    pub(crate) fn begin(&mut self) {
        self.line.send(
            "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n",
        );
    }

    /// Writes bytes of the stream, as one chunk of the transfer; false if the caller has left.
    pub(crate) fn raw(&mut self, text: impl AsRef<[u8]>) -> bool {
        self.line.send(in_a_chunk(text.as_ref()))
    }

    /// Writes the last bytes of the stream and its end at once: whoever reads the one has the other, so that its
    /// connection is free before its client hears that the answer is over.
    pub(crate) fn last(&mut self, text: impl AsRef<[u8]>) -> bool {
        let mut chunks = in_a_chunk(text.as_ref());
        chunks.extend_from_slice(b"0\r\n\r\n");
        self.line.send(chunks)
    }

    /// Writes an event with this JSON.
    pub(crate) fn event(&mut self, data: &Value) -> bool {
        self.raw(format!("data: {data}\n\n"))
    }

    /// Writes a piece of the answer. If the caller has left it says so to the test, and returns false.
    pub(crate) fn token(&mut self, text: &str) -> bool {
        let sent = self.event(&chunk(&json!({ "content": text }), None));
        if sent {
            self.tokens += 1;
        } else {
            self.left();
        }
        sent
    }

    /// Notes that the caller left.
    pub(crate) fn left(&mut self) {
        let tokens = self.tokens;
        self.seen.with(|seen| seen.left.push(tokens));
    }

    /// Says nothing more, until the caller leaves.
    pub(crate) fn fall_silent(&mut self) -> After {
        if self.line.await_leaving() {
            self.left();
        }
        After::Close
    }

    /// Writes the reason why the answer ends.
    pub(crate) fn finish(&mut self, reason: &str) {
        self.event(&chunk(&json!({}), Some(reason)));
    }

    /// Writes the token counts, as OpenAI does: on a chunk without choices.
    pub(crate) fn usage(&mut self, prompt: u32, completion: u32) {
        let mut last = chunk(&json!({}), None);
        last["choices"] = json!([]);
        last["usage"] = json!({
            "prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion,
        });
        self.event(&last);
    }

    /// Writes the end of the stream.
    pub(crate) fn done(&mut self) {
        self.last("data: [DONE]\n\n");
    }

    /// Answers with an error as OpenAI writes it.
    pub(crate) fn error(
        &mut self,
        status: u16,
        headers: &[(&str, &str)],
        kind: &str,
        message: &str,
    ) -> After {
        let body = json!({ "error": { "message": message, "type": kind, "param": null, "code": null } });
        self.line.answer(status, headers, &body.to_string());
        After::Keep
    }
}

/// One `chat.completion.chunk`.
pub(crate) fn chunk(delta: &Value, finish: Option<&str>) -> Value {
    json!({
        "id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1_773_131_400, "model": "sim-1",
        "system_fingerprint": null, "usage": null,
        "choices": [{ "index": 0, "delta": delta, "logprobs": null, "finish_reason": finish }],
    })
}

/// A whole answer that was not streamed.
pub(crate) fn completion(text: &str, prompt: u32, completion: u32) -> Value {
    json!({
        "id": "chatcmpl-1", "object": "chat.completion", "created": 1_773_131_400, "model": "sim-1",
        "choices": [{
            "index": 0, "message": { "role": "assistant", "content": text, "refusal": null },
            "logprobs": null, "finish_reason": "stop",
        }],
        "usage": {
            "prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion,
        },
    })
}
