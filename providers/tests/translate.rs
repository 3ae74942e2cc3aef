//! Any format to ours to any format: conversations and answers keep their meaning, whoever speaks and whoever answers.
//!
//! Conversations and answers are made up by a seeded generator; `SEEDS=1000` makes more of them.
#![allow(clippy::unwrap_used, clippy::wildcard_enum_match_arm, missing_docs)]
#![allow(clippy::disallowed_methods, reason = "the number of seeds is read here; the providers never do")]
use clawgate_core::event::Piece;
use clawgate_core::view;
use clawgate_providers::answer::Answer;
use clawgate_providers::door::{self, Problem};
use clawgate_providers::raw::Raw;
use clawgate_providers::reply::{Reply, Title};
use clawgate_providers::request::{
    Choice, Effort, Image, Part, Proof, Request, Role, Sampling, Shape, Thinking, Tool,
};
use clawgate_providers::said::{CallPart, Counts, Thought};
use clawgate_providers::{Decoder, End, Endpoint, Json, Kind, Limits, Said, Settings, Stop, Turn};

const DOORS: [Kind; 3] = [Kind::OpenAiChat, Kind::OpenAiResponses, Kind::Anthropic];
const LIMITS: Limits = Limits { event_bytes_max: 1 << 16, body_bytes_max: 1 << 18, calls_max: 16 };

/// xorshift64*: the same conversations on every run.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 40) as usize % end
    }

    fn one<T: Clone>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())].clone()
    }

    fn text(&mut self) -> String {
        let words = [
            "Hi",
            " ",
            "\n",
            "\"",
            "\\",
            "你好",
            "😀",
            "\t",
            "</s>",
            "data: x\n\n",
            "{\"a\":1}",
            "é",
            "\u{1}",
            ".",
        ];
        let count = 1 + self.below(4);
        (0..count).map(|_| self.one(&words)).collect()
    }

    fn arguments(&mut self) -> String {
        let texts =
            ["{}", "{\"a\":1.50}", "{\"text\":\"\\u00e9\\n\"}", "{\"list\":[1,{\"b\":null}],\"c\":\"\\\"\"}"];
        self.one(&texts).to_owned()
    }
}

fn seeds() -> u64 {
    std::env::var("SEEDS").ok().and_then(|seeds| seeds.parse().ok()).unwrap_or(150)
}

fn endpoint(kind: Kind) -> Endpoint {
    Endpoint::new(&Settings {
        kind,
        base_url: "http://127.0.0.1:9".into(),
        api_key: None,
        model: "m".into(),
        stream: true,
        max_tokens: None,
        temperature: None,
        headers: Vec::new(),
        extra_body: String::new(),
        replay_reasoning: false,
    })
    .unwrap()
}

