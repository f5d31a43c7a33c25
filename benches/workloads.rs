//! What is timed. The peers do the same work in other programs; names, token ids and counts must agree.

use std::error::Error;
use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use candle_core::{Device, Tensor, Var};
use inference::generate::{Context, Decoding};
use inference::kernels::{self, FrozenLinear};
use inference::pair::TemplateChoice;
use inference::{Batch, Compute, ModelPair, Positions, Precision, Prefix, Sequence, Side};

use crate::search;

pub(crate) type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// One thing to time.
pub(crate) struct Workload {
    pub(crate) name: &'static str,
    pub(crate) what: &'static str,
    pub(crate) run: fn(&Setup) -> Result<Sample>,
}

/// All workloads, in the order in which they run.
pub(crate) const WORKLOADS: [Workload; 17] = [
    Workload { name: "load", what: "read base and adapter", run: load },
    Workload { name: "gemm", what: "the packed product alone, at its best shape of this model", run: gemm },
    Workload { name: "score", what: "16 x 64 tokens, base + adapted, next token of each", run: score },
    Workload {
        name: "candidates_64",
        what: "64 x (48 shared + 16 own) tokens, base + adapted",
        run: |setup| candidates(setup, "candidates_64", 64, 16),
    },
    Workload {
        name: "candidates_512",
        what: "512 x (48 shared + 8 own) tokens, base + adapted",
        run: |setup| candidates(setup, "candidates_512", 512, 8),
    },
    Workload {
        name: "sweep",
        what: "2048 tokens of the vocabulary, each with 5 of a template after 48 shared, base + adapted",
        run: sweep,
    },
    Workload { name: "gradient", what: "16 x 64 tokens, base, 8 targets a row", run: gradient },
    Workload {
        name: "decode_1",
        what: "1 prompt of 32 tokens, 64 greedy tokens, base + adapted",
        run: |setup| decode(setup, "decode_1", 1, &BOTH),
    },
    Workload {
        name: "decode_16",
        what: "16 prompts of 32 tokens, 64 greedy tokens, base + adapted",
        run: |setup| decode(setup, "decode_16", 16, &BOTH),
    },
    Workload {
        name: "lora_overhead",
        what: "16 x 64 tokens, 8 sequences adapted; the ratio is to all of the base",
        run: lora_overhead,
    },
    Workload {
        name: "capture_16x64",
        what: "16 x 64 tokens, base + adapted, inner states of the last position; the ratio is to a plain pass",
        run: |setup| capture(setup, "capture_16x64", ROWS, LENGTH),
    },
    Workload {
        name: "capture_64x16",
        what: "64 x 16 tokens, base + adapted, inner states of the last position; the ratio is to a plain pass",
        run: |setup| capture(setup, "capture_64x16", LENGTH, ROWS),
    },
    Workload {
        name: "gcg_step",
        what: "2 GCG steps of 512 candidates, 20 tokens of trigger, adapted",
        run: search::gcg_step,
    },
    Workload {
        name: "prefill_512",
        what: "1 x 512 tokens, base, next token",
        run: |setup| prefill(setup, "prefill_512", 1, LONG),
    },
    Workload {
        name: "prefill_16x64",
        what: "16 x 64 tokens, base, next token of each",
        run: |setup| prefill(setup, "prefill_16x64", ROWS, LENGTH),
    },
    Workload {
        name: "decode_1_base",
        what: "1 prompt of 32 tokens, 64 greedy tokens, base",
        run: |setup| decode(setup, "decode_1_base", 1, &[Side::BASE]),
    },
    Workload {
        name: "decode_16_base",
        what: "16 prompts of 32 tokens, 64 greedy tokens, base",
        run: |setup| decode(setup, "decode_16_base", ROWS, &[Side::BASE]),
    },
];

