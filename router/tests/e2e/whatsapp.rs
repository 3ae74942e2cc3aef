//! WhatsApp by the Cloud API (row B7): the address is tried by `GET`, signed notifications in, `messages` to a simulated
//! Graph API out. Obeys developers.facebook.com/docs/whatsapp/cloud-api: "Webhooks", "Messages".
use crate::peers::Watched;
use crate::peers::gateway::{Gateway, merge};
use crate::peers::http::Answer;
use crate::peers::server::{After, Asked, Line, Server};
use hmac::{Hmac, KeyInit, Mac};
use serde_json::{Value, json};
use sha2::Sha256;
use std::fmt::Write;
use std::sync::Arc;

const TOKEN: &str = "EAAG-canary-token";
const SECRET: &str = "canary-app-secret";
const WORD: &str = "canary-verify-token";
const NUMBER: &str = "106540352242922";

/// The Graph API: whom it was asked to write to, and what.
struct Graph {
    server: Server,
    sent: Arc<Watched<Vec<(String, String)>>>,
}

impl Graph {
    /// One that refuses so many messages first, because their receiver had one in the last six seconds.
    fn start(limited: u32) -> Self {
        let sent = Arc::new(Watched::<Vec<_>>::default());
        let noted = sent.clone();
        let server = Server::start(None, move |asked, line| take(asked, line, limited, &noted));
        Self { server, sent }
    }

    fn gateway(&self, channel: Value) -> Gateway {
        let mut whatsapp = json!({
            "token": TOKEN, "secret": SECRET, "verifyToken": WORD, "phoneNumberId": NUMBER, "dmPolicy": "open",
            "apiRoot": format!("http://{}/v23.0", self.server.address),
        });
        merge(&mut whatsapp, channel);
        Gateway::start(json!({
            "agents": { "main": { "models": ["echo"] } }, "channels": { "whatsapp": whatsapp },
            "limits": { "backoffMinMillis": 1, "backoffMaxMillis": 20 },
        }))
    }

    #[track_caller]
    fn await_sent(&self, count: usize) -> Vec<(String, String)> {
        self.sent.wait("answers arrive", |sent| (count <= sent.len()).then(|| sent.clone()))
    }
}

fn take(asked: &Asked, line: &mut Line, limited: u32, sent: &Watched<Vec<(String, String)>>) -> After {
    let failed = |line: &mut Line, status: u16, code: u32, message: &str| {
        let error = json!({ "error": { "message": message, "type": "OAuthException", "code": code } });
        line.answer(status, &[], &error.to_string());
        After::Keep
    };
    if asked.header("authorization") != Some(&format!("Bearer {TOKEN}")) {
        return failed(line, 401, 190, "Error validating access token");
    }
    let body = asked.json();
    let (to, text) = (body["to"].as_str(), body["text"]["body"].as_str());
    let is_whole = body["messaging_product"] == "whatsapp" && body["type"] == "text";
    let (Some(to), Some(text), true) =
        (to, text, is_whole && asked.target == format!("/v23.0/{NUMBER}/messages"))
    else {
        return failed(line, 400, 100, "Invalid parameter");
    };
    if asked.number < limited {
        return failed(line, 400, 131_056, "pair rate limit hit");
    }
    sent.with(|sent| sent.push((to.to_owned(), text.to_owned())));
    let said =
        json!({ "messaging_product": "whatsapp", "messages": [{ "id": format!("wamid.{}", asked.number) }] });
    line.answer(200, &[], &said.to_string());
    After::Keep
}

fn post(gateway: &Gateway, body: &Value, secret: &str) -> Answer {
    let body = body.to_string();
    let mut keyed = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).unwrap();
    keyed.update(body.as_bytes());
    let mut signature = String::from("sha256=");
    keyed.finalize().into_bytes().iter().for_each(|byte| write!(signature, "{byte:02x}").unwrap());
    let headers = [("Content-Type", "application/json"), ("X-Hub-Signature-256", &signature)];
    gateway.call("POST", "/webhooks/whatsapp", &headers, body.as_bytes())
}

fn notification(number: &str, messages: &[(&str, &str, &str)]) -> Value {
    let message = |(id, from, text): &(&str, &str, &str)| {
        let (timestamp, text) = ("1710000000", json!({ "body": text }));
        json!({ "id": id, "from": from, "timestamp": timestamp, "type": "text", "text": text })
    };
    let messages: Vec<Value> = messages.iter().map(message).collect();
    json!({ "object": "whatsapp_business_account", "entry": [{ "id": "WABA", "changes": [{
        "field": "messages", "value": {
            "messaging_product": "whatsapp", "metadata": { "phone_number_id": number },
            "contacts": [{ "profile": { "name": "Ana" }, "wa_id": "16505551234" }], "messages": messages,
        },
    }] }] })
}

#[test]
fn people_are_answered_once_each_and_in_order() {
    let graph = Graph::start(0);
    let gateway = graph.gateway(json!({}));
    let several =
        notification(NUMBER, &[("w1", "16505551234", "canary one"), ("w2", "16505551234", "canary two")]);
    for _ in 0..2 {
        assert_eq!(post(&gateway, &several, SECRET).status, 200);
    }
    let of_another = notification("1", &[("w3", "16505551234", "for another number")]);
    assert_eq!(post(&gateway, &of_another, SECRET).status, 200);
    assert_eq!(post(&gateway, &notification(NUMBER, &[("w4", "4917", "canary three")]), SECRET).status, 200);
    let mut sent = graph.await_sent(3);
    gateway.await_status("running", 0);
    assert_eq!(graph.await_sent(3).len(), 3);
    sent.retain(|(to, _)| to == "16505551234");
    let texts: Vec<&str> = sent.iter().map(|(_, text)| text.as_str()).collect();
    assert_eq!(texts, ["canary one", "canary two"]);
}

#[test]
fn only_meta_is_believed() {
    let graph = Graph::start(0);
    let gateway = graph.gateway(json!({}));
    let ask = |query: &str| gateway.get(&format!("/webhooks/whatsapp{query}"));
    let answer = ask(&format!("?hub.mode=subscribe&hub.verify_token={WORD}&hub.challenge=115820%3Cb%3E"));
    assert_eq!((answer.status, answer.text().as_str()), (200, "115820<b>"), "{answer:?}");
    assert_eq!(answer.header("content-type"), Some("text/plain; charset=utf-8"));
    let wrong = (401, "BAD_SIGNATURE".to_owned());
    assert_eq!(ask("?hub.mode=subscribe&hub.verify_token=canary&hub.challenge=1").refusal(), wrong);
    assert_eq!(ask("").refusal(), wrong);
    let body = notification(NUMBER, &[("w1", "16505551234", "canary")]);
    assert_eq!(post(&gateway, &body, "canary-other-secret").refusal(), wrong);
    assert_eq!(
        post(&gateway, &json!({ "object": "x" }), SECRET).refusal(),
        (400, "MISSING_FIELD".to_owned())
    );
    assert_eq!(post(&gateway, &body, SECRET).status, 200);
    graph.await_sent(1);
}

/// One message in six seconds to a person, by WhatsApp's rule: the answer waits, and is sent once.
#[test]
fn the_pair_rate_is_waited_for() {
    let graph = Graph::start(2);
    let gateway = graph.gateway(json!({}));
    assert_eq!(post(&gateway, &notification(NUMBER, &[("w1", "4917", "canary")]), SECRET).status, 200);
    assert_eq!(graph.await_sent(1), [("4917".to_owned(), "canary".to_owned())]);
    gateway.await_status("running", 0);
    assert_eq!(graph.await_sent(1).len(), 1);
}
