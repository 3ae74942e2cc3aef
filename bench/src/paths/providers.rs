//! Paths of `providers`: a request written, a streamed answer read.
use super::{Operation, Path};
use crate::inputs::{message_text, openai_stream};
use clawgate_core::event::Piece;
use clawgate_providers::{Decoder, End, Endpoint, Json, Kind, Limits, Said, Settings, Turn};
use std::hint::black_box;

pub(super) const PATHS: &[Path] = &[
    Path::new("providers/openai-50", "a streamed answer of 50 tokens from one buffer", || stream(usize::MAX))
        .long(),
    Path::new("providers/openai-50-reads", "the same, each event by a read of its own", || stream(1)).long(),
    Path::new("providers/openai-request", "a request of 70 bytes of text written", request).allocating(2),
];

/// A stream of which each call sees so many events more.
fn stream(events: usize) -> Operation {
    let input = openai_stream(50);
    let ends: Vec<usize> =
        input.windows(2).enumerate().filter(|(_, pair)| *pair == b"\n\n").map(|(at, _)| at + 2).collect();
    let ends: Vec<usize> = if events == 1 { ends } else { vec![input.len()] };
    let mut buffer = input.clone();
    let mut json = Json::new();
    Box::new(move || {
        buffer.copy_from_slice(black_box(&input));
        let limits = Limits { event_bytes_max: 1 << 20, body_bytes_max: 4 << 20, calls_max: 16 };
        let mut decoder = Decoder::new(Kind::OpenAiChat, true, limits);
        let (mut at, mut tokens, mut finished) = (0, 0, false);
        let mut sink = |said: Said<'_>| {
            tokens += usize::from(matches!(said, Said::Piece(Piece::Text(_))));
            finished |= matches!(said, Said::Ended(End::Finished(_)));
            black_box(said);
        };
        for end in &ends {
            at += decoder.decode(&mut buffer[at..*end], &mut json, &mut sink);
        }
        assert!(tokens == 50 && finished, "all of the answer was read");
    })
}

fn request() -> Operation {
    let settings = Settings {
        kind: Kind::OpenAiChat,
        replay_reasoning: false,
        base_url: "http://127.0.0.1:9000/v1".to_owned(),
        api_key: Some("sk-0123456789abcdef".to_owned()),
        model: "gpt-5-mini".to_owned(),
        stream: true,
        max_tokens: Some(1_024),
        temperature: None,
        headers: Vec::new(),
        extra_body: String::new(),
    };
    let endpoint = Endpoint::new(&settings).expect("the settings are good");
    let text = message_text(70);
    let mut body = Vec::with_capacity(4_096);
    Box::new(move || {
        let turn = Turn {
            system: "You are friendly and brief.",
            context: &mut std::iter::empty(),
            history: &mut std::iter::empty(),
            text: black_box(&text),
            user: "",
        };
        black_box(endpoint.encode(turn, &mut body));
        black_box(&body);
    })
}
