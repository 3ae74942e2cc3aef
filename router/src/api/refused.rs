//! `/api/store/refused`: rows that the store could never hold, tried again.
use super::Call;
use super::sessions::{respond_data, unavailable};
use crate::again;
use crate::mesh::Errand;
use crate::side;
use crate::thread::Thread;
use clawgate_core::codes::Code;
use serde_json::{Value, json};
use std::rc::Rc;

/// Tries all of them again.
pub(super) fn operate(call: &mut Call<'_>) {
    if !call.identity.as_ref().is_some_and(|identity| identity.scopes.admin) {
        return call.refuse(Code::Forbidden, "this needs a key with the scope `admin`");
    }
    if !super::chat::is_json(call) {
        return call.refuse(Code::BadMediaType, Code::BadMediaType.advice());
    }
    let action = serde_json::from_slice::<Value>(call.body).ok();
    if action.as_ref().and_then(|body| body["action"].as_str()) != Some("retry") {
        return call.refuse(Code::MissingField, "`action` is \"retry\"");
    }
    let key = call.identity.as_ref().map_or_else(String::new, |identity| identity.id.clone());
    tracing::info!(key, "rows that the store refused are tried again");
    let (shared, here, place) = (call.thread.shared.clone(), call.thread.id, call.connection.place);
    // It waits for the store, and a thread of connections must not.
    let begun = side::thread("refused", move || async move {
        let done = again::retry(&shared);
        let errand: Errand = Box::new(move |thread: &Rc<Thread>| {
            thread.touch();
            let Some(connection) = thread.connection(place) else { return };
            match done {
                Ok(done) => {
                    let again::Retried { rows, refused, unreadable } = done;
                    let data = json!({ "rows": rows, "refusedAgain": refused, "unreadable": unreadable });
                    respond_data(thread, &connection, &data.to_string());
                }
                Err(why) => unavailable(thread, &connection, &why),
            }
        });
        // Where too many errands wait, the client hears nothing and asks again.
        let _ = shared.mesh.errand(here, errand);
    });
    if let Err(why) = begun {
        tracing::warn!("no thread for refused rows: {why}");
        call.refuse(Code::Busy, Code::Busy.advice());
    }
}
