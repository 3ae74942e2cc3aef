//! `clawgate check`: is the configuration right, for people and for programs.
use super::REFUSED;
use crate::config::Config;
use crate::config::diagnostic::{Diagnostic, Severity};
use core::fmt::Write;
use serde_json::{Value, json};
use std::path::Path;
use std::process::ExitCode;

/// The text, and the exit code.
pub(super) fn for_people(file: Option<&Path>, result: Result<Config, Vec<Diagnostic>>) -> (String, ExitCode) {
    match result {
        Ok(config) => (format!("{}{}", told(&config.warnings), summary(file, &config)), ExitCode::SUCCESS),
        Err(problems) => (told(&problems), ExitCode::from(REFUSED)),
    }
}

/// One JSON object, and the exit code.
pub(super) fn for_programs(
    file: Option<&Path>,
    result: Result<Config, Vec<Diagnostic>>,
) -> (String, ExitCode) {
    let (ok, problems) = match result {
        Ok(config) => (true, config.warnings),
        Err(problems) => (false, problems),
    };
    let problems: Vec<Value> = problems.iter().map(as_json).collect();
    let file = file.map(|file| file.display().to_string());
    let text = format!("{:#}\n", json!({ "ok": ok, "file": file, "problems": problems }));
    (text, if ok { ExitCode::SUCCESS } else { ExitCode::from(REFUSED) })
}

/// Each problem, and how many there are.
pub(super) fn told(problems: &[Diagnostic]) -> String {
    let mut out = String::new();
    for problem in problems {
        let _ = writeln!(out, "{problem}");
    }
    let count = |severity| problems.iter().filter(|problem| problem.severity == severity).count();
    let (errors, warnings) = (count(Severity::Error), count(Severity::Warning));
    if 0 < errors {
        let _ = writeln!(out, "{}{}: the configuration is refused", many(errors, "error"), also(warnings));
    } else if 0 < warnings {
        let _ = writeln!(out, "{}", many(warnings, "warning"));
    }
    out
}

fn also(warnings: usize) -> String {
    if warnings == 0 { String::new() } else { format!(" and {}", many(warnings, "warning")) }
}

fn many(count: usize, what: &str) -> String {
    if count == 1 { format!("1 {what}") } else { format!("{count} {what}s") }
}

fn summary(file: Option<&Path>, config: &Config) -> String {
    let file = file.map_or_else(|| "built-in configuration".to_owned(), |file| file.display().to_string());
    let listen: Vec<String> = config.server.listen.iter().map(ToString::to_string).collect();
    format!(
        "{file} is right: {}, {}, {}, {}; listens on {}\n",
        many(config.models.len(), "model"),
        many(config.agents.len(), "agent"),
        many(config.channels.len(), "channel"),
        many(config.keys.len(), "key"),
        listen.join(", "),
    )
}

fn as_json(problem: &Diagnostic) -> Value {
    let Diagnostic { severity, place, path, message, help } = problem;
    json!({
        "severity": severity.name(),
        "file": place.source.display().to_string(),
        "line": place.line,
        "column": place.column,
        "width": place.width,
        "path": path,
        "message": message,
        "help": help,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::config::Overrides;

    fn open(listen: &str) -> Result<Config, Vec<Diagnostic>> {
        Config::open(None, &Overrides { listen: vec![listen.to_owned()], ..Overrides::default() })
    }

    #[test]
    fn people_are_told_what_holds_or_what_is_wrong() {
        let (text, code) = for_people(None, open("127.0.0.1:8787"));
        assert_eq!(code, ExitCode::SUCCESS);
        let right = "built-in configuration is right: 2 models, 2 agents, 0 channels, 0 keys; listens on 127.0.0.1:8787\n";
        assert_eq!(text, right);

        let (text, code) = for_people(None, open("nowhere"));
        assert_eq!(code, ExitCode::from(REFUSED));
        assert!(
            text.starts_with("error: \"nowhere\" is not an IP address and a port\n --> --listen\n"),
            "{text}"
        );
        assert!(text.ends_with("\n1 error: the configuration is refused\n"), "{text}");
    }

    #[test]
    fn programs_are_told_the_same_as_json() {
        let (text, code) = for_programs(Some(Path::new("a.json")), open("127.0.0.1:8787"));
        let value: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(
            (value, code),
            (json!({ "ok": true, "file": "a.json", "problems": [] }), ExitCode::SUCCESS)
        );

        let (text, code) = for_programs(None, open("nowhere"));
        let value: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(code, ExitCode::from(REFUSED));
        assert_eq!((&value["ok"], &value["file"]), (&json!(false), &Value::Null));
        let expected = json!({
            "severity": "error",
            "file": "--listen",
            "line": 0,
            "column": 0,
            "width": 0,
            "path": "server.listen[0]",
            "message": "\"nowhere\" is not an IP address and a port",
            "help": "write it as 127.0.0.1:8787 or [::1]:8787; a port is 0 to 65535",
        });
        assert_eq!(value["problems"], json!([expected]));
    }
}
