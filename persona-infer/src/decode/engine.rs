//! The engine: requests in, replies out.

use std::cmp::Reverse;
use std::ops::ControlFlow;

use persona_data::TextTokenizer;
use persona_model::{AdapterId, CausalLm, TargetBatchBuilder};
use serde::{Deserialize, Serialize};

use super::beams::Beams;
use super::request::{Completion, Piece, Request};
use super::wave::Wave;
use crate::error::{Error, Result};

/// How much an [`Engine`] computes at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EngineConfig {
    /// Sequences decoded together: a sample counts as one, and so does a beam.
    pub sequences: usize,
    /// Prompt tokens computed at once; longer prompts are computed in chunks of so many.
    pub prefill_tokens: usize,
}

impl Default for EngineConfig {
    /// 64 sequences, 2048 tokens of prompts.
    fn default() -> Self {
        Self { sequences: 64, prefill_tokens: 2048 }
    }
}

impl EngineConfig {
    /// Checks every range.
    ///
    /// # Errors
    /// [`Error::Config`] with the key.
    pub fn validate(&self) -> Result<()> {
        for (key, count) in [("sequences", self.sequences), ("prefill_tokens", self.prefill_tokens)] {
            if count == 0 {
                return Err(Error::Config { key, reason: "is 0; give at least 1".to_owned() });
            }
        }
        Ok(())
    }
}

/// Receives the pieces of replies as they come; `Break` ends all that still run.
pub type Receiver<'r> = dyn FnMut(Piece<'_>) -> ControlFlow<()> + 'r;

/// Decodes requests: one reply, a corpus, many samples of one prompt.
///
/// Requests are taken longest prompt first. As soon as a quarter of the sequences have ended, prompts that wait take
/// their places, so that the batch stays full; nothing is computed for a sequence that has ended. The prompt of several
/// sequences is computed and held once. What a request is answered with does not depend on the requests beside it.
///
/// ```
/// use persona_infer::{DecodeConfig, Engine, EngineConfig, Request};
/// use persona_model::{Gpt2, Gpt2Config};
/// use tch::{Device, Kind};
///
/// let config = Gpt2Config { vocab_size: 50, n_positions: 32, n_embd: 8, n_layer: 1, n_head: 2, ..Gpt2Config::default() };
/// let model = Gpt2::new(config, 0, Device::Cpu, Kind::Float)?;
/// let engine = Engine::new(&model, EngineConfig::default())?;
///
/// let greedy = DecodeConfig { max_new_tokens: 8, ..DecodeConfig::default() };
/// let samples = DecodeConfig { temperature: 1.0, top_k: Some(20), num_return_sequences: 3, seed: 7, ..greedy };
/// let requests = [Request::new(vec![5, 6], greedy).ending_at(&[0]), Request::new(vec![7, 8, 9], samples)];
/// let replies = engine.complete(&requests)?;
/// assert_eq!((replies[0].len(), replies[1].len()), (1, 3));
/// # Ok::<(), persona_infer::Error>(())
/// ```
#[derive(Clone, Copy)]
pub struct Engine<'a> {
    pub(super) model: &'a dyn CausalLm,
    pub(super) config: EngineConfig,
    pub(super) tokenizer: Option<&'a TextTokenizer>,
    pub(super) progress: Option<&'a dyn Fn(usize)>,
}

impl std::fmt::Debug for Engine<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").field("config", &self.config).finish_non_exhaustive()
    }
}

impl<'a> Engine<'a> {
    /// An engine that answers in tokens.
    ///
    /// # Errors
    /// [`Error::Config`] for impossible settings.
    pub fn new(model: &'a dyn CausalLm, config: EngineConfig) -> Result<Self> {
        config.validate()?;
        Ok(Self { model, config, tokenizer: None, progress: None })
    }

    /// Answers in text too; stop strings and streams need this.
    ///
    /// # Errors
    /// [`Error::Data`] for a tokenizer with ids that the model has no embedding for.
    pub fn with_tokenizer(mut self, tokenizer: &'a TextTokenizer) -> Result<Self> {
        tokenizer.check_vocabulary(self.model.limits().vocabulary)?;
        self.tokenizer = Some(tokenizer);
        Ok(self)
    }

