//! The cost of the ring: building it, finding a client's home, listing all choices in order.

use std::hint::black_box;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};

use remora::cluster::{Ring, SEED_DEFAULT, WEIGHT_DEFAULT};

const NODES: usize = 20;

fn ring(names: &[String]) -> Ring {
    let members: Vec<_> = names.iter().map(|name| (&**name, WEIGHT_DEFAULT)).collect();
    Ring::build(SEED_DEFAULT, &members)
}

fn names(count: usize) -> Vec<String> {
    (0..count).map(|node| format!("emqx{node}")).collect()
}

/// Ids in random order, so that caches do not help.
fn ids() -> impl FnMut() -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(1);
    move || format!("mqttjs_{:08x}", random.u32(..)).into_bytes()
}

fn bench(criterion: &mut Criterion) {
    for count in [3, NODES] {
        let names = names(count);
        criterion.bench_function(&format!("ring/build/{count}"), |bencher| {
            bencher.iter(|| ring(black_box(&names)));
        });
    }
    let ring = ring(&names(NODES));
    criterion.bench_function(&format!("ring/home/{NODES}"), |bencher| {
        bencher.iter_batched(ids(), |id| ring.choices(ring.hash(&id)).next(), BatchSize::SmallInput);
    });
    criterion.bench_function(&format!("ring/all_choices/{NODES}"), |bencher| {
        bencher.iter_batched(
            ids(),
            |id| ring.choices(ring.hash(&id)).fold(0, |all, node| all ^ node),
            BatchSize::SmallInput,
        );
    });
}

criterion_group!(benches, bench);
criterion_main!(benches);
