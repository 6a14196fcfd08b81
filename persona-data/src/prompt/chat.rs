//! What a chat model's own format puts around a prompt.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// A template that wraps a rendered prompt in the control tokens of a chat model.
///
/// It sees two variables: `prompt`, the text of the user's message, and `cue`, what the agent's answer begins with (the
/// agent's tag, or the word before a selection). The control tokens stand in the template as text, the beginning of the
/// text included: encoding adds none of its own, so there is exactly one BOS where the template writes one.
///
/// White space is as in transformers' chat templates: the template's last line break is dropped, and so are a line break
/// right after a `{% %}` tag and the spaces that stand before one on its line (`trim_blocks` and `lstrip_blocks`).
///
/// ```
/// use persona_data::{ChatFormat, PromptSet};
///
/// let prompts = PromptSet::english()?.with_chat(ChatFormat::builtin("llama3")?)?;
/// let prompt = prompts.history_only(&[])?;
/// assert_eq!(prompt.matches("<|begin_of_text|>").count(), 1);
/// assert!(prompt.ends_with("<|start_header_id|>assistant<|end_header_id|>\n\nperson2:"));
/// # Ok::<(), persona_data::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChatFormat {
    name: String,
    template: String,
}

impl ChatFormat {
    const NONE: &str = "{{ prompt }}\n{{ cue }}";
    /// As Meta's template, two newlines after a header.
    const LLAMA3: &str = "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\n{{ prompt }}<|eot_id|>\
                          <|start_header_id|>assistant<|end_header_id|>\n\n{{ cue }}";

    /// A format of the user's own. [`crate::PromptSet::with_chat`] compiles and checks it.
    pub fn new(name: impl Into<String>, template: impl Into<String>) -> Self {
        Self { name: name.into(), template: template.into() }
    }

    /// A format that ships with the crate: `none` (prompt and cue on lines of their own, for models that know no chat
    /// format) or `llama3` (Llama 3 Instruct and its successors, without a system message).
    ///
    /// # Errors
    /// [`Error::UnknownChatFormat`] for any other name.
    pub fn builtin(name: &str) -> Result<Self> {
        match name {
            "none" => Ok(Self::new(name, Self::NONE)),
            "llama3" => Ok(Self::new(name, Self::LLAMA3)),
            _ => Err(Error::UnknownChatFormat { name: name.to_owned() }),
        }
    }

    /// The format's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The template's text.
    #[must_use]
    pub fn template(&self) -> &str {
        &self.template
    }

    /// The pieces of the form `<|...|>`: control tokens, each of which a fitting tokenizer has as one token.
    #[must_use]
    pub fn control_tokens(&self) -> Vec<&str> {
        let mut found = Vec::new();
        let mut rest = self.template.as_str();
        while let Some((_, opened)) = rest.split_once("<|") {
            let Some((inside, after)) = opened.split_once("|>") else { break };
            let start = self.template.len() - opened.len() - 2;
            if let Some(token) = self.template.get(start..start + inside.len() + 4)
                && !found.contains(&token)
            {
                found.push(token);
            }
            rest = after;
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_tokens_are_listed_once_each() {
        let llama = ChatFormat::builtin("llama3").unwrap();
        let expected = ["<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"];
        assert_eq!(llama.control_tokens(), expected);
        assert!(ChatFormat::builtin("none").unwrap().control_tokens().is_empty());
        assert_eq!(ChatFormat::new("own", "<|a|>{{ prompt }} <| b").control_tokens(), ["<|a|>"]);
    }

    #[test]
    fn an_unknown_name_is_an_error_with_the_known_ones() {
        let message = ChatFormat::builtin("llama2").unwrap_err().to_string();
        assert!(message.contains("llama2") && message.contains("llama3"), "{message}");
    }
}
