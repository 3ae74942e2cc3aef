//! Which agent answers: strategies, composed in the configuration. See [`Strategy`].
//!
//! Before any strategy come the agent that the client asked for, the one that an operator gave to the session, and the
//! channel's own.
use crate::home::Secret;
use crate::id::AgentId;
use crate::random::{Random, mix};
use aho_corasick::AhoCorasick;
use alloc::boxed::Box;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::cmp::Ordering;
use core::fmt;
use core::hash::Hasher;
use regex_automata::meta::Regex;

/// How an agent is chosen, where neither the session nor its channel says.
#[derive(Clone, Debug)]
pub enum Strategy {
    /// Always this one.
    Static(AgentId),
    /// By what the message says: the first rule that matches decides, else `otherwise`.
    Content {
        /// The rules, compiled.
        rules: Matcher,
        /// Where no rule matches.
        otherwise: Box<Self>,
    },
    /// The least loaded: running and waiting turns per weight, over the process as far as the agent has limits (else
    /// over the shard); ties by chance. An agent of weight 0 is taken only if all are, one whose models are all broken
    /// only if all are.
    Balance(Vec<(AgentId, u32)>),
    /// A session keeps the agent that it got first; and where the inner strategy balances, all sessions of a peer (or
    /// group) get the same one, by the peer's hash and the weights: few move when an agent comes or goes.
    Affinity(Box<Self>),
}

/// One rule of [`Strategy::Content`]: it matches if any of its keywords, prefixes or patterns does.
#[derive(Clone, Debug)]
pub struct Rule {
    /// Words, anywhere in the text, in any case, not inside other words (in scripts that put spaces between words).
    pub keywords: Vec<String>,
    /// How the text begins, after white space, in any case of ASCII letters.
    pub prefixes: Vec<String>,
    /// Regular expressions (syntax of the `regex` crate), searched anywhere in the text.
    pub patterns: Vec<String>,
    /// Who answers then.
    pub then: Strategy,
}

/// Compiled rules.
#[derive(Clone, Debug)]
pub struct Matcher {
    rules: Vec<Compiled>,
    /// The keywords of all rules.
    keywords: Option<AhoCorasick>,
    /// Which rule each of them belongs to.
    owners: Vec<usize>,
}

#[derive(Clone, Debug)]
struct Compiled {
    prefixes: Vec<Box<str>>,
    patterns: Option<Regex>,
    then: Strategy,
}

/// Why rules could not be compiled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleError {
    /// Which rule, from 0.
    pub rule: usize,
    /// What is wrong with it.
    pub message: String,
}

impl fmt::Display for RuleError {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(to, "rule {}: {}", self.rule, self.message)
    }
}

impl core::error::Error for RuleError {}

/// Bytes that the automaton of one rule's patterns may have.
const PATTERNS_BYTES_MAX: usize = 1 << 20;

impl Matcher {
    /// Compiles the rules.
    ///
    /// # Errors
    /// A pattern that is no regular expression or too large (1 MiB compiled, a rule); an empty keyword or prefix.
    pub fn compile(rules: &[Rule]) -> Result<Self, RuleError> {
        let (mut compiled, mut words, mut owners) = (Vec::new(), Vec::new(), Vec::new());
        for (number, rule) in rules.iter().enumerate() {
            let fault = |message: String| RuleError { rule: number, message };
            for keyword in &rule.keywords {
                let before = words.len();
                add_forms(keyword.trim(), &mut words);
                if words.len() == before {
                    return Err(fault("a keyword is empty".to_string()));
                }
                owners.resize(words.len(), number);
            }
            if rule.prefixes.iter().any(String::is_empty) {
                return Err(fault("a prefix is empty".to_string()));
            }
            let prefixes = rule.prefixes.iter().map(|prefix| prefix.as_str().into()).collect();
            let patterns = patterns(&rule.patterns).map_err(fault)?;
            compiled.push(Compiled { prefixes, patterns, then: rule.then.clone() });
        }
        let keywords = if words.is_empty() {
            None
        } else {
            let built = AhoCorasick::builder().ascii_case_insensitive(true).build(&words);
            let last = owners.last().copied().unwrap_or(0);
            Some(built.map_err(|error| RuleError { rule: last, message: error.to_string() })?)
        };
        Ok(Self { rules: compiled, keywords, owners })
    }

