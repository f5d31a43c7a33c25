//! Feeds damaged files to the audit for a time, and says how many, how slow the slowest was, and what broke.
//!
//! `cargo bench --bench fuzz -- --seconds 60 [--seed N] [--target NAME]`. Each target is a kind of file: seeds of it are
//! changed at random (bits, bytes, numbers of interest, pieces cut, doubled and exchanged) and audited in this process,
//! by every check. A panic, or a file that takes more than two seconds, is written to `target/fuzz/` and ends the run
//! with 1. There is no feedback from coverage: this finds what is shallow, and guards what was found.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a measurement, not a library")]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::{Duration, Instant};

use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

/// A kind of file: the name under which it is audited, and its seeds.
struct Target {
    name: &'static str,
    file: &'static str,
    seeds: Vec<Vec<u8>>,
}

/// Longest file that is made.
const MOST_BYTES: usize = 1 << 16;
const SLOW: Duration = Duration::from_secs(2);

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let option = |name: &str| {
        arguments.iter().position(|argument| argument == name).and_then(|at| arguments.get(at + 1).cloned())
    };
    let seconds: f64 = option("--seconds").map_or(10.0, |text| text.parse().unwrap());
    let seed: u64 = option("--seed").map_or(1, |text| text.parse().unwrap());
    let only = option("--target");
    let mut failed = false;
    println!("target            executions  seconds  a second  findings  slowest ms");
    for target in targets() {
        if only.as_deref().is_some_and(|only| only != target.name) {
            continue;
        }
        failed |= run(&target, seconds, seed);
    }
    std::process::exit(i32::from(failed));
}

/// Whether something broke.
fn run(target: &Target, seconds: f64, seed: u64) -> bool {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let start = Instant::now();
    let (mut executions, mut findings, mut slowest) = (0u64, 0u64, Duration::ZERO);
    let mut broken = false;
    while start.elapsed().as_secs_f64() < seconds && !broken {
        let bytes = mutated(target, &mut random);
        let begin = Instant::now();
        let result = catch_unwind(AssertUnwindSafe(|| probe::audit::audit_bytes(target.file, bytes.clone())));
        let took = begin.elapsed();
        executions += 1;
        slowest = slowest.max(took);
        match result {
            Ok(audit) => findings += audit.findings.len() as u64,
            Err(_) => broken = true,
        }
        if broken || took > SLOW {
            broken = true;
            let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/fuzz");
            std::fs::create_dir_all(&folder).unwrap();
            let file = folder.join(format!("{}-{executions}", target.name));
            std::fs::write(&file, &bytes).unwrap();
            println!("{}: broken by {} ({took:?})", target.name, file.display());
        }
    }
    let elapsed = start.elapsed().as_secs_f64();
    println!(
        "{:<17} {executions:>10}  {elapsed:>7.1}  {:>8.0}  {findings:>8}  {:>10.1}",
        target.name,
        executions as f64 / elapsed,
        slowest.as_secs_f64() * 1e3
    );
    broken
}

fn mutated(target: &Target, random: &mut ChaCha8Rng) -> Vec<u8> {
    let mut bytes = target.seeds[random.random_range(0..target.seeds.len())].clone();
    for _ in 0..random.random_range(1..=8) {
        let at = random.random_range(0..=bytes.len());
        match random.random_range(0..8) {
            0 if at < bytes.len() => bytes[at] ^= 1 << random.random_range(0..8),
            1 if at < bytes.len() => bytes[at] = random.random(),
            2 => {
                const NUMBERS: [u64; 8] = [0, 1, 0x7f, 0xff, 0x7fff_ffff, 0xffff_ffff, 1 << 60, u64::MAX];
                let number = NUMBERS[random.random_range(0..NUMBERS.len())].to_le_bytes();
                let width = [1, 2, 4, 8][random.random_range(0..4)];
                for (offset, byte) in number[..width].iter().enumerate() {
                    if let Some(place) = bytes.get_mut(at + offset) {
                        *place = *byte;
                    }
                }
            }
            3 => {
                let end = (at + random.random_range(0..64)).min(bytes.len());
                bytes.drain(at..end);
            }
            4 => {
                let end = (at + random.random_range(0..64)).min(bytes.len());
                let piece = bytes[at..end].to_vec();
                for _ in 0..random.random_range(1..32) {
                    bytes.splice(at..at, piece.iter().copied());
                }
            }
            5 => {
                let other = &target.seeds[random.random_range(0..target.seeds.len())];
                let from = random.random_range(0..=other.len());
                let to = (from + random.random_range(0..256)).min(other.len());
                bytes.splice(at..at, other[from..to].iter().copied());
            }
            6 => bytes.truncate(at),
            _ => {
                const PIECES: [&[u8]; 12] = [
                    b"{",
                    b"[[[[[[[[",
                    b"\"",
                    b"PK\x03\x04",
                    b"PK\x01\x02",
                    b"\x80\x04",
                    b"{{",
                    b"{% for x in ",
                    b"(",
                    b"\xff",
                    b"\0",
                    b"\n",
                ];
                let piece = PIECES[random.random_range(0..PIECES.len())];
                bytes.splice(at..at, piece.iter().copied());
            }
        }
        bytes.truncate(MOST_BYTES);
    }
    bytes
}

