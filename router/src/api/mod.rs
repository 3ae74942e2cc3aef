//! The HTTP API: which path means what, and who may call it. One table of routes, checked against the OpenAPI file.
pub(crate) mod chat;
mod letters;
mod models;
mod refused;
pub(crate) mod reload;
mod reset;
pub(crate) mod sessions;
pub(crate) mod socket;
pub(crate) mod status;
mod usage;
pub(crate) mod webhooks;

use crate::auth::{Identity, rate_state};
use crate::connection::Connection;
use crate::thread::Thread;
use crate::{door, http};
use clawgate_core::bucket::Verdict;
use clawgate_core::codes::Code;
use clawgate_wire::http1::RequestHead;
use std::borrow::Cow;
use std::rc::Rc;
use std::sync::Arc;

/// The stable versions of the API, newest last; paths without a version mean the first.
const VERSIONS: [&str; 1] = ["v1"];

/// What a call must bring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Needs {
    /// Nothing: it says no more than that we live.
    Nothing,
    /// A key that may chat.
    Chat,
    /// A key that may read the state of the gateway.
    Read,
    /// The platform's own proof, checked by its adapter.
    Signature,
    /// A key, now or by the first message.
    Later,
}

/// A request as a handler sees it.
pub(crate) struct Call<'a> {
    pub(crate) thread: &'a Rc<Thread>,
    pub(crate) connection: &'a Rc<Connection>,
    pub(crate) head: &'a RequestHead<'a>,
    pub(crate) body: &'a mut [u8],
    /// What stands for `:id` in the path, decoded.
    pub(crate) id: Cow<'a, str>,
    pub(crate) query: &'a str,
    pub(crate) identity: Option<Arc<Identity>>,
}

impl Call<'_> {
    /// Refuses it.
    pub(crate) fn refuse(&self, code: Code, text: &str) {
        self.thread.refused(code);
        http::respond_error(self.thread, self.connection, code, text, 0);
    }

    /// A parameter of the query, decoded.
    pub(crate) fn parameter(&self, name: &str) -> Option<Cow<'_, str>> {
        parameter(self.query, name)
    }
}

/// One route.
pub(crate) struct Route {
    pub(crate) method: &'static str,
    pub(crate) path: &'static str,
    pub(crate) needs: Needs,
    run: fn(&mut Call<'_>),
}

/// Every route, as the OpenAPI file lists them.
pub(crate) const ROUTES: &[Route] = &[
    Route { method: "GET", path: "/health", needs: Needs::Nothing, run: status::health },
    Route { method: "GET", path: "/health/detailed", needs: Needs::Read, run: status::detailed },
    Route { method: "GET", path: "/metrics", needs: Needs::Read, run: status::metrics },
    Route { method: "GET", path: "/ws", needs: Needs::Later, run: socket::upgrade },
    Route { method: "GET", path: "/ws/agent", needs: Needs::Later, run: socket::upgrade_worker },
    Route { method: "GET", path: "/webhooks/:id", needs: Needs::Signature, run: webhooks::greet },
    Route { method: "POST", path: "/webhooks/:id", needs: Needs::Signature, run: webhooks::receive },
    Route { method: "GET", path: "/api/openapi.json", needs: Needs::Nothing, run: status::openapi },
    Route { method: "POST", path: "/api/chat", needs: Needs::Chat, run: chat::chat },
    Route { method: "GET", path: "/api/status", needs: Needs::Read, run: status::status },
    Route { method: "GET", path: "/api/scaling", needs: Needs::Read, run: status::scaling },
    Route { method: "GET", path: "/api/models", needs: Needs::Chat, run: status::models },
    Route { method: "GET", path: "/api/usage", needs: Needs::Chat, run: usage::usage },
    Route { method: "POST", path: "/api/models/:id/reset", needs: Needs::Read, run: reset::reset },
    Route { method: "GET", path: "/api/channels", needs: Needs::Read, run: status::channels },
    Route { method: "GET", path: "/api/sessions", needs: Needs::Chat, run: sessions::list },
    Route { method: "GET", path: "/api/sessions/:id", needs: Needs::Chat, run: sessions::show },
    Route { method: "POST", path: "/api/sessions/:id", needs: Needs::Chat, run: sessions::operate },
    Route { method: "POST", path: "/v1/chat/completions", needs: Needs::Chat, run: models::chat_completions },
    Route { method: "POST", path: "/v1/responses", needs: Needs::Chat, run: models::responses },
    Route { method: "POST", path: "/v1/messages", needs: Needs::Chat, run: models::messages },
    Route { method: "GET", path: "/v1/models", needs: Needs::Chat, run: models::list },
    Route { method: "GET", path: "/v1/models/:id", needs: Needs::Chat, run: models::show },
    Route { method: "GET", path: "/api/dlq", needs: Needs::Read, run: letters::list },
    Route { method: "GET", path: "/api/dlq/:id", needs: Needs::Read, run: letters::show },
    Route { method: "POST", path: "/api/dlq/:id", needs: Needs::Read, run: letters::operate },
    Route { method: "POST", path: "/api/store/refused", needs: Needs::Read, run: refused::operate },
    Route { method: "POST", path: "/api/reload", needs: Needs::Read, run: reload::reload },
];

/// What a path led to.
enum Found<'a> {
    Route(&'static Route, &'a str),
    OtherMethod(String),
    UnknownVersion,
    Nothing,
}

