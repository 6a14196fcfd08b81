//! Perplexity's language model on persona-model's causal models.

use std::path::Path;

use persona_data::{SpecialTokens, TextTokenizer};
use persona_model::{CausalLm, LoadOptions, Model, TargetBatchBuilder, load_causal_lm_with};
use tch::{Device, Kind};

use super::batches::{numbers, of_like_length};
use super::{folder_name, signature_part, unusable};
use crate::error::{Error, ModelError, Result, shortened};
use crate::scored_perplexity::{LanguageModel, TargetNll};

/// A causal language model with its tokenizer. Prompt and target are tokenised apart; log-probabilities are computed in
/// float32 and summed in f64.
///
/// Unless told otherwise the end of text belongs to the target, as it does in training, and an empty prompt is the
/// tokenizer's BOS; where there is none, the target's first token is read and not scored. Other prompts get no BOS, unlike
/// from Hugging Face's tokenizer of Llama. The loss of transformers' `model(input_ids, labels=input_ids)` for GPT-2 is the
/// mean over the tokens of a target without a prompt, with [`end_of_text(false)`](Self::end_of_text) and
/// [`start_of_text(false)`](Self::start_of_text).
pub struct CausalScorer {
    model: Box<dyn CausalLm>,
    tokenizer: TextTokenizer,
    name: String,
    end: bool,
    start: bool,
}

impl std::fmt::Debug for CausalScorer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CausalScorer")
            .field("name", &self.name)
            .field("tokenizer", &self.tokenizer)
            .field("end", &self.end)
            .field("start", &self.start)
            .finish_non_exhaustive()
    }
}

/// The ids of an example.
struct Ids {
    prompt: Vec<u32>,
    target: Vec<u32>,
}

impl CausalScorer {
    /// Examples of one call: enough to sort into batches of like length.
    const EXAMPLES: usize = 1024;
    /// Tokens of a batch.
    const TOKENS: usize = 1024;

    /// Loads the model and the tokenizer of a folder, in `kind`, named as the [module](super) says.
    ///
    /// # Errors
    /// [`Error::ModelFiles`] with what persona-model or persona-data has against the folder, or for a tokenizer with more
    /// ids than the model embeds.
    pub fn load(folder: impl AsRef<Path>, device: Device, kind: Kind) -> Result<Self> {
        let folder = folder.as_ref();
        let unusable = unusable(folder);
        let (model, _) = load_causal_lm_with(folder, device, LoadOptions::mapped(kind))
            .map_err(|error| unusable(error.into()))?;
        let tokenizer = TextTokenizer::from_folder(folder, &SpecialTokens::default());
        let tokenizer = tokenizer.map_err(|error| unusable(error.into()))?;
        let name = folder_name(folder, kind).map_err(&unusable)?;
        Self::new(model, tokenizer, name).map_err(unusable)
    }

    /// A model with its tokenizer, under a name for signatures.
    ///
    /// # Errors
    /// persona-data's, for a tokenizer with more ids than the model embeds.
    pub fn new(
        model: Box<dyn CausalLm>,
        tokenizer: TextTokenizer,
        name: impl AsRef<str>,
    ) -> Result<Self, ModelError> {
        tokenizer.check_vocabulary(model.limits().vocabulary)?;
        Ok(Self { model, tokenizer, name: signature_part(name.as_ref()), end: true, start: true })
    }

    /// Calls the model so in signatures: give the repository and revision, and what it was trained on.
    #[must_use]
    pub fn named(self, name: impl AsRef<str>) -> Self {
        Self { name: signature_part(name.as_ref()), ..self }
    }

    /// Whether the end of text belongs to the target.
    #[must_use]
    pub fn end_of_text(self, end: bool) -> Self {
        Self { end, ..self }
    }

    /// Whether an empty prompt is the tokenizer's BOS; if not, the first token of such a target is read and not scored.
    #[must_use]
    pub fn start_of_text(self, start: bool) -> Self {
        Self { start, ..self }
    }

    fn ids(&self, (prompt, target): (&str, &str)) -> Result<Ids, ModelError> {
        let mut ids = Ids { prompt: self.tokenizer.encode(prompt)?, target: self.tokenizer.encode(target)? };
        if self.end {
            ids.target.push(self.tokenizer.eos_id());
        }
        if ids.prompt.is_empty() && !ids.target.is_empty() {
            let bos = self.tokenizer.bos_id().filter(|_| self.start);
            ids.prompt.push(bos.unwrap_or_else(|| ids.target.remove(0)));
        }
        let limit = self.model.limits().positions;
        // The last token is predicted and never read.
        if (ids.prompt.len() + ids.target.len()).saturating_sub(1) > limit {
            return Err(Box::new(Error::PairTooLong {
                model: self.name.clone(),
                pair: "prompt and target",
                longer: shortened(if ids.prompt.len() > ids.target.len() { prompt } else { target }),
                limit,
                may_be_cut: false,
            }));
        }
        Ok(ids)
    }
}

impl LanguageModel for CausalScorer {
    fn name(&self) -> String {
        let end = if self.end { "with" } else { "without" };
        let start = if self.start { "" } else { ", without start of text" };
        format!("{}, {end} end of text{start}", self.name)
    }

    fn batch_size(&self) -> usize {
        Self::EXAMPLES
    }

    fn nll(&self, examples: &[(&str, &str)]) -> Result<Vec<TargetNll>, ModelError> {
        let _no_grad = tch::no_grad_guard();
        let ids: Vec<Ids> = examples.iter().map(|&example| self.ids(example)).collect::<Result<_, _>>()?;
        let mut answers = vec![TargetNll { nll: 0.0, tokens: 0 }; examples.len()];
        let lengths: Vec<usize> = ids.iter().map(|ids| ids.prompt.len() + ids.target.len()).collect();
        for mut places in of_like_length(&lengths, Self::TOKENS) {
            // Without a target token there is nothing to ask the model.
            places.retain(|&place| ids.get(place).is_some_and(|ids| !ids.target.is_empty()));
            if places.is_empty() {
                continue;
            }
            let mut builder = TargetBatchBuilder::for_model(self.model.as_ref(), false);
            for Ids { prompt, target } in places.iter().filter_map(|&place| ids.get(place)) {
                builder.prompt(prompt, &[target]);
            }
            let batch = builder.build(self.model.limits(), self.model.device())?;
            let log_probs = numbers(&batch.log_probs(self.model.as_ref(), false)?)?;
            let mut rest = log_probs.as_slice();
            for (&place, &tokens) in places.iter().zip(batch.lens()) {
                let (own, others) = rest.split_at(tokens.min(rest.len()));
                rest = others;
                if let Some(answer) = answers.get_mut(place) {
                    let nll = -own.iter().map(|&log_prob| f64::from(log_prob)).sum::<f64>();
                    *answer = TargetNll { nll, tokens: tokens as u64 };
                }
            }
        }
        Ok(answers)
    }
}