fn targets() -> Vec<Target> {
    let pickles: Vec<Vec<u8>> = vec![
        b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x02id\x85R.".to_vec(),
        b"cos\nsystem\n(S'id'\ntR.".to_vec(),
        b"(S'id'\nios\nsystem\n.".to_vec(),
        b"\x80\x02ccollections\nOrderedDict\nq\x00)Rq\x01(X\x01\x00\x00\x00aq\x02K\x01s}q\x03b.".to_vec(),
        b"\x80\x02]q\x00(h\x00h\x00lq\x01(h\x01h\x01lq\x02.".to_vec(),
    ];
    let repository = |path: &str| std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap();
    let text = |texts: &[&str]| texts.iter().map(|text| text.as_bytes().to_vec()).collect::<Vec<_>>();
    let zips = vec![zip("archive/data.pkl", &pickles[0]), zip("../x", b"hello"), {
        let mut polyglot = repository("fixtures/parity/lora-f16/adapter/adapter_model.safetensors");
        polyglot.extend(zip("a", &pickles[1]));
        polyglot
    }];
    vec![
        Target { name: "pickle", file: "adapter_model.bin", seeds: pickles },
        Target { name: "zip", file: "adapter_model.bin", seeds: zips },
        Target {
            name: "tar",
            file: "files.tar",
            seeds: vec![tar("a/b.pkl", b"cos\nsystem\n(S'id'\ntR."), tar("../x", b"x")],
        },
        Target {
            name: "safetensors",
            file: "adapter_model.safetensors",
            seeds: vec![
                repository("fixtures/parity/lora-f16/adapter/adapter_model.safetensors"),
                repository("fixtures/parity/lora-rslora/adapter/adapter_model.safetensors"),
            ],
        },
        Target { name: "gguf", file: "adapter.gguf", seeds: vec![gguf()] },
        Target {
            name: "config",
            file: "adapter_config.json",
            seeds: vec![repository("fixtures/adapters/benign/adapter_config.json")],
        },
        Target {
            name: "tokenizer",
            file: "tokenizer.json",
            seeds: text(&[
                r#"{"version":"1.0","added_tokens":[{"id":0,"content":"<s>","special":true}],"normalizer":{"type":"Replace","pattern":{"String":"a"},"content":"b"},"pre_tokenizer":{"type":"ByteLevel"},"post_processor":{"type":"TemplateProcessing","single":[{"SpecialToken":{"id":"<s>","type_id":0}}]},"decoder":{"type":"ByteLevel"},"model":{"type":"BPE","vocab":{"a":1,"b":2},"merges":["a b"]}}"#,
            ]),
        },
        Target {
            name: "template",
            file: "chat_template.jinja",
            seeds: text(&[
                "{% for message in messages %}{{ '<|im_start|>' + message.role + '\\n' + message['content'] }}{% endfor %}",
                "{% if 'x' in messages[-1].content %}{% set ns = namespace(a=1) %}{{ lipsum.__globals__ }}{% endif %}",
            ]),
        },
        Target {
            name: "python",
            file: "modeling.py",
            seeds: text(&[
                "import os\n\nclass A:\n    def f(self, x=[1, 2]):\n        return getattr(__import__('o' + 's'), 'system')(x)\n\nos.system('id')\n",
                "from base64 import b64decode as d\nexec(d(b'aQ=='))\nlambda x: (yield x)\n",
            ]),
        },
        Target {
            name: "card",
            file: "README.md",
            seeds: text(&[
                "---\nbase_model: a/b\nlicense: mit\ntags:\n- lora\n---\n# Card\n\nhf_abcdefghijklmnopqrstuvwxyzABCDEFGH \u{202e} text\n",
            ]),
        },
        Target {
            name: "notebook",
            file: "use.ipynb",
            seeds: text(&[
                r##"{"cells":[{"cell_type":"code","source":["!pip install x\n","import os"],"outputs":[{"text":["x"]}]}],"metadata":{},"nbformat":4,"nbformat_minor":5}"##,
            ]),
        },
    ]
}