/// The path and the query of a target.
fn split_target(target: &str) -> (&str, &str) {
    // The absolute form was checked against Host: only its path counts.
    let target = target
        .strip_prefix("http://")
        .or_else(|| target.strip_prefix("https://"))
        .map_or(target, |rest| rest.find('/').map_or("/", |slash| &rest[slash..]));
    target.split_once('?').unwrap_or((target, ""))
}

fn find<'a>(method: &str, path: &'a str) -> Found<'a> {
    let mut unversioned = path;
    let mut versioned = String::new();
    if let Some(rest) = path.strip_prefix("/api/")
        && let Some((version, _)) = rest.split_once('/')
        && version
            .strip_prefix('v')
            .is_some_and(|digits| !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()))
    {
        if !VERSIONS.contains(&version) {
            return Found::UnknownVersion;
        }
        unversioned = &rest[version.len()..];
        versioned.push_str("/api");
    }
    let method = if method == "HEAD" { "GET" } else { method };
    let mut allowed = String::new();
    for route in ROUTES {
        let Some(id) = matches(route.path, &versioned, unversioned) else { continue };
        if route.method == method {
            return Found::Route(route, id);
        }
        if !allowed.is_empty() {
            allowed.push_str(", ");
        }
        allowed.push_str(route.method);
    }
    if allowed.is_empty() { Found::Nothing } else { Found::OtherMethod(allowed) }
}

/// Does a path fit a route? Returns what stands for `:id`.
fn matches<'a>(route: &str, prefix: &str, path: &'a str) -> Option<&'a str> {
    let route = route.strip_prefix(prefix)?;
    match route.split_once(":id") {
        None => (route == path).then_some(""),
        Some((front, back)) => {
            let id = path.strip_prefix(front)?.strip_suffix(back)?;
            (!id.is_empty() && !id.contains('/')).then_some(id)
        }
    }
}

/// Looks at a request whose body has not arrived: may it come, and how long may it be? `None` if it was refused.
pub(crate) fn admit(
    thread: &Rc<Thread>,
    connection: &Rc<Connection>,
    head: &RequestHead<'_>,
) -> Option<usize> {
    let refuse = |code: Code, text: &str| {
        http::refuse_arriving(thread, connection, code, text);
        None
    };
    if let Err(text) = check_browser(thread, connection, head) {
        return refuse(Code::BadOrigin, text);
    }
    let gateway = thread.gateway();
    let limits = &gateway.limits;
    let (path, query) = split_target(head.target);
    match find(head.method, path) {
        Found::Route(route, _) => match route.needs {
            Needs::Nothing | Needs::Signature | Needs::Later => Some(limits.body_bytes_unauthenticated_max),
            Needs::Chat | Needs::Read => match identify(thread, head, query) {
                Some(_) => Some(limits.body_bytes_max),
                None => refuse(Code::Unauthenticated, Code::Unauthenticated.advice()),
            },
        },
        Found::OtherMethod(_) | Found::UnknownVersion | Found::Nothing => {
            refuse(Code::NotFound, NO_SUCH_PATH)
        }
    }
}

const NO_SUCH_PATH: &str = "there is no such path; /api/openapi.json lists all";

/// A page of another site, or a name that was made to point here?
fn check_browser(
    thread: &Thread,
    connection: &Connection,
    head: &RequestHead<'_>,
) -> Result<(), &'static str> {
    let gateway = thread.gateway();
    let guard = &gateway.guard;
    let host = head.headers.get("host").unwrap_or_default();
    if !guard.allows_host(host) {
        return Err("this host is not one of ours; add it to `server.hosts`");
    }
    match head.headers.get("origin") {
        None => Ok(()),
        Some(origin) if guard.allows_origin(origin, host, connection.tls.is_some()) => Ok(()),
        Some(_) => Err("pages of this origin may not call; add it to `server.origins`"),
    }
}

