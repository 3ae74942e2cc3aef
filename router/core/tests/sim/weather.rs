//! What is thrown at the shards, and how often: a seed draws which faults exist in its world at all, and the weather
//! changes every few hundred steps, so that each limit is reached and each calm after it is seen too.
use crate::dice::Dice;

/// One entry of the action table. Everything but `Advance` happens without time passing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Let time pass until the next thing happens.
    Advance,
    /// Somebody writes.
    Arrive,
    /// Somebody's message comes again, with the same event id.
    Repeat,
    /// A client goes away at once.
    Leave,
    /// A client's outbox fills or empties out of turn.
    Press,
    /// An operator does something.
    Operate,
    /// The clock jumps forward: seconds to hours.
    Jump,
    /// The next shard is handed a time before the last one.
    Backward,
    /// Another configuration.
    Reconfigure,
    /// Listeners come or go.
    Listeners,
    /// An event for something that was never there, or is long over.
    Stale,
}

impl Action {
    /// Its name among the marks.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Advance => "action Advance",
            Self::Arrive => "action Arrive",
            Self::Repeat => "action Repeat",
            Self::Leave => "action Leave",
            Self::Press => "action Press",
            Self::Operate => "action Operate",
            Self::Jump => "action Jump",
            Self::Backward => "action Backward",
            Self::Reconfigure => "action Reconfigure",
            Self::Listeners => "action Listeners",
            Self::Stale => "action Stale",
        }
    }
}

/// How many actions there are.
const ACTIONS: usize = 11;

const ALL: [Action; ACTIONS] = [
    Action::Advance,
    Action::Arrive,
    Action::Repeat,
    Action::Leave,
    Action::Press,
    Action::Operate,
    Action::Jump,
    Action::Backward,
    Action::Reconfigure,
    Action::Listeners,
    Action::Stale,
];

/// How a call to a model goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Talk {
    /// In full, at an ordinary pace.
    Good,
    /// In full, one character or so at a time, gaps just below what is tolerated.
    Slow,
    /// Finished without a word.
    Empty,
    /// More than an answer may hold.
    Long,
    /// On and on, until the call is too old.
    Endless,
    /// Failed before anything was said.
    FailFirst,
    /// Failed in the middle.
    FailMiddle,
    /// Never a sign of life.
    SilentFirst,
    /// The header came, then nothing.
    SilentHead,
    /// Fell silent in the middle; its end is lost.
    SilentMiddle,
}

pub(crate) const TALKS: [Talk; 10] = [
    Talk::Good,
    Talk::Slow,
    Talk::Empty,
    Talk::Long,
    Talk::Endless,
    Talk::FailFirst,
    Talk::FailMiddle,
    Talk::SilentFirst,
    Talk::SilentHead,
    Talk::SilentMiddle,
];

/// How an attempt to deliver goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Post {
    Confirmed,
    /// Refused for now, with no word on when.
    Retry,
    /// Refused for now, with the platform's word on when.
    RetryAfter,
    Refused,
    /// Never answered.
    Lost,
    /// Answered after it was given up, when another attempt may be under way.
    Late,
    /// Answered twice.
    Twice,
}

pub(crate) const POSTS: [Post; 7] =
    [Post::Confirmed, Post::Retry, Post::RetryAfter, Post::Refused, Post::Lost, Post::Late, Post::Twice];

/// The odds of the moment.
#[derive(Clone, Debug)]
pub(crate) struct Weather {
    pub(crate) name: &'static str,
    actions: [u32; ACTIONS],
    talks: [u32; TALKS.len()],
    posts: [u32; POSTS.len()],
    /// Clients that go away before their answer is complete, per mille.
    pub(crate) leaving: u32,
    /// Clients that stop reading at some piece, per mille.
    pub(crate) slow: u32,
    /// Of those, the ones that never read again, per mille.
    pub(crate) slow_for_ever: u32,
    /// Messages that come from the three hottest sessions, per mille.
    pub(crate) hot: u32,
    /// Messages that break a limit of form, per mille.
    pub(crate) malformed: u32,
    /// Calls and deliveries that say more after they are over, per mille.
    pub(crate) echoing: u32,
}

impl Weather {
    pub(crate) fn action(&self, dice: &mut Dice) -> Action {
        ALL[dice.weighted(&self.actions)]
    }

    pub(crate) fn talk(&self, dice: &mut Dice) -> Talk {
        TALKS[dice.weighted(&self.talks)]
    }

    pub(crate) fn post(&self, dice: &mut Dice) -> Post {
        POSTS[dice.weighted(&self.posts)]
    }

