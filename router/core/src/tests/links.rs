//! Accounts of one person on several channels share a conversation; what belongs to a message goes where it came from.
use super::durable::{durable, keeps};
use super::*;
use crate::event::{Sight, Stored};
use crate::home::Secret;
use crate::links::Links;

/// Two channels; `ann` on the first and `7` on the second are one person.
fn linked() -> Plan {
    let mut plan = plan();
    plan.agents[0].history = true;
    plan.channels = vec![channel("web"), channel("tg"), channel(crate::links::CHANNEL)];
    let account = |channel, peer: &str| (ChannelId(channel), peer.into(), "anna".into());
    plan.links = Links::new(ChannelId(2), [account(0, "ann"), account(1, "7")]);
    plan
}

fn from_tg<'a>(text: &'a str) -> Inbound<'a> {
    Inbound { channel: ChannelId(1), chat: "c7", ..posts("7", text) }
}

#[test]
fn linked_accounts_share_a_conversation_and_each_is_answered_where_it_wrote() {
    let mut scene = scene(linked());
    scene.send(Inbound { id: "1", ..posts("ann", "one") });
    assert_eq!(scene.send(Inbound { id: "1", ..from_tg("two") })[0], "accepted 1.1 ahead 1", "another id 1");
    assert_eq!(scene.send(Inbound { id: "1", ..from_tg("two") }), ["duplicate"]);
    let session = scene.find("ann").unwrap();
    let shard = &scene.shards[0];
    assert_eq!(shard.find(ChannelId(1), Scope::Direct, "7", "", ""), Some(session));
    assert_eq!(shard.find(ChannelId(2), Scope::Direct, "anna", "", ""), Some(session));
    assert_eq!((shard.channel_name(session), shard.load().sessions), ("person", 1));
    let to = |scene: &Scene, slot| {
        let to = scene.shards[0].destination(turn(slot, 1)).unwrap();
        (to.channel.0, to.peer.to_string(), to.chat.to_string())
    };
    assert_eq!(to(&scene, 0), (0, "ann".to_string(), "room".to_string()));
    assert_eq!(to(&scene, 1), (1, "7".to_string(), "c7".to_string()));
    scene.text(call(0, 1, 0), "first");
    scene.finishes(call(0, 1, 0));
    let channel_of = |scene: &Scene| match scene.out.list() {
        [.., Effect::Deliver { channel, .. }] => channel.0,
        other => panic!("{other:?}"),
    };
    assert_eq!(channel_of(&scene), 0);
    scene.delivered(turn(0, 1), 0, 0, Delivery::Confirmed { message: "" });
    let prompt = scene.shards[0].prompt(turn(1, 1)).unwrap();
    assert_eq!(prompt.history.count(), 2, "what was said on the other channel");
    scene.text(call(1, 1, 0), "second");
    scene.finishes(call(1, 1, 0));
    assert_eq!(channel_of(&scene), 1);
    scene.delivered(turn(1, 1), 0, 0, Delivery::Confirmed { message: "" });
    // What the bot says by itself goes to where its person wrote from last.
    scene.operates(session, Operation::Send("From us."));
    assert_eq!(channel_of(&scene), 1);
    // Groups, and everybody else, are apart.
    scene.send(Inbound { scope: Scope::Group, ..posts("ann", "in a group") });
    scene.send(Inbound { channel: ChannelId(1), ..posts("ann", "another ann") });
    assert_eq!(scene.shard().load().sessions, 3);
}