/// What every format can say.
fn conversation(random: &mut Random) -> Request<'static> {
    let mut request = Request { model: "gpt".into(), ..Request::default() };
    if random.below(2) == 0 {
        let text = Part::Text(random.text().into());
        request.say(Role::System, [text]);
    }
    for round in 0..1 + random.below(4) {
        let mut parts = vec![Part::Text(random.text().into())];
        if random.below(3) == 0 {
            let (media, data) = ("image/png".into(), "aGk/+A==".into());
            parts.push(Part::Image(Image::Data { media, data }));
            parts.push(Part::Text(random.text().into()));
        }
        request.say(Role::User, parts);
        let calls: Vec<String> = (0..random.below(3)).map(|call| format!("call_{round}_{call}")).collect();
        let mut parts = Vec::new();
        if calls.is_empty() || random.below(2) == 0 {
            parts.push(Part::Text(random.text().into()));
        }
        for id in &calls {
            let name = random.one(&["get_weather", "now"]).into();
            parts.push(Part::Call { id: id.clone().into(), name, arguments: random.arguments().into() });
        }
        request.say(Role::Assistant, parts);
        for id in calls {
            let result = Part::Result { id: id.into(), is_error: false, parts: 1 };
            let text = Part::Text(random.text().into());
            request.say(Role::Tool, [result, text]);
        }
    }
    let text = Part::Text(random.text().into());
    request.say(Role::User, [text]);
    if random.below(2) == 0 {
        let schema = Raw::parse(br#"{"type":"object","properties":{"a":{"type":"number","maximum":1e3}}}"#);
        request.tools = vec![Tool {
            name: "get_weather".into(),
            description: (random.below(2) == 0).then(|| random.text().into()),
            parameters: schema,
            strict: (random.below(2) == 0).then_some(true),
            raw: None,
        }];
        request.choice = random.one(&[
            None,
            Some(Choice::Auto),
            Some(Choice::None),
            Some(Choice::Required),
            Some(Choice::Tool("get_weather".into())),
        ]);
        request.parallel = random.one(&[None, Some(false)]);
        // Forbidding parallel calls is said beside the choice, which says nothing of it where there is none to make.
        if request.choice == Some(Choice::None) {
            request.parallel = None;
        }
    }
    request.max_tokens = Some(30_000);
    request.sampling = Sampling {
        temperature: random.one(&[None, Raw::parse(b"0.70")]),
        top_p: random.one(&[None, Raw::parse(b"1e-1")]),
        ..Sampling::default()
    };
    request.thinking = Thinking {
        effort: random.one(&[None, Some(Effort::None), Some(Effort::Low), Some(Effort::High)]),
        ..Thinking::default()
    };
    if random.below(3) == 0 {
        request.shape = Some(Shape::Schema {
            name: None,
            description: None,
            schema: Raw::parse(br#"{"type":"object"}"#).unwrap(),
            strict: Some(true),
        });
    }
    request.user = random.one(&[None, Some("u\"1\"".into())]);
    request
}

/// What a request means: message boundaries inside a side, and how a value is written, mean nothing.
fn meaning(request: &Request<'_>) -> Vec<String> {
    let mut lines = Vec::new();
    for message in &request.messages {
        for part in request.parts_of(message) {
            let role = match message.role {
                Role::Developer | Role::System => "system",
                Role::Tool | Role::User => "user",
                Role::Assistant => "assistant",
            };
            lines.push(match part {
                Part::Text(text) => format!("{role} text {:?}", text.plain()),
                Part::Image(Image::Data { media, data }) => {
                    format!("{role} image {} {}", media.plain(), data.plain())
                }
                Part::Image(Image::Url(url)) => format!("{role} image {}", url.plain()),
                Part::Call { id, name, arguments } => {
                    format!("{role} call {} {} {}", id.plain(), name.plain(), arguments.plain())
                }
                Part::Result { id, is_error, parts } => {
                    format!("{role} result {} {is_error} {parts}", id.plain())
                }
                part => format!("{part:?}"),
            });
        }
    }
    for tool in &request.tools {
        let description = tool.description.as_ref().map(|text| text.plain().into_owned());
        let parameters = tool.parameters.map(Raw::as_str);
        let strict = tool.strict == Some(true);
        lines.push(format!("tool {} {description:?} {parameters:?} {strict}", tool.name.plain()));
    }
    let choice = request.choice.clone().unwrap_or(Choice::Auto);
    lines.push(format!("{choice:?} {}", request.parallel.unwrap_or(true)));
    let sampling = &request.sampling;
    let number = |value: Option<Raw<'_>>| value.map(|value| value.as_str().to_owned());
    lines.push(format!("{:?} {:?}", number(sampling.temperature), number(sampling.top_p)));
    let shape = match &request.shape {
        Some(Shape::Schema { schema, .. }) => schema.as_str(),
        _ => "",
    };
    let user = request.user.as_ref().map(|user| user.plain().into_owned());
    lines.push(format!("{:?} {:?} {shape} {user:?}", request.max_tokens, request.thinking.effort()));
    lines
}

#[test]
fn requests_keep_their_meaning() {
    for seed in 1..=seeds() {
        let ours = conversation(&mut Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15)));
        let expected = meaning(&ours);
        for first in DOORS {
            let mut body = Vec::new();
            endpoint(first).encode_request(&ours, &mut body).unwrap();
            let read = door::read(first, &body).map_err(|refusal| refusal.message).unwrap();
            assert_eq!(
                meaning(&read),
                expected,
                "seed {seed}, {first:?}: {}",
                String::from_utf8_lossy(&body)
            );
            assert_eq!(read.foreign, None);
            for second in DOORS {
                let mut body = Vec::new();
                endpoint(second).encode_request(&read, &mut body).unwrap();
                let again = door::read(second, &body).map_err(|refusal| refusal.message).unwrap();
                let written = String::from_utf8_lossy(&body);
                assert_eq!(meaning(&again), expected, "seed {seed}, {first:?}, {second:?}: {written}");
            }
            into_ollama(&read);
        }
    }
}

