//! P15: ten times as much is asked as an agent can answer, against eight tenths of it. The agent answers so many at once,
//! each after the same time, so what it can do is known and no figure of the machine's. The load is the load generator's: in
//! an open loop, it counts who was refused, and holds each answer against its question.
use super::Setup;
use super::record::Table;
use super::server::{Folder, Server};
use serde_json::{Value, json};
use std::path::Path;
use std::process::Command;

/// How long the model takes for an answer.
const TURN_MILLIS: u32 = 50;
/// Answers at once.
const RUNNING: u32 = 100;
/// What the agent can answer in a second.
const CAPACITY: u32 = 1_000 / TURN_MILLIS * RUNNING;
/// How long a message may wait before it is answered: as long as an answer takes.
const TARGET_MILLIS: u32 = TURN_MILLIS;
/// Sessions; so many that hardly ever two messages of one meet.
const SESSIONS: u32 = 50_000;
/// Messages a second by which all sessions come to be, before anything is measured, and for how long.
const FILLING: (u32, &str) = (20_000, "8s");
/// What goes before each measured part.
const WARM: &str = "2s";

/// What is asked, as parts of the capacity.
const LEVELS: [(&str, f64); 2] = [("0.8 x capacity", 0.8), ("10 x capacity", 10.0)];

/// Measures it.
///
/// # Errors
/// What stood in the way.
pub fn measure(setup: &Setup, table: &mut Table) -> Result<(), String> {
    let setting = format!("{RUNNING} answers at once, {TURN_MILLIS} ms each; target {TARGET_MILLIS} ms");
    let folder = Folder::new()?;
    for round in 0..setup.rounds {
        // A new one each time: what the last overload left in memory must not hide what this one takes.
        let mut server = Server::gateway(setup, 1, &agent(0, 0))?;
        let filling = if setup.quick { "1s" } else { FILLING.1 };
        run(setup, &server, f64::from(FILLING.0), filling, folder.path())?;
        server.reconfigure(&agent(TURN_MILLIS, RUNNING))?;
        for (name, level) in LEVELS {
            let seconds = format!("{}ms", setup.turn.as_millis());
            let result = run(setup, &server, level * f64::from(CAPACITY), &seconds, folder.path())?;
            table.add(&setting, name, round, &numbers(&result)?);
            server.caught_up()?;
        }
    }
    table.add_ratio("p99_ms", LEVELS[0].0, "p99_ratio");
    table.add_ratio("resident_mib_at_end", LEVELS[0].0, "resident_ratio");
    Ok(())
}

/// An agent that takes this long for an answer, and answers so many at once; 0 for no bound.
fn agent(millis: u32, running: u32) -> [(&'static str, Value); 2] {
    let script = json!([{ "text": "{prompt}", "afterMillis": millis }]);
    let target = if running == 0 { 0 } else { TARGET_MILLIS };
    [
        ("models", json!({ "paced": { "provider": "scripted", "script": script } })),
        (
            "agents",
            json!({ "main": {
                "models": ["paced"], "history": false, "runningMax": running, "waitTargetMillis": target,
            } }),
        ),
    ]
}

/// One run of the load generator; its result.
fn run(setup: &Setup, server: &Server, rate: f64, seconds: &str, folder: &Path) -> Result<Value, String> {
    let program = &setup.programs.loadgen;
    let file = folder.join("result.json");
    let mut command = Command::new(program);
    command.args(["run", "ws-chat", "--quiet", "--warmup", WARM, "--session-prefix", "figures-"]);
    command.arg("--url").arg(format!("ws://{}", server.address)).arg("--json").arg(&file);
    command.arg("--rate").arg(rate.to_string()).arg("--duration").arg(seconds);
    command
        .arg("--sessions")
        .arg(SESSIONS.to_string())
        .arg("--connections")
        .arg(setup.connections.to_string());
    command.arg("--gateway-pid").arg(server.pid().to_string());
    let output = command.output().map_err(|why| format!("{}: {why}", program.display()))?;
    // Its own verdict is in the result too; what it could not measure at all has none.
    let result = std::fs::read(&file).map_err(|_| String::from_utf8_lossy(&output.stderr).into_owned())?;
    std::fs::remove_file(&file).map_err(|why| format!("{}: {why}", file.display()))?;
    serde_json::from_slice(&result).map_err(|why| format!("the load generator's result: {why}"))
}

fn numbers(result: &Value) -> Result<Vec<(&'static str, f64)>, String> {
    let number = |path: &str| {
        let found = result.pointer(path).and_then(Value::as_f64);
        found.ok_or_else(|| format!("the load generator's result has no {path}"))
    };
    if result["exact"] != true {
        return Err(format!("not every message was answered once: {}", result["account"]));
    }
    let millis = |path: &str| Ok::<f64, String>(number(path)? / 1e6);
    let mib = |path: &str| Ok::<f64, String>(number(path)? / 1_024.0);
    let answered = number("/rates/answers_per_second")?;
    Ok(vec![
        ("answers_per_second", answered),
        ("goodput_percent", 100.0 * answered / f64::from(CAPACITY)),
        ("refused_percent", 100.0 * number("/account/refused")? / number("/account/opened")?.max(1.0)),
        ("p50_ms", millis("/times_ns/response/p50")?),
        ("p99_ms", millis("/times_ns/response/p99")?),
        ("generator_lag_p99_ms", millis("/times_ns/lag/p99")?),
        ("resident_mib_at_begin", mib("/gateway/resident_kib_before")?),
        ("resident_mib_at_end", mib("/gateway/resident_kib_after")?),
        ("gateway_cores", number("/gateway/cores")?),
        ("cpu_pressure_percent", 100.0 * number("/noise/pressure_share").unwrap_or(0.0)),
        ("stolen_percent", 100.0 * number("/noise/steal_share")?),
    ])
}