#[test]
fn a_linked_message_is_written_down_as_it_came_and_taken_up_into_the_shared_conversation() {
    let mut scene = keeps(linked(), false);
    scene.send(Inbound { id: "e1", ..from_tg("hi") });
    let bytes = scene.out.list().iter().find_map(|effect| match effect {
        Effect::Append { record, .. } => Some(scene.out.bytes(*record).to_vec()),
        _ => None,
    });
    let bytes = bytes.unwrap();
    let Some(Record::Accepted(accepted)) = Record::decode(&bytes) else { panic!("no message") };
    assert_eq!((accepted.channel, accepted.peer, accepted.chat), ("tg", "7", "c7"));
    durable(&mut scene, 1);
    let mut later = keeps(linked(), false);
    let restored = crate::event::Restored { accepted, reply: None, history: false, parts: 0, shown: "" };
    later.event(Event::Restore { client: Client::NOBODY, restored: &restored });
    let session = later.find("ann").unwrap();
    assert_eq!(later.shards[0].channel_name(session), "person");
    assert_eq!(later.shards[0].destination(turn(0, 1)).unwrap().peer, "7");
    // As whoever reads the journal tells it.
    let (plan, secret) = (linked(), Secret([3, 4]));
    let hash = plan.hash(&secret, ChannelId(1), Scope::Direct, "7", "c7", "");
    let mark = plan.mark(&secret, ChannelId(1), Scope::Direct, "7", (hash, "e1"));
    later.shard().remember_mark(mark, 1_790_000_000_000);
    assert_eq!(later.send(Inbound { id: "e1", ..from_tg("hi") }), [""; 0], "known, and not on disk yet");
    let other = Inbound { id: "e1", ..posts("ann", "hi") };
    assert_eq!(later.send(other)[0], "accepted 1.1 ahead 1", "of another account");
}

/// It came back from the store with the channel that the conversation is kept under, which nobody writes on: its answer
/// went nowhere, and its record said an account that there is not.
#[test]
fn a_linked_message_that_waited_for_the_stores_word_is_answered_where_it_came_from() {
    let mut scene = keeps(linked(), false);
    scene.shard().remembers_since(Some(1_790_000_000_000));
    assert_eq!(scene.send(Inbound { id: "e1", ..from_tg("hi") }), ["look up 1"]);
    scene.event(Event::Sighted { lookup: 1, sight: Sight::Never });
    let session = scene.find("ann").unwrap();
    assert_eq!(scene.shards[0].channel_name(session), "person");
    let to = scene.shards[0].destination(turn(0, 1)).unwrap();
    assert_eq!((to.channel, to.peer, to.chat), (ChannelId(1), "7", "c7"));
}

/// A session that was loaded knows an account that was linked in an earlier life.
#[test]
fn nothing_is_said_to_an_account_that_is_no_longer_the_persons() {
    let sends_as = |links: Links| {
        let mut scene = keeps(Plan { links, ..linked() }, false);
        let chat = crate::links::origin("tg", "7", "c7");
        let inbound = Inbound {
            mode: Mode::Deliver,
            channel: ChannelId(2),
            peer: "anna",
            chat: &chat,
            ..Inbound::default()
        };
        scene.event(Event::Recalled { inbound, stored: &Stored::default() });
        let session = scene.shards[0].find(ChannelId(2), Scope::Direct, "anna", "", "").unwrap();
        let said = scene.operates(session, Operation::Send("From us."));
        (said, scene.shards[0].destination(turn(0, 1)).map(|to| (to.channel, to.peer.to_string())))
    };
    let account = |person: &str| Links::new(ChannelId(2), [(ChannelId(1), "7".into(), person.into())]);
    let (said, to) = sends_as(account("anna"));
    assert!(said[0].starts_with("accepted"), "{said:?}");
    assert_eq!(to, Some((ChannelId(1), "7".to_string())));
    for links in [account("bea"), Links::new(ChannelId(2), []), Links::default()] {
        assert_eq!(sends_as(links), (vec!["operated CHANNEL_GONE".to_string()], None));
    }
}

/// It was closed when it was apart: the conversation that it shares now was not.
#[test]
fn a_word_of_the_journal_about_a_session_is_about_none_but_that() {
    let (plan, secret) = (linked(), Secret([3, 4]));
    let apart = crate::record::Forgot { channel: "tg", peer: "7", chat: "c7", ..Default::default() };
    let shared = crate::record::Forgot { channel: "person", peer: "anna", ..Default::default() };
    let hash = plan.hash(&secret, ChannelId(1), Scope::Direct, "7", "c7", "");
    assert_ne!(apart.session_hash(&secret), hash);
    assert_eq!(shared.session_hash(&secret), hash);
}