/// There is no door for it, so that what is written is looked into.
fn into_ollama(request: &Request<'_>) {
    let mut body = Vec::new();
    let written = endpoint(Kind::Ollama).encode_request(request, &mut body);
    let refused =
        matches!(request.choice, Some(Choice::Required | Choice::Tool(_))) || request.parallel == Some(false);
    assert_eq!(written.is_err(), refused, "{written:?}");
    if refused {
        return;
    }
    let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
    let said: String = body["messages"]
        .as_array()
        .unwrap()
        .iter()
        .map(|message| message["content"].as_str().unwrap())
        .collect();
    for part in &request.parts {
        if let Part::Text(text) = part {
            assert!(said.contains(&*text.plain()), "{text:?} in {said:?}");
        }
    }
}

/// Something to say, owned.
#[derive(Clone, Debug, PartialEq)]
enum Word {
    Text(String),
    Reasoning(String),
    Begin(u32, String, String),
    Arguments(u32, String),
    End(u32),
    Signature(String),
    Redacted(String),
    Item(String, String),
    Usage(Counts),
    Finished(String),
    Failed(String),
}

impl Word {
    fn of(said: &Said<'_>) -> Option<Self> {
        Some(match *said {
            Said::Piece(Piece::Text(text)) => Self::Text(text.into()),
            Said::Piece(Piece::Reasoning(text)) => Self::Reasoning(text.into()),
            Said::Piece(Piece::Alive | Piece::Usage(_)) => return None,
            Said::Usage(counts) => Self::Usage(counts),
            Said::Call(CallPart::Begin { index, id, name }) => Self::Begin(index, id.into(), name.into()),
            Said::Call(CallPart::Arguments { index, text }) => Self::Arguments(index, text.into()),
            Said::Call(CallPart::End { index }) => Self::End(index),
            Said::Thought(Thought::Signature(text)) => Self::Signature(text.into()),
            Said::Thought(Thought::Redacted(text)) => Self::Redacted(text.into()),
            Said::Thought(Thought::Item { id, encrypted }) => Self::Item(id.into(), encrypted.into()),
            Said::Ended(End::Finished(stop)) => Self::Finished(format!("{stop:?}")),
            Said::Ended(End::Failed(failure)) => Self::Failed(failure.detail.into()),
        })
    }