    /// What the first rule that matches says.
    #[must_use]
    pub fn find(&self, text: &str) -> Option<&Strategy> {
        // One pass finds the first rule by keywords; only rules before it can still do better.
        let by_word = self.first_by_word(text);
        let start = text.trim_start();
        let before = by_word.unwrap_or(self.rules.len());
        let better = self.rules.iter().take(before).find(|rule| {
            rule.prefixes.iter().any(|prefix| begins_with(start, prefix))
                || rule.patterns.as_ref().is_some_and(|patterns| patterns.is_match(text))
        });
        better.or_else(|| self.rules.get(by_word?)).map(|rule| &rule.then)
    }

    fn first_by_word(&self, text: &str) -> Option<usize> {
        let mut first = None;
        for found in self.keywords.as_ref()?.find_overlapping_iter(text) {
            let owner = self.owners[found.pattern().as_usize()];
            if first.is_none_or(|first| owner < first) && is_whole(text, found.start(), found.end()) {
                first = Some(owner);
                if owner == 0 {
                    break;
                }
            }
        }
        first
    }
}

fn patterns(of: &[String]) -> Result<Option<Regex>, String> {
    if of.is_empty() {
        return Ok(None);
    }
    let config = Regex::config().nfa_size_limit(Some(PATTERNS_BYTES_MAX));
    Regex::builder().configure(config).build_many(of).map(Some).map_err(|error| match error.syntax_error() {
        Some(syntax) => syntax.to_string(),
        None if error.size_limit().is_some() => "the patterns are beyond the size limit".to_string(),
        None => error.to_string(),
    })
}

/// The keyword as it may be written. The automaton folds ASCII; other letters are found as they stand, in lower case
/// and in upper case.
fn add_forms(keyword: &str, words: &mut Vec<String>) {
    if keyword.is_empty() {
        return;
    }
    let first = words.len();
    let mut capital: String = keyword.chars().take(1).flat_map(char::to_uppercase).collect();
    capital.extend(keyword.chars().skip(1).flat_map(char::to_lowercase));
    for form in [keyword.to_string(), keyword.to_lowercase(), keyword.to_uppercase(), capital] {
        if !words[first..].iter().any(|known| known.eq_ignore_ascii_case(&form)) {
            words.push(form);
        }
    }
}

fn begins_with(text: &str, prefix: &str) -> bool {
    text.as_bytes().get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix.as_bytes()))
}

/// Does no letter of a neighbouring word touch `start..end`?
fn is_whole(text: &str, start: usize, end: usize) -> bool {
    let (Some(before), Some(word), Some(after)) = (text.get(..start), text.get(start..end), text.get(end..))
    else {
        return false;
    };
    let joined = |left: Option<char>, right: Option<char>| {
        left.zip(right).is_some_and(|(left, right)| is_of_word(left) && is_of_word(right))
    };
    !joined(before.chars().next_back(), word.chars().next())
        && !joined(word.chars().next_back(), after.chars().next())
}

/// A letter or digit of a script that separates words. Thai, Lao, Khmer, Burmese, Chinese and Japanese do not; Korean
/// does, but hangs its particles on them.
fn is_of_word(c: char) -> bool {
    let unspaced = matches!(u32::from(c),
        0x0E00..=0x0EFF | 0x1000..=0x109F | 0x1100..=0x11FF | 0x1780..=0x17FF | 0x2E80..=0x9FFF
        | 0xAC00..=0xD7FF | 0xF900..=0xFAFF | 0xFF66..=0xFF9F | 0x20000..=0x3FFFF);
    (c.is_alphanumeric() || c == '_') && !unspaced
}