/// Whose request this is: `Authorization: Bearer`, on the upgrade also `?token=` or the subprotocol after `bearer`.
fn identify(thread: &Thread, head: &RequestHead<'_>, query: &str) -> Option<Arc<Identity>> {
    let gateway = thread.gateway();
    let keys = &gateway.keys;
    if keys.is_open() {
        return keys.identify(None);
    }
    if head.headers.count("authorization") > 1 {
        return None;
    }
    let header = head.headers.get("authorization");
    if let Some(token) = header.and_then(|value| value.split_once(' ')) {
        return token.0.eq_ignore_ascii_case("bearer").then(|| keys.identify(Some(token.1.trim())))?;
    }
    // As clients of Anthropic's bring it.
    if head.headers.count("x-api-key") == 1 {
        return keys.identify(head.headers.get("x-api-key"));
    }
    if head.upgrade_websocket {
        if let Some(token) = parameter(query, "token") {
            return keys.identify(Some(&token));
        }
        return socket::protocol_token(head).and_then(|token| keys.identify(Some(token)));
    }
    None
}

/// Answers a whole request, now or later.
pub(crate) fn handle(
    thread: &Rc<Thread>,
    connection: &Rc<Connection>,
    head: &RequestHead<'_>,
    body: &mut [u8],
) {
    let (path, query) = split_target(head.target);
    let mut call = Call { thread, connection, head, body, id: Cow::Borrowed(""), query, identity: None };
    if let Err(text) = check_browser(thread, connection, head) {
        return call.refuse(Code::BadOrigin, text);
    }
    if let Some(origin) = head.headers.get("origin") {
        http::with(connection, |http| {
            if let Some(exchange) = &mut http.exchange {
                exchange.origin = Some(origin.into());
            }
        });
    }
    if let Some(dialect) = models::dialect_of(path) {
        door::begin(connection, dialect);
    }
    if head.method == "OPTIONS" {
        return preflight(&call);
    }
    let (route, id) = match find(head.method, path) {
        Found::Route(route, id) => (route, id),
        Found::OtherMethod(allowed) => return other_method(&call, &allowed),
        Found::UnknownVersion => {
            let text = format!("there is no such version of the API; there is {}", VERSIONS.join(", "));
            return call.refuse(Code::UnknownVersion, &text);
        }
        Found::Nothing => return call.refuse(Code::NotFound, NO_SUCH_PATH),
    };
    match decode(id) {
        Some(id) => call.id = id,
        None => return call.refuse(Code::BadRequest, "the path is not percent-encoded UTF-8"),
    }
    if matches!(route.needs, Needs::Chat | Needs::Read | Needs::Later) {
        call.identity = identify(thread, head, query);
    }
    let is_barred = match (route.needs, &call.identity) {
        (Needs::Nothing | Needs::Signature | Needs::Later, _) => None,
        (Needs::Chat | Needs::Read, None) => Some(Code::Unauthenticated),
        (Needs::Chat, Some(identity)) => {
            (!identity.scopes.chat && !identity.scopes.admin).then_some(Code::Forbidden)
        }
        (Needs::Read, Some(identity)) => {
            (!identity.scopes.read && !identity.scopes.admin).then_some(Code::Forbidden)
        }
    };
    if !take_rate(&call, route.needs) {
        return;
    }
    match is_barred {
        Some(code) => call.refuse(code, code.advice()),
        None => (route.run)(&mut call),
    }
}

/// Takes the call from its key's and its address's rate; false if it was refused.
fn take_rate(call: &Call<'_>, needs: Needs) -> bool {
    let (thread, connection) = (call.thread, call.connection);
    let verdict = match (&call.identity, needs) {
        // Health checks are answered under any load, and platforms have their own pace.
        (_, Needs::Nothing | Needs::Signature) => None,
        (Some(identity), _) => Some(identity.take(thread, connection.address, thread.now())),
        (None, _) => thread.take_address(connection.address),
    };
    let Some(verdict) = verdict else { return true };
    http::with(connection, |http| {
        if let Some(exchange) = &mut http.exchange {
            exchange.rate = rate_state(&verdict);
        }
    });
    if let Verdict::Refused { retry_after, .. } = verdict {
        thread.refused(Code::RateLimited);
        let millis = u32::try_from(retry_after.as_millis()).unwrap_or(u32::MAX).max(1);
        http::respond_error(thread, connection, Code::RateLimited, Code::RateLimited.advice(), millis);
        return false;
    }
    true
}

