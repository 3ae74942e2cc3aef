//! The whole process from the outside: the real binary, real sockets, simulated upstreams. One module for each
//! promise to users; what bad input must not do stands in `hostile.rs`.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

#[path = "e2e/agents.rs"]
mod agents;
#[path = "e2e/calls.rs"]
mod calls;
#[path = "e2e/chat.rs"]
mod chat;
#[path = "e2e/command.rs"]
mod command;
#[path = "e2e/documents.rs"]
mod documents;
#[path = "e2e/doors.rs"]
mod doors;
#[path = "e2e/drain.rs"]
mod drain;
#[path = "e2e/drivers.rs"]
mod drivers;
#[path = "e2e/durable.rs"]
mod durable;
#[path = "e2e/endpoints.rs"]
mod endpoints;
#[path = "e2e/folder.rs"]
mod folder;
#[path = "e2e/formats.rs"]
mod formats;
#[path = "e2e/health.rs"]
mod health;
#[path = "e2e/journal.rs"]
mod journal;
#[path = "e2e/keys.rs"]
mod keys;
#[path = "e2e/lifecycle.rs"]
mod lifecycle;
#[path = "e2e/links.rs"]
mod links;
#[path = "e2e/mcp.rs"]
mod mcp;
#[path = "e2e/models.rs"]
mod models;
#[path = "e2e/overload.rs"]
mod overload;
#[path = "peers/mod.rs"]
mod peers;
#[path = "e2e/previews.rs"]
mod previews;
#[path = "e2e/providers.rs"]
mod providers;
#[path = "e2e/rates.rs"]
mod rates;
#[path = "e2e/reload.rs"]
mod reload;
#[path = "e2e/repeated.rs"]
mod repeated;
#[path = "e2e/sessions.rs"]
mod sessions;
#[path = "e2e/slack.rs"]
mod slack;
#[path = "e2e/start.rs"]
mod start;
#[path = "e2e/takeover.rs"]
mod takeover;
#[path = "e2e/telegram.rs"]
mod telegram;
#[path = "e2e/tls.rs"]
mod tls;
#[path = "e2e/tools.rs"]
mod tools;
#[path = "e2e/usage.rs"]
mod usage;
#[path = "e2e/webhook.rs"]
mod webhook;
#[path = "e2e/websocket.rs"]
mod websocket;
#[path = "e2e/whatsapp.rs"]
mod whatsapp;
#[path = "e2e/while_running.rs"]
mod while_running;
