//! What an autoscaler wants to know: how much each agent has to do beside what it can, how even the cores are loaded, and
//! one number. Adds up what the cores report; decides nothing.
//!
//! The *load* of an agent is the share of its places that are taken, and what a message that comes now would wait beside
//! what it may: 1.0 is full without a queue. The process has the load of its busiest agent, or of `limits.turnsMax` if
//! that is fuller. *Desired replicas* is how many of this process would have a load of 0.8 together. Each replica says
//! that for what it has itself: the sum over all is what is needed.
use crate::gateway::Gateway;
use crate::metrics::Report;
use clawgate_core::plan::Agent;
use clawgate_core::view::AgentLoad;
use serde_json::{Value, json};

/// The load in per cent that a process should have.
const LOAD_PERCENT: u64 = 80;

/// One agent over all cores.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AgentScaling {
    pub(crate) name: String,
    pub(crate) waiting: u64,
    pub(crate) running: u64,
    running_max: u32,
    waiting_max: u32,
    wait_target_millis: u64,
    /// What a message that comes now would wait on the worst core, by class: low, normal, VIP.
    pub(crate) wait_millis: [u64; 3],
    turn_millis: u64,
    /// Messages refused with `AGENT_BUSY` since the start.
    pub(crate) refused: u64,
    pub(crate) load_percent: u64,
}

/// The whole process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Scaling {
    pub(crate) agents: Vec<AgentScaling>,
    pub(crate) load_percent: u64,
    pub(crate) desired_replicas: u64,
    /// The part of all messages that the busiest core was given, per cent.
    pub(crate) hottest_shard_percent: u64,
}

impl Scaling {
    pub(crate) fn of(gateway: &Gateway, reports: &[Report]) -> Self {
        let agents: Vec<AgentScaling> = gateway
            .plan
            .agents
            .iter()
            .map(|agent| {
                let loads = reports.iter().flat_map(|report| &report.agents);
                let own = loads.filter(|(name, _)| **name == *agent.name).map(|(_, load)| *load);
                AgentScaling::of(agent, &own.collect::<Vec<_>>())
            })
            .collect();
        let turns: u64 = reports.iter().map(turns_of).sum();
        let turns_max = u64::from(gateway.plan.limits.turns_max);
        let of_turns = (turns * 100).checked_div(turns_max).unwrap_or(0);
        let load_percent = agents.iter().map(|agent| agent.load_percent).max().unwrap_or(0).max(of_turns);
        let accepted = reports.iter().map(|report| report.counters.accepted);
        let most = accepted.clone().max().unwrap_or(0);
        Self {
            agents,
            load_percent,
            desired_replicas: load_percent.div_ceil(LOAD_PERCENT).max(1),
            hottest_shard_percent: (most * 100).checked_div(accepted.sum()).unwrap_or(0),
        }
    }

    /// As `GET /api/scaling` says it.
    pub(crate) fn body(&self, reports: &[Report]) -> Value {
        let shards = reports.iter().map(|report| {
            json!({
                "shard": report.shard,
                "sessions": report.load.sessions,
                "running": report.load.running,
                "waiting": report.load.waiting + report.load.ready,
                "accepted": report.counters.accepted,
            })
        });
        json!({
            "desiredReplicas": self.desired_replicas,
            "load": ratio(self.load_percent),
            "hottestShardShare": ratio(self.hottest_shard_percent),
            "agents": self.agents.iter().map(AgentScaling::body).collect::<Vec<_>>(),
            "shards": shards.collect::<Vec<_>>(),
        })
    }
}

impl AgentScaling {
    fn of(agent: &Agent, loads: &[AgentLoad]) -> Self {
        let sum = |what: fn(&AgentLoad) -> u64| loads.iter().map(what).sum::<u64>();
        let most =
            |class: usize| loads.iter().map(|load| u64::from(load.wait_millis[class])).max().unwrap_or(0);
        let wait_millis = [most(0), most(1), most(2)];
        let running = sum(|load| load.running.into());
        let target = u64::try_from(agent.wait_target.as_millis()).unwrap_or(u64::MAX);
        let taken = (running * 100).checked_div(agent.running_max.into()).unwrap_or(0);
        let queued = (wait_millis[1].saturating_mul(100)).checked_div(target).unwrap_or(0);
        Self {
            name: agent.name.to_string(),
            waiting: sum(|load| load.waiting.into()),
            running,
            running_max: agent.running_max,
            waiting_max: agent.waiting_max,
            wait_target_millis: target,
            wait_millis,
            turn_millis: loads.iter().map(|load| u64::from(load.turn_millis)).max().unwrap_or(0),
            refused: sum(|load| load.refused),
            load_percent: taken.saturating_add(queued),
        }
    }

    fn body(&self) -> Value {
        let [low, normal, vip] = self.wait_millis;
        json!({
            "name": self.name,
            "load": ratio(self.load_percent),
            "running": self.running,
            "runningMax": self.running_max,
            "waiting": self.waiting,
            "waitingMax": self.waiting_max,
            "waitMillis": { "low": low, "normal": normal, "vip": vip },
            "waitTargetMillis": self.wait_target_millis,
            "turnMillis": self.turn_millis,
            "refused": self.refused,
        })
    }
}

fn turns_of(report: &Report) -> u64 {
    let load = &report.load;
    let parts = [load.waiting, load.ready, load.running, load.backing_off, load.delivering];
    parts.into_iter().map(u64::from).sum()
}

fn ratio(percent: u64) -> f64 {
    percent as f64 / 100.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use clawgate_core::plan::{Excerpt, WhileRunning};
    use core::time::Duration;

    fn agent(running_max: u32, target: u64) -> Agent {
        Agent {
            name: "main".into(),
            models: Vec::new(),
            running_max,
            waiting_max: 1_000,
            attempts_max: 1,
            fallback: None,
            history: false,
            excerpt: Excerpt::ALL,
            needs_history: true,
            while_running: WhileRunning::default(),
            wait_target: Duration::from_millis(target),
            failure_text: None,
        }
    }

    #[test]
    fn the_load_is_what_is_taken_and_what_waits() {
        let load = |running, waiting, wait| AgentLoad {
            running,
            waiting,
            wait_millis: [9 * wait, wait, 0],
            refused: 2,
            ..AgentLoad::default()
        };
        for (agent, loads, expected) in [
            (agent(0, 0), vec![load(7, 0, 0)], 0),
            (agent(10, 30_000), vec![load(2, 0, 0), load(3, 0, 0)], 50),
            (agent(10, 30_000), vec![load(4, 6, 15_000), load(6, 9, 30_000)], 200),
            (agent(0, 10_000), vec![load(4, 6, 15_000)], 150),
            (agent(10, 0), vec![load(10, 600, 15_000)], 100),
        ] {
            let scaling = AgentScaling::of(&agent, &loads);
            assert_eq!(scaling.load_percent, expected, "{loads:?}");
            assert_eq!(scaling.refused, 2 * loads.len() as u64);
        }
    }
}
