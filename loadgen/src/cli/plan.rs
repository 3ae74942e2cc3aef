//! Scenarios as the command line knows them: by name, as a mixture, as a file; and the list of those that come with the
//! program.

use std::fmt;
use std::fs;
use std::str::FromStr;

use clap::Args;

use super::{Failure, print};
use crate::plan::{BUILT_IN, BuiltIn, Plan};
use crate::scenario::{Kind, Scenario};

/// What a run is told to drive.
#[derive(Clone, Debug)]
pub(crate) enum Aim {
    /// Ways in, and nothing said about how.
    Mixture(Scenario),
    /// A file, or one that comes with the program.
    Plan(Box<Plan>),
}

impl Aim {
    /// The file's words.
    pub(crate) fn plan(&self) -> Option<&Plan> {
        match self {
            Self::Mixture(_) => None,
            Self::Plan(plan) => Some(plan),
        }
    }

    /// What is mixed.
    pub(crate) fn scenario(self) -> Scenario {
        match self {
            Self::Mixture(scenario) => scenario,
            Self::Plan(plan) => plan.scenario.unwrap_or_else(|| Kind::WsChat.into()),
        }
    }
}

/// Why there is nothing to drive.
#[derive(Debug)]
pub(crate) struct BadAim(String);

impl fmt::Display for BadAim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for BadAim {}

impl FromStr for Aim {
    type Err = BadAim;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Some(built_in) = BuiltIn::find(text) {
            return built_in
                .plan()
                .map(|plan| Self::Plan(Box::new(plan)))
                .map_err(|error| BadAim(error.to_string()));
        }
        if text.ends_with(".toml") {
            let read = fs::read_to_string(text).map_err(|error| BadAim(format!("{text}: {error}")))?;
            let plan = Plan::parse(text, &read).map_err(|error| BadAim(error.to_string()))?;
            return Ok(Self::Plan(Box::new(plan)));
        }
        text.parse().map(Self::Mixture).map_err(|error| {
            let names = BUILT_IN.map(|built_in| built_in.name).join(", ");
            BadAim(format!("{error}, or one of {names}, or a file that ends in .toml"))
        })
    }
}

/// Sets what the command line leaves open.
pub(crate) struct Defaults<'a> {
    pub(crate) is_given: &'a dyn Fn(&str) -> bool,
}

impl Defaults<'_> {
    pub(crate) fn set<T>(&mut self, name: &str, place: &mut T, said: Option<T>) {
        if let Some(said) = said.filter(|_| !(self.is_given)(name)) {
            *place = said;
        }
    }
}

/// Options of `loadgen scenarios`.
#[derive(Debug, Args)]
pub(crate) struct ScenariosArgs {
    /// Print the file of this one, to start your own from
    name: Option<String>,
}

/// Prints the list, or a file.
pub(crate) fn run(args: &ScenariosArgs) -> Result<u8, Failure> {
    let Some(name) = &args.name else {
        for built_in in BUILT_IN {
            let plan = built_in.plan().map_err(|error| Failure::invalid(error.to_string()))?;
            print(&format!(
                "{:<15} {}\n                passes: {}",
                built_in.name, plan.purpose, plan.passes
            ));
        }
        return Ok(0);
    };
    let found = BuiltIn::find(name).ok_or_else(|| {
        let names = BUILT_IN.map(|built_in| built_in.name).join(", ");
        Failure::usage(format!("no scenario is called {name:?}; there are {names}"))
    })?;
    print(found.text.trim_end());
    Ok(0)
}
