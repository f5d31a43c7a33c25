//! What is fuzzed: kinds of files, how each is read, and seeds of it. Read by the coverage-guided targets of this folder
//! and by `benches/fuzz.rs`, which needs neither a nightly compiler nor instrumentation.

use std::cell::OnceCell;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use inference::Compute;
use inference::adapter::{Adapter, LoadOptions};
use inference::decoder::Decoder;
use inference::decoder::config::DecoderConfig;
use inference::weights::directory::Directory;
use tempfile::TempDir;

/// A kind of file and its seeds.
pub(crate) struct Target {
    pub(crate) name: &'static str,
    /// The name under which it is read.
    pub(crate) file: &'static str,
    pub(crate) seeds: Vec<Vec<u8>>,
    reader: Reader,
}

/// What reads the file.
enum Reader {
    /// Every check of the audit, as if the file were alone in a repository.
    Audit,
    /// The adapter loader.
    Load(Box<Loader>),
}

/// An adapter of the fixtures of which one file is replaced.
struct Loader {
    base: &'static str,
    adapter: &'static str,
    ready: OnceCell<(Decoder, TempDir)>,
}

impl Target {
    fn audited(name: &'static str, file: &'static str, seeds: Vec<Vec<u8>>) -> Self {
        Self { name, file, seeds, reader: Reader::Audit }
    }

    /// The named file of these adapters are the seeds; the other files are those of the first.
    fn loaded(name: &'static str, file: &'static str, base: &'static str, adapters: &[&'static str]) -> Self {
        let seeds = adapters.iter().map(|adapter| content(&format!("{adapter}/{file}"))).collect();
        let loader = Loader { base, adapter: adapters[0], ready: OnceCell::new() };
        Self { name, file, seeds, reader: Reader::Load(Box::new(loader)) }
    }

    /// Reads bytes; the number of findings, or of adapters that were loaded.
    pub(crate) fn read(&self, bytes: Vec<u8>) -> usize {
        match &self.reader {
            Reader::Audit => probe::audit::audit_bytes(self.file, bytes).findings.len(),
            Reader::Load(loader) => usize::from(loader.load(self.file, &bytes)),
        }
    }
}

impl Loader {
    /// Whether the adapter could be loaded.
    fn load(&self, file: &str, bytes: &[u8]) -> bool {
        let (base, folder) = self.ready.get_or_init(|| {
            // Without its tokenizer: the bases of the parity cases have none.
            let path = repository(self.base);
            let config = DecoderConfig::from_file(&path.join("config.json")).unwrap();
            let source = Arc::new(Directory::open(&path).unwrap());
            let base = Decoder::load(config, source, &Compute::cpu(), &|_, _| {}).unwrap();
            let folder = tempfile::tempdir().unwrap();
            for entry in std::fs::read_dir(repository(self.adapter)).unwrap() {
                let entry = entry.unwrap();
                std::fs::copy(entry.path(), folder.path().join(entry.file_name())).unwrap();
            }
            (base, folder)
        });
        let path = folder.path().join(file);
        std::fs::write(&path, bytes).unwrap();
        let path = if file.ends_with(".gguf") { &path } else { folder.path() };
        let options = LoadOptions { allow_pickle: true, ..LoadOptions::default() };
        Adapter::load(path, base, &options).is_ok()
    }
}

fn repository(path: &str) -> PathBuf {
    Path::new(crate::REPOSITORY).join(path)
}

fn content(path: &str) -> Vec<u8> {
    std::fs::read(repository(path)).unwrap()
}

const PLAIN: &str = "fixtures/parity/llama-plain/adapter";

