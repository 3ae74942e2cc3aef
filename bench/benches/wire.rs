//! The paths of `wire`, timed. For a look at one's desk; what gates is `scripts/counts`.
use clawgate_bench::paths;
use criterion::{Criterion, criterion_group, criterion_main};

fn all(criterion: &mut Criterion) {
    for path in paths::of("wire") {
        let mut run = path.prepare();
        criterion.bench_function(path.name, |bencher| bencher.iter(&mut run));
    }
}

criterion_group!(benches, all);
criterion_main!(benches);