    fn say(&self, sink: &mut dyn FnMut(Said<'_>)) {
        sink(match self {
            Self::Text(text) => Said::Piece(Piece::Text(text)),
            Self::Reasoning(text) => Said::Piece(Piece::Reasoning(text)),
            Self::Begin(index, id, name) => Said::Call(CallPart::Begin { index: *index, id, name }),
            Self::Arguments(index, text) => Said::Call(CallPart::Arguments { index: *index, text }),
            Self::End(index) => Said::Call(CallPart::End { index: *index }),
            Self::Signature(text) => Said::Thought(Thought::Signature(text)),
            Self::Redacted(text) => Said::Thought(Thought::Redacted(text)),
            Self::Item(id, encrypted) => Said::Thought(Thought::Item { id, encrypted }),
            Self::Usage(counts) => Said::Usage(*counts),
            Self::Finished(stop) => Said::Ended(End::Finished(match stop.as_str() {
                "Length" => Stop::Length,
                "Filtered" => Stop::Filtered,
                "ToolCalls" => Stop::ToolCalls,
                _ => Stop::Complete,
            })),
            Self::Failed(_) => return,
        });
    }
}

/// What a model may say: thoughts, text, calls whose fragments interleave, counts, an end.
fn answer(random: &mut Random) -> Vec<Word> {
    let mut words = Vec::new();
    for _ in 0..random.below(3) {
        words.push(Word::Reasoning(random.text()));
    }
    for _ in 0..random.below(4) {
        words.push(Word::Text(random.text()));
    }
    let calls = random.below(4) as u32;
    for index in 0..calls {
        words.push(Word::Begin(index, format!("call_{index}"), random.one(&["f", "get_weather"]).into()));
        if random.below(2) == 0 {
            for piece in ["{\"a\":", "[1,2]", "}"] {
                words.push(Word::Arguments(random.below(1 + index as usize) as u32, piece.into()));
            }
        }
    }
    // What was mixed up above is one whole object for each.
    let mut told = vec![String::new(); calls as usize];
    words.retain(|word| !matches!(word, Word::Arguments(..)));
    for piece in ["{\"a\":", "[1,\"\\n\"]", "}"] {
        for index in 0..calls {
            told[index as usize].push_str(piece);
            words.push(Word::Arguments(index, piece.into()));
        }
    }
    words.extend((0..calls).map(Word::End));
    words.push(Word::Usage(Counts {
        prompt: 1_000 + random.below(99) as u32,
        completion: 100 + random.below(99) as u32,
        cached: random.below(99) as u32,
        cache_created: random.below(99) as u32,
        reasoning: random.below(99) as u32,
        estimated: false,
    }));
    let stop = if 0 < calls { "ToolCalls" } else { random.one(&["Complete", "Length", "Filtered"]) };
    words.push(Word::Finished(stop.into()));
    words
}

/// What an answer means: how it was cut into pieces means nothing.
fn sense(words: &[Word]) -> Vec<String> {
    let (mut text, mut thought, mut usage, mut end) =
        (String::new(), String::new(), Counts::default(), String::new());
    let mut calls: Vec<(String, String, String, bool)> = Vec::new();
    let mut proofs = Vec::new();
    for word in words {
        match word {
            Word::Text(piece) => text += piece,
            Word::Reasoning(piece) => thought += piece,
            Word::Begin(index, id, name) => {
                assert_eq!(*index as usize, calls.len());
                calls.push((id.clone(), name.clone(), String::new(), false));
            }
            Word::Arguments(index, piece) => calls[*index as usize].2 += piece,
            Word::End(index) => calls[*index as usize].3 = true,
            Word::Signature(_) | Word::Redacted(_) | Word::Item(..) => proofs.push(format!("{word:?}")),
            Word::Usage(counts) => usage = *counts,
            Word::Finished(stop) => end = format!("finished {stop}"),
            Word::Failed(detail) => end = format!("failed {detail}"),
        }
    }
    let calls = calls.iter().map(|call| format!("{call:?}"));
    [text, thought, format!("{usage:?}"), end].into_iter().chain(calls).chain(proofs).collect()
}

fn title() -> Title<'static> {
    Title { id: "01J\"x", created: 1_795_804_388, model: "a \"model\"" }
}

fn written(kind: Kind, words: &[Word], random: &mut Random) -> Vec<u8> {
    let request = Request { include_usage: true, stream: true, ..Request::default() };
    let mut reply = Reply::new(kind, &title(), &request, 1 << 20);
    let mut out = Vec::new();
    for word in words {
        word.say(&mut |said| reply.write(&said, &mut out));
        if random.below(5) == 0 && !reply.is_ended() {
            reply.ping(&mut out);
        }
    }
    out
}

fn read<'r>(kind: Kind, stream: bool, reads: impl Iterator<Item = &'r [u8]>) -> Vec<Word> {
    let (mut decoder, mut json, mut words) = (Decoder::new(kind, stream, LIMITS), Json::new(), Vec::new());
    let mut buf = Vec::new();
    for read in reads {
        buf.extend_from_slice(read);
        let used = decoder.decode(&mut buf, &mut json, &mut |said| words.extend(Word::of(&said)));
        buf.drain(..used);
    }
    decoder.finish(&mut buf, &mut json, &mut |said| words.extend(Word::of(&said)));
    words
}

