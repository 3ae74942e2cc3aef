//! What one configuration has that another had not, in the words of the file.
use super::Config;

/// The keys of the file whose values differ. Models, agents and channels are named one by one.
pub(crate) fn changes(before: &Config, after: &Config) -> Vec<String> {
    let sections = [
        ("server", before.server != after.server),
        ("data", before.data != after.data),
        ("journal", before.journal != after.journal),
        ("store", before.store != after.store),
        ("keys", before.keys != after.keys),
        ("rate", before.rates != after.rates),
        ("limits", before.limits != after.limits),
        ("audit", before.audit != after.audit),
        ("route", before.route != after.route),
        ("session", before.accounts != after.accounts),
        ("logging", before.logging != after.logging),
    ];
    let changed = sections.into_iter().filter(|(_, differs)| *differs);
    let mut changes: Vec<String> = changed.map(|(key, _)| key.to_owned()).collect();
    named(&mut changes, "models", (&before.models, &after.models), |model| &model.name);
    named(&mut changes, "agents", (&before.agents, &after.agents), |agent| &agent.name);
    named(&mut changes, "channels", (&before.channels, &after.channels), |channel| &channel.name);
    named(&mut changes, "tools", (&before.tools, &after.tools), |tool| &tool.name);
    changes
}

/// Those that came, went or changed.
fn named<T: PartialEq>(
    changes: &mut Vec<String>,
    key: &str,
    (before, after): (&[T], &[T]),
    name: impl Fn(&T) -> &str,
) {
    let find = |all: &[T], wanted: &str| all.iter().position(|it| name(it) == wanted);
    for it in after {
        let old = find(before, name(it)).map(|at| &before[at]);
        if old != Some(it) {
            changes.push(format!("{key}.{}", name(it)));
        }
    }
    let gone = before.iter().filter(|it| find(after, name(it)).is_none());
    changes.extend(gone.map(|it| format!("{key}.{}", name(it))));
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::Overrides;
    use super::*;

    #[test]
    fn each_difference_is_named() {
        let before = Config::open(None, &Overrides::default()).unwrap();
        assert_eq!(changes(&before, &before), [""; 0]);
        let mut after = before.clone();
        after.limits.core.turns_max += 1;
        after.models[0].running_max += 1;
        let gone = after.agents.pop().unwrap().name;
        "new".clone_into(&mut after.agents[0].name);
        let old = &before.agents[0].name;
        let (model, old, gone) =
            (format!("models.{}", before.models[0].name), format!("agents.{old}"), format!("agents.{gone}"));
        assert_eq!(changes(&before, &after), ["limits", &model, "agents.new", &old, &gone]);
    }
}
