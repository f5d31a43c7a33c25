//! The table of known architectures. A new one is one entry here, plus code only where it
//! differs from all others in kind.

/// When a projection has a bias vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bias {
    /// Never.
    Never,
    /// Always, whatever the config says.
    Always,
    /// If this boolean key of the config is true.
    Key(&'static str),
}

/// Which layers attend through a sliding window of `sliding_window` positions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Window {
    /// None.
    Never,
    /// All of them, if the config gives a window; absent means this default.
    Every {
        /// What transformers assumes when the key is absent.
        default: Option<usize>,
    },
    /// Those from `max_window_layers` on, if `use_sliding_window` is true.
    UpperLayers,
}

/// How one `model_type` of transformers differs from the others.
#[derive(Debug)]
pub struct Architecture {
    /// `model_type` of `config.json`.
    pub model_type: &'static str,
    /// `general.architecture` of a GGUF file, where that has one of its own.
    pub gguf: Option<&'static str>,
    /// Bias of q, k and v.
    pub qkv_bias: Bias,
    /// Bias of the attention output.
    pub output_bias: Bias,
    /// Bias of gate, up and down.
    pub mlp_bias: Bias,
    /// Sliding-window attention.
    pub window: Window,
    /// Key-value heads where the config does not say; `None` means as many as query heads.
    pub default_kv_heads: Option<usize>,
}

/// Every architecture that the decoder computes.
pub const ARCHITECTURES: &[Architecture] = &[
    Architecture {
        model_type: "llama",
        gguf: Some("llama"),
        qkv_bias: Bias::Key("attention_bias"),
        output_bias: Bias::Key("attention_bias"),
        mlp_bias: Bias::Key("mlp_bias"),
        window: Window::Never,
        default_kv_heads: None,
    },
    Architecture {
        model_type: "mistral",
        // llama.cpp converts Mistral under the name of llama.
        gguf: None,
        qkv_bias: Bias::Never,
        output_bias: Bias::Never,
        mlp_bias: Bias::Never,
        window: Window::Every { default: Some(4096) },
        default_kv_heads: Some(8),
    },
    Architecture {
        model_type: "qwen2",
        gguf: Some("qwen2"),
        qkv_bias: Bias::Always,
        output_bias: Bias::Never,
        mlp_bias: Bias::Never,
        window: Window::UpperLayers,
        default_kv_heads: Some(32),
    },
];

/// The entry of a `model_type`.
#[must_use]
pub fn by_model_type(model_type: &str) -> Option<&'static Architecture> {
    ARCHITECTURES.iter().find(|architecture| architecture.model_type == model_type)
}

/// The entry of a GGUF architecture.
#[must_use]
pub fn by_gguf(name: &str) -> Option<&'static Architecture> {
    ARCHITECTURES.iter().find(|architecture| architecture.gguf == Some(name))
}

/// The known names, for error messages.
#[must_use]
pub fn known() -> String {
    ARCHITECTURES.iter().map(|architecture| architecture.model_type).collect::<Vec<_>>().join(", ")
}
