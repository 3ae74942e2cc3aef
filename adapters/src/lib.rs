//! Adapters: what a platform sends becomes inbound events, what we answer becomes its requests. One file a platform.
//!
//! Pure: no socket, no clock, no thread, no state between calls. The shell reads the request and says what time it is;
//! authentication and limits are data; splitting, retries, throttling and policy are the core's.
#![forbid(unsafe_code)]

mod adapter;
pub mod json;
pub mod merged;
pub mod rest;
pub mod signature;
pub mod slack;
pub mod telegram;
pub mod time;
mod web;
pub mod webhook;
pub mod websocket;
pub mod whatsapp;

pub use adapter::Adapter;
pub use json::{Digits, Document, Held, Json, JsonLimits, Value};

use bytes::Bytes;
use clawgate_core::codes::Code;
use clawgate_core::event::{Delivery, Mode};
use clawgate_core::plan::Unit;
use std::borrow::Cow;

/// Refused input: the sender's fault, told to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bad {
    /// The public code.
    pub code: Code,
    /// What was wrong and where, without anything secret.
    pub text: Cow<'static, str>,
}

impl Bad {
    /// A refusal with fixed words.
    #[must_use]
    pub const fn new(code: Code, text: &'static str) -> Self {
        Self { code, text: Cow::Borrowed(text) }
    }
}

/// Settings that no adapter can be made from: the operator's fault, told at start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unusable {
    /// The setting, as the configuration names it.
    pub key: &'static str,
    /// What is wrong with it.
    pub text: &'static str,
}

/// What the platform is answered, and when. Bodies are `application/json` unless empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ack {
    /// 200 with this body at once: nothing was admitted, so nothing can be lost.
    Now(Bytes),
    /// 200 with this body once all that the request held is admitted and durable.
    AfterDurable(Bytes),
    /// The answer itself is the response to this request.
    InResponse,
}

/// A webhook request, as the shell read it.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The method: some platforms try an address with `GET` before they post to it.
    pub method: &'a str,
    /// The path after the channel's own.
    pub path_rest: &'a str,
    /// The query, without `?`.
    pub query: &'a str,
    /// The header fields.
    pub headers: &'a clawgate_wire::http1::Headers<'a>,
    /// The time now, for signatures that expire.
    pub unix_seconds: u64,
}

impl<'a> Request<'a> {
    /// The one value of this header; `None` where it is absent, empty or not UTF-8, or where there are several, because
    /// nobody can say which of them the sender's proxy looked at.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&'a str> {
        if self.headers.count(name) != 1 {
            return None;
        }
        self.headers.get(name).filter(|value| !value.is_empty())
    }
}

/// Where an answer goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Destination<'a> {
    /// The conversation; empty where the peer says it all.
    pub chat: &'a str,
    /// The thread or topic; empty for none.
    pub thread: &'a str,
    /// Who wrote what is answered.
    pub peer: &'a str,
    /// The same for every attempt at this turn's answer, and for no other turn.
    pub idempotency_key: u128,
    /// The platform's id of the message whose text this replaces; empty where a new one is posted. Comes only where
    /// [`Traits::edits`].
    pub edits: &'a str,
}

/// What the core and the shell must know about a platform.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Traits {
    /// The longest text of one message, in `unit`s; longer answers are split by the core.
    pub text_max: u32,
    /// What `text_max` counts.
    pub unit: Unit,
    /// How answers travel.
    pub mode: Mode,
    /// Bytes of an inbound request's body.
    pub body_bytes_max: usize,
    /// A message can be given another text, so that an answer can be shown while it is written. An edit that changes
    /// nothing counts as [`Delivery::Confirmed`].
    pub edits: bool,
}

/// A configured account on a platform. Closed: a new platform is a new variant, and the one match of [`Self::adapter`]
/// shows that it is named.
#[derive(Debug)]
pub enum Platform {
    /// The Telegram Bot API.
    Telegram(Box<telegram::Telegram>),
    /// Slack's Events API.
    Slack(Box<slack::Slack>),
    /// WhatsApp's Cloud API.
    WhatsApp(Box<whatsapp::WhatsApp>),
    /// Any program that posts signed JSON.
    Webhook(Box<webhook::Webhook>),
}

impl Platform {
    /// What it does, whichever it is.
    #[must_use]
    pub fn adapter(&self) -> &dyn Adapter {
        match self {
            Self::Telegram(telegram) => &**telegram,
            Self::Slack(slack) => &**slack,
            Self::WhatsApp(whatsapp) => &**whatsapp,
            Self::Webhook(webhook) => &**webhook,
        }
    }

    /// As [`Adapter::encode`]; `body` is replaced.
    ///
    /// # Errors
    /// As there.
    pub fn encode(
        &self,
        to: &Destination<'_>,
        text: &str,
        part: u16,
        unix_seconds: u64,
        body: &mut Vec<u8>,
    ) -> Result<http::Request<()>, Bad> {
        body.clear();
        self.adapter().encode(to, text, part, unix_seconds, body)
    }

    /// As [`Adapter::delivered`]; `detail` is replaced.
    pub fn delivered<'a>(
        &self,
        status: u16,
        retry_after: Option<&str>,
        body: &mut [u8],
        json: &mut Json,
        detail: &'a mut String,
    ) -> Delivery<'a> {
        detail.clear();
        self.adapter().delivered(status, retry_after, body, json, detail)
    }
}

/// Bytes of a platform's own words that are kept.
const DETAIL_BYTES_MAX: usize = 512;

/// Adds to a detail, cut at a character, control characters left out: it goes to logs and to people.
fn push_detail(detail: &mut String, text: &str) {
    for char in text.chars().filter(|char| !char.is_control()) {
        if DETAIL_BYTES_MAX < detail.len() + char.len_utf8() {
            return;
        }
        detail.push(char);
    }
}

/// `Retry-After` in seconds (RFC 9110 section 10.2.3). Its other form, a date, says nothing to one without a clock.
fn retry_after_of(value: Option<&str>) -> core::time::Duration {
    let seconds = value.and_then(|value| value.trim().parse::<u32>().ok());
    core::time::Duration::from_secs(u64::from(seconds.unwrap_or(0)))
}

/// The example in the README is compiled and run.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
