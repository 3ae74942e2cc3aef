//! Those outside: a platform that sends again what was not acknowledged, clients with receipts that leave and come back,
//! clients without, and operators.
use super::gateway::{Input, Wish};
use super::ledger::{Kind, Told};
use super::world::{Act, World};
use clawgate_core::codes::Code;
use clawgate_core::event::{Inbound, Mode, Scope};
use clawgate_core::id::{ChannelId, Client, TurnId};
use clawgate_core::plan::RunningMode;

/// Conversations on platforms, of clients with receipts, and of clients without.
const DELIVERED: usize = 9;
const RECEIPTS: usize = 6;
const PLAIN: usize = 3;

/// Where a conversation is held.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) channel: &'static str,
    pub(crate) scope: Scope,
    pub(crate) chat: String,
    pub(crate) thread: String,
    pub(crate) peer: String,
}

/// Why somebody waits for an answer of the gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    Update(usize),
    Receipt(usize),
    Plain(usize),
    Send(usize),
    Operation,
    Replay,
    Drop,
}

/// A client with a receipt, or without.
#[derive(Clone, Debug, Default)]
pub(crate) struct Listener {
    /// Its connection, while it has one.
    client: Option<Client>,
    turn: Option<(usize, TurnId)>,
    heard: String,
    /// It left while nobody knew the end.
    pub(crate) comes_back: bool,
    /// This life knew how its message had ended as it asked: it must hear that.
    is_owed: bool,
}

/// All conversations.
pub(crate) fn places() -> Vec<Place> {
    let place = |n: usize| {
        let is_group = n < DELIVERED && n % 4 == 3;
        Place {
            channel: if n < DELIVERED + RECEIPTS && n % 3 == 2 { "app" } else { "web" },
            scope: if is_group { Scope::Group } else { Scope::Direct },
            chat: if n < DELIVERED { format!("c{n}") } else { String::new() },
            thread: if n % 5 == 4 { "t".to_owned() } else { String::new() },
            peer: if is_group { String::new() } else { format!("p{n}") },
        }
    };
    (0..DELIVERED + RECEIPTS + PLAIN).map(place).collect()
}

impl World {
    pub(crate) fn channel(&self, place: &Place) -> Option<ChannelId> {
        let channels = &self.life.plan.channels;
        let at = channels.iter().position(|channel| *channel.name == *place.channel)?;
        Some(ChannelId(u16::try_from(at).unwrap()))
    }

    /// The event id of a message, and its text. Accounts that may be linked have the same ids.
    pub(crate) fn words(&self, number: usize) -> (String, String) {
        let message = &self.ledger.messages[number];
        let is_account = self.kinship.is_account(message.place);
        let id = if is_account { format!("e{}", message.nth) } else { format!("m{number}") };
        (id, format!("m{number} {}", "and what of it? ".repeat(number % 7)))
    }