    /// Calls this with the number of requests that are answered, whenever there are more.
    #[must_use]
    pub fn watched_by(mut self, progress: &'a dyn Fn(usize)) -> Self {
        self.progress = Some(progress);
        self
    }

    /// The replies to every request, in the order of the requests, the best beam first.
    ///
    /// # Errors
    /// [`Error::Config`] for impossible settings, [`Error::Prompt`] with the request's index for a prompt without tokens,
    /// with tokens that the model does not have or without room for a reply, and for an adapter that is not held;
    /// [`Error::NonFinite`], [`Error::NoToken`]; the model's. The engine stays as it was.
    pub fn complete(&self, requests: &[Request]) -> Result<Vec<Vec<Completion>>> {
        self.run(requests, None)
    }

    /// As [`complete`](Self::complete), and hands out text as it comes. The beams of a search come at its end. After a
    /// `Break` of the receiver, requests that had not begun have no replies.
    ///
    /// # Errors
    /// As [`complete`](Self::complete); [`Error::Config`] for an engine without a tokenizer.
    pub fn stream(&self, requests: &[Request], receiver: &mut Receiver<'_>) -> Result<Vec<Vec<Completion>>> {
        if self.tokenizer.is_none() {
            let reason = "is needed for a stream of text: give the engine one (Engine::with_tokenizer)";
            return Err(Error::Config { key: "tokenizer", reason: reason.to_owned() });
        }
        self.run(requests, Some(receiver))
    }

    fn run(
        &self,
        requests: &[Request],
        mut receiver: Option<&mut Receiver<'_>>,
    ) -> Result<Vec<Vec<Completion>>> {
        let _no_grad = tch::no_grad_guard();
        let rooms = requests
            .iter()
            .enumerate()
            .map(|(index, request)| self.check(index, request))
            .collect::<Result<Vec<_>>>()?;
        let mut replies = vec![Vec::new(); requests.len()];
        let mut order: Vec<usize> = (0..requests.len()).collect();
        order.sort_by_key(|&at| Reverse(requests[at].prompt.len()));
        // Caches of whole rows and of what follows a shared prompt have different sizes: one kind at a time.
        let (shared, alone): (Vec<_>, Vec<_>) =
            order.into_iter().partition(|&at| requests[at].shares_prompt());
        let mut done = 0;
        for part in [alone, shared] {
            if part.is_empty() {
                continue;
            }
            let mut wave = Wave::new(self, requests, &rooms, part)?;
            let before = done;
            loop {
                let more = wave.advance(&mut replies, &mut receiver)?;
                if let Some(progress) = self.progress
                    && before + wave.done() > done
                {
                    progress(before + wave.done());
                }
                done = before + wave.done();
                if !more {
                    break;
                }
            }
            if wave.is_cancelled() {
                break;
            }
        }
        Ok(replies)
    }

    /// The adapter that computes a request.
    pub(super) fn adapter(&self, request: &Request) -> Option<AdapterId> {
        request.adapter.unwrap_or_else(|| self.model.adapters().active())
    }