/// What pages may send.
const ALLOWED_HEADERS: &str =
    "authorization, content-type, x-api-key, x-session-id, anthropic-version, anthropic-beta";

fn preflight(call: &Call<'_>) {
    let headers = [
        ("access-control-allow-methods", "GET, POST"),
        ("access-control-allow-headers", ALLOWED_HEADERS),
        ("access-control-max-age", "600"),
    ];
    http::respond(call.thread, call.connection, 204, "text/plain", &headers, b"");
}

fn other_method(call: &Call<'_>, allowed: &str) {
    call.thread.refused(Code::MethodNotAllowed);
    let mut body = Vec::new();
    let text = Code::MethodNotAllowed.advice();
    clawgate_adapters::rest::write_error(
        &mut body,
        Code::MethodNotAllowed,
        text,
        0,
        crate::clock::unix_millis(),
    );
    http::respond(call.thread, call.connection, 405, "application/json", &[("allow", allowed)], &body);
}

/// Undoes percent-encoding; `None` if what comes out is no UTF-8.
pub(crate) fn decode(text: &str) -> Option<Cow<'_, str>> {
    percent_encoding::percent_decode_str(text).decode_utf8().ok()
}

/// A parameter of a query, decoded.
pub(crate) fn parameter<'a>(query: &'a str, name: &str) -> Option<Cow<'a, str>> {
    let value = query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))?;
    decode(value)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn name(method: &str, path: &str) -> String {
        match find(method, path) {
            Found::Route(route, id) => format!("{} {} {id}", route.method, route.path),
            Found::OtherMethod(allowed) => format!("allow {allowed}"),
            Found::UnknownVersion => "version".to_owned(),
            Found::Nothing => "nothing".to_owned(),
        }
    }

    #[test]
    fn paths_lead_to_routes() {
        for (method, path, expected) in [
            ("GET", "/health", "GET /health "),
            ("HEAD", "/health", "GET /health "),
            ("POST", "/api/chat", "POST /api/chat "),
            ("POST", "/api/v1/chat", "POST /api/chat "),
            ("GET", "/api/v1/sessions", "GET /api/sessions "),
            ("POST", "/api/v1/sessions/s%201", "POST /api/sessions/:id s%201"),
            ("POST", "/api/v2/chat", "version"),
            ("POST", "/api/v1x/chat", "nothing"),
            ("GET", "/api/chat", "allow POST"),
            ("DELETE", "/api/sessions/a", "allow GET, POST"),
            ("GET", "/api/sessions/a/b", "nothing"),
            ("GET", "/api/v1/health", "nothing"),
            ("GET", "/", "nothing"),
            ("POST", "/webhooks/telegram", "POST /webhooks/:id telegram"),
            ("GET", "/webhooks/whatsapp", "GET /webhooks/:id whatsapp"),
            ("POST", "/api/models/big%20one/reset", "POST /api/models/:id/reset big%20one"),
        ] {
            assert_eq!(name(method, path), expected, "{method} {path}");
        }
    }

    #[test]
    fn targets_are_split() {
        for (target, path, query) in [
            ("/a?b=c", "/a", "b=c"),
            ("/a", "/a", ""),
            ("http://localhost:8787/a?b", "/a", "b"),
            ("http://localhost", "/", ""),
        ] {
            assert_eq!(split_target(target), (path, query));
        }
        assert_eq!(parameter("a=1&token=x%2By", "token").unwrap(), "x+y");
        assert!(parameter("tokens=1", "token").is_none());
    }

    #[test]
    fn the_openapi_file_lists_exactly_the_routes() {
        let file: serde_json::Value = serde_json::from_str(status::OPENAPI).unwrap();
        let mut listed = Vec::new();
        for (path, methods) in file["paths"].as_object().unwrap() {
            for method in methods.as_object().unwrap().keys().filter(|key| *key != "parameters") {
                listed.push(format!("{} {}", method.to_uppercase(), path.replace("{id}", ":id")));
            }
        }
        let mut routes: Vec<_> =
            ROUTES.iter().map(|route| format!("{} {}", route.method, route.path)).collect();
        listed.sort();
        routes.sort();
        assert_eq!(listed, routes);
    }
}
