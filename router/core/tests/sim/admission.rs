//! What must be answered to a message, decided before the shard is asked.
//!
//! The order is that of the stages: its form, whether it is new, policy, draining; then the limits, which may refuse
//! it only if they are really reached.
use crate::board::Board;
use clawgate_core::codes::Code;
use clawgate_core::effect::Ignored;
use clawgate_core::event::{Inbound, Kind, Mode, Scope};
use clawgate_core::limits::Limits;
use clawgate_core::plan::{DmPolicy, GroupPolicy};

/// The answers that a message can get.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Accepted,
    Duplicate,
    Ignored(Ignored),
    Refused(Code),
}

/// What a message must get, if its own form and its sender decide it; `None` where only the limits do.
pub(crate) fn verdict(board: &Board, inbound: &Inbound<'_>, key: &str) -> Option<Answer> {
    form(&board.plan.limits, inbound).or_else(|| {
        if !inbound.id.is_empty() && board.memory.knows(key) {
            return Some(Answer::Duplicate);
        }
        policy(board, inbound)
            .map(Answer::Ignored)
            .or(board.draining.then_some(Answer::Refused(Code::Draining)))
    })
}

/// Its form.
fn form(limits: &Limits, inbound: &Inbound<'_>) -> Option<Answer> {
    let most = usize::from(limits.name_bytes_max);
    if (limits.text_bytes_max as usize) < inbound.text.len() || most < inbound.id.len() {
        return Some(Answer::Refused(Code::TooLarge));
    }
    let party = match inbound.scope {
        Scope::Direct => inbound.peer,
        Scope::Group => inbound.chat,
    };
    let names = [inbound.chat, inbound.thread, inbound.peer];
    let wrong = |name: &&str| most < name.len() || name.chars().any(|c| c.is_ascii_control());
    if names.iter().any(wrong) || (party.is_empty() && inbound.thread.is_empty()) {
        return Some(Answer::Refused(Code::InvalidSession));
    }
    if inbound.text.trim().is_empty() && asked_about(inbound.kind) {
        return Some(match inbound.mode {
            Mode::Deliver => Answer::Ignored(Ignored::Empty),
            Mode::Stream | Mode::Whole => Answer::Refused(Code::TextEmpty),
        });
    }
    None
}

/// Is an agent asked about this kind of thing?
const fn asked_about(kind: Kind) -> bool {
    match kind {
        Kind::Message | Kind::Command | Kind::Mention | Kind::Interaction => true,
        Kind::Edit | Kind::Deletion | Kind::Reaction | Kind::Membership | Kind::Failure => false,
    }
}

/// Who and what is let in.
fn policy(board: &Board, inbound: &Inbound<'_>) -> Option<Ignored> {
    let channel = board.plan.channel(inbound.channel);
    let listed = |name: &str| !name.is_empty() && channel.allowed.contains(name);
    match inbound.scope {
        Scope::Direct => match channel.dm {
            DmPolicy::Open => {}
            DmPolicy::Allowlist if listed(inbound.peer) => {}
            DmPolicy::Allowlist | DmPolicy::Disabled => return Some(Ignored::Sender),
        },
        Scope::Group => {
            match channel.groups {
                GroupPolicy::Open => {}
                GroupPolicy::Allowlist if listed(inbound.chat) => {}
                GroupPolicy::Allowlist | GroupPolicy::Disabled => return Some(Ignored::Group),
            }
            // A mention and a button of the bot's own message address it by themselves.
            let asks = matches!(inbound.kind, Kind::Message | Kind::Command);
            if channel.mention_gating && asks && !inbound.mentioned {
                return Some(Ignored::Unmentioned);
            }
        }
    }
    (!asked_about(inbound.kind)).then_some(Ignored::Kind)
}

/// As much of a text as fits, without a torn character.
pub(crate) fn clip(text: &str, most: usize) -> &str {
    let mut end = most.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}
