//! Those who write: some hundred conversations over the channels, and the messages that come from them.
//!
//! Never looks at the shards: what becomes of a message is the shadow's to judge.
use crate::dice::Dice;
use crate::weather::Weather;
use clawgate_core::event::{Class, Content, Inbound, Kind, Mode, Scope};
use clawgate_core::id::{AccountId, AgentId, ChannelId};
use clawgate_core::limits::Limits;
use clawgate_core::plan::Plan;

/// The channels by their place in the first plan; later plans find them by name.
pub(crate) const CHANNELS: [&str; 4] = ["stream", "whole", "chat", "club"];
const STREAM: usize = 0;
const WHOLE: usize = 1;
const CHAT: usize = 2;
const CLUB: usize = 3;

/// One conversation, as one of its writers sees it.
#[derive(Clone, Debug)]
pub(crate) struct Person {
    pub(crate) channel: usize,
    pub(crate) scope: Scope,
    pub(crate) peer: String,
    pub(crate) chat: String,
    pub(crate) thread: String,
    pub(crate) class: Class,
}

/// A message with its own texts; [`Draft::inbound`] lends them.
#[derive(Clone, Debug)]
pub(crate) struct Draft {
    pub(crate) id: String,
    pub(crate) person: Person,
    pub(crate) name: String,
    pub(crate) text: String,
    pub(crate) kind: Kind,
    pub(crate) mentioned: bool,
    pub(crate) mode: Mode,
    pub(crate) sent_millis: u64,
    /// The agent that it asks for, by name; somebody who never was for a name that is not known.
    pub(crate) agent: Option<&'static str>,
}

impl Draft {
    /// The message under this plan; what the plan does not name has the id of nobody.
    pub(crate) fn inbound(&self, plan: &Plan) -> Inbound<'_> {
        let id = |place: Option<usize>| place.map_or(u16::MAX, |place| place as u16);
        let channel = plan.channels.iter().position(|of| &*of.name == CHANNELS[self.person.channel]);
        let agent = |name| AgentId(id(plan.agents.iter().position(|of| &*of.name == name)));
        Inbound {
            id: &self.id,
            chat: &self.person.chat,
            thread: &self.person.thread,
            peer: &self.person.peer,
            name: &self.name,
            text: &self.text,
            sent_millis: self.sent_millis,
            channel: ChannelId(id(channel)),
            agent: self.agent.map(agent),
            kind: self.kind,
            scope: self.person.scope,
            mentioned: self.mentioned,
            mode: self.mode,
            class: self.person.class,
            receipt: false,
            content: Content::WORDS,
            fleeting: false,
            account: AccountId::default(),
        }
    }
}

/// All who write.
#[derive(Debug)]
pub(crate) struct People {
    all: Vec<Person>,
    written: u64,
}

impl People {
    /// Draws who there is.
    pub(crate) fn draw(dice: &mut Dice) -> Self {
        let mut all = Vec::new();
        for n in 0..dice.between(40, 120) {
            all.push(direct(dice, STREAM, n));
        }
        for n in 0..dice.between(20, 80) {
            all.push(direct(dice, WHOLE, n));
        }
        for n in 0..dice.between(20, 80) {
            all.push(direct(dice, CHAT, n));
        }
        for n in 0..10 {
            all.push(direct(dice, CLUB, n));
        }
        for n in 0..dice.between(20, 80) {
            all.push(in_group(dice, n));
        }
        Self { all, written: 0 }
    }

    /// Someone writes something.
    pub(crate) fn write(&mut self, dice: &mut Dice, weather: &Weather, limits: &Limits) -> Draft {
        let index = if dice.chance(weather.hot) { dice.index(3) } else { dice.index(self.all.len()) };
        let mut person = self.all[index].clone();
        if person.channel == CHAT && person.scope == Scope::Direct && dice.chance(50) {
            // The same person by another conversation: the session is the same, its address is not.
            person.chat = format!("{}-new", person.chat);
        }
        self.written += 1;
        let n = self.written;
        let mode = match person.channel {
            STREAM if dice.chance(900) => Mode::Stream,
            STREAM | WHOLE => Mode::Whole,
            _ => Mode::Deliver,
        };
        let group = person.scope == Scope::Group;
        let mut draft = Draft {
            id: if dice.chance(100) { String::new() } else { format!("e{n}") },
            name: format!("Name {}", person.peer),
            text: words(dice, n),
            kind: if group && dice.chance(300) { Kind::Mention } else { Kind::Message },
            mentioned: !group || dice.chance(700),
            mode,
            sent_millis: n,
            agent: dice.chance(30).then(|| *dice.pick(&["ada", "cyd", "dot", "eve", "nobody"])),
            person,
        };
        if dice.chance(30) {
            draft.kind = *dice.pick(&[Kind::Command, Kind::Interaction]);
        }
        if dice.chance(weather.malformed) {
            deform(dice, &mut draft, limits);
        }
        draft
    }
}

fn class(dice: &mut Dice) -> Class {
    *dice.pick(&[Class::Low, Class::Normal, Class::Normal, Class::Vip])
}

fn direct(dice: &mut Dice, channel: usize, n: u64) -> Person {
    let thread = if dice.chance(300) { format!("t{}", n % 3) } else { String::new() };
    let peer = format!("p{n}");
    let chat = if channel == STREAM || channel == WHOLE { String::new() } else { format!("dm-{peer}") };
    Person { channel, scope: Scope::Direct, peer, chat, thread, class: class(dice) }
}

fn in_group(dice: &mut Dice, n: u64) -> Person {
    let thread = if dice.chance(200) { "topic".to_owned() } else { String::new() };
    let channel = if dice.chance(800) { CHAT } else { CLUB };
    Person {
        channel,
        scope: Scope::Group,
        peer: format!("p{n}"),
        chat: format!("g{}", n / 3),
        thread,
        class: class(dice),
    }
}

/// Some words; the ones that the content routes listen for are among them.
fn words(dice: &mut Dice, n: u64) -> String {
    let body = match dice.below(12) {
        0 => "/bob, please",
        1 => "is CYD there?",
        2 => "what does ticket-4711 say",
        3 => "cydonia is another word",
        4 => "日本 and 👩\u{200d}👧 and e\u{301}",
        _ => "hello there",
    };
    let mut text = format!("{body} {n}");
    if dice.chance(20) {
        text.push_str(&" more".repeat(dice.index(200)));
    }
    text
}

/// Breaks one of the rules of content, or is of a kind that nobody is asked about.
fn deform(dice: &mut Dice, draft: &mut Draft, limits: &Limits) {
    let too_long = "x".repeat(usize::from(limits.name_bytes_max) + 1);
    match dice.below(14) {
        0 => draft.text = "y".repeat(limits.text_bytes_max as usize + 1),
        1 => draft.text = "z".repeat(limits.text_bytes_max as usize),
        2 => draft.text = String::new(),
        3 => draft.id = too_long,
        4 => draft.person.thread = too_long,
        5 => draft.person.peer = too_long,
        6 => draft.person.chat = too_long,
        7 => draft.name = "é".repeat(usize::from(limits.name_bytes_max)),
        8 => draft.person.peer = String::new(),
        9 => draft.person.thread = "a\nb".to_owned(),
        10 => draft.text = " \n\t".to_owned(),
        _ => {
            draft.kind =
                *dice.pick(&[Kind::Edit, Kind::Deletion, Kind::Reaction, Kind::Membership, Kind::Failure]);
        }
    }
}
