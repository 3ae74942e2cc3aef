//! Who may talk to the bot, and where: one policy for all channels (row B21).
use crate::effect::Ignored;
use crate::event::{Inbound, Kind, Scope};
use crate::plan::{Channel, DmPolicy, GroupPolicy};

/// Lets the message in, or says why not. Pure: the same message under the same channel is always judged alike.
///
/// What no agent is asked about passes here without addressing the bot: it is only published.
pub(crate) fn judge(channel: &Channel, inbound: &Inbound<'_>) -> Result<(), Ignored> {
    let listed = |name: &str| !name.is_empty() && channel.allowed.contains(name);
    let in_group = inbound.scope == Scope::Group;
    let allowed = match inbound.scope {
        Scope::Direct => match channel.dm {
            DmPolicy::Open => true,
            DmPolicy::Allowlist => listed(inbound.peer),
            DmPolicy::Disabled => false,
        },
        Scope::Group => match channel.groups {
            GroupPolicy::Open => true,
            GroupPolicy::Allowlist => listed(inbound.chat),
            GroupPolicy::Disabled => false,
        },
    };
    if !allowed {
        return Err(if in_group { Ignored::Group } else { Ignored::Sender });
    }
    if in_group && channel.mention_gating && !addresses(inbound) {
        return Err(Ignored::Unmentioned);
    }
    Ok(())
}

/// Is an agent asked about it?
pub(crate) const fn is_asked(kind: Kind) -> bool {
    match kind {
        Kind::Message | Kind::Command | Kind::Mention | Kind::Interaction => true,
        Kind::Edit | Kind::Deletion | Kind::Reaction | Kind::Membership | Kind::Failure => false,
    }
}

/// Does it address the bot, as far as gating goes? A button of the bot's own message does.
const fn addresses(inbound: &Inbound<'_>) -> bool {
    match inbound.kind {
        Kind::Message | Kind::Command => inbound.mentioned,
        Kind::Mention | Kind::Interaction => true,
        Kind::Edit | Kind::Deletion | Kind::Reaction | Kind::Membership | Kind::Failure => true,
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::event::Class;
    use crate::plan::Unit;
    use alloc::collections::BTreeSet;

    pub(crate) fn channel(dm: DmPolicy, groups: GroupPolicy, mention_gating: bool) -> Channel {
        Channel {
            name: "c".into(),
            text_max: 100,
            unit: Unit::Chars,
            preview_every: core::time::Duration::ZERO,
            dm,
            groups,
            allowed: BTreeSet::from(["ann".into(), "room".into(), "".into()]),
            mention_gating,
            agent: None,
            class: Class::Normal,
        }
    }

    #[test]
    fn direct_messages() {
        let table = [
            (DmPolicy::Open, "bob", Ok(())),
            (DmPolicy::Open, "", Ok(())),
            (DmPolicy::Allowlist, "ann", Ok(())),
            (DmPolicy::Allowlist, "bob", Err(Ignored::Sender)),
            (DmPolicy::Allowlist, "", Err(Ignored::Sender)),
            (DmPolicy::Allowlist, "room", Ok(())),
            (DmPolicy::Disabled, "ann", Err(Ignored::Sender)),
        ];
        for (dm, peer, expected) in table {
            let inbound = Inbound { peer, chat: "room", ..Inbound::default() };
            let channel = channel(dm, GroupPolicy::Open, true);
            assert_eq!(judge(&channel, &inbound), expected, "{dm:?} {peer:?}");
        }
    }

    #[test]
    fn groups_and_mentions() {
        let table = [
            (GroupPolicy::Open, "any", Kind::Message, true, Ok(())),
            (GroupPolicy::Open, "any", Kind::Message, false, Err(Ignored::Unmentioned)),
            (GroupPolicy::Open, "any", Kind::Command, false, Err(Ignored::Unmentioned)),
            (GroupPolicy::Open, "any", Kind::Mention, false, Ok(())),
            (GroupPolicy::Open, "any", Kind::Interaction, false, Ok(())),
            (GroupPolicy::Open, "any", Kind::Reaction, false, Ok(())),
            (GroupPolicy::Allowlist, "room", Kind::Message, true, Ok(())),
            (GroupPolicy::Allowlist, "any", Kind::Message, true, Err(Ignored::Group)),
            (GroupPolicy::Disabled, "room", Kind::Message, true, Err(Ignored::Group)),
        ];
        for (groups, chat, kind, mentioned, expected) in table {
            let scope = Scope::Group;
            let inbound = Inbound { peer: "ann", chat, kind, mentioned, scope, ..Inbound::default() };
            let channel = channel(DmPolicy::Disabled, groups, true);
            assert_eq!(judge(&channel, &inbound), expected, "{groups:?} {chat} {kind:?} {mentioned}");
            let channel = self::channel(DmPolicy::Disabled, groups, false);
            let ungated = if expected == Err(Ignored::Unmentioned) { Ok(()) } else { expected };
            assert_eq!(judge(&channel, &inbound), ungated);
        }
    }
}