    /// Checks a request, and returns how many new tokens it may have.
    fn check(&self, index: usize, request: &Request) -> Result<usize> {
        let prompt = |reason: String| Err(Error::Prompt { index, reason });
        let config = |key, reason: String| Err(Error::Config { key, reason });
        request.config.validate()?;
        request.config.check_tokens()?;
        let limits = self.model.limits();
        let adapters = self.model.adapters();
        let virtual_tokens = |id: Option<AdapterId>| -> Option<usize> {
            let Some(id) = id else { return Some(0) };
            Some(adapters.get(id).ok()?.soft_prompt().map_or(0, |soft| soft.config().num_virtual_tokens))
        };
        let Some(own) = virtual_tokens(self.adapter(request)) else {
            let id = self.adapter(request);
            return prompt(format!("asks for {id:?}, which the model does not hold; load or add it first"));
        };
        let active = virtual_tokens(adapters.active()).unwrap_or(0);
        let positions = (limits.positions + active).saturating_sub(own);
        let length = request.prompt.len();
        if length == 0 {
            return prompt("has no tokens; give at least a start token".to_owned());
        }
        if length >= positions {
            return prompt(format!("has {length} tokens, the model has {positions} positions; shorten it"));
        }
        if let Some(id) = request.prompt.iter().find(|id| **id as usize >= limits.vocabulary) {
            let vocabulary = limits.vocabulary;
            return prompt(format!("has token id {id}, outside the model's vocabulary of {vocabulary}"));
        }
        let outside = |ids: &[u32]| ids.iter().copied().find(|id| *id as usize >= limits.vocabulary);
        if let Some(id) = outside(&request.ends).or_else(|| outside(&request.counted_before)) {
            let reason = format!("{id} is outside the model's vocabulary of {}", limits.vocabulary);
            return config("ends", reason);
        }
        if !request.stop_strings.is_empty() {
            if self.tokenizer.is_none() {
                let reason = "need a tokenizer: give the engine one (Engine::with_tokenizer)".to_owned();
                return config("stop_strings", reason);
            }
            if request.stop_strings.iter().any(String::is_empty) {
                return config("stop_strings", "hold an empty string, which every text holds".to_owned());
            }
            if request.config.num_beams > 1 {
                return config("stop_strings", "are for single sequences; leave num_beams at 1".to_owned());
            }
        }
        let beams = request.config.num_beams;
        let candidates = Beams::candidates(beams, request.ends.len());
        if beams > 1 && candidates > limits.vocabulary {
            let reason = format!(
                "is {beams}, which takes {candidates} candidates a step, from a vocabulary of {}; lower it",
                limits.vocabulary
            );
            return config("num_beams", reason);
        }
        Ok(request.config.max_new_tokens.min(positions - length))
    }

    /// How probable continuations of a prompt are, each after the prompt alone, which is computed once. An end that is to
    /// be scored stands in the continuation.
    ///
    /// # Errors
    /// [`Error::Prompt`] for a prompt or a continuation without tokens; the model's.
    pub fn score(&self, prompt: &[u32], continuations: &[Vec<u32>]) -> Result<Vec<ContinuationScore>> {
        let _no_grad = tch::no_grad_guard();
        let empty = |index, reason: &str| Err(Error::Prompt { index, reason: reason.to_owned() });
        if prompt.is_empty() {
            return empty(0, "has no tokens; give at least a start token");
        }
        if let Some(at) = continuations.iter().position(Vec::is_empty) {
            return empty(at, "has a continuation without tokens; there is nothing to score");
        }
        let mut scores = Vec::with_capacity(continuations.len());
        for part in continuations.chunks(self.config.sequences) {
            let mut builder = TargetBatchBuilder::default();
            builder.prompt(prompt, &part.iter().map(Vec::as_slice).collect::<Vec<_>>());
            let batch = builder.build(self.model.limits(), self.model.device())?;
            let log_probs = Vec::<f32>::try_from(&batch.log_probs(self.model, false)?)?;
            let mut rest = log_probs.as_slice();
            for continuation in part {
                let (own, after) = rest.split_at(continuation.len().min(rest.len()));
                rest = after;
                scores.push(ContinuationScore { log_probs: own.to_vec() });
            }
        }
        Ok(scores)
    }
}

/// How probable a given continuation is.
#[derive(Debug, Clone, PartialEq)]
pub struct ContinuationScore {
    /// The log-probability of every token after the prompt and the tokens before it, in nats.
    pub log_probs: Vec<f32>,
}

impl ContinuationScore {
    /// The log-probability of the whole continuation, in nats.
    #[must_use]
    pub fn log_prob(&self) -> f64 {
        self.log_probs.iter().map(|&log_prob| f64::from(log_prob)).sum()
    }

    /// `exp(-log_prob / tokens)`.
    #[must_use]
    pub fn perplexity(&self) -> f64 {
        (-self.log_prob() / self.log_probs.len() as f64).exp()
    }
}