#[test]
fn answers_keep_their_meaning() {
    for seed in 1..=seeds() {
        let mut random = Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let said = answer(&mut random);
        let expected = sense(&said);
        for first in DOORS {
            let stream = written(first, &said, &mut random);
            let cut = 1 + random.below(60);
            let words = read(first, true, stream.chunks(cut));
            assert_eq!(
                sense(&words),
                expected,
                "seed {seed}, {first:?}: {}",
                String::from_utf8_lossy(&stream)
            );
            for second in DOORS {
                let stream = written(second, &words, &mut random);
                let again = read(second, true, [stream.as_slice()].into_iter());
                assert_eq!(sense(&again), expected, "seed {seed}, {first:?}, {second:?}");
            }
            // Whole, the answer says the same.
            let mut answer = Answer::new(1 << 20);
            words.iter().for_each(|word| word.say(&mut |said| answer.push(&said).unwrap()));
            let mut body = Vec::new();
            let mut reply = Reply::new(first, &title(), &Request::default(), 1 << 20);
            assert!(reply.write_whole(&answer, &mut body));
            let whole = read(first, false, [body.as_slice()].into_iter());
            assert_eq!(sense(&whole), expected, "seed {seed}, {first:?}: {}", String::from_utf8_lossy(&body));
        }
    }
}

/// The same answer as Ollama's lines: calls come whole there, without ids, and nothing says that an answer was filtered.
fn lines(words: &[Word]) -> Vec<u8> {
    use serde_json::{Value, json};
    let (mut out, mut calls, mut counts) = (Vec::new(), Vec::new(), Counts::default());
    let mut line = |message: Value, more: Value| {
        let mut line =
            json!({"model": "m", "created_at": "2026-08-04T19:22:45Z", "message": message, "done": false});
        let more = more.as_object().cloned().unwrap_or_default();
        line.as_object_mut().unwrap().extend(more);
        out.extend_from_slice(format!("{line}\n").as_bytes());
    };
    let say = |key: &str, text: &str| {
        let mut message = json!({"role": "assistant", "content": ""});
        message[key] = text.into();
        message
    };
    for word in words {
        match word {
            Word::Text(text) => line(say("content", text), Value::Null),
            Word::Reasoning(text) => line(say("thinking", text), Value::Null),
            Word::Begin(_, _, name) => calls.push((name.clone(), String::new())),
            Word::Arguments(index, text) => calls[*index as usize].1 += text,
            Word::End(index) => {
                let (name, arguments) = &calls[*index as usize];
                let arguments: Value = serde_json::from_str(arguments).unwrap();
                let call = json!({"function": {"name": name, "arguments": arguments}});
                line(json!({"role": "assistant", "content": "", "tool_calls": [call]}), Value::Null);
            }
            Word::Usage(told) => counts = *told,
            Word::Finished(stop) => {
                let reason = if stop == "Length" { "length" } else { "stop" };
                let end = json!({"done": true, "done_reason": reason, "prompt_eval_count": counts.prompt,
                    "eval_count": counts.completion});
                line(say("content", ""), end);
            }
            Word::Signature(_) | Word::Redacted(_) | Word::Item(..) | Word::Failed(_) => {}
        }
    }
    out
}

/// The sense of an answer without what Ollama's format has no place for.
fn plainly(words: &[Word]) -> Vec<String> {
    let plain = words.iter().map(|word| match word {
        Word::Begin(index, _, name) => Word::Begin(*index, String::new(), name.clone()),
        Word::Usage(Counts { prompt, completion, .. }) => {
            Word::Usage(Counts { prompt: *prompt, completion: *completion, ..Counts::default() })
        }
        Word::Finished(stop) if stop == "Filtered" => Word::Finished("Complete".into()),
        word => word.clone(),
    });
    sense(&plain.collect::<Vec<_>>())
}

#[test]
fn ollamas_answers_keep_their_meaning() {
    for seed in 1..=seeds() {
        let mut random = Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let said = answer(&mut random);
        let (expected, stream) = (plainly(&said), lines(&said));
        let cut = 1 + random.below(60);
        let words = read(Kind::Ollama, true, stream.chunks(cut));
        assert_eq!(plainly(&words), expected, "seed {seed}: {}", String::from_utf8_lossy(&stream));
        for door in DOORS {
            let told = written(door, &words, &mut random);
            let again = read(door, true, [told.as_slice()].into_iter());
            assert_eq!(plainly(&again), expected, "seed {seed}, {door:?}");
        }
    }
}