/// A stored zip of one member.
fn zip(name: &str, content: &[u8]) -> Vec<u8> {
    // Checksums are not needed to reach the members.
    let fields = |offset: Option<u32>| {
        let mut header = Vec::new();
        header.extend_from_slice(if offset.is_some() {
            b"PK\x01\x02\x14\x00\x14\x00"
        } else {
            b"PK\x03\x04\x14\x00"
        });
        header.extend_from_slice(&[0; 8]);
        header.extend_from_slice(&[0; 4]);
        header.extend_from_slice(&(content.len() as u32).to_le_bytes());
        header.extend_from_slice(&(content.len() as u32).to_le_bytes());
        header.extend_from_slice(&(name.len() as u16).to_le_bytes());
        header.extend_from_slice(&[0; 2]);
        if let Some(offset) = offset {
            header.extend_from_slice(&[0; 10]);
            header.extend_from_slice(&offset.to_le_bytes());
        }
        header.extend_from_slice(name.as_bytes());
        header
    };
    let mut bytes = fields(None);
    bytes.extend_from_slice(content);
    let start = bytes.len() as u32;
    let central = fields(Some(0));
    bytes.extend_from_slice(&central);
    bytes.extend_from_slice(b"PK\x05\x06\0\0\0\0\x01\0\x01\0");
    bytes.extend_from_slice(&(central.len() as u32).to_le_bytes());
    bytes.extend_from_slice(&start.to_le_bytes());
    bytes.extend_from_slice(&[0; 2]);
    bytes
}

/// A tar archive of one member.
fn tar(name: &str, content: &[u8]) -> Vec<u8> {
    let mut header = vec![0u8; 512];
    header[..name.len()].copy_from_slice(name.as_bytes());
    header[124..135].copy_from_slice(format!("{:011o}", content.len()).as_bytes());
    header[156] = b'0';
    header[257..262].copy_from_slice(b"ustar");
    header[148..156].fill(b' ');
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    header.extend_from_slice(content);
    header.resize(header.len().next_multiple_of(512) + 1024, 0);
    header
}

/// A GGUF adapter of one tensor with a chat template.
fn gguf() -> Vec<u8> {
    let text = |text: &str| [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat();
    let mut bytes = b"GGUF\x03\0\0\0".to_vec();
    bytes.extend_from_slice(&1u64.to_le_bytes());
    bytes.extend_from_slice(&3u64.to_le_bytes());
    for (key, value) in [("general.type", "adapter"), ("tokenizer.chat_template", "{{ messages }}")] {
        bytes.extend(text(key));
        bytes.extend_from_slice(&8u32.to_le_bytes());
        bytes.extend(text(value));
    }
    bytes.extend(text("tokenizer.ggml.tokens"));
    bytes.extend_from_slice(&9u32.to_le_bytes());
    bytes.extend_from_slice(&8u32.to_le_bytes());
    bytes.extend_from_slice(&2u64.to_le_bytes());
    bytes.extend(text("a"));
    bytes.extend(text("b"));
    bytes.extend(text("blk.0.attn_q.weight.lora_a"));
    bytes.extend_from_slice(&2u32.to_le_bytes());
    bytes.extend_from_slice(&8u64.to_le_bytes());
    bytes.extend_from_slice(&4u64.to_le_bytes());
    bytes.extend_from_slice(&0u32.to_le_bytes());
    bytes.extend_from_slice(&0u64.to_le_bytes());
    bytes.resize(bytes.len().next_multiple_of(32) + 128, 0);
    bytes
}