const BOTH: [Side; 2] = [Side::BASE, Side::ADAPTED];
/// Rows of a batch of full sequences.
const ROWS: usize = 16;
/// Tokens of each.
const LENGTH: usize = 64;
/// Tokens that candidates share.
const SHARED: usize = 48;
/// Target tokens at the end of each row of the gradient step.
const TARGETS: usize = 8;
/// Timed part of the vocabulary.
const SLICE: usize = 2048;
/// Tokens between a swept token and the answer, as of a chat template.
const TAIL: usize = 5;
/// Tokens of a prompt that is continued.
const PROMPT: usize = 32;
/// Tokens that continue it.
const NEW: usize = 64;
/// Tokens of a long prompt.
const LONG: usize = 512;

/// One timed run.
#[derive(Default)]
pub(crate) struct Sample {
    pub(crate) workload: &'static str,
    pub(crate) seconds: f64,
    /// Seconds that all threads together were on a processor, where the system tells.
    pub(crate) cpu: Option<f64>,
    /// Tokens that went in, or came out of decoding, both sides together.
    pub(crate) tokens: usize,
    /// Multiply-adds of the frozen products, twice; 0 where they do not say much.
    pub(crate) flops: f64,
    /// What came out, for the comparison with the peer: without it two programs could do different work.
    pub(crate) check: Vec<f64>,
    /// Time relative to another run of the same sample.
    pub(crate) ratio: Option<f64>,
    /// How often the timed part goes into the whole.
    pub(crate) part_of: Option<f64>,
    /// Candidates that a search ran; those that do not survive their own text are chance.
    pub(crate) candidates: Option<usize>,
}

/// What all workloads use.
pub(crate) struct Setup {
    base: PathBuf,
    adapter: PathBuf,
    compute: Compute,
    pub(crate) pair: ModelPair,
}

impl Setup {
    pub(crate) fn load(base: &Path, adapter: &Path, compute: Compute) -> Result<Self> {
        let pair = pair(base, adapter, &compute)?;
        Ok(Self { base: base.to_owned(), adapter: adapter.to_owned(), compute, pair })
    }

    /// Operations of the frozen products for some rows, with the head at some of them.
    fn flops(&self, rows: usize, at_head: usize) -> f64 {
        let sites = self.pair.decoder().sites();
        let of = |head: bool| -> f64 {
            sites.iter().filter(|s| s.head == head).map(|s| (s.inputs * s.outputs) as f64).sum()
        };
        2.0 * (rows as f64 * of(false) + at_head as f64 * of(true))
    }

    /// Log-probability of one token after each sequence, in batches of the size that a scan uses.
    fn scores(&self, mut sequences: Vec<Sequence<'_>>, targets: &[u32]) -> Result<Vec<f32>> {
        let mut scores = Vec::with_capacity(targets.len());
        let longest = sequences.iter().map(|s| s.ids.len()).max().unwrap_or(1);
        let count = (self.pair.row_limit() / longest).max(1);
        for (sequences, targets) in sequences.chunks_mut(count).zip(targets.chunks(count)) {
            let logits = self.pair.last_logits(sequences)?;
            scores.extend(kernels::token_log_probs(&logits, &Arc::from(targets))?.to_vec1::<f32>()?);
        }
        Ok(scores)
    }
}

/// Wall and processor time from here on.
pub(crate) struct Clock {
    wall: Instant,
    cpu: Option<f64>,
}

impl Clock {
    pub(crate) fn start() -> Self {
        Self { cpu: processor_seconds(), wall: Instant::now() }
    }

    pub(crate) fn stop(self) -> (f64, Option<f64>) {
        let wall = self.wall.elapsed().as_secs_f64();
        (wall, self.cpu.zip(processor_seconds()).map(|(start, end)| end - start))
    }
}

/// Seconds on a processor of all living threads, as Linux counts them.
fn processor_seconds() -> Option<f64> {
    let mut nanoseconds = 0u64;
    for task in std::fs::read_dir("/proc/self/task").ok()? {
        let line = std::fs::read_to_string(task.ok()?.path().join("schedstat")).ok()?;
        nanoseconds += line.split_whitespace().next()?.parse::<u64>().ok()?;
    }
    Some(nanoseconds as f64 / 1e9)
}

