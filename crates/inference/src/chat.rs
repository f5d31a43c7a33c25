//! Chat templates: messages to the exact text that transformers would render.

use std::path::Path;

use hf_chat_template::{ChatTemplate, FixedClock, Message, RenderInput, TokenizerConfig};

use crate::error::{Error, Result};
use crate::weights::gguf::GgufFile;
use crate::weights::json;

/// One turn of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Turn {
    /// Who said it.
    pub role: Role,
    /// What was said.
    pub content: String,
}

/// Who speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// Instructions of the operator.
    System,
    /// The user.
    User,
    /// The model.
    Assistant,
    /// The result of a tool call.
    Tool,
}

impl Turn {
    /// A system turn.
    #[must_use]
    pub fn system(content: impl Into<String>) -> Self {
        Self { role: Role::System, content: content.into() }
    }

    /// A user turn.
    #[must_use]
    pub fn user(content: impl Into<String>) -> Self {
        Self { role: Role::User, content: content.into() }
    }

    /// An assistant turn.
    #[must_use]
    pub fn assistant(content: impl Into<String>) -> Self {
        Self { role: Role::Assistant, content: content.into() }
    }
}

/// How conversations become text.
pub enum Template {
    /// A compiled Jinja template.
    Chat(Box<ChatTemplate>),
    /// Raw text: the contents of all turns, one a line. For base models without a template.
    Raw,
}

/// Templates that print the date see this one, so that runs are reproducible.
const FIXED_UNIX_SECONDS: i64 = 1_767_225_600; // 2026-01-01

impl Template {
    /// Compiles a template source with the special tokens of a tokenizer config.
    ///
    /// # Errors
    /// If the source is not a valid template.
    pub fn compile(source: &str, config: &TokenizerConfig) -> Result<Self> {
        let template = ChatTemplate::builder(source)
            .special_tokens_from(config)
            .clock(FixedClock::from_unix_secs(FIXED_UNIX_SECONDS))
            .build()
            .map_err(|error| Error::Template(error.to_string()))?;
        Ok(Self::Chat(Box::new(template)))
    }

    /// The template of a model directory: `chat_template.jinja`, else `tokenizer_config.json`.
    /// `None` if the directory has none.
    ///
    /// # Errors
    /// If a file is malformed.
    pub fn from_directory(directory: &Path) -> Result<Option<Self>> {
        let config_path = directory.join("tokenizer_config.json");
        let config: TokenizerConfig = if config_path.exists() {
            let object = json::read_object(&config_path)?;
            serde_json::from_value(serde_json::Value::Object(object))
                .map_err(|error| Error::malformed(&config_path, error.to_string()))?
        } else {
            TokenizerConfig::default()
        };
        let file = directory.join("chat_template.jinja");
        if file.exists() {
            return Self::compile(&json::read_text(&file)?, &config).map(Some);
        }
        if config.chat_template.is_none() {
            return Ok(None);
        }
        let template = ChatTemplate::builder_from_config(&config)
            .and_then(|builder| builder.clock(FixedClock::from_unix_secs(FIXED_UNIX_SECONDS)).build())
            .map_err(|error| Error::Template(format!("`{}`: {error}", config_path.display())))?;
        Ok(Some(Self::Chat(Box::new(template))))
    }

    /// The template inside a GGUF file, if it has one.
    ///
    /// # Errors
    /// If it is not a valid template.
    pub fn from_gguf(file: &GgufFile) -> Result<Option<Self>> {
        let Some(source) = file.string("tokenizer.chat_template") else {
            return Ok(None);
        };
        let token = |key: &str| {
            let id = file.integer(&format!("tokenizer.ggml.{key}"))?;
            match file.list("tokenizer.ggml.tokens")?.get(id)? {
                candle_core::quantized::gguf_file::Value::String(text) => Some(text.clone()),
                _ => None,
            }
        };
        let field = |key: &str| token(key).map(hf_chat_template::TokenField::Str);
        let config = TokenizerConfig {
            bos_token: field("bos_token_id"),
            eos_token: field("eos_token_id"),
            pad_token: field("padding_token_id"),
            unk_token: field("unknown_token_id"),
            ..TokenizerConfig::default()
        };
        Self::compile(source, &config).map(Some)
    }

    /// Renders a conversation up to where the model's answer starts.
    ///
    /// # Errors
    /// If the template refuses the conversation (some allow no system turn).
    pub fn render(&self, turns: &[Turn]) -> Result<String> {
        self.render_with(turns, true)
    }

    /// Renders a conversation, with or without the start of the model's answer.
    ///
    /// # Errors
    /// As [`Template::render`].
    pub fn render_with(&self, turns: &[Turn], add_generation_prompt: bool) -> Result<String> {
        match self {
            Self::Raw => Ok(turns.iter().map(|turn| turn.content.as_str()).collect::<Vec<_>>().join("\n")),
            Self::Chat(template) => {
                let messages = turns
                    .iter()
                    .map(|turn| match turn.role {
                        Role::System => Message::system(turn.content.clone()),
                        Role::User => Message::user(turn.content.clone()),
                        Role::Assistant => Message::assistant(turn.content.clone()),
                        Role::Tool => Message::tool(turn.content.clone()),
                    })
                    .collect();
                let input = RenderInput { messages, add_generation_prompt, ..RenderInput::default() };
                template.render(&input).map_err(|error| Error::Template(error.to_string()))
            }
        }
    }

    /// Whether the tokenizer must add its own special tokens: chat templates bring theirs.
    #[must_use]
    pub fn is_raw(&self) -> bool {
        matches!(self, Self::Raw)
    }

    /// The system prompt that the template puts in when a conversation has none.
    ///
    /// Found by rendering a marked conversation with and without a system turn and cutting away
    /// what both have in common.
    #[must_use]
    pub fn default_system(&self) -> Option<String> {
        const MARK: &str = "\u{1}system-mark\u{1}";
        const QUESTION: &str = "\u{2}question\u{2}";
        if self.is_raw() {
            return None;
        }
        let with = self.render(&[Turn::system(MARK), Turn::user(QUESTION)]).ok()?;
        let without = self.render(&[Turn::user(QUESTION)]).ok()?;
        let (head, tail) = with.split_once(MARK)?;
        let found = without.strip_prefix(head)?.strip_suffix(tail)?.trim();
        (!found.is_empty()).then(|| found.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHATML: &str = "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<s>system\nYou are Reef.</s>\n' }}{% endif %}{{ '<s>' + message['role'] + '\n' + message['content'] + '</s>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<s>assistant\n' }}{% endif %}";

    #[test]
    fn default_system_prompt_is_found() {
        let template = Template::compile(CHATML, &TokenizerConfig::default()).unwrap();
        assert_eq!(template.default_system().as_deref(), Some("You are Reef."));
        let plain = CHATML.replace("{% if loop.first and messages[0]['role'] != 'system' %}{{ '<s>system\nYou are Reef.</s>\n' }}{% endif %}", "");
        assert_eq!(Template::compile(&plain, &TokenizerConfig::default()).unwrap().default_system(), None);
    }

    #[test]
    fn a_broken_template_is_an_error() {
        assert!(Template::compile("{% for %}", &TokenizerConfig::default()).is_err());
    }
}