/// Any stream of any format, cut at any byte and into pieces of any length, with any end of a line, says the same.
#[test]
fn generated_streams_say_the_same_however_they_are_cut() {
    for seed in 1..=(seeds() / 10).max(1) {
        let mut random = Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let said = answer(&mut random);
        for kind in Kind::ALL {
            let stream = if kind == Kind::Ollama { lines(&said) } else { written(kind, &said, &mut random) };
            let expected = read(kind, true, [stream.as_slice()].into_iter());
            let at = format!("seed {seed}, {kind:?}: {}", String::from_utf8_lossy(&stream));
            for cut in 0..=stream.len() {
                let (front, back) = stream.split_at(cut);
                assert_eq!(read(kind, true, [front, back].into_iter()), expected, "cut at {cut}, {at}");
            }
            for length in [1, 2, 3, 1 + random.below(40)] {
                assert_eq!(read(kind, true, stream.chunks(length)), expected, "by {length}, {at}");
            }
            // No line of these has a line end in it: JSON escapes them.
            let text = String::from_utf8(stream.clone()).unwrap().replace('\n', "\r\n");
            assert_eq!(read(kind, true, text.as_bytes().chunks(1 + random.below(40))), expected, "{at}");
        }
    }
}

/// What a provider says went wrong reaches every client in its own format, whatever is in the words.
#[test]
fn errors_keep_their_words() {
    use serde_json::json;
    for seed in 1..=seeds() {
        let mut random = Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let message = format!("it says {}", random.text());
        for kind in Kind::ALL {
            let error = json!({"message": message, "type": "server_error"});
            let event = match kind {
                Kind::OpenAiChat => format!("data: {}\n\n", json!({ "error": error })),
                Kind::OpenAiResponses => {
                    let event = json!({"type": "error", "code": "server_error", "message": message});
                    format!("event: error\ndata: {event}\n\n")
                }
                Kind::Anthropic => {
                    format!("event: error\ndata: {}\n\n", json!({"type": "error", "error": error}))
                }
                Kind::Ollama => format!("{}\n", json!({ "error": message })),
            };
            let words = read(kind, true, event.as_bytes().chunks(1 + random.below(30)));
            assert_eq!(words, [Word::Failed(message.clone())], "seed {seed}, {kind:?}: {event}");
            for door in DOORS {
                let mut out = Vec::new();
                let mut reply = Reply::new(door, &title(), &Request::default(), 1 << 20);
                reply.write(&Said::Piece(Piece::Text("Hel")), &mut out);
                let problem =
                    Problem { status: 502, code: "UPSTREAM_FAILED", message: &message, param: None };
                reply.fail(&problem, &mut out);
                let told = read(door, true, [out.as_slice()].into_iter()).pop();
                assert_eq!(told, Some(Word::Failed(message.clone())), "seed {seed}, {kind:?} by {door:?}");
            }
        }
    }
}

/// What a provider wants back with its reasoning comes back, through the format of another too.
#[test]
fn proofs_travel() {
    let proofs = [
        Word::Signature("Sig+/=".into()),
        Word::Redacted("Red.act=".into()),
        Word::Item("rs_1".into(), "gAAA.x=".into()),
    ];
    for proof in proofs {
        for kind in [Kind::OpenAiResponses, Kind::Anthropic] {
            let mut answer = Answer::new(1 << 20);
            let thought = [
                Word::Reasoning("Hm.".into()),
                proof.clone(),
                Word::Text("x".into()),
                Word::Finished("Complete".into()),
            ];
            thought.iter().for_each(|word| word.say(&mut |said| answer.push(&said).unwrap()));
            // The client sends the answer back as it got it.
            let mut body = Vec::new();
            Reply::new(kind, &title(), &Request::default(), 1 << 20).write_whole(&answer, &mut body);
            let whole: serde_json::Value = serde_json::from_slice(&body).unwrap();
            let next = match kind {
                Kind::Anthropic => serde_json::json!({"model":"m","max_tokens":9,"messages":[
                    {"role":"user","content":"a"},{"role":"assistant","content":whole["content"]}]}),
                _ => serde_json::json!({"model":"m","input":whole["output"]}),
            };
            let next = next.to_string();
            let request = door::read(kind, next.as_bytes()).unwrap();
            let found: Vec<&Proof<'_>> = request
                .parts
                .iter()
                .filter_map(|part| match part {
                    Part::Reasoning { proof, .. } if *proof != Proof::None => Some(proof),
                    _ => None,
                })
                .collect();
            let expected = match &proof {
                Word::Signature(text) => Proof::Signature(text.as_str().into()),
                Word::Redacted(text) => Proof::Redacted(text.as_str().into()),
                Word::Item(id, encrypted) => {
                    Proof::Item { id: id.as_str().into(), encrypted: encrypted.as_str().into() }
                }
                _ => Proof::None,
            };
            assert_eq!(found, [&expected], "{kind:?}: {next}");
        }
    }
}

