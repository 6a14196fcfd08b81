//! Preferences as they stand in files: texts, or messages of a chat.

use persona_data::{ChatMessage, ChatOptions, ChatTemplate};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use super::Pair;
use crate::error::{Error, Result};

/// A conversation with a better and a worse continuation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ConversationPair {
    /// Where the pair comes from; not needed for training.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub id: String,
    /// What both continue.
    pub prompt: Vec<ChatMessage>,
    /// The better continuation.
    pub chosen: Vec<ChatMessage>,
    /// The worse one.
    pub rejected: Vec<ChatMessage>,
}

/// A line of a file of preferences.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum PreferenceRecord {
    /// Texts.
    Text(Pair),
    /// Messages of a chat.
    Conversation(ConversationPair),
}

impl PreferenceRecord {
    /// The record as texts; a conversation is rendered by the template, which texts do not need. What a template has made
    /// is encoded by `ExampleEncoder::encode_rendered_pair` of persona-data, other texts by `encode_pair`.
    ///
    /// # Errors
    /// As [`ConversationPair::render`]; [`Error::Combination`] for a conversation where there is no template.
    pub fn render(self, template: Option<&ChatTemplate>) -> Result<Pair> {
        match (self, template) {
            (Self::Text(pair), _) => Ok(pair),
            (Self::Conversation(pair), Some(template)) => pair.render(template),
            (Self::Conversation(pair), None) => Err(Error::Combination(format!(
                "pair {:?} is a conversation; give the chat template that the model was trained with",
                pair.id
            ))),
        }
    }
}

impl ConversationPair {
    /// The texts that TRL makes of it: the prompt with what an answer begins with, and what follows it where prompt and
    /// answer are rendered together. A prompt that ends in a message of the assistant is left open.
    ///
    /// # Errors
    /// [`Error::Combination`] for a prompt whose last message is of neither user, tool nor assistant; the template's.
    pub fn render(&self, template: &ChatTemplate) -> Result<Pair> {
        let last = self.prompt.last().map_or("", |message| message.role.as_str());
        let options = match last {
            "user" | "tool" => ChatOptions { add_generation_prompt: true, ..ChatOptions::default() },
            "assistant" => ChatOptions { continue_final_message: true, ..ChatOptions::default() },
            other => {
                let reason = format!(
                    "pair {:?}: the last message of its prompt is of {other:?}; it is of user, tool or assistant",
                    self.id
                );
                return Err(Error::Combination(reason));
            }
        };
        let mut prompt = template.render(&self.prompt, &options)?;
        let whole = |reply: &[ChatMessage]| {
            template.render([self.prompt.as_slice(), reply].concat(), &ChatOptions::default())
        };
        let [chosen, rejected] = [whole(&self.chosen)?, whole(&self.rejected)?];
        // Some templates begin an answer in a way that they drop once it is there.
        for whole in [&chosen, &rejected] {
            let shared = prompt.chars().zip(whole.chars()).take_while(|(a, b)| a == b);
            let bytes = shared.map(|(character, _)| character.len_utf8()).sum();
            prompt.truncate(bytes);
        }
        let after = |text: &str| text.get(prompt.len()..).unwrap_or_default().to_owned();
        let (chosen, rejected) = (after(&chosen), after(&rejected));
        Ok(Pair { id: self.id.clone(), prompt, chosen, rejected })
    }

    pub(super) fn problem(&self) -> Option<&'static str> {
        if self.prompt.is_empty() {
            return Some("`prompt` has no message, and `chosen` and `rejected` do not begin alike");
        }
        self.chosen.is_empty().then_some("`chosen` has no message")
    }
}

/// A line as it is written: each part a text or a list.
#[derive(Deserialize)]
struct Line {
    #[serde(default, deserialize_with = "super::id")]
    id: String,
    prompt: Option<Value>,
    chosen: Value,
    rejected: Value,
}

/// A message as it is written.
#[derive(Deserialize)]
struct Message {
    role: String,
    content: String,
    #[serde(flatten)]
    other: serde_json::Map<String, Value>,
}

impl Message {
    /// The message, unless it holds more than a text; some files write null for what is not there.
    fn plain(self) -> Result<ChatMessage, String> {
        match self.other.iter().find(|(_, value)| !value.is_null()) {
            Some((key, _)) => Err(format!(
                "a message has the key `{key}`, which is not read; leave the key out, or render the conversation with its \
                 template and give the texts"
            )),
            None => Ok(ChatMessage::new(self.role, self.content)),
        }
    }
}

