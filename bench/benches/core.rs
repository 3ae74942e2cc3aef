//! The paths of `core`, timed; and a routed message with more and more sessions in memory, each of which is another
//! line of the cache. For a look at one's desk; what gates is `scripts/counts`.
use clawgate_bench::paths;
use clawgate_bench::paths::shard::{Message, Routing};
use clawgate_core::event::Mode;
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};

fn all(criterion: &mut Criterion) {
    for path in paths::of("core") {
        let mut run = path.prepare();
        criterion.bench_function(path.name, |bencher| bencher.iter(&mut run));
    }
}

fn by_sessions(criterion: &mut Criterion) {
    let message = Message { mode: Mode::Stream, with_id: false };
    let mut group = criterion.benchmark_group("core/routed-by-sessions");
    for sessions in [1_000, 10_000, 100_000] {
        let mut routing = Routing::new(sessions, message);
        group.bench_function(BenchmarkId::from_parameter(sessions), |bencher| {
            bencher.iter(|| routing.message(message));
        });
    }
    group.finish();
}

criterion_group!(benches, all, by_sessions);
criterion_main!(benches);
