//! Decoding of text, and scores of given replies.

use persona_data::{EncodedExample, ExampleEncoder, ReplyGenerator};
use persona_model::{CausalLm, TargetBatchBuilder};

use crate::decode::DecodeConfig;
use crate::decoder::Decoder;
use crate::error::{Error, Result};

/// A model with its tokenizer and prompts: generates text.
#[derive(Clone, Copy)]
pub struct TextGenerator<'a> {
    pub(crate) model: &'a dyn CausalLm,
    pub(crate) encoder: &'a ExampleEncoder,
    pub(crate) config: DecodeConfig,
    progress: Option<&'a dyn Fn(usize)>,
}

impl std::fmt::Debug for TextGenerator<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TextGenerator").field("config", &self.config).finish_non_exhaustive()
    }
}

impl<'a> TextGenerator<'a> {
    /// A generator whose replies end at the tokenizer's EOS.
    ///
    /// # Errors
    /// [`Error::Config`] for impossible settings and an encoder whose texts may be longer than the model; the tokenizer's error when it is not the model's.
    pub fn new(model: &'a dyn CausalLm, encoder: &'a ExampleEncoder, config: DecodeConfig) -> Result<Self> {
        config.validate()?;
        let limits = model.limits();
        encoder.tokenizer().check_vocabulary(limits.vocabulary)?;
        let length = encoder.options().max_length;
        if length > limits.positions {
            let reason = format!(
                "is {length} in the encoder, the model has {} positions; long histories would not be cut to fit",
                limits.positions
            );
            return Err(Error::Config { key: "max_length", reason });
        }
        Ok(Self { model, encoder, config, progress: None })
    }

    /// Calls this with the number of prompts done, after every batch.
    #[must_use]
    pub fn watched_by(mut self, progress: &'a dyn Fn(usize)) -> Self {
        self.progress = Some(progress);
        self
    }

    /// The replies to encoded prompts, without special tokens and surrounding white space; with
    /// [`DecodeConfig::one_line`] their first lines.
    pub(crate) fn continue_ids(&self, prompts: &[Vec<u32>]) -> Result<Vec<String>> {
        let tokenizer = self.encoder.tokenizer();
        let config = DecodeConfig { one_line: false, ..self.config };
        let mut decoder = Decoder::new(self.model, config, &[tokenizer.eos_id()])?;
        if let Some(progress) = self.progress {
            decoder = decoder.watched_by(progress);
        }
        decoder
            .generate(prompts)?
            .iter()
            .map(|ids| Ok(reply(&tokenizer.decode(ids, true)?, self.config.one_line).to_owned()))
            .collect()
    }
}

/// What was generated, without white space around it, or the first line of that.
fn reply(text: &str, one_line: bool) -> &str {
    let text = text.trim();
    if one_line { text.lines().next().unwrap_or_default().trim_end() } else { text }
}

impl ReplyGenerator for TextGenerator<'_> {
    type Error = crate::Error;

    fn replies(&mut self, prompts: &[String]) -> Result<Vec<String>> {
        let tokenizer = self.encoder.tokenizer();
        let prompts = prompts.iter().map(|prompt| tokenizer.encode(prompt)).collect::<Result<Vec<_>, _>>()?;
        self.continue_ids(&prompts)
    }
}

/// The log-probability of an example's target under a model.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TargetScore {
    /// Summed over the target's tokens, EOS included, in nats.
    pub log_prob: f64,
    /// The target's tokens.
    pub tokens: usize,
}

/// Scores the targets of examples, `batch_size` at a time.
///
/// # Errors
/// The model's.
pub fn score_targets(
    model: &dyn CausalLm,
    examples: &[EncodedExample],
    batch_size: usize,
) -> Result<Vec<TargetScore>> {
    let _no_grad = tch::no_grad_guard();
    let mut scores = Vec::with_capacity(examples.len());
    for part in examples.chunks(batch_size.max(1)) {
        let mut builder = TargetBatchBuilder::for_model(model, false);
        for example in part {
            builder.prompt(&example.source, &[&example.target]);
        }
        let batch = builder.build(model.limits(), model.device())?;
        let sums = Vec::<f64>::try_from(batch.sums(&batch.log_probs(model, false)?)?)?;
        scores.extend(
            sums.iter().zip(batch.lens()).map(|(&log_prob, &tokens)| TargetScore { log_prob, tokens }),
        );
    }
    Ok(scores)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_of_one_line_ends_where_the_next_speaker_begins() {
        let text = "\n i am a nurse. \r\nperson1: me too\nperson2: oh";
        assert_eq!(reply(text, true), "i am a nurse.");
        assert_eq!(reply(text, false), text.trim());
        assert_eq!((reply(" \n", true), reply("hi ", true)), ("", "hi"));
    }
}
