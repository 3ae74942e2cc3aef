//! `POST /api/models/:id/reset`: an operator says that a model is well, and nothing that was held against it counts.
use super::Call;
use super::sessions::respond_data;
use crate::gather::gather;
use clawgate_core::codes::Code;
use clawgate_core::event::Event;
use clawgate_core::id::ModelId;
use serde_json::json;

/// Closes the breakers of a model on all shards, and ends the cooldowns of its endpoints.
pub(super) fn reset(call: &mut Call<'_>) {
    if !call.identity.as_ref().is_some_and(|identity| identity.scopes.admin) {
        return call.refuse(Code::Forbidden, "this needs a key with the scope `admin`");
    }
    let name = call.id.to_string();
    if call.thread.gateway().model(&name).is_none() {
        return call.refuse(Code::NotFound, "there is no such model; /api/models lists them");
    }
    let key = call.identity.as_ref().map_or_else(String::new, |identity| identity.id.clone());
    tracing::info!(key, model = name, "a model is reset");
    if let Some(remote) = call.thread.gateway().remote(&name) {
        remote.outlets.reset();
    }
    let place = call.connection.place;
    let body = json!({ "name": name, "breaker": "closed" }).to_string();
    // Each core knows the model by an id of its own configuration.
    let ask = move |thread: &std::rc::Rc<crate::thread::Thread>| {
        let model: Option<ModelId> = thread.gateway().model(&name);
        if let Some(model) = model {
            thread.handle(Event::Forgiven { model });
        }
    };
    gather(call.thread, ask, move |thread, _: Vec<()>| {
        if let Some(connection) = thread.connection(place) {
            respond_data(thread, &connection, &body);
        }
    });
}
