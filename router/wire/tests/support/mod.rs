//! What both test programs share: a seeded source of choices, how long to go on, and what a WebSocket stream says.

use clawgate_wire::websocket::{Decoder, Item, Role, Step, Violation};

/// xorshift64*: the same seed makes the same choices everywhere.
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) fn new(seed: u64) -> Self {
        // Zero is the one state that xorshift never leaves.
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// 0 to `end`, `end` left out.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        (self.next() >> 16) as usize % end
    }

    pub(crate) fn one_in(&mut self, count: usize) -> bool {
        self.below(count) == 0
    }

    pub(crate) fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }

    pub(crate) fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.next() as u8).collect()
    }

    /// A text with characters of every length in UTF-8.
    pub(crate) fn text(&mut self, characters: usize) -> String {
        let ends = [0x80, 0x80, 0x80, 0x800, 0x1_0000, 0x11_0000];
        (0..characters)
            .map(|_| {
                let end = *self.pick(&ends);
                char::from_u32(self.below(end) as u32).unwrap_or('\u{fffd}')
            })
            .collect()
    }

    /// Places at which to cut `bytes` bytes, in order.
    pub(crate) fn cuts(&mut self, bytes: usize) -> Vec<usize> {
        let mut cuts: Vec<usize> = (0..self.below(6)).map(|_| self.below(bytes + 1)).collect();
        cuts.sort_unstable();
        cuts
    }
}

/// How many rounds a test takes: `WIRE_ROUNDS` times as many as it takes on its own.
pub(crate) fn rounds(count: u64) -> std::ops::Range<u64> {
    let times = std::env::var("WIRE_ROUNDS").ok().and_then(|times| times.parse().ok()).unwrap_or(1);
    0..count * times
}

/// What a peer said, message by message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Said {
    Text(Vec<u8>),
    Binary(Vec<u8>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close(Option<(u16, String)>),
}

/// Everything that our decoder makes of a stream that comes in pieces, fragments assembled, and how it ended: `None`
/// if it would read on.
pub(crate) fn read_websocket(
    role: Role,
    message_bytes_max: usize,
    wire: &[u8],
    cuts: &[usize],
) -> (Vec<Said>, Option<Violation>) {
    let mut decoder = Decoder::new(role, message_bytes_max);
    let (mut said, mut message) = (Vec::new(), Vec::new());
    let (mut buf, mut from) = (Vec::new(), 0);
    for end in cuts.iter().copied().chain([wire.len()]) {
        buf.extend_from_slice(&wire[from..end]);
        from = end;
        loop {
            let (consumed, item) = match decoder.decode(&mut buf) {
                Err(violation) => return (said, Some(violation)),
                Ok(Step::NeedMore(missing)) => {
                    assert!(missing > 0);
                    break;
                }
                Ok(Step::Frame { consumed, item }) => (consumed, item),
            };
            match item {
                Item::Text(text) => said.push(Said::Text(text.to_vec())),
                Item::Binary(bytes) => said.push(Said::Binary(bytes.to_vec())),
                Item::Ping(bytes) => said.push(Said::Ping(bytes.to_vec())),
                Item::Pong(bytes) => said.push(Said::Pong(bytes.to_vec())),
                Item::Close { code, reason } => {
                    said.push(Said::Close(code.map(|code| (code, reason.to_owned()))))
                }
                Item::Fragment { text, payload, first, last } => {
                    assert_eq!(first, message.is_empty() && first, "a message starts once");
                    message.extend_from_slice(payload);
                    assert!(message.len() <= message_bytes_max);
                    if last {
                        let message = std::mem::take(&mut message);
                        said.push(if text { Said::Text(message) } else { Said::Binary(message) });
                    }
                }
            }
            assert!(2 <= consumed && consumed <= buf.len());
            buf.drain(..consumed);
        }
    }
    for said in &said {
        if let Said::Text(text) = said {
            assert!(std::str::from_utf8(text).is_ok(), "text is UTF-8");
        }
    }
    (said, None)
}
