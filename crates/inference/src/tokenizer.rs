//! Text to token ids and back, from `tokenizer.json` or from the vocabulary inside a GGUF file.

use std::path::{Path, PathBuf};

use candle_core::quantized::gguf_file::Value;
use tokenizers::decoders::DecoderWrapper;
use tokenizers::decoders::byte_fallback::ByteFallback;
use tokenizers::decoders::byte_level::ByteLevel;
use tokenizers::decoders::fuse::Fuse;
use tokenizers::decoders::strip::Strip;
use tokenizers::models::bpe::{BPE, Merges, Vocab};
use tokenizers::normalizers::prepend::Prepend;
use tokenizers::normalizers::replace::Replace;
use tokenizers::normalizers::unicode::NFC;
use tokenizers::normalizers::{NormalizerWrapper, Sequence as NormalizerSequence};
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::punctuation::Punctuation;
use tokenizers::pre_tokenizers::sequence::Sequence as PreSequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::tokenizer::{AddedToken, SplitDelimiterBehavior};

use crate::error::{Error, Result};
use crate::weights::gguf::{self, GgufFile};
use crate::weights::json;

/// The tokenizer of a base model.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    origin: PathBuf,
}

impl Tokenizer {
    /// Reads a `tokenizer.json`.
    ///
    /// # Errors
    /// If it is absent or malformed.
    pub fn from_file(path: &Path) -> Result<Self> {
        if !path.exists() {
            return Err(Error::malformed(path, "expected the base model's tokenizer, found nothing").with_hint(
                "models with only a tokenizer.model can be converted by saving their fast tokenizer with transformers",
            ));
        }
        let text = json::read_text(path)?;
        let mut inner: tokenizers::Tokenizer =
            text.parse().map_err(|error| Error::malformed(path, format!("not a tokenizer: {error}")))?;
        // Stored truncation and padding are settings of training runs, not of the model.
        inner.with_padding(None);
        inner.with_truncation(None).map_err(|error| Error::malformed(path, error.to_string()))?;
        Ok(Self { inner, origin: path.to_owned() })
    }

    /// Builds the tokenizer that a GGUF file describes.
    ///
    /// # Errors
    /// If its kind is unknown or its lists do not fit together.
    pub fn from_gguf(file: &GgufFile, path: &Path) -> Result<Self> {
        let parts = GgufVocabulary::read(file, path)?;
        let mut inner = match file.string("tokenizer.ggml.model") {
            Some("gpt2") => byte_level(file, path, &parts)?,
            Some("llama") => sentencepiece(file, path, &parts)?,
            other => {
                return Err(Error::unsupported(
                    path,
                    format!("tokenizer.ggml.model `{}`; known: gpt2, llama", other.unwrap_or("absent")),
                )
                .with_hint("give a Hugging Face directory with a tokenizer.json instead"));
            }
        };
        // Types 3 and 4: control and user-defined tokens, which are matched before all else.
        let added: Vec<AddedToken> = parts
            .tokens
            .iter()
            .zip(&parts.types)
            .filter(|(_, kind)| matches!(kind, 3 | 4))
            .map(|(token, kind)| AddedToken::from(token.clone(), *kind == 3).normalized(false))
            .collect();
        inner.add_tokens(added).map_err(|error| Error::malformed(path, error.to_string()))?;
        Ok(Self { inner, origin: path.to_owned() })
    }

    /// Token ids of a text. With `special`, the tokenizer's own template adds what it adds (such as
    /// a beginning-of-sequence token); rendered chats bring their own.
    ///
    /// # Errors
    /// If the tokenizer fails.
    pub fn encode(&self, text: &str, special: bool) -> Result<Vec<u32>> {
        let encoding = self.inner.encode_fast(text, special).map_err(|error| {
            Error::Request(format!("`{}` cannot encode a text: {error}", self.origin.display()))
        })?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The text of token ids; special tokens are left out unless `special`.
    ///
    /// # Errors
    /// If the tokenizer fails.
    pub fn decode(&self, ids: &[u32], special: bool) -> Result<String> {
        self.inner.decode(ids, !special).map_err(|error| {
            Error::Request(format!("`{}` cannot decode token ids: {error}", self.origin.display()))
        })
    }

    /// The id of a token, if the vocabulary has it.
    #[must_use]
    pub fn token_id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// Size of the vocabulary, added tokens included.
    #[must_use]
    pub fn vocab_size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// Where it came from.
    #[must_use]
    pub fn origin(&self) -> &Path {
        &self.origin
    }
}

/// The lists of `tokenizer.ggml.*`.
struct GgufVocabulary {
    tokens: Vec<String>,
    types: Vec<usize>,
    scores: Vec<f32>,
    unknown: Option<usize>,
}

impl GgufVocabulary {
    fn read(file: &GgufFile, path: &Path) -> Result<Self> {
        let missing = |key: &str| Error::malformed(path, format!("metadata key `{key}` is missing"));
        let tokens =
            strings(file, "tokenizer.ggml.tokens").ok_or_else(|| missing("tokenizer.ggml.tokens"))?;
        let types: Vec<usize> = match file.list("tokenizer.ggml.token_type") {
            Some(list) => list.iter().map(|value| gguf::integer(value).unwrap_or(1)).collect(),
            None => vec![1; tokens.len()],
        };
        let scores = file
            .list("tokenizer.ggml.scores")
            .map_or_else(Vec::new, |list| list.iter().map(|value| value.to_f32().unwrap_or(0.0)).collect());
        if types.len() != tokens.len() {
            return Err(Error::malformed(
                path,
                format!("{} tokens but {} token types", tokens.len(), types.len()),
            ));
        }
        Ok(Self { tokens, types, scores, unknown: file.integer("tokenizer.ggml.unknown_token_id") })
    }

