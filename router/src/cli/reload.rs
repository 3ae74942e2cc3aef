//! `clawgate reload`: has the running gateway read its configuration again.
use super::client::{Client, Reach, Trouble};
use super::print;
use serde_json::Value;
use std::path::Path;
use std::process::ExitCode;

/// Carries the command out.
pub(super) fn run(reach: &Reach, file: Option<&Path>) -> ExitCode {
    reload(reach, file).unwrap_or_else(|trouble| trouble.tell(reach.json))
}

fn reload(reach: &Reach, file: Option<&Path>) -> Result<ExitCode, Trouble> {
    let data = Client::find(reach, file)?.call("POST", "/api/reload", None)?;
    if reach.json {
        print(&format!("{data:#}\n"));
    } else {
        print(&told(&data));
    }
    Ok(ExitCode::SUCCESS)
}

fn told(data: &Value) -> String {
    let list = |key: &str| -> Vec<&str> {
        data[key].as_array().into_iter().flatten().filter_map(Value::as_str).collect()
    };
    let changed = list("changed");
    let mut text = match &*changed {
        [] => "read again: nothing changed\n".to_owned(),
        changed => format!("in force: {}\n", changed.join(", ")),
    };
    let waiting = list("needsRestart");
    if !waiting.is_empty() {
        text.push_str(&format!("waits for a restart: {}\n", waiting.join(", ")));
    }
    for warning in list("warnings") {
        text.push_str(&format!("warning: {warning}\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_changed_is_told_in_words() {
        let data = json!({ "changed": ["limits", "models.a"], "needsRestart": ["store"], "warnings": ["w"] });
        assert_eq!(told(&data), "in force: limits, models.a\nwaits for a restart: store\nwarning: w\n");
        assert_eq!(told(&json!({ "changed": [] })), "read again: nothing changed\n");
    }
}
