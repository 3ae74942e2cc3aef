//! The example of the README is the file that is compiled, and does what it says.
#![allow(
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm,
    reason = "what a test does not look for fails it"
)]
use crate::decoder::{Limits, Out};
use crate::endpoint::{Endpoint, Settings};
use crate::example::{Reader, write_request, write_settings, write_turn};
use crate::format::Kind;
use crate::said::{End, Said};
use crate::{Turn, door};
use clawgate_core::event::Piece;
use clawgate_core::view::Role;

const README: &str = include_str!("../README.md");
const EXAMPLE: &str = include_str!("example.rs");

#[test]
fn the_readme_shows_what_is_compiled() {
    let shown = README.split("```rust\n").nth(1).unwrap().split("```").next().unwrap();
    assert_eq!(shown, EXAMPLE, "paste `src/example.rs` into the README");
}

/// The places that the README names are those where the compiler asks for a new format.
#[test]
fn the_places_that_the_readme_names_are_there() {
    let places = README.split("## Where it hangs in").nth(1).unwrap().split("\n## ").next().unwrap();
    let files = [
        ("src/format.rs", include_str!("format.rs")),
        ("src/endpoint.rs", include_str!("endpoint.rs")),
        ("src/decoder.rs", include_str!("decoder.rs")),
    ];
    for (name, text) in files {
        assert!(
            places.contains(name) && text.contains("Kind::Ollama") | text.contains("Self::Ollama"),
            "{name}"
        );
    }
}

fn endpoint() -> Endpoint {
    Endpoint::new(&Settings {
        kind: Kind::Ollama,
        base_url: "http://127.0.0.1:9".into(),
        api_key: None,
        model: "polly".into(),
        stream: true,
        max_tokens: Some(9),
        temperature: None,
        headers: Vec::new(),
        extra_body: String::new(),
        replay_reasoning: false,
    })
    .unwrap()
}

#[test]
fn a_turn_and_a_request_are_written() {
    let (endpoint, mut body) = (endpoint(), Vec::new());
    let turn = Turn {
        system: "Be brief.",
        context: &mut std::iter::empty(),
        history: &mut [(Role::User, "a"), (Role::Agent, "b")].into_iter(),
        text: "c",
        user: "",
    };
    write_turn(&mut body, turn);
    write_settings(&mut endpoint.body(&mut body), &endpoint);
    let written = concat!(
        r#"{"role":"keeper","content":"Be brief."},{"role":"user","content":"a"},"#,
        r#"{"role":"assistant","content":"b"},{"role":"user","content":"c"}],"stream":true,"length":9"#
    );
    assert_eq!(String::from_utf8(body).unwrap(), written);
    let write = |request: &str| {
        let mut body = Vec::new();
        let request = door::read(Kind::OpenAiChat, request.as_bytes()).unwrap();
        let done = write_request(&mut endpoint.body(&mut body), &endpoint, &request);
        done.map(|()| String::from_utf8(body).unwrap()).map_err(|why| why.to_string())
    };
    let asked = write(r#"{"model":"m","messages":[{"role":"user","content":"a"}]}"#).unwrap();
    assert_eq!(asked, r#"{"role":"user","content":"a"}],"stream":true,"length":9"#);
    let image = r#"{"type":"image_url","image_url":{"url":"https://x/y.png"}}"#;
    let refused = write(&format!(r#"{{"model":"m","messages":[{{"role":"user","content":[{image}]}}]}}"#));
    assert!(refused.unwrap_err().starts_with("an image"), "what cannot be said is refused");
}

#[test]
fn an_answer_is_read() {
    let read = |events: &[&str]| {
        let (mut said, mut scratch, mut ended) = (Vec::new(), String::new(), false);
        for event in events {
            let mut sink = |piece: Said<'_>| {
                said.push(match piece {
                    Said::Piece(Piece::Text(text)) => text.to_owned(),
                    Said::Piece(Piece::Alive) => "alive".to_owned(),
                    Said::Usage(counts) => format!("{} {}", counts.prompt, counts.completion),
                    Said::Ended(End::Finished(stop)) => format!("{stop:?}"),
                    Said::Ended(End::Failed(failure)) => failure.detail.to_owned(),
                    other => panic!("{other:?}"),
                });
            };
            let limits = Limits::TEST;
            let mut out =
                Out { sink: &mut sink, scratch: &mut scratch, ended: &mut ended, limits: &limits, seed: 0 };
            if !Reader.on_event(event.as_bytes(), &mut out) {
                said.push("no protocol".to_owned());
            }
        }
        said
    };
    let said = read(&[r#"{"squawk":"Hello"}"#, "{}", r#"{"end":"hungry","heard":3,"said":1}"#]);
    assert_eq!(said, ["Hello", "alive", "alive", "3 1", "Length"]);
    assert_eq!(read(&[r#"{"error":{"message":"no seeds"}}"#]), ["no seeds"]);
    assert_eq!(read(&["squawk", "[]"]), ["no protocol", "no protocol"]);
}
