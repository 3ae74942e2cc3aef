//! `/api/reload`: has the main thread read the configuration again, and says what came of it.
use super::Call;
use super::sessions::respond_data;
use crate::clock::unix_millis;
use crate::connection::Place;
use crate::http;
use crate::reload::{Asker, Verdict};
use crate::thread::Thread;
use clawgate_core::codes::Code;
use rustix::process::{Signal, getpid, kill_process};
use serde_json::{Value, json};
use std::rc::Rc;

/// Asks for it. The answer comes once all threads work by what was read, or once that is refused.
pub(super) fn reload(call: &mut Call<'_>) {
    if !call.identity.as_ref().is_some_and(|identity| identity.scopes.admin) {
        return call.refuse(Code::Forbidden, "this needs a key with the scope `admin`");
    }
    let (thread, place) = (call.thread, call.connection.place);
    let key = call.identity.as_ref().map_or_else(String::new, |identity| identity.id.clone());
    tracing::info!(key, "the configuration is to be read again");
    if !thread.shared.reloads.ask(Asker { core: thread.id, place }) {
        thread.refused(Code::Busy);
        return http::respond_error(thread, call.connection, Code::Busy, Code::Busy.advice(), 1_000);
    }
    // The main thread waits for signals, whoever they come from.
    if let Err(why) = kill_process(getpid(), Signal::HUP) {
        tracing::error!(%why, "the main thread cannot be woken");
    }
}

/// Tells one who asked.
pub(crate) fn answer(thread: &Rc<Thread>, place: Place, verdict: &Verdict) {
    thread.touch();
    let Some(connection) = thread.connection(place) else { return };
    match verdict {
        Verdict::Taken { generation, changed, needs_restart, warnings } => {
            let data = json!({
                "generation": generation,
                "changed": changed,
                "needsRestart": needs_restart,
                "warnings": warnings,
            });
            respond_data(thread, &connection, &data.to_string());
        }
        Verdict::Refused(problems) => {
            let code = Code::ConfigRefused;
            thread.refused(code);
            let mut body = Vec::new();
            clawgate_adapters::rest::write_error(&mut body, code, &problems.join("\n"), 0, unix_millis());
            let mut whole: Value = serde_json::from_slice(&body).unwrap_or_default();
            whole["error"]["problems"] = json!(problems);
            http::respond_json(thread, &connection, code.status(), whole.to_string().as_bytes());
        }
        Verdict::Draining => {
            thread.refused(Code::Draining);
            http::respond_error(thread, &connection, Code::Draining, Code::Draining.advice(), 1_000);
        }
    }
}