/// Every target.
pub(crate) fn targets() -> Vec<Target> {
    let pickles: Vec<Vec<u8>> = vec![
        b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x02id\x85R.".to_vec(),
        b"cos\nsystem\n(S'id'\ntR.".to_vec(),
        b"(S'id'\nios\nsystem\n.".to_vec(),
        b"\x80\x02ccollections\nOrderedDict\nq\x00)Rq\x01(X\x01\x00\x00\x00aq\x02K\x01s}q\x03b.".to_vec(),
        b"\x80\x02]q\x00(h\x00h\x00lq\x01(h\x01h\x01lq\x02.".to_vec(),
    ];
    let text = |texts: &[&str]| texts.iter().map(|text| text.as_bytes().to_vec()).collect::<Vec<_>>();
    let zips = vec![zip("archive/data.pkl", &pickles[0]), zip("../x", b"hello"), {
        let mut polyglot = content("fixtures/parity/lora-f16/adapter/adapter_model.safetensors");
        polyglot.extend(zip("a", &pickles[1]));
        polyglot
    }];
    vec![
        Target::audited("pickle", "adapter_model.bin", pickles),
        Target::audited("zip", "adapter_model.bin", zips),
        Target::audited(
            "tar",
            "files.tar",
            vec![tar("a/b.pkl", b"cos\nsystem\n(S'id'\ntR."), tar("../x", b"x")],
        ),
        Target::audited(
            "safetensors",
            "adapter_model.safetensors",
            vec![
                content("fixtures/parity/lora-f16/adapter/adapter_model.safetensors"),
                content("fixtures/parity/lora-rslora/adapter/adapter_model.safetensors"),
            ],
        ),
        Target::audited("gguf", "adapter.gguf", vec![gguf()]),
        Target::audited(
            "config",
            "adapter_config.json",
            vec![content("fixtures/adapters/benign/adapter_config.json")],
        ),
        Target::audited(
            "tokenizer",
            "tokenizer.json",
            text(&[
                r#"{"version":"1.0","added_tokens":[{"id":0,"content":"<s>","special":true}],"normalizer":{"type":"Replace","pattern":{"String":"a"},"content":"b"},"pre_tokenizer":{"type":"ByteLevel"},"post_processor":{"type":"TemplateProcessing","single":[{"SpecialToken":{"id":"<s>","type_id":0}}]},"decoder":{"type":"ByteLevel"},"model":{"type":"BPE","vocab":{"a":1,"b":2},"merges":["a b"]}}"#,
            ]),
        ),
        Target::audited(
            "template",
            "chat_template.jinja",
            text(&[
                "{% for message in messages %}{{ '<|im_start|>' + message.role + '\\n' + message['content'] }}{% endfor %}",
                "{% if 'x' in messages[-1].content %}{% set ns = namespace(a=1) %}{{ lipsum.__globals__ }}{% endif %}",
            ]),
        ),
        Target::audited(
            "python",
            "modeling.py",
            text(&[
                "import os\n\nclass A:\n    def f(self, x=[1, 2]):\n        return getattr(__import__('o' + 's'), 'system')(x)\n\nos.system('id')\n",
                "from base64 import b64decode as d\nexec(d(b'aQ=='))\nlambda x: (yield x)\n",
            ]),
        ),
        Target::audited(
            "card",
            "README.md",
            text(&[
                "---\nbase_model: a/b\nlicense: mit\ntags:\n- lora\n---\n# Card\n\nhf_abcdefghijklmnopqrstuvwxyzABCDEFGH \u{202e} text\n",
            ]),
        ),
        Target::loaded(
            "load-config",
            "adapter_config.json",
            "fixtures/parity/llama-plain/base",
            &[
                PLAIN,
                "fixtures/parity/lora-rslora/adapter",
                "fixtures/parity/lora-dora/adapter",
                "fixtures/parity/lora-target-regex/adapter",
            ],
        ),
        Target::loaded(
            "load-safetensors",
            "adapter_model.safetensors",
            "fixtures/parity/llama-plain/base",
            &[PLAIN],
        ),
        Target::loaded(
            "load-pickle",
            "adapter_model.bin",
            "fixtures/parity/llama-plain/base",
            &["fixtures/parity/pickle-lora/adapter"],
        ),
        Target::loaded(
            "load-gguf",
            "adapter.gguf",
            "fixtures/parity/llama-untied-gqa/base",
            &["fixtures/parity/gguf-lora/adapter"],
        ),
        Target::audited(
            "notebook",
            "use.ipynb",
            text(&[
                r##"{"cells":[{"cell_type":"code","source":["!pip install x\n","import os"],"outputs":[{"text":["x"]}]}],"metadata":{},"nbformat":4,"nbformat_minor":5}"##,
            ]),
        ),
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
