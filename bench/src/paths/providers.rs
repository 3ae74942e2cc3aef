//! Paths of `providers`: a request written, a streamed answer read.
use super::{Operation, Path};
use crate::inputs::{
    anthropic_stream, chat_request, message_text, ollama_stream, openai_stream, responses_stream,
};
use clawgate_core::event::Piece;
use clawgate_providers::door;
use clawgate_providers::reply::{Reply, Title};
use clawgate_providers::request::Request;
use clawgate_providers::{Decoder, End, Endpoint, Json, Kind, Limits, Said, Settings, Turn};
use std::hint::black_box;

pub(super) const PATHS: &[Path] = &[
    Path::new("providers/openai-50", "a streamed answer of 50 tokens from one buffer", || {
        stream(Kind::OpenAiChat, openai_stream(50), usize::MAX)
    })
    .long(),
    Path::new("providers/openai-50-reads", "the same, each event by a read of its own", || {
        stream(Kind::OpenAiChat, openai_stream(50), 1)
    })
    .long(),
    Path::new("providers/responses-50", "the same answer in OpenAI's responses", || {
        stream(Kind::OpenAiResponses, responses_stream(50), usize::MAX)
    })
    .long(),
    Path::new("providers/anthropic-50", "the same answer in Anthropic's messages", || {
        stream(Kind::Anthropic, anthropic_stream(50), usize::MAX)
    })
    .long(),
    Path::new("providers/ollama-50", "the same answer in Ollama's chat", || {
        stream(Kind::Ollama, ollama_stream(50), usize::MAX)
    })
    .long(),
    Path::new("providers/openai-request", "a request of 70 bytes of text written", request).allocating(2),
    Path::new("providers/reply-chat", "a token written as a chunk of a chat completion", || {
        reply(Kind::OpenAiChat)
    }),
    Path::new("providers/reply-anthropic", "a token written as an event of Anthropic's messages", || {
        reply(Kind::Anthropic)
    }),
    Path::new(
        "providers/translate-20",
        "a chat request of 20 messages read, and written for Anthropic",
        translate,
    )
    .long()
    .allocating(18),
];

/// A stream of which each call sees so many events more.
fn stream(kind: Kind, input: Vec<u8>, events: usize) -> Operation {
    let ends: Vec<usize> =
        input.windows(2).enumerate().filter(|(_, pair)| *pair == b"\n\n").map(|(at, _)| at + 2).collect();
    let ends: Vec<usize> = if events == 1 { ends } else { vec![input.len()] };
    let mut buffer = input.clone();
    let mut json = Json::new();
    Box::new(move || {
        buffer.copy_from_slice(black_box(&input));
        let limits = Limits { event_bytes_max: 1 << 20, body_bytes_max: 4 << 20, calls_max: 16 };
        let mut decoder = Decoder::new(kind, true, limits);
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

fn settings(kind: Kind) -> Settings {
    Settings {
        kind,
        replay_reasoning: false,
        base_url: "http://127.0.0.1:9000/v1".to_owned(),
        api_key: Some("sk-0123456789abcdef".to_owned()),
        model: "gpt-5-mini".to_owned(),
        stream: true,
        max_tokens: Some(1_024),
        temperature: None,
        headers: Vec::new(),
        extra_body: String::new(),
    }
}

fn request() -> Operation {
    let endpoint = Endpoint::new(&settings(Kind::OpenAiChat)).expect("the settings are good");
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

/// A piece as a client hears it. The buffer is the connection's, and was flushed.
fn reply(kind: Kind) -> Operation {
    let title = Title { id: "01K0CfXq0123456789", created: 1_795_255_200, model: "support" };
    let mut reply = Reply::new(kind, &title, &Request::default(), 1 << 20);
    let mut out = Vec::with_capacity(4_096);
    Box::new(move || {
        out.clear();
        reply.write(black_box(&Said::Piece(Piece::Text(" Tuesday"))), &mut out);
        black_box(&out);
    })
}

fn translate() -> Operation {
    let endpoint = Endpoint::new(&settings(Kind::Anthropic)).expect("the settings are good");
    let input = chat_request(20);
    let mut body = Vec::with_capacity(16_384);
    Box::new(move || {
        let request = door::read(Kind::OpenAiChat, black_box(&input)).expect("the request is good");
        black_box(endpoint.encode_request(&request, &mut body)).expect("it can be expressed");
        black_box(&body);
    })
}
