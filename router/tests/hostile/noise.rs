//! Noise: seeded random bytes, and good messages that were damaged at random. A failure names its seed.
use crate::peers::gateway::Gateway;
use crate::peers::socket::{frame, upgrade_raw};
use crate::peers::telegram::{SECRET, Telegram, private};
use serde_json::json;

/// xorshift64*: the same seed is the same noise for ever.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(bound.max(1)).unwrap()).unwrap()
    }

    fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.next().to_le_bytes()[3]).collect()
    }

    /// Changes, drops, doubles or adds some bytes.
    fn damage(&mut self, good: &[u8]) -> Vec<u8> {
        let mut bytes = good.to_vec();
        for _ in 0..1 + self.below(4) {
            let at = self.below(bytes.len());
            let end = (at + self.below(8)).min(bytes.len());
            match self.below(5) {
                0 if !bytes.is_empty() => bytes[at] ^= 1 << self.below(8),
                1 => drop(bytes.drain(at..end)),
                2 => {
                    let part = bytes[at..end].to_vec();
                    bytes.splice(at..at, part);
                }
                3 => bytes.insert(at, b"\r\n\0 :{}[]\"\\,\xff\x80%"[self.below(15)]),
                _ => bytes.truncate(at),
            }
        }
        bytes
    }
}

/// Short deadlines, so that what noise left open is over soon.
fn hurried() -> serde_json::Value {
    json!({ "headSeconds": 0.5, "bodySeconds": 0.5, "heartbeatSeconds": 0.3, "missedHeartbeatsMax": 1 })
}

/// Reads what comes until the connection ends or half a second is silent: no promise is made to noise but that it ends.
fn hear_out(client: crate::peers::http::Client) {
    let (mut stream, tcp, _) = client.into_stream();
    tcp.shutdown(std::net::Shutdown::Write).unwrap_or_default();
    let mut sink = [0; 4_096];
    while matches!(std::io::Read::read(&mut stream, &mut sink), Ok(1..)) {}
}

#[test]
fn noise_on_http() {
    let gateway = Gateway::start(json!({ "limits": hurried() }));
    let body = r#"{"message":"canary","sessionId":"s","stream":true,"id":"7"}"#;
    let length = body.len();
    let good = [
        format!(
            "POST /api/chat HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
             Content-Length: {length}\r\n\r\n{body}"
        ),
        format!(
            "POST /api/v1/chat HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n\
             {length:x}\r\n{body}\r\n0\r\n\r\n"
        ),
        "GET /api/sessions?limit=5&state=idle&cursor=0.0 HTTP/1.1\r\nHost: localhost\r\n\
         Accept: */*\r\n\r\n"
            .to_owned(),
        "GET /ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
            .to_owned(),
    ];
    for seed in 1..=400 {
        let mut noise = Noise(seed);
        let mut client = gateway.connect();
        let bytes = match seed % 4 {
            0 => {
                let count = noise.below(3_000);
                noise.bytes(count)
            }
            _ => {
                let at = noise.below(good.len());
                noise.damage(good[at].as_bytes())
            }
        };
        let cut = noise.below(bytes.len());
        client.try_send(&bytes[..cut]);
        client.try_send(&bytes[cut..]);
        hear_out(client);
    }
    gateway.assert_well();
    gateway.await_status("connections", 1);
    gateway.await_status("running", 0);
}

#[test]
fn noise_on_websockets() {
    let gateway = Gateway::start(json!({ "limits": hurried() }));
    let good = [
        r#"{"type":"message","channel":"api","content":"canary 😀","sessionId":"s1","id":"1","receipt":true}"#,
        r#"{"type":"subscribe","events":["message","status"]}"#,
        r#"{"type":"unsubscribe","events":["message"]}"#,
        r#"{"type":"stop","sessionId":"s1","id":"1"}"#,
        r#"{"type":"auth","token":"canary-token"}"#,
        r#"{"type":"ping","id":"p"}"#,
    ];
    for seed in 1..=300 {
        let mut noise = Noise(seed);
        let mut client = gateway.connect();
        upgrade_raw(&mut client);
        for _ in 0..8 {
            let text = good[noise.below(good.len())].as_bytes();
            let bytes = match noise.below(4) {
                // A damaged message in a good frame, a damaged frame, noise in a frame, noise.
                0 => frame(0x81 + u8::from(noise.below(2) == 0), &noise.damage(text)),
                1 => noise.damage(&frame(0x81, text)),
                2 => {
                    let count = noise.below(300);
                    let first = noise.next().to_le_bytes()[0];
                    frame(first, &noise.bytes(count))
                }
                _ => {
                    let count = noise.below(50);
                    noise.bytes(count)
                }
            };
            client.try_send(bytes);
        }
        hear_out(client);
    }
    gateway.assert_well();
    gateway.await_status("connections", 1);
    gateway.await_status("running", 0);
}

#[test]
fn noise_on_webhooks() {
    let telegram = Telegram::start();
    let gateway = Gateway::start(json!({
        "limits": hurried(),
        "channels": {
            "telegram": telegram.config(json!({})),
            "shop": { "type": "webhook", "secret": "canary-secret-of-the-shop", "signature": "bearer" },
        },
    }));
    let update = private(1, 77, "the canary sings").to_string();
    let message = json!({ "event_id": "e", "sender": "ana", "chat": "c", "text": "canary", "timestamp": 5 })
        .to_string();
    let headers =
        [("X-Telegram-Bot-Api-Secret-Token", SECRET), ("Authorization", "Bearer canary-secret-of-the-shop")];
    let mut client = gateway.connect();
    for seed in 1..=600 {
        let mut noise = Noise(seed);
        let (target, good) =
            if seed % 2 == 0 { ("/webhooks/telegram", &update) } else { ("/webhooks/shop", &message) };
        let body = noise.damage(good.as_bytes());
        client.request("POST", target, &headers, &body);
        let status = client.answer().status;
        assert!(matches!(status, 200 | 400 | 413 | 503), "seed {seed}: {status}");
    }
    gateway.assert_well();
    gateway.await_status("running", 0);
}
