//! What is asked of the engine, and what it answers.

use persona_model::AdapterId;

use super::config::DecodeConfig;

/// A prompt and how it is to be continued.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    pub(crate) prompt: Vec<u32>,
    pub(crate) config: DecodeConfig,
    pub(crate) ends: Vec<u32>,
    pub(crate) stop_strings: Vec<String>,
    /// None for the model's active adapter.
    pub(crate) adapter: Option<Option<AdapterId>>,
    pub(crate) counted_before: Vec<u32>,
    /// Tells prompts with one seed apart.
    pub(crate) stream: u32,
}

impl Request {
    /// Continues a prompt until `max_new_tokens`.
    #[must_use]
    pub fn new(prompt: Vec<u32>, config: DecodeConfig) -> Self {
        Self {
            prompt,
            config,
            ends: Vec::new(),
            stop_strings: Vec::new(),
            adapter: None,
            counted_before: Vec::new(),
            stream: 0,
        }
    }

    /// Ends a reply at any of these tokens, which is not part of it.
    #[must_use]
    pub fn ending_at(mut self, ends: &[u32]) -> Self {
        self.ends = ends.to_vec();
        self
    }

    /// Ends a reply where its text holds any of these strings; the text ends before it. The engine needs a tokenizer for
    /// this. Unlike stop tokens they are not held back by minimum lengths, as in transformers.
    #[must_use]
    pub fn stopping_at(mut self, strings: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.stop_strings = strings.into_iter().map(Into::into).collect();
        self
    }

    /// Computes this request with an adapter that the model holds, or with the base alone. Otherwise it is computed with
    /// the active adapter.
    #[must_use]
    pub fn with_adapter(mut self, adapter: Option<AdapterId>) -> Self {
        self.adapter = Some(adapter);
        self
    }

    /// Tokens that penalties and minimum lengths count as if they stood before the prompt; the model does not read them.
    ///
    /// transformers counts the padding of a left-padded batch so, and a reply then depends on the longest prompt beside
    /// it. To get its very ids, give each row its padding here.
    #[must_use]
    pub fn counting_before(mut self, tokens: Vec<u32>) -> Self {
        self.counted_before = tokens;
        self
    }

    /// Tells what is drawn for requests of one seed apart: equal requests in one stream have equal replies. 0 unless set.
    #[must_use]
    pub fn in_stream(mut self, stream: u32) -> Self {
        self.stream = stream;
        self
    }

    /// Whether several sequences begin with the prompt.
    pub(crate) fn shares_prompt(&self) -> bool {
        self.config.num_beams > 1 || self.config.num_return_sequences > 1
    }

    /// The sequences that are decoded at once for this request.
    pub(crate) fn sequences(&self) -> usize {
        self.config.num_beams.max(self.config.num_return_sequences)
    }
}

/// One reply.
#[derive(Debug, Clone, PartialEq)]
pub struct Completion {
    /// The new tokens, without the token that ended them.
    pub tokens: Vec<u32>,
    /// Their text without special tokens, where the engine has a tokenizer; a stop string and what follows is left out.
    pub text: Option<String>,
    /// Why the reply ends here.
    pub finish: Finish,
    /// In beam search, the log-probability of the reply with its end over its length to the power of `length_penalty`.
    pub score: Option<f64>,
}

/// Why a reply ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finish {
    /// At this stop token.
    Token(u32),
    /// At this stop string.
    Text(String),
    /// At `max_new_tokens`, or where the model has no position left.
    Length,
    /// The receiver of the stream wanted no more.
    Cancelled,
}

/// A part of a reply, as soon as it is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece<'a> {
    /// The request's index.
    pub request: usize,
    /// The reply's index among those of the request.
    pub sequence: usize,
    /// Text that follows the pieces before: whole characters, and nothing that may be the beginning of a stop string.
    pub text: &'a str,
    /// Whether the reply ends here.
    pub finished: bool,
}
