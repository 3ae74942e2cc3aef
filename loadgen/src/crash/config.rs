//! The configuration that the gateway runs under, and what the caller lays over it.

use std::net::SocketAddr;
use std::path::Path;

use serde_json::{Value, json};

use super::Plan;
use super::platforms::{Addresses, BOT_TOKEN};

/// The key of the API.
pub(super) const API_KEY: &str = "crash-key-0123456789";
/// What Telegram sends with each update.
pub(super) const TELEGRAM_SECRET: &str = "crash-secret-0123456789";
/// What the signed webhook's program shows.
pub(super) const WEBHOOK_SECRET: &str = "crash-desk-0123456789";

/// Writes the configuration to `file`; `plan.config` is laid over it, object by object.
pub(super) fn write(plan: &Plan, file: &Path, address: SocketAddr, to: Addresses) -> Result<(), String> {
    let model = format!("http://{}/v1", to.model);
    let mut config = json!({
        "server": { "listen": [address.to_string()], "shards": 2, "drainSeconds": 10, "driver": plan.driver },
        "data": { "folder": plan.data },
        // Small files, so that many come and go.
        "journal": { "segmentBytes": 262_144, "diskBytesMax": 67_108_864 },
        "keys": [{
            "id": "crash", "key": API_KEY, "scopes": ["admin", "chat", "read"],
            "rate": { "requests": 0, "seconds": 1 }
        }],
        "rate": { "address": { "requests": 0, "seconds": 1 } },
        "limits": { "connectionsPerAddressMax": 0 },
        "models": {
            "echo": { "provider": "echo" },
            "slow": { "provider": "openai", "baseUrl": model, "apiKey": "x", "model": "mock" }
        },
        "agents": { "main": { "models": ["echo"] }, "slow": { "models": ["slow"], "history": false } },
        "channels": {
            "telegram": {
                "token": BOT_TOKEN, "secret": TELEGRAM_SECRET, "botUsername": "crash_bot",
                "apiRoot": format!("http://{}", to.bot), "dmPolicy": "open", "agent": "slow"
            },
            "desk": {
                "type": "webhook", "signature": "bearer", "secret": WEBHOOK_SECRET,
                "replyUrl": format!("http://{}/answers", to.answers)
            }
        },
        "logging": { "level": "info" }
    });
    if let Some(over) = &plan.config {
        let text = std::fs::read_to_string(over).map_err(|error| format!("{}: {error}", over.display()))?;
        let over: Value =
            serde_json::from_str(&text).map_err(|error| format!("{}: {error}", over.display()))?;
        lay_over(&mut config, over);
    }
    let text = serde_json::to_string_pretty(&config).unwrap_or_default();
    std::fs::write(file, text).map_err(|error| format!("{}: {error}", file.display()))
}

/// Lays one value over another: objects field by field, `null` removes, all else replaces.
fn lay_over(under: &mut Value, over: Value) {
    match (under, over) {
        (Value::Object(under), Value::Object(over)) => {
            for (name, value) in over {
                if value.is_null() {
                    under.remove(&name);
                } else {
                    lay_over(under.entry(name).or_insert(Value::Null), value);
                }
            }
        }
        (under, over) => *under = over,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_laid_over_replaces_adds_and_removes() {
        let mut config = json!({ "server": { "shards": 2, "pin": true }, "data": { "folder": "a" } });
        lay_over(&mut config, json!({ "server": { "shards": 1, "pin": null }, "journal": { "mode": "os" } }));
        let expected =
            json!({ "server": { "shards": 1 }, "data": { "folder": "a" }, "journal": { "mode": "os" } });
        assert_eq!(config, expected);
    }
}