    /// What it is like at first, and at the end.
    pub(crate) const fn calm() -> Self {
        Self {
            name: "calm",
            //        adv  arr rep lea pre ope jmp bck rec lis sta
            actions: [760, 180, 10, 5, 5, 5, 0, 10, 1, 4, 20],
            //      good slow empty long endless ff fm sf sh sm
            talks: [880, 20, 10, 4, 2, 30, 10, 4, 4, 6],
            posts: [900, 30, 20, 10, 20, 10, 10],
            leaving: 40,
            slow: 30,
            slow_for_ever: 100,
            hot: 100,
            malformed: 10,
            echoing: 60,
        }
    }

    /// The next weather.
    pub(crate) fn next(swarm: &Swarm, dice: &mut Dice) -> Self {
        let mut weather = Self::calm();
        match dice.index(10) {
            0 => {}
            1 => weather.flood(),
            2 => weather.storm(),
            3 => weather.silence(),
            4 => weather.slow_readers(),
            5 => weather.hot(),
            6 => weather.platforms(),
            7 => weather.operators(),
            8 => weather.hours(),
            _ => weather.outage(),
        }
        swarm.limit(&mut weather);
        weather
    }

    fn flood(&mut self) {
        self.name = "flood";
        self.actions[0] = 450;
        self.actions[1] = 500;
        self.actions[2] = 30;
        self.leaving = 150;
    }

    fn storm(&mut self) {
        self.name = "storm";
        self.actions[1] = 260;
        self.talks = [300, 40, 20, 20, 10, 300, 150, 20, 20, 40];
        self.echoing = 300;
    }

    fn silence(&mut self) {
        self.name = "silence";
        self.talks = [350, 60, 20, 5, 60, 20, 10, 160, 120, 200];
        self.actions[6] = 1;
    }

    fn slow_readers(&mut self) {
        self.name = "slow readers";
        self.actions[4] = 60;
        self.slow = 600;
        self.slow_for_ever = 250;
        self.talks[1] = 150;
    }

    fn hot(&mut self) {
        self.name = "hot sessions";
        self.actions[1] = 380;
        self.actions[3] = 30;
        self.hot = 850;
        self.leaving = 250;
    }

    fn platforms(&mut self) {
        self.name = "platforms";
        self.posts = [350, 150, 150, 100, 120, 80, 50];
        self.echoing = 200;
    }

    fn operators(&mut self) {
        self.name = "operators";
        self.actions[5] = 120;
        self.actions[8] = 4;
        self.actions[9] = 15;
        self.malformed = 120;
    }

    fn hours(&mut self) {
        self.name = "hours";
        self.actions[6] = 25;
        self.actions[7] = 40;
    }

    fn outage(&mut self) {
        self.name = "outage";
        self.actions[1] = 300;
        self.talks = [30, 5, 5, 5, 5, 800, 60, 40, 20, 30];
    }
}

/// Which faults a seed's world has at all. A world with everything hides what only a world without some of it shows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Swarm {
    jumps: bool,
    backward: bool,
    operators: bool,
    reconfigure: bool,
    leaving: bool,
    slow: bool,
    silence: bool,
    echoes: bool,
}

impl Swarm {
    pub(crate) fn draw(dice: &mut Dice) -> Self {
        Self {
            jumps: dice.chance(600),
            backward: dice.chance(600),
            operators: dice.chance(700),
            reconfigure: dice.chance(400),
            leaving: dice.chance(800),
            slow: dice.chance(800),
            silence: dice.chance(800),
            echoes: dice.chance(800),
        }
    }

    /// Takes out of the weather what this world does not have.
    pub(crate) fn limit(self, weather: &mut Weather) {
        let off = [
            (self.leaving, Action::Leave),
            (self.slow, Action::Press),
            (self.operators, Action::Operate),
            (self.jumps, Action::Jump),
            (self.backward, Action::Backward),
            (self.reconfigure, Action::Reconfigure),
            (self.echoes, Action::Stale),
        ];
        for (index, action) in ALL.iter().enumerate() {
            if off.iter().any(|(on, which)| !on && which == action) {
                weather.actions[index] = 0;
            }
        }
        if !self.leaving {
            weather.leaving = 0;
        }
        if !self.slow {
            weather.slow = 0;
        }
        if !self.echoes {
            weather.echoing = 0;
        }
        if !self.silence {
            for (talk, weight) in TALKS.iter().zip(&mut weather.talks) {
                if matches!(talk, Talk::SilentFirst | Talk::SilentHead | Talk::SilentMiddle | Talk::Endless) {
                    *weight = 0;
                }
            }
        }
    }
}
