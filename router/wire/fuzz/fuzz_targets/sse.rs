//! Events and lines: the same, whether the bytes come at once or cut in two.
#![no_main]

use clawgate_wire::sse::{Decoder, Step, TooLong, next_line};
use libfuzzer_sys::fuzz_target;

fn events(max: usize, pieces: [&[u8]; 2]) -> (Vec<String>, bool) {
    let (mut decoder, mut found, mut buf) = (Decoder::new(max), Vec::new(), Vec::new());
    for piece in pieces {
        buf.extend_from_slice(piece);
        loop {
            let consumed = match decoder.decode(&mut buf) {
                Err(TooLong) => return (found, true),
                Ok(Step::NeedMore) => break,
                Ok(Step::Event { consumed, event, id, data }) => {
                    found.push(format!("{event:?} {id:?} {data:?}"));
                    consumed
                }
                Ok(Step::Id { consumed, id }) => {
                    found.push(format!("{id:?}"));
                    consumed
                }
                Ok(Step::Comment { consumed } | Step::Skip { consumed }) => consumed,
            };
            assert!(0 < consumed);
            buf.drain(..consumed);
        }
    }
    (found, false)
}

fn lines(max: usize, pieces: [&[u8]; 2]) -> (Vec<Vec<u8>>, bool) {
    let (mut found, mut buf, mut scanned) = (Vec::new(), Vec::new(), 0);
    for piece in pieces {
        buf.extend_from_slice(piece);
        loop {
            let consumed = match next_line(&mut buf, &mut scanned, max) {
                Err(TooLong) => return (found, true),
                Ok(None) => break,
                Ok(Some(line)) => {
                    found.push(line.line.to_vec());
                    line.consumed
                }
            };
            buf.drain(..consumed);
        }
    }
    (found, false)
}

fuzz_target!(|input: (u16, u16, &[u8])| {
    let (max, cut, stream) = input;
    let (front, back) = stream.split_at(stream.len().min(usize::from(cut)));
    assert_eq!(events(usize::from(max), [front, back]), events(usize::from(max), [stream, &[]]));
    assert_eq!(lines(usize::from(max), [front, back]), lines(usize::from(max), [stream, &[]]));
});