/// Two rounds of a tool loop in every format: what the model said goes back to it with the results, proofs and all.
#[test]
fn a_tool_loop_in_every_format() {
    for kind in Kind::ALL {
        let mut context = [("lang", "de")].into_iter();
        let mut history = [(view::Role::User, "a"), (view::Role::Agent, "b")].into_iter();
        let turn = Turn {
            system: "Be brief.",
            context: &mut context,
            history: &mut history,
            text: "What time is it?",
            user: "u1",
        };
        let mut request = Request::of_turn(turn);
        request.tools = vec![Tool {
            name: "now".into(),
            description: Some("The time".into()),
            parameters: Raw::parse(br#"{"type":"object"}"#),
            strict: None,
            raw: None,
        }];
        let mut answer = Answer::new(1 << 16);
        for said in [
            Said::Piece(Piece::Reasoning("Hm.")),
            Said::Thought(match kind {
                Kind::OpenAiResponses => Thought::Item { id: "rs_1", encrypted: "gAAA" },
                _ => Thought::Signature("Sig"),
            }),
            Said::Piece(Piece::Text("I look.")),
            Said::Call(CallPart::Begin { index: 0, id: "call_1", name: "now" }),
            Said::Call(CallPart::End { index: 0 }),
            Said::Ended(End::Finished(Stop::ToolCalls)),
        ] {
            answer.push(&said).unwrap();
        }
        assert_eq!(
            (answer.stop(), answer.calls().next()),
            (Some(Stop::ToolCalls), Some((0, "call_1", "now", "")))
        );
        request.say(Role::Assistant, answer.parts());
        let result = Part::Result { id: "call_1".into(), is_error: false, parts: 1 };
        request.say(Role::Tool, [result, Part::Text("12:00".into())]);
        let mut body = Vec::new();
        endpoint(kind).encode_request(&request, &mut body).unwrap();
        let body = String::from_utf8(body).unwrap();
        let said = match kind {
            Kind::OpenAiChat => concat!(
                r#"{"role":"system","content":"Be brief.\n\nlang: de"},{"role":"user","content":"a"},"#,
                r#"{"role":"assistant","content":"b"},{"role":"user","content":"What time is it?"},"#,
                r#"{"role":"assistant","content":"I look.","tool_calls":[{"id":"call_1","type":"function","#,
                r#""function":{"name":"now","arguments":"{}"}}]},"#,
                r#"{"role":"tool","tool_call_id":"call_1","content":"12:00"}"#,
            ),
            Kind::OpenAiResponses => concat!(
                r#"{"role":"user","content":"What time is it?"},"#,
                r#"{"type":"reasoning","id":"rs_1","summary":[{"type":"summary_text","text":"Hm."}],"#,
                r#""encrypted_content":"gAAA"},{"role":"assistant","content":"I look."},"#,
                r#"{"type":"function_call","call_id":"call_1","name":"now","arguments":"{}"},"#,
                r#"{"type":"function_call_output","call_id":"call_1","output":"12:00"}"#,
            ),
            Kind::Anthropic => concat!(
                r#"{"role":"assistant","content":[{"type":"thinking","thinking":"Hm.","signature":"Sig"},"#,
                r#"{"type":"text","text":"I look."},{"type":"tool_use","id":"call_1","name":"now","input":{}}]},"#,
                r#"{"role":"user","content":[{"type":"tool_result","tool_use_id":"call_1","content":"12:00"}]}],"#,
                r#""system":"Be brief.\n\nlang: de""#,
            ),
            Kind::Ollama => concat!(
                r#"{"role":"assistant","content":"I look.","tool_calls":[{"id":"call_1","function":{"name":"now","#,
                r#""arguments":{}}}]},{"role":"tool","content":"12:00","tool_name":"now","tool_call_id":"call_1"}"#,
            ),
        };
        assert!(body.contains(said), "{kind:?}: {body}");
    }
}

/// An estimate is marked in every format, streamed and whole, by a field that clients read past; a count is not.
#[test]
fn an_estimate_says_so() {
    for (kind, estimated) in DOORS.into_iter().flat_map(|kind| [(kind, true), (kind, false)]) {
        let counts = Counts { prompt: 3, completion: 2, estimated, ..Counts::default() };
        let request = Request { include_usage: true, stream: true, ..Request::default() };
        let all = [
            Said::Piece(Piece::Text("Hello")),
            Said::Usage(counts),
            Said::Ended(End::Finished(Stop::Complete)),
        ];
        let mut reply = Reply::new(kind, &title(), &request, 1 << 20);
        let mut streamed = Vec::new();
        all.iter().for_each(|said| reply.write(said, &mut streamed));
        let mut answer = Answer::new(1 << 20);
        all.iter().for_each(|said| answer.push(said).unwrap());
        let mut whole = Vec::new();
        assert!(Reply::new(kind, &title(), &Request::default(), 1 << 20).write_whole(&answer, &mut whole));
        for text in [streamed, whole] {
            let text = String::from_utf8(text).unwrap();
            assert_eq!(
                text.matches("\"estimated\":true").count(),
                usize::from(estimated),
                "{kind:?}: {text}"
            );
        }
    }
}

/// After a failure nothing follows that a client could take for an end.
#[test]
fn a_failure_is_the_last_word() {
    for kind in DOORS {
        let request = Request { include_usage: true, ..Request::default() };
        let mut reply = Reply::new(kind, &title(), &request, 1 << 20);
        let mut out = Vec::new();
        reply.write(&Said::Piece(Piece::Text("Hel")), &mut out);
        let problem =
            Problem { status: 502, code: "UPSTREAM_TRUNCATED", message: "it \"broke\" off", param: None };
        reply.fail(&problem, &mut out);
        let length = out.len();
        reply.write(&Said::Piece(Piece::Text("lo")), &mut out);
        reply.write(&Said::Ended(End::Finished(Stop::Complete)), &mut out);
        assert_eq!(out.len(), length);
        let text = String::from_utf8(out.clone()).unwrap();
        for end in ["[DONE]", "message_stop", "stop_reason\":\"", "response.completed", "finish_reason\":\""]
        {
            assert!(!text.contains(end), "{end} in {text}");
        }
        let words = read(kind, true, [out.as_slice()].into_iter());
        assert_eq!(words.last(), Some(&Word::Failed("it \"broke\" off".into())), "{text}");
    }
}

/// What is kept back is bounded.
#[test]
fn what_waits_is_bounded() {
    for kind in [Kind::OpenAiResponses, Kind::Anthropic] {
        let mut reply = Reply::new(kind, &title(), &Request::default(), 2_000);
        let mut out = Vec::new();
        for index in 0..2 {
            reply.write(&Said::Call(CallPart::Begin { index, id: "a", name: "f" }), &mut out);
        }
        for _ in 0..300 {
            reply.write(&Said::Call(CallPart::Arguments { index: 1, text: "0123456789" }), &mut out);
        }
        assert!(reply.is_ended());
        let words = read(kind, true, [out.as_slice()].into_iter());
        assert!(matches!(words.last(), Some(Word::Failed(_))), "{words:?}");
    }
    let mut answer = Answer::new(1_000);
    let text = Said::Piece(Piece::Text("0123456789"));
    assert!((0..100).any(|_| answer.push(&text).is_err()));
}
