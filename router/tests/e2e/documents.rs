//! The users' documents: what they print works as it is printed. Lines for the shell, messages of the client protocol,
//! and examples of configurations are taken from the pages themselves.
use crate::peers::certificates::Certificate;
use crate::peers::gateway::{Gateway, new_folder};
use crate::peers::time::unix_seconds;
use serde_json::{Value, json};
use std::process::Command;

const README: &str = include_str!("../../../README.md");
const PROTOCOL: &str = include_str!("../../docs/protocol.md");
const OPERATIONS: &str = include_str!("../../docs/operations.md");
const TELEGRAM: &str = include_str!("../../docs/channels/telegram.md");
const WEBHOOK: &str = include_str!("../../docs/channels/webhook.md");
/// A page for each provider.
const PROVIDERS: [(&str, &str); 9] = [
    ("providers", include_str!("../../docs/providers/README.md")),
    ("openai", include_str!("../../docs/providers/openai.md")),
    ("openai-responses", include_str!("../../docs/providers/openai-responses.md")),
    ("anthropic", include_str!("../../docs/providers/anthropic.md")),
    ("ollama", include_str!("../../docs/providers/ollama.md")),
    ("kimi", include_str!("../../docs/providers/kimi.md")),
    ("xroute", include_str!("../../docs/providers/xroute.md")),
    ("vllm", include_str!("../../docs/providers/vllm.md")),
    ("openai-compatible", include_str!("../../docs/providers/openai-compatible.md")),
];

/// The blocks of a page that are marked with this.
fn blocks<'a>(page: &'a str, mark: &str) -> Vec<&'a str> {
    let fence = format!("```{mark}\n");
    let blocks: Vec<&str> =
        page.split(&fence).skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
    assert!(!blocks.is_empty(), "no block is marked {mark:?}");
    blocks
}

fn lines(page: &str, mark: &str) -> Vec<Value> {
    let all = blocks(page, mark).into_iter().flat_map(str::lines);
    all.map(|line| serde_json::from_str(line).unwrap_or_else(|why| panic!("{why}: {line}"))).collect()
}