    pub(crate) fn inbound<'a>(
        &self,
        number: usize,
        place: &'a Place,
        (id, text): &'a (String, String),
    ) -> Inbound<'a> {
        let message = &self.ledger.messages[number];
        let is_plain = message.kind == Kind::Plain;
        Inbound {
            id: if is_plain { "" } else { id },
            chat: &place.chat,
            thread: &place.thread,
            peer: &place.peer,
            text,
            channel: self.channel(place).unwrap_or_default(),
            scope: place.scope,
            mentioned: true,
            mode: match message.kind {
                Kind::Update | Kind::Operator => Mode::Deliver,
                Kind::Receipt | Kind::Plain if number.is_multiple_of(2) => Mode::Stream,
                Kind::Receipt | Kind::Plain => Mode::Whole,
            },
            receipt: message.kind == Kind::Receipt,
            ..Inbound::default()
        }
    }

    fn ticket(&mut self, purpose: Purpose) -> Client {
        self.tickets.push(purpose);
        Client { ticket: u32::try_from(self.tickets.len() - 1).unwrap(), ..Client::default() }
    }

    pub(crate) fn purpose(&self, client: Client) -> Option<Purpose> {
        if client == Client::NOBODY { None } else { self.tickets.get(client.ticket as usize).copied() }
    }

    /// Somebody writes something new.
    pub(crate) fn write(&mut self) {
        let place = self.dice.index(DELIVERED + RECEIPTS + PLAIN);
        let kind = match place {
            _ if place < DELIVERED => Kind::Update,
            _ if place < DELIVERED + RECEIPTS && !self.dice.chance(100) => Kind::Receipt,
            _ => Kind::Plain,
        };
        let number = self.ledger.add(kind, place, self.kinship.owner(place));
        self.ledger.messages[number].links = self.kinship.changes(place);
        self.listeners.push(Listener::default());
        self.send(number);
    }

    /// A message is sent, or sent again.
    pub(crate) fn send(&mut self, number: usize) {
        let message = &self.ledger.messages[number];
        let (kind, place) = (message.kind, message.place);
        if kind == Kind::Update {
            // Whatever becomes of it: without an acknowledgement it comes again.
            let again = self.now + self.dice.millis(100, 400);
            self.later(again, Act::Resend(number));
        }
        if self.channel(&self.places[place]).is_none() {
            self.come_back(number);
            return;
        }
        let client = self.ticket(match kind {
            Kind::Update => Purpose::Update(number),
            Kind::Receipt => Purpose::Receipt(number),
            Kind::Plain | Kind::Operator => Purpose::Plain(number),
        });
        if kind != Kind::Update {
            let comes_back = self.listeners[number].comes_back;
            self.listeners[number] = Listener { client: Some(client), comes_back, ..Listener::default() };
        }
        let (id, _) = self.words(number);
        self.note_id(number, &id);
        let shard = self.home_of(place);
        self.push(shard, Input::Inbound { client, number });
    }

    /// The time has come to send an update again, if it was not acknowledged.
    pub(crate) fn resend(&mut self, number: usize) {
        if !self.ledger.messages[number].acked {
            self.send(number);
        }
    }

    /// A platform repeats what was acknowledged; a client asks again what was answered.
    pub(crate) fn repeat(&mut self) {
        let count = self.ledger.messages.len();
        let number = count.saturating_sub(1 + self.dice.index(count.min(60)));
        let Some(message) = self.ledger.messages.get(number).filter(|message| message.acked) else { return };
        match message.kind {
            // Event ids of before a change of the links are not known then.
            Kind::Update if message.links != self.kinship.changes(message.place) => {
                self.marks.hit("not repeated: other links");
            }
            Kind::Update => {
                self.marks.hit("repeated");
                let client = self.ticket(Purpose::Update(number));
                let place = self.ledger.messages[number].place;
                if self.channel(&self.places[place]).is_some() {
                    let shard = self.home_of(place);
                    self.push(shard, Input::Inbound { client, number });
                }
            }
            Kind::Receipt if self.listeners[number].client.is_none() && message.told.is_some() => {
                self.marks.hit("asked again after the answer");
                self.send(number);
            }
            Kind::Receipt | Kind::Plain | Kind::Operator => {}
        }
    }

    /// A client that listens leaves; one with a receipt comes back.
    pub(crate) fn leave(&mut self) {
        let listening = |(_, listener): &(usize, &Listener)| listener.client.is_some();
        let from = self.listeners.len().saturating_sub(60);
        let open: Vec<usize> =
            self.listeners.iter().enumerate().skip(from).filter(listening).map(|(n, _)| n).collect();
        if open.is_empty() {
            return;
        }
        let number = *self.dice.pick(&open);
        if let Some((shard, turn)) = self.listeners[number].turn {
            self.push(shard, Input::Left { turn });
        }
        self.hang_up(number);
    }

    /// The connection is gone.
    pub(crate) fn hang_up(&mut self, number: usize) {
        self.listeners[number] =
            Listener { comes_back: self.listeners[number].comes_back, ..Listener::default() };
        self.come_back(number);
    }

    /// A client with a receipt asks again until it knows what became of its message.
    pub(crate) fn come_back(&mut self, number: usize) {
        let message = &self.ledger.messages[number];
        if message.kind == Kind::Receipt && message.told.is_none() && !self.listeners[number].comes_back {
            self.listeners[number].comes_back = true;
            let at = self.now + self.dice.millis(50, 600);
            self.later(at, Act::Return(number));
        }
    }

    pub(crate) fn return_now(&mut self, number: usize) {
        self.listeners[number].comes_back = false;
        if self.ledger.messages[number].told.is_none() && self.listeners[number].client.is_none() {
            self.marks.hit("came back");
            self.send(number);
        }
    }

    /// All connections end with the process.
    pub(crate) fn hang_up_all(&mut self) {
        for number in 0..self.listeners.len() {
            if self.listeners[number].client.is_some() {
                self.hang_up(number);
            }
        }
    }

    fn listener(&mut self, client: Client) -> Option<(usize, &mut Listener)> {
        let (Purpose::Receipt(number) | Purpose::Plain(number)) = self.purpose(client)? else { return None };
        let listener = &mut self.listeners[number];
        (listener.client == Some(client)).then_some((number, listener))
    }

    /// A message is handed over.
    pub(crate) fn on_asked(&mut self, client: Client, number: usize) {
        let is_kept = self.ledger.messages[number].is_kept;
        if let Some((_, listener)) = self.listener(client) {
            listener.is_owed = is_kept;
        }
    }

    pub(crate) fn begin_to_hear(&mut self, number: usize, client: Client, turn: (usize, TurnId)) {
        let listener = &mut self.listeners[number];
        if listener.client == Some(client) {
            listener.turn = Some(turn);
            listener.heard.clear();
        } else {
            // It is gone by now, and the connection says so.
            self.push(turn.0, Input::Left { turn: turn.1 });
        }
    }

    pub(crate) fn on_heard(&mut self, client: Client, text: &str) {
        if let Some((_, listener)) = self.listener(client) {
            listener.heard.push_str(text);
        }
    }

    pub(crate) fn on_finish(&mut self, client: Client, text: &str) {
        let Some((number, listener)) = self.listener(client) else { return };
        listener.heard.push_str(text);
        let heard = std::mem::take(&mut self.listeners[number]).heard;
        let asked = self.ledger.asked_by(&heard);
        let is_asked = asked.is_some_and(|asked| asked.contains(&number));
        assert!(is_asked, "the answer of {number} is another one's: {heard:?} to {asked:?}");
        if self.ledger.messages[number].kind != Kind::Receipt {
            return;
        }
        let turn = self.ledger.answered_by(number);
        let known = turn.and_then(|turn| turn.reply.as_ref()).map(|(_, text)| text.as_str());
        assert_eq!(known, Some(heard.as_str()), "what the client of {number} heard is not what is on disk");
        let told = &mut self.ledger.messages[number].told;
        if let Some(Told::Answer(before)) = told {
            assert_eq!(*before, heard, "two answers to {number}");
        }
        *told = Some(Told::Answer(heard));
    }

    pub(crate) fn on_fail(&mut self, client: Client, code: Code) {
        let Some((number, _)) = self.listener(client) else { return };
        let is_cancelled = self.ledger.answered_by(number).is_some_and(|turn| turn.is_cancelled());
        if code == Code::Cancelled && !is_cancelled {
            // An operator closed the session while the answer was said again: it can be asked for once more.
            self.hang_up(number);
            return;
        }
        if code == Code::Duplicate {
            // What it became part of is not over, or not kept.
            self.check_owed(number);
            self.hang_up(number);
            return;
        }
        self.listeners[number] = Listener::default();
        let told = &mut self.ledger.messages[number].told;
        assert!(!matches!(told, Some(Told::Answer(_))), "{number} was answered, and fails");
        *told = Some(Told::Failure);
    }

    /// It is answered together with another one, to that one's client.
    pub(crate) fn on_merged(&mut self, client: Client) {
        let Some((number, _)) = self.listener(client) else { return };
        self.marks.hit("told that it is merged");
        self.listeners[number] = Listener::default();
        let told = &mut self.ledger.messages[number].told;
        assert!(!matches!(told, Some(Told::Answer(_))), "{number} was answered, and is merged");
        *told = Some(Told::Merged);
    }

    pub(crate) fn on_acknowledged(&mut self, client: Client, is_repetition: bool) {
        match self.purpose(client) {
            Some(Purpose::Update(number)) => {
                if !self.ledger.messages[number].acked {
                    self.marks.hit("acknowledged");
                }
                self.ledger.on_ack(number);
            }
            Some(Purpose::Receipt(number)) => {
                self.ledger.on_ack(number);
                self.marks.hit("receipt");
                if is_repetition && self.listener(client).is_some() {
                    self.on_known(number);
                }
            }
            Some(Purpose::Plain(_)) => panic!("a message without an id is called a repetition"),
            Some(Purpose::Send(_) | Purpose::Operation | Purpose::Replay | Purpose::Drop) | None => {}
        }
    }

    /// All that a client hears is that its message was admitted before.
    fn on_known(&mut self, number: usize) {
        self.check_owed(number);
        let turn = self.ledger.turn_of(number);
        let is_open = turn.is_some_and(|turn| turn.number == number && !turn.is_over() && !turn.is_merged());
        if is_open || self.ledger.messages[number].is_kept {
            // That its first connection is gone was still on its way as it asked, or it ended since: it asks once more, and
            // is not at rest before it has heard.
            self.marks.hit("asked before it had left");
            self.hang_up(number);
            return;
        }
        self.listeners[number] = Listener::default();
        self.marks.hit("told nothing but that it was admitted");
        let told = &mut self.ledger.messages[number].told;
        if told.is_none() {
            *told = Some(Told::Known);
        }
    }

    fn check_owed(&self, number: usize) {
        let is_owed = self.listeners[number].is_owed;
        assert!(!is_owed, "how {number} ended is kept, and all that is said is that it was admitted before");
    }

    pub(crate) fn on_refused(&mut self, client: Client) {
        self.marks.hit("refused");
        if let Some((number, _)) = self.listener(client) {
            self.hang_up(number);
        }
    }

    /// Somebody operates.
    pub(crate) fn operate(&mut self) {
        let place = self.dice.index(DELIVERED + 2);
        let wish = match self.dice.weighted(&[1, 1, 12, 4, 2, 2, 4]) {
            0 => Wish::Reset,
            1 => Wish::Close,
            2 => Wish::Send,
            3 => Wish::Set,
            4 => Wish::Assign,
            5 => Wish::Stop,
            _ => Wish::Mode(self.dice.pick(&RunningMode::ALL.map(Some)).filter(|_| self.dice.chance(700))),
        };
        let is_send = matches!(wish, Wish::Send);
        if is_send && DELIVERED <= place {
            return;
        }
        let owner = self.kinship.owner(place);
        let number = if is_send { self.ledger.add(Kind::Operator, place, owner) } else { 0 };
        if is_send {
            self.listeners.push(Listener::default());
        }
        let client = self.ticket(if is_send { Purpose::Send(number) } else { Purpose::Operation });
        let shard = self.home_of(place);
        self.push(shard, Input::Operate { client, place, wish, number });
    }

    /// An operator tries a dead letter again, or drops it. He sees the letters once the past is told.
    pub(crate) fn replay(&mut self) {
        if self.store.done < self.life.facts_until || self.store.letters.is_empty() {
            return;
        }
        let at = self.dice.index(self.store.letters.len());
        let Some((uid, letter)) = self.store.letters.iter().nth(at) else { return };
        let (uid, letter) = (*uid, letter.clone());
        if self.dice.chance(150) {
            let client = self.ticket(Purpose::Drop);
            let shard = self.home_of(letter.place);
            self.push(shard, Input::DropLetter { client, uid });
            return;
        }
        self.marks.hit("asked to replay");
        let client = self.ticket(Purpose::Replay);
        let shard = self.home_of(letter.place);
        self.push(shard, Input::Restore { client, uid, letter });
    }

    pub(crate) fn on_operated(&mut self, client: Client, refused: Option<Code>) {
        match (self.purpose(client), refused) {
            (Some(Purpose::Send(number)), None) => self.ledger.on_ack(number),
            (Some(Purpose::Replay), None) => self.marks.hit("replayed"),
            (Some(Purpose::Drop), None) => {
                self.marks.hit("dropped");
                self.ledger.on_dropped(client);
            }
            (Some(Purpose::Operation), None) => self.ledger.on_has_forgotten(client),
            (Some(Purpose::Replay), Some(Code::ChannelGone)) => self.marks.hit("not replayed: channel gone"),
            _ => {}
        }
    }
}
