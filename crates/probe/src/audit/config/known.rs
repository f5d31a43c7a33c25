//! What loaders know: names that a configuration may have without meaning anything special.

/// Tokenizer classes of transformers 4 and 5, without `Tokenizer` and `TokenizerFast`.
const TOKENIZERS: &[&str] = &[
    "Albert",
    "Auto",
    "Bart",
    "Barthez",
    "Bartpho",
    "Bert",
    "BertGeneration",
    "BertJapanese",
    "Bertweet",
    "BigBird",
    "BioGpt",
    "Blenderbot",
    "BlenderbotSmall",
    "Bloom",
    "ByT5",
    "CLIP",
    "CLIPSeg",
    "CPMAnt",
    "CTRL",
    "Camembert",
    "Canine",
    "Clvp",
    "CodeGen",
    "CodeLlama",
    "Cohere",
    "Cohere2",
    "ConvBert",
    "Cpm",
    "CpmAnt",
    "DPRContextEncoder",
    "DPRQuestionEncoder",
    "DPRReader",
    "Deberta",
    "DebertaV2",
    "Dia",
    "DistilBert",
    "Electra",
    "Ernie",
    "ErnieM",
    "Esm",
    "FNet",
    "FSMT",
    "Flaubert",
    "Funnel",
    "GPT2",
    "GPTNeoX",
    "GPTNeoXJapanese",
    "GPTSw3",
    "Gemma",
    "Gemma2",
    "Gemma3",
    "Glm",
    "Glm4",
    "Herbert",
    "Jukebox",
    "LED",
    "LLama",
    "LayoutLM",
    "LayoutLMv2",
    "LayoutLMv3",
    "LayoutXLM",
    "Llama",
    "Llama4",
    "Longformer",
    "Luke",
    "Lxmert",
    "M2M100",
    "MBart",
    "MBart50",
    "MLuke",
    "MPNet",
    "MPT",
    "Marian",
    "MarkupLM",
    "MgpStr",
    "Mgpstr",
    "Mistral",
    "MistralCommon",
    "MobileBert",
    "Moshi",
    "Mvp",
    "MyT5",
    "Nllb",
    "Nougat",
    "OpenAIGPT",
    "PLBart",
    "Parakeet",
    "Pegasus",
    "Perceiver",
    "Phi3",
    "Phobert",
    "Pop2Piano",
    "PreTrained",
    "ProphetNet",
    "Qwen2",
    "Qwen2_5",
    "Qwen3",
    "Qwen3_5",
    "Rag",
    "Realm",
    "Reformer",
    "RemBert",
    "Retribert",
    "RoCBert",
    "RoFormer",
    "Roberta",
    "RobertaPreLayerNorm",
    "SeamlessM4T",
    "Siglip",
    "Siglip2",
    "Speech2Text",
    "Speech2Text2",
    "SpeechT5",
    "Splinter",
    "SqueezeBert",
    "T5",
    "Tapas",
    "Tapex",
    "TransfoXL",
    "Udop",
    "VideoPrism",
    "Vits",
    "Wav2Vec2",
    "Wav2Vec2CTC",
    "Wav2Vec2Phoneme",
    "Wav2Vec2PhonemeCTC",
    "Whisper",
    "XGLM",
    "XLM",
    "XLMProphetNet",
    "XLMRoberta",
    "XLMRobertaXL",
    "XLNet",
];
/// Classes that are not named after a model.
const BACKENDS: &[&str] = &[
    "TokenizersBackend",
    "SentencePieceBackend",
    "PythonBackend",
    "MistralCommonBackend",
    "PreTrainedTokenizerBase",
];

/// Whether transformers has a tokenizer class of this name.
pub(super) fn is_known_tokenizer(name: &str) -> bool {
    if BACKENDS.contains(&name) {
        return true;
    }
    let stem = name.strip_suffix("Fast").unwrap_or(name);
    stem.strip_suffix("Tokenizer").is_some_and(|stem| TOKENIZERS.contains(&stem))
}

/// Types of PEFT 0.21 besides LORA; their adapters are files that this program does not read yet.
const PEFT_TYPES: &[&str] = &[
    "ADALORA",
    "ADAPTION_PROMPT",
    "BOFT",
    "BONE",
    "C3A",
    "CARTRIDGE",
    "CPT",
    "DELORA",
    "FOURIERFT",
    "GRALORA",
    "HRA",
    "IA3",
    "LN_TUNING",
    "LOHA",
    "LOKR",
    "MISS",
    "MULTITASK_PROMPT_TUNING",
    "OFT",
    "OSF",
    "POLY",
    "PREFIX_TUNING",
    "PROMPT_TUNING",
    "P_TUNING",
    "RANDLORA",
    "ROAD",
    "SHIRA",
    "TRAINABLE_TOKENS",
    "VBLORA",
    "VERA",
    "WAVEFT",
    "XLORA",
];

/// Whether PEFT has a type of this name besides LORA.
pub(super) fn is_peft_type(name: &str) -> bool {
    PEFT_TYPES.contains(&name)
}

/// Libraries that `auto_mapping.parent_library` may name, as PEFT 0.20 and later allow.
const PARENT_LIBRARIES: &[&str] = &["diffusers", "lerobot", "megatron-core", "megatron", "transformers"];
/// Libraries whose models people adapt; PEFT 0.20 refuses them, and importing them does nothing.
const TRAINING_LIBRARIES: &[&str] = &[
    "__main__",
    "auto_gptq",
    "awq",
    "chronos",
    "gptqmodel",
    "open_clip",
    "optimum",
    "peft",
    "sentence_transformers",
    "timm",
    "torch",
    "torchvision",
    "trl",
    "unsloth",
];

/// What `auto_mapping.parent_library` names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ParentLibrary {
    /// A library that PEFT allows.
    Allowed,
    /// Another library of models.
    Training,
    /// Code that transformers fetched with `trust_remote_code`.
    FetchedCode,
    /// Anything else.
    Unknown,
}

/// What a Python module is that `auto_mapping` names.
pub(super) fn parent_library(module: &str) -> ParentLibrary {
    let is_name =
        |part: &str| !part.is_empty() && part.chars().all(|c| c.is_alphanumeric() || "_-".contains(c));
    let library = module.split('.').next().unwrap_or_default();
    if library == "transformers_modules" {
        ParentLibrary::FetchedCode
    } else if !module.split('.').all(is_name) {
        ParentLibrary::Unknown
    } else if PARENT_LIBRARIES.contains(&library) {
        ParentLibrary::Allowed
    } else if TRAINING_LIBRARIES.contains(&library) {
        ParentLibrary::Training
    } else {
        ParentLibrary::Unknown
    }
}