/// What a choice is made from.
#[derive(Debug)]
pub(crate) struct Question<'a> {
    pub(crate) text: &'a str,
    /// The channel's name and the peer's or group's: what an affinity balances by.
    pub(crate) channel: &'a str,
    pub(crate) party: &'a str,
    /// The agent that the session keeps.
    pub(crate) kept: Option<AgentId>,
}

/// The answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Choice {
    pub(crate) agent: AgentId,
    /// The session keeps it from here on.
    pub(crate) keep: bool,
}

/// How an agent stands.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Standing {
    pub(crate) load: u32,
    pub(crate) broken: bool,
}

/// The hash that an affinity balances by: the same on all shards, because sessions of a peer live on several.
fn party_hash(channel: &str, party: &str) -> u64 {
    let mut hasher = Secret([0, 0]).hasher();
    hasher.write(channel.as_bytes());
    hasher.write_u8(255);
    hasher.write(party.as_bytes());
    hasher.finish()
}

/// Asks the strategy. An empty balance gives the first agent.
pub(crate) fn choose(
    strategy: &Strategy,
    question: &Question<'_>,
    standing: impl Fn(AgentId) -> Standing,
    random: &mut Random,
) -> Choice {
    let mut keep = false;
    let mut strategy = strategy;
    loop {
        match strategy {
            Strategy::Static(agent) => return Choice { agent: *agent, keep },
            Strategy::Content { rules, otherwise } => {
                strategy = rules.find(question.text).unwrap_or(otherwise)
            }
            Strategy::Affinity(inner) => {
                keep = true;
                if let Some(agent) = question.kept {
                    return Choice { agent, keep };
                }
                strategy = inner;
            }
            Strategy::Balance(list) if keep => {
                return Choice { agent: by_hash(list, party_hash(question.channel, question.party)), keep };
            }
            Strategy::Balance(list) => return Choice { agent: least_loaded(list, standing, random), keep },
        }
    }
}

/// How good a choice is; the least is the best: whole ones before broken ones before those of weight 0, then by load
/// per weight.
#[derive(Clone, Copy)]
struct Rank {
    unwanted: (bool, bool),
    load: u64,
    weight: u64,
}

impl Rank {
    fn order(&self, other: &Self) -> Ordering {
        let per_weight = (self.load * other.weight).cmp(&(other.load * self.weight));
        self.unwanted.cmp(&other.unwanted).then(per_weight)
    }
}

fn least_loaded(
    list: &[(AgentId, u32)],
    standing: impl Fn(AgentId) -> Standing,
    random: &mut Random,
) -> AgentId {
    let mut best: Option<(AgentId, Rank)> = None;
    let mut ties = 0_u64;
    for &(agent, weight) in list {
        let Standing { load, broken } = standing(agent);
        let rank = Rank { unwanted: (weight == 0, broken), load: load.into(), weight: weight.max(1).into() };
        let order = best.map_or(Ordering::Less, |(_, best)| rank.order(&best));
        ties = if order == Ordering::Less { 1 } else { ties + u64::from(order == Ordering::Equal) };
        // Each of those that tie ends up here with the same chance.
        if order == Ordering::Less || (order == Ordering::Equal && random.below(ties) == 0) {
            best = Some((agent, rank));
        }
    }
    best.map_or(AgentId(0), |(agent, _)| agent)
}

/// Weighted rendezvous hashing (Schindelhauer and Schomaker 2005): each agent draws a number from the party's hash and
/// its own, and the least `-log(number) / weight` wins.
fn by_hash(list: &[(AgentId, u32)], party: u64) -> AgentId {
    let cost = |agent: AgentId| u128::from(minus_log2(mix(party ^ mix(u64::from(agent.0) + 1))));
    let weighted = list.iter().filter(|(_, weight)| 0 < *weight);
    let best = weighted.min_by(|one: &&(AgentId, u32), other: &&(AgentId, u32)| {
        let (left, right) = (cost(one.0) * u128::from(other.1), cost(other.0) * u128::from(one.1));
        left.cmp(&right)
    });
    best.or(list.first()).map_or(AgentId(0), |entry| entry.0)
}

