//! Times the parts of a scan on the embedded base, with criterion's statistics.
//!
//! ```sh
//! cargo bench --bench parts                    # compared with the run before, under target/criterion
//! cargo bench --bench parts -- 'divergence'    # those whose name holds this
//! ```
//!
//! For changes of one part; figures of a real base, and against peers, are those of `compare.sh`.

/// That of the program that is measured.
#[path = "../crates/cli/allocator.rs"]
mod allocator;

use std::hint::black_box;
use std::path::{Path, PathBuf};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use inference::generate::{Context, Decoding};
use inference::gradient::{
    Differentiated, Objective, PassLimit, Scored, Supervised, Target, factor_gradients,
};
use inference::pair::TemplateChoice;
use inference::{Compute, ModelPair, Sequence, Side};
use report::divergence::{Comparison, log_softmax_in_place};

const ROWS: usize = 16;
const LENGTH: usize = 64;
const NEW: usize = 32;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures")
}

fn pair() -> ModelPair {
    allocator::keep_freed_memory();
    let compute = Compute::cpu();
    let mut pair = ModelPair::load_base(&fixtures().join("base"), &TemplateChoice::Own, &compute, &|_, _| {})
        .expect("the fixture loads");
    pair.add_adapter(&fixtures().join("adapters/backdoored-refusal"), &Default::default())
        .expect("the fixture loads");
    pair
}

/// Token ids that a template would not give; arithmetic does not mind.
fn ids(row: usize, length: usize) -> Vec<u32> {
    (0..length).map(|place| ((row * 7_919 + place * 104_729) % 1_900 + 50) as u32).collect()
}

fn passes(criterion: &mut Criterion) {
    let pair = pair();
    let rows: Vec<Vec<u32>> = (0..ROWS).map(|row| ids(row, LENGTH)).collect();
    let mut group = criterion.benchmark_group("passes");
    group.sample_size(20).throughput(Throughput::Elements((2 * ROWS * LENGTH) as u64));
    group.bench_function("forward, both sides", |bencher| {
        bencher.iter(|| {
            let sides = [Side::BASE, Side::ADAPTED];
            let mut sequences: Vec<Sequence<'_>> =
                sides.iter().flat_map(|&side| rows.iter().map(move |ids| Sequence::new(ids, side))).collect();
            black_box(pair.last_logits(&mut sequences).expect("it runs"))
        });
    });
    group.throughput(Throughput::Elements((ROWS * LENGTH) as u64));
    group.bench_function("gradient of embeddings", |bencher| {
        let target = ids(99, 8);
        let scored: Vec<Scored<'_>> = rows
            .iter()
            .map(|context| Scored {
                context,
                side: Side::ADAPTED,
                prefix: None,
                objective: Objective::LogProbability { target: &target },
            })
            .collect();
        let parts: Vec<Differentiated<'_>> = scored
            .iter()
            .map(|scored| Differentiated {
                scored: scored.clone(),
                weight: 1.0,
                rows: 0..4,
                embeddings: None,
            })
            .collect();
        bencher.iter(|| black_box(pair.objective_gradients(&parts).expect("it runs")));
    });
    group.bench_function("gradient of factors", |bencher| {
        let targets: Vec<Vec<Target>> = rows.iter().map(|ids| Target::response(ids, LENGTH / 2)).collect();
        let batch: Vec<Supervised<'_>> =
            rows.iter().zip(&targets).map(|(ids, targets)| Supervised { ids, targets }).collect();
        let limit = PassLimit { rows: pair.gradient_row_limit(), logit_rows: pair.logit_row_limit() };
        let adapter = &pair.adapters()[0];
        bencher
            .iter(|| black_box(factor_gradients(pair.decoder(), adapter, &batch, limit).expect("it runs")));
    });
    group.throughput(Throughput::Elements((ROWS * NEW) as u64));
    group.bench_function("generation", |bencher| {
        let contexts: Vec<Context<'_>> =
            rows.iter().map(|ids| Context { ids, side: Side::ADAPTED, prefix: None }).collect();
        bencher.iter(|| black_box(pair.generate(&contexts, NEW, Decoding::Greedy).expect("it runs")));
    });
    group.finish();
}

fn statistics(criterion: &mut Criterion) {
    const VOCABULARY: usize = 49_152;
    let row = |seed: usize| -> Vec<f32> {
        let value = |i: usize| ((i * 2_654_435_761 + seed) % 10_007) as f32 / 1_000.0;
        let mut logits: Vec<f32> = (0..VOCABULARY).map(value).collect();
        log_softmax_in_place(&mut logits).expect("finite");
        logits
    };
    let (p, q) = (row(1), row(5));
    let mut group = criterion.benchmark_group("statistics");
    group.throughput(Throughput::Elements(VOCABULARY as u64));
    group.bench_function("divergence of 49,152 tokens", |bencher| {
        bencher.iter(|| black_box(Comparison::between(&p, &q).expect("alike")));
    });
    group.finish();
}

fn files(criterion: &mut Criterion) {
    let adapter = fixtures().join("adapters/backdoored-refusal");
    let mut group = criterion.benchmark_group("files");
    group.sample_size(20);
    group.bench_function("audit of an adapter", |bencher| {
        let options = probe::audit::Options::default();
        bencher.iter(|| {
            let audit = probe::audit::audit(&adapter, "adapter", &options, &mut |_| {});
            black_box(audit.expect("it can be read"))
        });
    });
    group.finish();
}

criterion_group!(parts, passes, statistics, files);
criterion_main!(parts);
