//! The cost of reading a CONNECT: whole, in two pieces, and byte by byte as the balancer does it.

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};

use remora::mqtt::{Need, Verdict, read_connect};

#[path = "../tests/e2e/packets.rs"]
#[allow(dead_code, reason = "the end-to-end tests need more of it")]
mod packets;

/// Reads pieces as they arrive, each time that enough bytes are there.
fn read_in_pieces(bytes: &[u8], need: Need, ends: impl Iterator<Item = usize>) -> Verdict {
    let mut enough = 0;
    for end in ends.filter(|end| *end > 0) {
        if end < enough {
            continue;
        }
        match read_connect(&bytes[..end], need) {
            Verdict::NeedMore(more) => enough = more,
            verdict => return verdict,
        }
    }
    Verdict::NeedMore(enough)
}

fn bench(criterion: &mut Criterion) {
    use packets::Connect;
    let large = Connect::v5("mqttjs_0123456789").user_property(b"n", &[b'v'; 2_000]);
    let samples = [
        (
            "v4",
            Connect::new("mqttjs_0123456789").username("user").password("secret"),
        ),
        (
            "v5",
            Connect::v5("mqttjs_0123456789").session_expiry(3_600).username("user"),
        ),
        ("v5_2kB_of_properties", large.username("user")),
    ];
    for (name, connect) in samples {
        let bytes = connect.bytes();
        for (need_name, need) in [("client_id", Need::ClientId), ("username", Need::Username)] {
            criterion.bench_function(&format!("connect/{name}/{need_name}/whole"), |bencher| {
                bencher.iter(|| read_connect(black_box(&bytes), need));
            });
        }
        criterion.bench_function(&format!("connect/{name}/client_id/two_pieces"), |bencher| {
            let ends = [bytes.len() / 2, bytes.len()];
            bencher.iter(|| read_in_pieces(black_box(&bytes), Need::ClientId, ends.into_iter()));
        });
        criterion.bench_function(&format!("connect/{name}/client_id/byte_by_byte"), |bencher| {
            bencher.iter(|| read_in_pieces(black_box(&bytes), Need::ClientId, 1..=bytes.len()));
        });
    }
}

criterion_group!(benches, bench);
criterion_main!(benches);
