//! Requests as clients send them, and what each becomes for a model of every format.
//!
//! In `tests/data/doors`, `chat-x.json`, `responses-x.json` and `anthropic-x.json` are what a client sends; `.expected` is
//! the refusal, or a line for each format: the body, or why there is none.
//! `UPDATE_GOLDEN=1 cargo test -p clawgate-providers --test doors` writes what comes out: read the difference.
#![allow(clippy::unwrap_used, missing_docs)]
#![allow(clippy::disallowed_methods, reason = "the files are read here; the providers never do")]
use clawgate_providers::door::{self, Model, Problem};
use clawgate_providers::{Endpoint, Kind, Settings};
use std::path::{Path, PathBuf};

fn endpoint(kind: Kind) -> Endpoint {
    Endpoint::new(&Settings {
        kind,
        base_url: "http://127.0.0.1:9".into(),
        api_key: None,
        model: "upstream-model".into(),
        stream: true,
        max_tokens: None,
        temperature: None,
        headers: Vec::new(),
        extra_body: String::new(),
        replay_reasoning: true,
    })
    .unwrap()
}

fn kind_of(path: &Path) -> Kind {
    let name = path.file_name().unwrap().to_str().unwrap();
    match name.split('-').next().unwrap() {
        "chat" => Kind::OpenAiChat,
        "responses" => Kind::OpenAiResponses,
        "anthropic" => Kind::Anthropic,
        _ => panic!("{name} names no format"),
    }
}

fn inputs() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/doors");
    let mut paths: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|end| end == "json"));
    paths.sort();
    assert!(30 < paths.len(), "tests/data is not there");
    paths
}

/// What becomes of a request.
fn outcome(kind: Kind, body: &[u8]) -> String {
    let request = match door::read(kind, body) {
        Ok(request) => request,
        Err(refusal) => {
            let mut out = format!("{} ", refusal.problem().status).into_bytes();
            door::write_error(kind, &refusal.problem(), &mut out);
            return String::from_utf8(out).unwrap() + "\n";
        }
    };
    let mut lines =
        format!("{} stream {} usage {}\n", request.model.plain(), request.stream, request.include_usage);
    for kind in Kind::ALL {
        let mut body = Vec::new();
        let line = match endpoint(kind).encode_request(&request, &mut body) {
            Ok(_) => String::from_utf8(body).unwrap(),
            Err(unsupported) => format!("refused: {unsupported}"),
        };
        if !line.starts_with("refused") {
            serde_json::from_str::<serde_json::Value>(&line)
                .unwrap_or_else(|error| panic!("{error}: {line}"));
        }
        lines += &format!("{}: {line}\n", kind.name());
    }
    lines
}

#[test]
fn every_request_becomes_what_it_means() {
    let mut wrong = Vec::new();
    for path in inputs() {
        let actual = outcome(kind_of(&path), &std::fs::read(&path).unwrap());
        let golden = path.with_extension("expected");
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(&golden, &actual).unwrap();
        }
        let expected = std::fs::read_to_string(&golden).unwrap_or_default();
        if actual != expected {
            wrong.push(format!("{}\n expected: {expected}\n actual:   {actual}", path.display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// In its own format a request keeps every field, but those that are the gateway's to write.
#[test]
fn unknown_fields_survive_in_their_own_format() {
    for path in inputs() {
        let (kind, body) = (kind_of(&path), std::fs::read(&path).unwrap());
        let Ok(request) = door::read(kind, &body) else { continue };
        let mut written = Vec::new();
        endpoint(kind).encode_request(&request, &mut written).unwrap();
        let sent: serde_json::Value = serde_json::from_slice(&body).unwrap();
        let written: serde_json::Value = serde_json::from_slice(&written).unwrap();
        for (name, value) in sent.as_object().unwrap() {
            let ours = ["model", "stream", "stream_options", "store"].contains(&name.as_str());
            let shorthand = name == "input" && value.is_string();
            if !ours && !shorthand && !value.is_null() && *value != serde_json::json!([]) {
                assert_eq!(written.get(name), Some(value), "{}: {name}", path.display());
            }
        }
    }
}

/// xorshift64*: the same bytes on every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 40) as usize
    }
}

/// Damage is a refusal or another request, never a panic, and what is written is JSON whatever was read.
#[test]
fn every_damaged_byte_of_every_request() {
    let mut random = Random(0x00C1_A6A7_E5EE_D004);
    for path in inputs() {
        let (kind, body) = (kind_of(&path), std::fs::read(&path).unwrap());
        for at in 0..body.len() {
            let mut damaged = body.clone();
            let kinds = b"\"\\{}[],:\n\r\0 0tn";
            damaged[at] = match random.next() % 3 {
                0 => kinds[random.next() % kinds.len()],
                1 => damaged[at] ^ (1 << (random.next() % 8)),
                _ => (random.next() % 256) as u8,
            };
            outcome(kind, &damaged);
            outcome(kind, &body[..at]);
        }
    }
}

#[test]
fn lists_of_models() {
    let models = [
        Model { id: "gpt \"4\"", created: 1_795_804_388, created_at: "2026-11-27T18:33:08Z" },
        Model { id: "b", created: 0, created_at: "1970-01-01T00:00:00Z" },
    ];
    let list = |kind, models: &[Model<'static>]| {
        let mut out = Vec::new();
        door::write_models(kind, models.iter().copied(), &mut out);
        serde_json::from_slice::<serde_json::Value>(&out).unwrap()
    };
    let openai = list(Kind::OpenAiChat, &models);
    assert_eq!(openai["object"], "list");
    let first =
        serde_json::json!({"id":"gpt \"4\"","object":"model","created":1_795_804_388,"owned_by":"clawgate"});
    assert_eq!(openai["data"][0], first);
    assert_eq!(openai["data"].as_array().unwrap().len(), 2);
    let anthropic = list(Kind::Anthropic, &models);
    assert_eq!((&anthropic["first_id"], &anthropic["last_id"]), (&"gpt \"4\"".into(), &"b".into()));
    assert_eq!(anthropic["data"][0]["created_at"], "2026-11-27T18:33:08Z");
    assert_eq!(list(Kind::OpenAiChat, &[])["data"], serde_json::json!([]));
    assert_eq!(list(Kind::Anthropic, &[])["first_id"], serde_json::Value::Null);
}

#[test]
fn errors_in_every_shape() {
    let problem = Problem { status: 429, code: "RATE_LIMITED", message: "slow \"down\"", param: None };
    let written = |kind| {
        let mut out = Vec::new();
        door::write_error(kind, &problem, &mut out);
        String::from_utf8(out).unwrap()
    };
    assert_eq!(
        written(Kind::OpenAiChat),
        r#"{"error":{"message":"slow \"down\"","type":"rate_limit_error","param":null,"code":"RATE_LIMITED"}}"#
    );
    assert_eq!(
        written(Kind::Anthropic),
        r#"{"type":"error","error":{"type":"rate_limit_error","message":"slow \"down\""}}"#
    );
    assert_eq!(written(Kind::Ollama), r#"{"error":"slow \"down\""}"#);
}