/// What a shell prints for this, with the gateway in place of the default address.
fn shell(gateway: &Gateway, script: &str, secret: &str) -> String {
    let script = script.replace("127.0.0.1:8787", &gateway.address.to_string());
    let script = script.replace("curl ", "curl -sS --max-time 20 ");
    let output = Command::new("bash").args(["-euc", &script]).env("SHOP_SECRET", secret).output().unwrap();
    assert!(output.status.success(), "{script}\n{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn has(tool: &str) -> bool {
    Command::new(tool).arg("--version").output().is_ok()
}

/// The README's and the protocol's lines for `/api/chat`, as printed, on the default configuration.
#[test]
fn printed_lines_of_curl_work() {
    if !has("bash") || !has("curl") {
        return;
    }
    let gateway = Gateway::start_default();
    let mut seen = 0;
    for script in blocks(README, "sh").into_iter().chain(blocks(PROTOCOL, "sh")) {
        if !script.starts_with("curl ") {
            continue;
        }
        let said = shell(&gateway, script, "");
        if script.contains("\"stream\": true") {
            assert!(said.contains(r#"data: {"type":"chunk","content":"Write a poem""#), "{script}\n{said}");
            assert!(said.contains(r#"data: {"type":"done""#), "{script}\n{said}");
        } else {
            let answer: Value = serde_json::from_str(&said).unwrap_or_else(|_| panic!("{script}\n{said}"));
            assert_eq!((&answer["success"], &answer["data"]["message"]), (&json!(true), &json!("Hello")));
            unix_seconds(answer["timestamp"].as_str().unwrap());
        }
        seen += 1;
    }
    assert!(3 <= seen, "only {seen} lines were found");
}

/// Every message that the protocol's page shows is understood, and no answer has a type or field that it does not show.
#[test]
fn printed_messages_are_understood() {
    let gateway = Gateway::start_default();
    let known = lines(PROTOCOL, "jsonl server");
    let mut socket = gateway.socket();
    for message in lines(PROTOCOL, "jsonl client") {
        socket.say(message.clone());
        socket.say(json!({ "type": "ping", "id": "after" }));
        // What is asked for a session that is being answered comes while it is.
        let (mut ended, mut ponged) = (message["type"] != "message", false);
        while !(ended && ponged) {
            let answer = socket.next();
            let kind = answer["type"].as_str().unwrap();
            let shown = known.iter().filter(|shown| shown["type"] == kind);
            let fields: Vec<&String> = shown.flat_map(|shown| shown.as_object().unwrap().keys()).collect();
            assert!(!fields.is_empty(), "{kind} is not on the page");
            for field in answer.as_object().unwrap().keys() {
                assert!(
                    fields.contains(&field) || field == "id",
                    "{kind} has {field}, which is not on the page"
                );
            }
            assert_ne!(kind, "error", "{message}: {answer}");
            ended |= kind == "done";
            ponged |= answer["id"] == "after";
        }
    }
}

#[test]
fn printed_actions_are_carried_out() {
    let gateway = Gateway::start_default();
    for action in lines(PROTOCOL, "jsonl actions") {
        gateway.post("/api/chat", &json!({ "message": "canary", "sessionId": "s" }));
        let answer = gateway.post("/api/sessions/s", &action);
        assert_eq!(answer.status, 200, "{action}: {answer:?}");
    }
}

/// Each example of a configuration is accepted as it stands, once its variables are set.
#[test]
fn printed_configurations_are_right() {
    let pages = [("operations", OPERATIONS), ("telegram", TELEGRAM), ("webhook", WEBHOOK)];
    for (page, text) in pages.into_iter().chain(PROVIDERS) {
        for (number, block) in blocks(text, "jsonc").into_iter().enumerate() {
            let folder = new_folder();
            std::fs::write(folder.join("clawgate.json"), block).unwrap();
            Certificate::new().write(&folder);
            let mut check = Command::new(env!("CARGO_BIN_EXE_clawgate"));
            check.current_dir(&folder).env_clear().args(["check", "--json"]);
            for part in block.split("${").skip(1) {
                let name = part.split('}').next().unwrap();
                let is_token = name == "TELEGRAM_BOT_TOKEN";
                check.env(name, if is_token { "42:canary-token" } else { "canary-secret-of-a-page" });
            }
            let output = check.output().unwrap();
            std::fs::remove_dir_all(&folder).unwrap();
            let said: Value = serde_json::from_slice(&output.stdout).unwrap();
            assert_eq!(
                (&said["ok"], &said["problems"]),
                (&json!(true), &json!([])),
                "{page} {number}: {said}"
            );
        }
    }
}

/// The lines that sign a request by hand, as the webhook's page prints them.
#[test]
fn a_webhook_is_signed_as_printed() {
    if !has("bash") || !has("curl") || Command::new("openssl").arg("version").output().is_err() {
        return;
    }
    let secret = "canary-secret-of-the-shop";
    let gateway = Gateway::start(json!({ "channels": { "shop": { "type": "webhook", "secret": secret } } }));
    let script = blocks(WEBHOOK, "sh")[0];
    shell(&gateway, script, secret);
    assert_eq!(gateway.metric("clawgate_messages_accepted_total", ""), 1);
    shell(&gateway, script, "another");
    assert_eq!(gateway.metric("clawgate_refused_total", "BAD_SIGNATURE"), 1);
}

/// The metrics that the operators' page names are there, and those that are there are named.
#[test]
fn printed_metrics_are_those_that_there_are() {
    // Some are there only where something is kept.
    let gateway = Gateway::start(json!({ "data": { "folder": "data" } }));
    gateway.post("/api/chat", &json!({ "message": "" }));
    let text = gateway.get("/metrics").text();
    let table = OPERATIONS.split("\n## Metrics\n").nth(1).unwrap().split("\n## ").next().unwrap();
    let rows = table.lines().filter(|line| line.starts_with("| `"));
    let named: Vec<&str> =
        rows.flat_map(|row| row.split('|').nth(1).unwrap().split('`').skip(1).step_by(2)).collect();
    let there: Vec<(&str, &str)> = text
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE clawgate_"))
        .map(|line| line.split_once(' ').unwrap())
        .collect();
    for (name, kind) in &there {
        let shown = if *kind == "counter" { format!("{name}_total") } else { (*name).to_owned() };
        assert!(named.contains(&shown.as_str()), "{shown} is not on the page");
    }
    assert_eq!(named.len(), there.len(), "the page names what is not there: {named:?}");
}