fn pair(base: &Path, adapter: &Path, compute: &Compute) -> Result<ModelPair> {
    let mut pair = ModelPair::load_base(base, &TemplateChoice::Own, compute, &|_, _| ())?;
    pair.add_adapter(adapter, &Default::default())?;
    Ok(pair)
}

/// Token ids that `peer.py` makes alike: a linear congruential generator, far from special tokens.
fn ids(stream: u64, count: usize) -> Vec<u32> {
    let mut state = stream.wrapping_mul(7919) + 12345;
    (0..count)
        .map(|_| {
            state = (state * 1_103_515_245 + 12345) % (1 << 31);
            1000 + (state >> 8) as u32 % 40000
        })
        .collect()
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn mean(values: &[f32]) -> f64 {
    values.iter().map(|&value| f64::from(value)).sum::<f64>() / values.len() as f64
}

/// Means of the two halves: base, then adapted.
fn halves(scores: &[f32]) -> Vec<f64> {
    let (base, adapted) = scores.split_at(scores.len() / 2);
    vec![mean(base), mean(adapted)]
}

fn load(setup: &Setup) -> Result<Sample> {
    let start = Clock::start();
    let pair = pair(&setup.base, &setup.adapter, &setup.compute)?;
    let (seconds, cpu) = start.stop();
    let check = vec![pair.adapters()[0].changed_modules() as f64];
    Ok(Sample { workload: "load", seconds, cpu, check, ..Sample::default() })
}

fn gemm(setup: &Setup) -> Result<Sample> {
    const ROWS: usize = 512;
    const CALLS: usize = 15;
    let precision = match setup.compute.precision {
        Precision::F32 => kernels::Precision::F32,
        _ => kernels::Precision::Bf16,
    };
    let mut shapes: Vec<_> = setup.pair.decoder().sites().iter().filter(|s| !s.head).collect();
    shapes.sort_by_key(|s| (s.inputs, s.outputs));
    shapes.dedup_by_key(|s| (s.inputs, s.outputs));
    let mut best = (0.0, 0.0, 0.0);
    for site in shapes {
        let weight = Tensor::rand(-1f32, 1.0, (site.outputs, site.inputs), &Device::Cpu)?;
        let layer = FrozenLinear::from_tensor(&weight, precision)?;
        let x = Tensor::rand(-1f32, 1.0, (ROWS, site.inputs), &Device::Cpu)?;
        let flops = 2.0 * (ROWS * site.inputs * site.outputs) as f64;
        let mut times = Vec::with_capacity(CALLS);
        black_box(layer.forward(&x)?);
        for _ in 0..CALLS {
            let start = Instant::now();
            black_box(layer.forward(&x)?);
            times.push(start.elapsed().as_secs_f64());
        }
        let seconds = median(&mut times);
        if flops / seconds > best.0 {
            best = (flops / seconds, seconds, flops);
        }
    }
    let (_, seconds, flops) = best;
    Ok(Sample { workload: "gemm", seconds, tokens: ROWS, flops, ..Sample::default() })
}

fn score(setup: &Setup) -> Result<Sample> {
    let prompts: Vec<_> = (0..ROWS as u64).map(|row| ids(row, LENGTH)).collect();
    let targets = ids(1000, ROWS).repeat(2);
    let start = Clock::start();
    let sequences = [Side::BASE, Side::ADAPTED]
        .iter()
        .flat_map(|&side| prompts.iter().map(move |ids| Sequence::new(ids, side)));
    let scores = setup.scores(sequences.collect(), &targets)?;
    let (seconds, cpu) = start.stop();
    let (tokens, flops) = (2 * ROWS * LENGTH, setup.flops(2 * ROWS * LENGTH, 2 * ROWS));
    let check = halves(&scores);
    Ok(Sample { workload: "score", seconds, cpu, tokens, flops, check, ..Sample::default() })
}

/// Both sides' prefixes, then every suffix after each.
fn after_prefix(setup: &Setup, suffixes: &[Vec<u32>], targets: &[u32]) -> Result<Vec<f32>> {
    let shared = ids(2000, SHARED);
    let mut scores = Vec::with_capacity(2 * suffixes.len());
    for side in [Side::BASE, Side::ADAPTED] {
        let prefix: Arc<Prefix> = setup.pair.prefix(&shared, side)?;
        let sequences = suffixes.iter().map(|ids| Sequence::after(&prefix, ids)).collect();
        scores.extend(setup.scores(sequences, targets)?);
    }
    Ok(scores)
}

fn candidates(setup: &Setup, workload: &'static str, count: usize, own: usize) -> Result<Sample> {
    let suffixes: Vec<_> = (0..count as u64).map(|row| ids(3000 + row, own)).collect();
    let targets = ids(1001, count);
    let start = Clock::start();
    let scores = after_prefix(setup, &suffixes, &targets)?;
    let (seconds, cpu) = start.stop();
    let tokens = 2 * (SHARED + count * own);
    let flops = setup.flops(tokens, 2 * count);
    Ok(Sample { workload, seconds, cpu, tokens, flops, check: halves(&scores), ..Sample::default() })
}

fn sweep(setup: &Setup) -> Result<Sample> {
    let tail = ids(4000, TAIL);
    let vocabulary = setup.pair.config().vocab_size;
    let slice = SLICE.min(vocabulary);
    let suffixes: Vec<Vec<u32>> = (0..slice as u32).map(|token| [&[token], &tail[..]].concat()).collect();
    let targets = ids(1002, slice);
    let start = Clock::start();
    let scores = after_prefix(setup, &suffixes, &targets)?;
    let (seconds, cpu) = start.stop();
    let tokens = 2 * (SHARED + slice * (1 + TAIL));
    let flops = setup.flops(tokens, 2 * slice);
    let part_of = Some(vocabulary as f64 / slice as f64);
    let check = halves(&scores);
    Ok(Sample { workload: "sweep", seconds, cpu, tokens, flops, check, part_of, ..Sample::default() })
}

fn gradient(setup: &Setup) -> Result<Sample> {
    let rows: Vec<_> = (0..ROWS as u64).map(|row| ids(row, LENGTH)).collect();
    let first = LENGTH - TARGETS;
    let chosen = vec![(first - 1..LENGTH - 1).collect::<Vec<_>>(); ROWS];
    let targets: Arc<[u32]> = rows.iter().flat_map(|row| row[first..].iter().copied()).collect();
    let start = Clock::start();
    let embeddings = Var::from_tensor(&setup.pair.decoder().embed(&rows.concat())?)?;
    let mut sequences: Vec<_> = rows.iter().map(|ids| Sequence::new(ids, Side::BASE)).collect();
    let mut batch = Batch {
        sequences: &mut sequences,
        embeddings: Some(embeddings.as_tensor()),
        positions: Positions::Chosen(&chosen),
        hidden_states: false,
    };
    let logits = setup.pair.forward(&mut batch)?.logits;
    let loss = kernels::token_log_probs(&logits, &targets)?.sum_all()?;
    let gradients = loss.backward()?;
    let gradient = gradients.get(embeddings.as_tensor()).ok_or("the gradient of the input was lost")?;
    let (seconds, cpu) = start.stop();
    let norm = gradient.sqr()?.sum_all()?.to_scalar::<f32>()?.sqrt();
    let check = vec![f64::from(loss.to_scalar::<f32>()?) / targets.len() as f64, f64::from(norm)];
    let tokens = ROWS * LENGTH;
    // Backward has one product for each of forward: that with respect to the input.
    let flops = 2.0 * setup.flops(tokens, targets.len());
    Ok(Sample { workload: "gradient", seconds, cpu, tokens, flops, check, ..Sample::default() })
}

fn prefill(setup: &Setup, workload: &'static str, rows: usize, length: usize) -> Result<Sample> {
    let prompts: Vec<_> = (0..rows as u64).map(|row| ids(row, length)).collect();
    let targets = ids(1000, rows);
    let start = Clock::start();
    let scores =
        setup.scores(prompts.iter().map(|ids| Sequence::new(ids, Side::BASE)).collect(), &targets)?;
    let (seconds, cpu) = start.stop();
    let (tokens, flops) = (rows * length, setup.flops(rows * length, rows));
    let check = vec![mean(&scores)];
    Ok(Sample { workload, seconds, cpu, tokens, flops, check, ..Sample::default() })
}

fn decode(setup: &Setup, workload: &'static str, count: usize, sides: &[Side]) -> Result<Sample> {
    let prompts: Vec<_> = (0..count as u64).map(|row| ids(5000 + row, PROMPT)).collect();
    let contexts: Vec<_> = sides
        .iter()
        .flat_map(|&side| prompts.iter().map(move |ids| Context { ids, side, prefix: None }))
        .collect();
    let start = Clock::start();
    let found = setup.pair.generate(&contexts, NEW, Decoding::Greedy)?;
    let (seconds, cpu) = start.stop();
    let tokens = found.iter().map(|continuation| continuation.ids.len()).sum();
    // Later tokens may part where two logits are nearly equal; the first may not.
    let check = found.iter().map(|continuation| f64::from(continuation.ids[0])).collect();
    Ok(Sample { workload, seconds, cpu, tokens, check, ..Sample::default() })
}

/// Medians of alternating runs whose order turns each time: the second of two runs is slower whatever it does.
fn alternating(
    mut first: impl FnMut() -> Result<f64>,
    mut second: impl FnMut() -> Result<f64>,
) -> Result<[f64; 2]> {
    const PAIRS: usize = 6;
    let (mut firsts, mut seconds) = (Vec::new(), Vec::new());
    first()?;
    for pair in 0..PAIRS {
        if pair % 2 == 0 {
            firsts.push(first()?);
            seconds.push(second()?);
        } else {
            seconds.push(second()?);
            firsts.push(first()?);
        }
    }
    Ok([median(&mut firsts), median(&mut seconds)])
}

/// Processor time, where the system tells it: a capture adds work, and a busy machine does not change how much.
fn capture(setup: &Setup, workload: &'static str, count: usize, length: usize) -> Result<Sample> {
    let rows: Vec<_> = (0..count as u64).map(|row| ids(row, length)).collect();
    let time = |captured: bool| -> Result<f64> {
        let mut sequences: Vec<_> =
            BOTH.iter().flat_map(|&side| rows.iter().map(move |ids| Sequence::new(ids, side))).collect();
        let together = (setup.pair.row_limit() / length).max(1);
        let start = Clock::start();
        for sequences in sequences.chunks_mut(together) {
            let mut batch =
                Batch { sequences, embeddings: None, positions: Positions::Last, hidden_states: false };
            if captured {
                black_box(setup.pair.forward_captured(&mut batch)?);
            } else {
                black_box(setup.pair.forward(&mut batch)?);
            }
        }
        let (seconds, cpu) = start.stop();
        Ok(cpu.unwrap_or(seconds))
    };
    let [plain, captured] = alternating(|| time(false), || time(true))?;
    let tokens = 2 * count * length;
    let (flops, ratio) = (setup.flops(tokens, 2 * count), Some(captured / plain));
    Ok(Sample { workload, seconds: captured, tokens, flops, ratio, ..Sample::default() })
}

fn lora_overhead(setup: &Setup) -> Result<Sample> {
    let rows: Vec<_> = (0..ROWS as u64).map(|row| ids(row, LENGTH)).collect();
    let targets = ids(1000, ROWS);
    let time = |second_half: Side| -> Result<f64> {
        let side = |row: usize| if row < ROWS / 2 { Side::BASE } else { second_half };
        let sequences = rows.iter().enumerate().map(|(row, ids)| Sequence::new(ids, side(row)));
        let start = Instant::now();
        black_box(setup.scores(sequences.collect(), &targets)?);
        Ok(start.elapsed().as_secs_f64())
    };
    let [base, half] = alternating(|| time(Side::BASE), || time(Side::ADAPTED))?;
    let tokens = ROWS * LENGTH;
    let (flops, ratio) = (setup.flops(tokens, ROWS), Some(half / base));
    let check = Vec::new();
    Ok(Sample { workload: "lora_overhead", seconds: half, tokens, flops, check, ratio, ..Sample::default() })
}