    fn vocab(&self) -> Vocab {
        self.tokens.iter().enumerate().map(|(id, token)| (token.clone(), id as u32)).collect()
    }
}

fn strings(file: &GgufFile, key: &str) -> Option<Vec<String>> {
    file.list(key)?
        .iter()
        .map(|value| match value {
            Value::String(text) => Some(text.clone()),
            _ => None,
        })
        .collect()
}

/// How a byte-level vocabulary splits text before merging; llama.cpp's names.
fn byte_level(file: &GgufFile, path: &Path, parts: &GgufVocabulary) -> Result<tokenizers::Tokenizer> {
    /// Contractions in any case, words with one leading mark, digits by `{n}`, marks, line ends.
    const GROUPED: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{DIGITS}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
    let malformed = |error: tokenizers::Error| Error::malformed(path, error.to_string());
    let merges: Merges = strings(file, "tokenizer.ggml.merges")
        .ok_or_else(|| Error::malformed(path, "metadata key `tokenizer.ggml.merges` is missing"))?
        .into_iter()
        .map(|merge| {
            merge
                .split_once(' ')
                .map(|(a, b)| (a.to_owned(), b.to_owned()))
                .ok_or_else(|| Error::malformed(path, format!("`{merge}` is not a merge of two tokens")))
        })
        .collect::<Result<_>>()?;
    let pre = file.string("tokenizer.ggml.pre").unwrap_or("gpt-2");
    let own_split = |digits: &str| -> Result<PreTokenizerWrapper> {
        let pattern = SplitPattern::Regex(GROUPED.replace("{DIGITS}", digits));
        let split = Split::new(pattern, SplitDelimiterBehavior::Isolated, false).map_err(malformed)?;
        Ok(PreSequence::new(vec![split.into(), byte_level_step(false)]).into())
    };
    let (pre_tokenizer, nfc, whole_words) = match pre {
        "smollm" | "starcoder" | "refact" | "command-r" => {
            let digits = PreTokenizerWrapper::Digits(Digits::new(true));
            (PreSequence::new(vec![digits, byte_level_step(true)]).into(), false, false)
        }
        "gpt-2" | "gpt2" | "default" | "phi-2" => (byte_level_step(true), false, false),
        // The tokenizer of GPT-NeoX, which OLMo took over.
        "olmo" => (byte_level_step(true), true, false),
        "falcon" => {
            let marks = Punctuation::new(SplitDelimiterBehavior::Contiguous).into();
            let digits = PreTokenizerWrapper::Digits(Digits::new(false));
            let by_three = SplitPattern::Regex("[0-9][0-9][0-9]".to_owned());
            let by_three =
                Split::new(by_three, SplitDelimiterBehavior::Isolated, false).map_err(malformed)?;
            let steps = vec![marks, byte_level_step(true), digits, by_three.into()];
            (PreSequence::new(steps).into(), false, false)
        }
        "qwen2" => (own_split("")?, true, false),
        "llama-bpe" | "llama3" | "smaug-bpe" => (own_split("{1,3}")?, false, true),
        "dbrx" => (own_split("{1,3}")?, false, false),
        other => {
            return Err(Error::unsupported(
                path,
                format!("tokenizer.ggml.pre `{other}`; known: smollm, starcoder, gpt-2, olmo, falcon, qwen2, llama-bpe, dbrx"),
            )
            .with_hint("give a Hugging Face directory with a tokenizer.json instead"));
        }
    };
    let model = BPE::builder()
        .vocab_and_merges(parts.vocab(), merges)
        .ignore_merges(whole_words)
        .build()
        .map_err(malformed)?;
    let mut tokenizer = tokenizers::Tokenizer::new(model);
    if nfc {
        tokenizer.with_normalizer(Some(NormalizerWrapper::NFC(NFC))).map_err(malformed)?;
    }
    tokenizer.with_pre_tokenizer(Some(pre_tokenizer));
    tokenizer.with_decoder(Some(DecoderWrapper::ByteLevel(ByteLevel::new(false, false, true))));
    add_template(&mut tokenizer, file, path, &parts.tokens, false)?;
    Ok(tokenizer)
}

fn byte_level_step(regex: bool) -> PreTokenizerWrapper {
    tokenizers::pre_tokenizers::byte_level::ByteLevel::new(false, false, regex).into()
}

/// A SentencePiece vocabulary (Llama 2, TinyLlama, Mistral, Gemma): the scores give the order of merges.
fn sentencepiece(file: &GgufFile, path: &Path, parts: &GgufVocabulary) -> Result<tokenizers::Tokenizer> {
    let malformed = |error: tokenizers::Error| Error::malformed(path, error.to_string());
    if parts.scores.len() != parts.tokens.len() {
        return Err(Error::malformed(
            path,
            format!("{} tokens but {} scores", parts.tokens.len(), parts.scores.len()),
        ));
    }
    let vocab = parts.vocab();
    let mut ranked = Vec::new();
    for (id, token) in parts.tokens.iter().enumerate().filter(|(id, _)| parts.types[*id] == 1) {
        for (split, _) in token.char_indices().skip(1) {
            let (left, right) = token.split_at(split);
            if let (Some(&l), Some(&r)) = (vocab.get(left), vocab.get(right)) {
                ranked.push((-parts.scores[id], l, r, (left.to_owned(), right.to_owned())));
            }
        }
    }
    // A higher score merges first; ties fall to the earlier pieces.
    ranked.sort_by(|a, b| a.0.total_cmp(&b.0).then((a.1, a.2).cmp(&(b.1, b.2))));
    let merges = ranked.into_iter().map(|(_, _, _, merge)| merge).collect();
    let mut builder = BPE::builder().vocab_and_merges(vocab, merges).byte_fallback(true).fuse_unk(true);
    if let Some(token) = parts.unknown.and_then(|id| parts.tokens.get(id)) {
        builder = builder.unk_token(token.clone());
    }
    let mut tokenizer = tokenizers::Tokenizer::new(builder.build().map_err(malformed)?);
    let underscore = |error: tokenizers::Error| malformed(error);
    let mut steps = Vec::new();
    let space_prefix = file.boolean("tokenizer.ggml.add_space_prefix").unwrap_or(true);
    if space_prefix {
        steps.push(NormalizerWrapper::Prepend(Prepend::new("▁".to_owned())));
    }
    steps.push(NormalizerWrapper::Replace(Replace::new(" ", "▁").map_err(underscore)?));
    tokenizer
        .with_normalizer(Some(NormalizerWrapper::Sequence(NormalizerSequence::new(steps))))
        .map_err(malformed)?;
    let mut decoders = vec![
        DecoderWrapper::Replace(Replace::new("▁", " ").map_err(underscore)?),
        DecoderWrapper::ByteFallback(ByteFallback::new()),
        DecoderWrapper::Fuse(Fuse::new()),
    ];
    if space_prefix {
        decoders.push(DecoderWrapper::Strip(Strip::new(' ', 1, 0)));
    }
    let decoder = tokenizers::decoders::sequence::Sequence::new(decoders);
    tokenizer.with_decoder(Some(DecoderWrapper::Sequence(decoder)));
    add_template(&mut tokenizer, file, path, &parts.tokens, true)?;
    Ok(tokenizer)
}

/// Beginning- and end-of-sequence tokens of raw text, where the file asks for them.
fn add_template(
    tokenizer: &mut tokenizers::Tokenizer,
    file: &GgufFile,
    path: &Path,
    tokens: &[String],
    bos_by_default: bool,
) -> Result<()> {
    let wanted = |flag: &str, default: bool, id: &str| {
        let on = file.boolean(&format!("tokenizer.ggml.{flag}")).unwrap_or(default);
        let id = file.integer(&format!("tokenizer.ggml.{id}")).filter(|_| on)?;
        Some((tokens.get(id)?.clone(), id as u32))
    };
    let bos = wanted("add_bos_token", bos_by_default, "bos_token_id");
    let eos = wanted("add_eos_token", false, "eos_token_id");
    if bos.is_none() && eos.is_none() {
        return Ok(());
    }
    let piece = |token: &Option<(String, u32)>| token.as_ref().map(|(text, _)| text.clone());
    let single: Vec<String> =
        [piece(&bos), Some("$A".to_owned()), piece(&eos)].into_iter().flatten().collect();
    let template = tokenizers::processors::template::TemplateProcessing::builder()
        .try_single(single)
        .map_err(|error| Error::malformed(path, error))?
        .special_tokens(bos.into_iter().chain(eos).collect::<Vec<_>>())
        .build()
        .map_err(|error| Error::malformed(path, error.to_string()))?;
    tokenizer.with_post_processor(Some(template));
    Ok(())
}