impl<'de> Deserialize<'de> for PreferenceRecord {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Line { id, prompt, chosen, rejected } = Line::deserialize(deserializer)?;
        let messages = |value: Value| -> Result<Vec<ChatMessage>, D::Error> {
            let messages: Vec<Message> = serde_json::from_value(value).map_err(D::Error::custom)?;
            messages.into_iter().map(|message| message.plain().map_err(D::Error::custom)).collect()
        };
        match (prompt, chosen, rejected) {
            (Some(Value::String(prompt)), Value::String(chosen), Value::String(rejected)) => {
                Ok(Self::Text(Pair { id, prompt, chosen, rejected }))
            }
            (None, Value::String(chosen), Value::String(rejected)) => {
                let [prompt, chosen, rejected] = split_text(&chosen, &rejected);
                Ok(Self::Text(Pair { id, prompt, chosen, rejected }))
            }
            (Some(prompt @ Value::Array(_)), chosen @ Value::Array(_), rejected @ Value::Array(_)) => {
                let [prompt, chosen, rejected] = [messages(prompt)?, messages(chosen)?, messages(rejected)?];
                Ok(Self::Conversation(ConversationPair { id, prompt, chosen, rejected }))
            }
            // Some files name the prompt beside conversations that begin with it.
            (None | Some(Value::String(_)), chosen @ Value::Array(_), rejected @ Value::Array(_)) => {
                let (mut prompt, rejected) = (messages(chosen)?, messages(rejected)?);
                let alike = prompt.iter().zip(&rejected).take_while(|(a, b)| a == b).count();
                // Where one is the beginning of the other, its last message is an answer.
                let alike = alike.min(prompt.len().saturating_sub(1)).min(rejected.len().saturating_sub(1));
                let chosen = prompt.split_off(alike);
                let rejected = rejected.into_iter().skip(alike).collect();
                Ok(Self::Conversation(ConversationPair { id, prompt, chosen, rejected }))
            }
            _ => Err(D::Error::custom("prompt, chosen and rejected are all texts, or all lists of messages")),
        }
    }
}

/// What two texts begin with, and what is left of each; the space before what differs belongs to the rest.
fn split_text(chosen: &str, rejected: &str) -> [String; 3] {
    let alike = chosen.chars().zip(rejected.chars()).take_while(|(a, b)| a == b);
    let mut at: usize = alike.map(|(character, _)| character.len_utf8()).sum();
    if at == chosen.len().min(rejected.len()) {
        // One is the beginning of the other: its last character is an answer.
        at = chosen[..at].char_indices().next_back().map_or(0, |(place, _)| place);
    } else if chosen[..at].ends_with(' ') {
        at -= 1;
    }
    [&chosen[..at], &chosen[at..], &rejected[at..]].map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{read_preferences, write_preferences};

    /// `tests/golden/pairs.py` wrote down what TRL makes of each record.
    #[test]
    fn records_in_every_shape_become_the_texts_that_trl_makes() {
        let golden: Value = serde_json::from_str(include_str!("../../tests/golden/pairs.json")).unwrap();
        let template = ChatTemplate::new(golden["template"].as_str().unwrap(), &[]).unwrap();
        let cases = golden["cases"].as_array().unwrap();
        let lines: Vec<String> = cases.iter().map(|case| case["record"].to_string()).collect();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("preferences.jsonl");
        std::fs::write(&path, lines.join("\n")).unwrap();
        let records = read_preferences(&path).unwrap();
        assert_eq!((records.len(), cases.len()), (8, 8));
        for (record, case) in records.iter().zip(cases) {
            let pair = record.clone().render(Some(&template)).unwrap();
            let expected: Pair = serde_json::from_value(case["pair"].clone()).unwrap();
            assert_eq!(pair, expected, "{}", case["record"]);
        }
        // What is written is what was read, the prompt by itself.
        write_preferences(&path, &records).unwrap();
        assert_eq!(read_preferences(&path).unwrap(), records);
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.lines().all(|line| line.contains("\"prompt\":")), "{text}");
    }

    #[test]
    fn what_is_no_preference_is_named_with_its_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("preferences.jsonl");
        let good = r#"{"prompt": "p", "chosen": "c", "rejected": "r"}"#;
        for (line, reason) in [
            (r#"{"prompt": "p", "chosen": "c", "rejected": []}"#, "all texts, or all lists"),
            (r#"{"prompt": [], "chosen": "c", "rejected": "r"}"#, "all texts, or all lists"),
            (r#"{"chosen": "a", "rejected": "b"}"#, "`prompt` is empty"),
            (r#"{"prompt": "p", "chosen": "c"}"#, "rejected"),
            (r#"{"chosen": [{"role": "user"}], "rejected": []}"#, "content"),
            (
                r#"{"chosen": [{"role": "user", "content": "a", "tool_calls": [1]}], "rejected": []}"#,
                "`tool_calls`",
            ),
            (r#"{"id": [1], "prompt": "p", "chosen": "c", "rejected": "r"}"#, "a text or a number"),
            (
                r#"{"chosen": [{"role": "user", "content": "a"}], "rejected": [{"role": "user", "content": "b"}]}"#,
                "do not begin alike",
            ),
            (
                r#"{"prompt": [{"role": "user", "content": "a"}], "chosen": [], "rejected": []}"#,
                "`chosen` has no",
            ),
            ("[1]", "preferences.jsonl:2"),
        ] {
            std::fs::write(&path, format!("{good}\n{line}\n")).unwrap();
            let error = read_preferences(&path).unwrap_err().to_string();
            assert!(error.contains("preferences.jsonl:2") && error.contains(reason), "{line}: {error}");
        }
    }

    #[test]
    fn a_conversation_needs_a_template_and_somebody_to_answer() {
        let pair = |role: &str| ConversationPair {
            id: "a".into(),
            prompt: vec![ChatMessage::new(role, "x")],
            chosen: vec![ChatMessage::new("assistant", "y")],
            rejected: vec![ChatMessage::new("assistant", "z")],
        };
        let error = PreferenceRecord::Conversation(pair("user")).render(None).unwrap_err().to_string();
        assert!(error.contains("\"a\"") && error.contains("chat template"), "{error}");
        let template = ChatTemplate::new("{{ messages[0].content }}", &[]).unwrap();
        let error = pair("system").render(&template).unwrap_err().to_string();
        assert!(error.contains("\"system\""), "{error}");
    }
}
