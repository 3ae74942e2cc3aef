//! The generic signed webhook (row B19): Standard Webhooks in, signed answers out, and the other ways to prove who one
//! is.
use crate::peers::gateway::{Gateway, merge};
use crate::peers::server::{After, Asked, Server};
use crate::peers::time::written_at;
use crate::peers::{Watched, ask_until};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use serde_json::{Value, json};
use sha2::Sha256;
use std::sync::Arc;

const SECRET: &str = "whsec_Y2FuYXJ5LXNlY3JldC1vZi10aGUtc2hvcA==";
const OLD_SECRET: &str = "canary-secret-of-before";

fn key_of(secret: &str) -> Vec<u8> {
    match secret.strip_prefix("whsec_") {
        Some(encoded) => STANDARD.decode(encoded).unwrap(),
        None => secret.as_bytes().to_vec(),
    }
}

/// `webhook-signature`, written from the specification of Standard Webhooks.
fn sign(secret: &str, id: &str, seconds: u64, body: &str) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(&key_of(secret)).unwrap();
    mac.update(format!("{id}.{seconds}.{body}").as_bytes());
    format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()))
}

/// The vector of the Standard Webhooks libraries' own tests.
#[test]
fn we_sign_as_the_libraries_do() {
    let signature = sign(
        "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        "msg_p5jXN8AQM9LWM0D4loKWxJek",
        1_614_265_330,
        "{\"test\": 2432232314}",
    );
    assert_eq!(signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
}

/// A system that posts to the gateway and takes its answers.
struct Shop {
    server: Server,
    taken: Arc<Watched<Vec<Asked>>>,
}

impl Shop {
    /// One that answers its first `failures` requests with 503.
    fn start(failures: u32) -> Self {
        let taken = Arc::new(Watched::<Vec<Asked>>::default());
        let noted = taken.clone();
        let server = Server::start(None, move |asked, line| {
            noted.with(|taken| taken.push(asked.clone()));
            let status = if asked.number < failures { 503 } else { 204 };
            line.answer(status, &[], "");
            After::Keep
        });
        Self { server, taken }
    }

    fn gateway(&self, channel: Value) -> Gateway {
        let mut shop = json!({
            "type": "webhook", "secrets": [SECRET, OLD_SECRET],
            "replyUrl": format!("http://{}/answers?from=clawgate", self.server.address),
        });
        merge(&mut shop, channel);
        Gateway::start(
            json!({ "channels": { "shop": shop }, "limits": { "backoffMinMillis": 1, "backoffMaxMillis": 20 } }),
        )
    }

    fn await_answers(&self, count: usize) -> Vec<Asked> {
        self.taken.wait("answers arrive", |taken| (count <= taken.len()).then(|| taken.clone()))
    }
}

/// What time it is, by the gateway's account.
fn now(gateway: &Gateway) -> u64 {
    written_at(&gateway.get("/api/status"))
}

fn send(gateway: &Gateway, id: &str, seconds: u64, signature: &str, body: &str) -> (u16, String) {
    let seconds = seconds.to_string();
    let headers = [
        ("content-type", "application/json"),
        ("webhook-id", id),
        ("webhook-timestamp", &seconds),
        ("webhook-signature", signature),
    ];
    let answer = gateway.call("POST", "/webhooks/shop", &headers, body.as_bytes());
    if answer.status == 200 { (200, String::new()) } else { answer.refusal() }
}

#[test]
fn a_signed_message_is_answered_signed() {
    let shop = Shop::start(2);
    let gateway = shop.gateway(json!({}));
    // An id that a floating-point number could not hold.
    let sender = 9_007_199_254_740_993_u64;
    let body = json!({
        "event_id": "e-1", "sender": sender, "chat": "desk 5", "thread": "t", "text": "the canary sings",
    });
    let body = body.to_string();
    let time = now(&gateway);
    for secret in [SECRET, OLD_SECRET] {
        // Both secrets hold while one replaces another; the event's own id makes it one message.
        assert_eq!(send(&gateway, "msg_1", time, &sign(secret, "msg_1", time, &body), &body).0, 200);
    }
    // Refused twice by the receiver, then taken: the same request each time, with the same id.
    let taken = shop.await_answers(3);
    for answer in &taken {
        let body = answer.json();
        let id = answer.header("webhook-id").unwrap();
        assert_eq!(answer.target, "/answers?from=clawgate");
        assert_eq!(body["text"], "the canary sings");
        assert_eq!((&body["sender"], &body["chat"]), (&json!(sender.to_string()), &json!("desk 5")));
        assert_eq!((&body["thread"], &body["part"], &body["event_id"]), (&json!("t"), &json!(0), &json!(id)));
        let seconds: u64 = answer.header("webhook-timestamp").unwrap().parse().unwrap();
        assert!(time <= seconds && seconds <= time + 60);
        let text = std::str::from_utf8(&answer.bytes).unwrap();
        assert_eq!(answer.header("webhook-signature"), Some(sign(SECRET, id, seconds, text).as_str()));
        assert_eq!(answer.header("idempotency-key"), Some(id));
        assert_eq!(id, taken[0].header("webhook-id").unwrap());
    }
    gateway.await_metric("clawgate_turns_total", "outcome=\"answered\"", 1);
    assert_eq!(shop.taken.with(|taken| taken.len()), 3, "once it was taken it is not sent again");
    assert_eq!(gateway.metric("clawgate_messages_duplicate_total", ""), 1);
}

#[test]
fn what_is_not_signed_by_us_gets_nothing() {
    let shop = Shop::start(0);
    let gateway = shop.gateway(json!({ "toleranceSeconds": 60 }));
    let body = json!({ "event_id": "e-1", "sender": "ana", "text": "canary" }).to_string();
    let time = now(&gateway);
    let good = sign(SECRET, "msg_1", time, &body);
    let refused = |id: &str, time: u64, signature: &str, body: &str| {
        assert_eq!(send(&gateway, id, time, signature, body), (401, "BAD_SIGNATURE".to_owned()));
    };
    refused("msg_2", time, &good, &body);
    refused("msg_1", time + 1, &good, &body);
    refused("msg_1", time, &good, &body.replace("ana", "eve"));
    refused("msg_1", time, &good, &format!("{body} "));
    refused("msg_1", time, &good.to_lowercase(), &body);
    refused("msg_1", time, "v1,", &body);
    refused("msg_1", time, "", &body);
    refused("msg_1", time, &sign("canary-secret-of-another", "msg_1", time, &body), &body);
    for wrong in [time - 3_600, time + 3_600] {
        // Signed well, but not now: somebody repeats it, or has a wrong clock.
        refused("msg_1", wrong, &sign(SECRET, "msg_1", wrong, &body), &body);
    }
    assert_eq!(gateway.call("POST", "/webhooks/shop", &[], body.as_bytes()).status, 401);
    assert_eq!(gateway.metric("clawgate_messages_accepted_total", ""), 0);
    assert_eq!(
        send(&gateway, "msg_1", time, &format!("v1,xx {good}"), &body).0,
        200,
        "one good signature is enough"
    );
    assert_eq!(shop.await_answers(1).len(), 1);
    // Signed, but no message.
    for (body, code) in
        [("{}", "MISSING_FIELD"), ("[", "BAD_JSON"), (r#"{"sender":{"id":1},"text":"x"}"#, "MISSING_FIELD")]
    {
        let signature = sign(SECRET, "msg_3", time, body);
        assert_eq!(send(&gateway, "msg_3", time, &signature, body), (400, code.to_owned()));
    }
}

/// The sender's JSON as it is: pointers say where things are.
#[test]
fn a_mapping_finds_the_message_in_any_json() {
    let shop = Shop::start(0);
    let gateway = shop.gateway(json!({
        "mapping": {
            "eventId": "", "sender": "/user/id", "chat": "/rooms/0", "text": "/payload/body",
            "thread": "/topic", "scope": "/kind",
        },
        "textCharsMax": 10, "mentionGating": false,
    }));
    let body = json!({
        "user": { "id": 9_007_199_254_740_993u64, "tags": [] }, "rooms": ["blue", "red"], "kind": "room",
        "payload": { "body": "canary sings" }, "topic": null,
    })
    .to_string();
    let time = now(&gateway);
    for id in ["msg_1", "msg_1", "msg_2"] {
        // Without an id in the body, the one of the signature's form counts.
        assert_eq!(send(&gateway, id, time, &sign(SECRET, id, time, &body), &body).0, 200);
    }
    let taken = shop.await_answers(4);
    let parts: Vec<(Value, Value, Value, Value)> = taken
        .iter()
        .map(|answer| answer.json())
        .map(|mut body| {
            (body["chat"].take(), body["sender"].take(), body["part"].take(), body["text"].take())
        })
        .collect();
    // A group's session is nobody's own: its answers name the room, and no sender.
    let part = |part: u64, text: &str| (json!("blue"), json!(""), json!(part), json!(text));
    let (first, second) = (part(0, "canary"), part(1, "sings"));
    assert_eq!(parts, [first.clone(), second.clone(), first, second], "split, in order, each message once");
    let sessions = gateway.get("/api/sessions?channel=shop").json();
    assert_eq!(sessions["data"]["sessions"][0]["id"], "shop:group:blue");
}

#[test]
fn other_proofs_are_taken_where_they_are_configured() {
    let body = json!({ "event_id": "e-1", "sender": "ana", "text": "canary" }).to_string();
    let hex = |content: &str| -> String {
        let mut mac = Hmac::<Sha256>::new_from_slice(OLD_SECRET.as_bytes()).unwrap();
        mac.update(content.as_bytes());
        mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect()
    };
    type Headers = Vec<(&'static str, String)>;
    let proofs: [(Value, &dyn Fn(u64) -> Headers); 5] = [
        (json!({ "signature": "github" }), &|_| {
            vec![("X-Hub-Signature-256", format!("sha256={}", hex(&body)))]
        }),
        (json!({ "signature": "stripe" }), &|time| {
            vec![("Stripe-Signature", format!("t={time},v1={}", hex(&format!("{time}.{body}"))))]
        }),
        (json!({ "signature": "slack" }), &|time| {
            vec![
                ("X-Slack-Request-Timestamp", time.to_string()),
                ("X-Slack-Signature", format!("v0={}", hex(&format!("v0:{time}:{body}")))),
            ]
        }),
        (json!({ "signature": "bearer" }), &|_| vec![("Authorization", format!("Bearer {OLD_SECRET}"))]),
        (json!({ "signature": "token", "header": "X-Shop-Token" }), &|_| {
            vec![("x-shop-token", OLD_SECRET.to_owned())]
        }),
    ];
    for (settings, headers) in proofs {
        let shop = Shop::start(0);
        let gateway = shop.gateway(settings.clone());
        let headers = headers(now(&gateway));
        let call = |change: &dyn Fn(&str) -> String| {
            let headers: Vec<(&str, String)> =
                headers.iter().map(|(name, value)| (*name, change(value))).collect();
            let headers: Vec<(&str, &str)> =
                headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
            gateway.call("POST", "/webhooks/shop", &headers, body.as_bytes()).status
        };
        assert_eq!(call(&|value| format!("{value}0")), 401, "{settings}");
        assert_eq!(call(&str::to_owned), 200, "{settings}");
        assert_eq!(shop.await_answers(1)[0].json()["text"], "canary", "{settings}");
    }
}

/// Nowhere to answer to: the message is taken, and the failure is told to the operator, not to the sender.
#[test]
fn without_an_address_answers_are_given_up() {
    let gateway = Gateway::start(json!({ "channels": { "shop": { "type": "webhook", "secret": SECRET } } }));
    let body = json!({ "event_id": "e-1", "sender": "ana", "text": "canary" }).to_string();
    let time = now(&gateway);
    assert_eq!(send(&gateway, "msg_1", time, &sign(SECRET, "msg_1", time, &body), &body).0, 200);
    ask_until("the answer is given up", || {
        (gateway.metric("clawgate_turns_total", "outcome=\"dead\"") == 1).then_some(())
    });
    gateway.await_line("could not be delivered");
}