/// `-log2(number / 2^64)` in units of 2^-32, by repeated squaring.
fn minus_log2(number: u64) -> u64 {
    let number = number.max(1);
    let whole = u64::from(number.leading_zeros());
    let mut mantissa = number << whole;
    let mut fraction = 0_u64;
    for bit in (0..32).rev() {
        let square = u128::from(mantissa) * u128::from(mantissa);
        let carry = square >> 127 != 0;
        fraction |= u64::from(carry) << bit;
        let shifted = if carry { square >> 64 } else { square >> 63 };
        mantissa = u64::try_from(shifted).unwrap_or(u64::MAX);
    }
    ((whole + 1) << 32) - fraction
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use alloc::format;
    use alloc::vec;

    fn rule(keywords: &[&str], prefixes: &[&str], patterns: &[&str], agent: u16) -> Rule {
        let own = |list: &[&str]| list.iter().map(ToString::to_string).collect();
        Rule {
            keywords: own(keywords),
            prefixes: own(prefixes),
            patterns: own(patterns),
            then: Strategy::Static(AgentId(agent)),
        }
    }

    fn question<'a>(text: &'a str, party: &'a str, kept: Option<AgentId>) -> Question<'a> {
        Question { text, channel: "c", party, kept }
    }

    fn choice(strategy: &Strategy, question: &Question<'_>) -> Choice {
        choose(strategy, question, |_| Standing::default(), &mut Random::new(1))
    }

    #[test]
    fn the_first_rule_that_matches_decides() {
        let rules = [
            rule(&["refund", "退款", "возврат"], &[], &[], 1),
            rule(&[], &["/deploy", "!ops"], &[], 2),
            rule(&["help"], &[], &["ticket-[0-9]{4}", "(?i)straße"], 3),
            rule(&["deploy", "new york"], &[], &[], 4),
        ];
        let matcher = Matcher::compile(&rules).unwrap();
        let table = [
            ("I want a Refund!", Some(1)),
            ("refunds are not it", None),
            ("prefund", None),
            ("refund_id", None),
            ("我要退款谢谢", Some(1)),
            ("ВОЗВРАТ товара", Some(1)),
            ("возвратный", None),
            ("  /DEPLOY now, refund later", Some(1)),
            ("  /DEPLOY now", Some(2)),
            ("please /deploy", Some(4)),
            ("see ticket-4711, then deploy", Some(3)),
            ("STRASSE or STRAße", Some(3)),
            ("in New York.", Some(4)),
            ("HELP refund", Some(1)),
            ("", None),
        ];
        for (text, expected) in table {
            let found =
                matcher.find(text).map(|strategy| choice(strategy, &question(text, "", None)).agent.0);
            assert_eq!(found, expected, "{text}");
        }
    }

    #[test]
    fn faults_name_their_rule() {
        let large = "(?:[\\w\\s]{50}){50}";
        let table = [
            (vec![rule(&["a"], &[], &[], 0), rule(&[" "], &[], &[], 0)], 1, "keyword"),
            (vec![rule(&[], &[""], &[], 0)], 0, "prefix"),
            (vec![rule(&[], &[], &["a("], 0)], 0, "unclosed group"),
            (vec![rule(&[], &[], &["a"], 0), rule(&[], &[], &[large], 0)], 1, "size limit"),
        ];
        for (rules, number, words) in table {
            let error = Matcher::compile(&rules).unwrap_err();
            assert_eq!(error.rule, number, "{error}");
            assert!(error.to_string().contains(words), "{error}");
        }
        assert!(Matcher::compile(&[]).unwrap().find("anything").is_none());
    }

    #[test]
    fn the_least_loaded_per_weight_is_taken() {
        let list = [(AgentId(0), 1), (AgentId(1), 4), (AgentId(2), 0)];
        let table =
            [([0, 0, 0], [false; 3], 0..2), ([1, 3, 0], [false; 3], 1..2), ([1, 5, 0], [false; 3], 0..1)];
        for (load, broken, expected) in table {
            let standing = |agent: AgentId| {
                let at = usize::from(agent.0);
                Standing { load: load[at], broken: broken[at] }
            };
            for seed in 0..20 {
                let agent = least_loaded(&list, standing, &mut Random::new(seed));
                assert!(expected.contains(&agent.0), "{load:?} gave {agent:?}");
            }
        }
        let standing = |agent: AgentId| Standing { load: u32::from(agent.0), broken: agent.0 == 0 };
        assert_eq!(
            least_loaded(&list, standing, &mut Random::new(0)),
            AgentId(1),
            "the broken one is left out"
        );
        assert_eq!(least_loaded(&[], standing, &mut Random::new(0)), AgentId(0));
    }

    #[test]
    fn ties_fall_on_all() {
        let list: Vec<_> = (0..4).map(|n| (AgentId(n), 1)).collect();
        let mut random = Random::new(9);
        let mut counts = [0; 4];
        for _ in 0..4_000 {
            let agent = least_loaded(&list, |_| Standing::default(), &mut random);
            counts[usize::from(agent.0)] += 1;
        }
        assert!(counts.iter().all(|count| (850..1_150).contains(count)), "{counts:?}");
    }

    #[test]
    fn affinity_keeps_the_first_and_spreads_peers_by_weight() {
        let list = vec![(AgentId(0), 1), (AgentId(1), 3), (AgentId(2), 0)];
        let affinity = Strategy::Affinity(Box::new(Strategy::Balance(list.clone())));
        let kept = question("", "p", Some(AgentId(7)));
        assert_eq!(choice(&affinity, &kept), Choice { agent: AgentId(7), keep: true });
        let mut counts = [0; 3];
        for n in 0..8_000 {
            let party = format!("peer{n}");
            let first = choice(&affinity, &question("", &party, None));
            assert_eq!(first, choice(&affinity, &question("other text", &party, None)));
            counts[usize::from(first.agent.0)] += 1;
        }
        assert!((1_850..2_150).contains(&counts[0]) && counts[2] == 0, "{counts:?}");
    }

    #[test]
    fn few_peers_move_when_an_agent_goes() {
        let all: Vec<_> = (0..5).map(|n| (AgentId(n), 2)).collect();
        let moved = (0..1_000_u64)
            .map(mix)
            .filter(|&party| by_hash(&all, party) != by_hash(&all[..4], party))
            .count();
        let gone = (0..1_000_u64).map(mix).filter(|&party| by_hash(&all, party) == AgentId(4)).count();
        assert_eq!(moved, gone, "only those of the one that went");
    }

    #[test]
    fn strategies_compose() {
        let matcher = Matcher::compile(&[rule(&["vip"], &[], &[], 3)]).unwrap();
        let inner = Strategy::Content { rules: matcher, otherwise: Box::new(Strategy::Static(AgentId(1))) };
        let table = [
            (&inner, "vip please", None, (3, false)),
            (&inner, "hello", Some(AgentId(9)), (1, false)),
            (&Strategy::Affinity(Box::new(inner.clone())), "vip please", None, (3, true)),
            (&Strategy::Affinity(Box::new(inner.clone())), "vip please", Some(AgentId(9)), (9, true)),
        ];
        for (strategy, text, kept, (agent, keep)) in table {
            assert_eq!(
                choice(strategy, &question(text, "", kept)),
                Choice { agent: AgentId(agent), keep },
                "{text}"
            );
        }
    }

    #[test]
    fn logarithms_are_right() {
        let one = 1_u64 << 32;
        for (number, expected) in [(1 << 63, one), (1, 64 * one), (3 << 62, one * 415_037 / 1_000_000)] {
            let got = minus_log2(number);
            assert!(got.abs_diff(expected) < one / 100_000, "{number}: {got} {expected}");
        }
        assert!(minus_log2(u64::MAX) < 4);
    }
}
