//! Plans whose answer is known, and what no plan is made for.
#![allow(clippy::unwrap_used)]
use super::*;

const NODE: Node = Node { cores: 4, memory_kib: 8e6, descriptors: 65_536.0, bandwidth: 1e10, headroom: 0.3 };

fn target(text: &str) -> Target {
    text.parse().unwrap()
}

/// Exponential answers of 100 µs on a shard of its own, as evenly spaced quantiles.
fn exponential(mean: f64) -> Vec<f64> {
    (0..2000).map(|number| -(1.0 - (f64::from(number) + 0.5) / 2000.0).ln() * mean).collect()
}

fn point(rate: f64, sessions: f64) -> Point {
    Point {
        name: "a run".to_owned(),
        rate,
        sessions,
        cpu_ns: 100_000.0,
        resident_kib: 20_000.0 + sessions * 10.0,
        bytes: 1000.0,
        responses_ns: exponential(100_000.0),
        count: 100_000.0,
    }
}

fn measured() -> Measured {
    Measured {
        points: vec![point(1000.0, 1000.0), point(20_000.0, 10_000.0)],
        shares: vec![0.25; 4],
        shares_guessed: false,
        largest: vec![],
        gaps: Times::Exponential(1.0),
    }
}

#[test]
fn targets_are_read_as_they_are_meant() {
    let read = target("20000 msg/s, 100000 sessions, p99<45ms");
    assert_eq!((read.rate, read.sessions, read.bound_ns), (20_000.0, 100_000.0, 45e6));
    assert!((read.quantile - 0.99).abs() < 1e-12);
    for bad in [
        "",
        "20000 msg/s",
        "p99<45ms",
        "x msg/s, p99<1ms",
        "5 cats, p99<1ms",
        "1 msg/s, p100<1ms",
        "1 msg/s, p9<1",
    ] {
        assert!(bad.parse::<Target>().is_err(), "{bad}");
    }
}

/// M/M/1 has an exponential response with mean 1 / (m - l): p99 is ln 100 / (m - l). With m = 10,000 a shard and 2 ms, l is
/// 10,000 - 2,303 = 7,697 a shard. The simulation draws wait and service apart, which in M/M/1 is the same.
#[test]
fn the_largest_rate_of_exponential_shards_is_that_of_the_formula() {
    let model = Model::new(&measured(), 4, 1);
    let largest = model.largest(0.99, 2e6);
    let expected = 4.0 * (10_000.0 - 100_f64.ln() / 2e-3);
    assert!((largest / expected - 1.0).abs() < 0.03, "{largest} {expected}");
}

#[test]
fn a_skewed_shard_bounds_the_node() {
    let even = Model::new(&measured(), 4, 1).largest(0.99, 2e6);
    let skewed = Measured { shares: vec![0.4, 0.2, 0.2, 0.2], ..measured() };
    let skewed = Model::new(&skewed, 4, 1).largest(0.99, 2e6);
    // The busiest shard alone may now do a quarter of what the even ones do each, and a little more: the others are fast.
    assert!(skewed < even * 0.8 && even * 0.25 / 0.4 * 0.95 < skewed, "{skewed} of {even}");
    assert_eq!(spread(&[0.6, 0.4], 4), [0.3, 0.7 / 3.0, 0.7 / 3.0, 0.7 / 3.0]);
}

#[test]
fn a_plan_has_a_spare_node_and_says_what_breaks_first() {
    let plan = plan(&measured(), target("50000 msg/s, 60000 sessions, p99<2ms"), NODE, None, 1).unwrap();
    // 30,790 a node keep the promise, 70 % of them are planned: three bear it, and one is spare.
    assert_eq!(plan.nodes, 4, "{plan:?}");
    assert!(plan.headroom.iter().all(|left| 0.3 < *left));
    assert!((plan.memory_kib - (20_000.0 + 20_000.0 * 10.0)).abs() < 1.0, "{}", plan.memory_kib);
    assert!((plan.bandwidth - 50_000.0 / 3.0 * 8000.0).abs() < 1.0);
    assert_eq!(plan.strains.len(), 6);
    assert_eq!(plan.strains[0].breaks, None);
    let worst = plan.strains.last().unwrap();
    assert_eq!((worst.times, worst.one_failed), (2.0, true));
    assert!(worst.breaks.is_some(), "{worst:?}");
    let [rate, found, simulated] = plan.checks[0];
    assert!(rate == 1000.0 && (simulated / found - 1.0).abs() < 0.2, "{found} {simulated}");
}

#[test]
fn what_is_scarce_decides() {
    let few = Node { descriptors: 5100.0, ..NODE };
    let plan = plan(&measured(), target("1000 msg/s, 20000 sessions, p99<2ms"), few, None, 1).unwrap();
    assert_eq!(plan.nodes, 5, "5,000 sessions a node, and a spare one");
    let worst = plan.strains.last().unwrap();
    assert_eq!(worst.breaks, Some("descriptors"));
}

#[test]
fn nothing_is_said_beyond_twice_of_what_was_measured() {
    let of = target("50000 msg/s, 60000 sessions, p99<2ms");
    let refused = |node: Node, target: Target, nodes: Option<u32>| {
        plan(&measured(), target, node, nodes, 1).unwrap_err().0
    };
    assert!(refused(Node { cores: 9, ..NODE }, of, None).contains("4 shards were measured"));
    assert!(plan(&measured(), of, Node { cores: 8, ..NODE }, None, 1).is_ok());
    assert!(refused(NODE, of, Some(2)).contains("2.5 times the rate"));
    assert!(refused(NODE, target("1000 msg/s, 60000 sessions, p99.999<2ms"), None).contains("too few"));
    assert!(refused(NODE, target("1000 msg/s, p99<1us"), None).contains("no rate keeps"));
}

#[test]
fn the_law_of_several_searches_is_in_the_plan() {
    let scaled = Measured { largest: vec![(1, 9000.0), (2, 17_000.0), (4, 30_000.0)], ..measured() };
    let eight = Node { cores: 8, ..NODE };
    let of = target("100000 msg/s, p99<2ms");
    let with = plan(&scaled, of, eight, None, 1).unwrap();
    let without = plan(&measured(), of, eight, None, 1).unwrap();
    assert!(with.law.is_some() && without.law.is_none());
    assert!(with.largest <= without.largest);
}
