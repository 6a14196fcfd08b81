//! Decoding of token ids in batches with a cache.

use persona_model::{BatchBuilder, CausalLm, KvCache};
use tch::Tensor;

use crate::decode::{DecodeConfig, Draws, Next};
use crate::error::{Error, Result};

/// Continues prompts with a model. Prompts are taken longest first in full batches; a reply's tokens depend on its own
/// prompt and index alone.
pub struct Decoder<'a> {
    model: &'a dyn CausalLm,
    config: DecodeConfig,
    ends: Vec<u32>,
    progress: Option<&'a dyn Fn(usize)>,
}

impl std::fmt::Debug for Decoder<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Decoder")
            .field("config", &self.config)
            .field("ends", &self.ends)
            .finish_non_exhaustive()
    }
}

/// A row in flight.
struct Row {
    prompt: usize,
    prompt_len: usize,
    /// Prompt and new tokens.
    history: Vec<u32>,
    /// New tokens this row may have: the setting, or what the model's positions leave.
    room: usize,
    ended: bool,
}

impl<'a> Decoder<'a> {
    /// A decoder that ends a reply at any of these tokens, which is not part of it.
    ///
    /// # Errors
    /// [`Error::Config`] for impossible settings.
    pub fn new(model: &'a dyn CausalLm, config: DecodeConfig, ends: &[u32]) -> Result<Self> {
        config.validate()?;
        Ok(Self { model, config, ends: ends.to_vec(), progress: None })
    }

    /// Calls this with the number of prompts done, after every batch.
    #[must_use]
    pub fn watched_by(mut self, progress: &'a dyn Fn(usize)) -> Self {
        self.progress = Some(progress);
        self
    }

    /// The new tokens of every prompt, in the order of the prompts.
    ///
    /// # Errors
    /// [`Error::Prompt`] for an empty prompt and one that leaves no room in the model; [`Error::NonFinite`]; the
    /// model's.
    pub fn generate(&self, prompts: &[Vec<u32>]) -> Result<Vec<Vec<u32>>> {
        let _no_grad = tch::no_grad_guard();
        let positions = self.model.limits().positions;
        for (index, prompt) in prompts.iter().enumerate() {
            if prompt.is_empty() {
                let reason = "has no tokens; give at least a start token".to_owned();
                return Err(Error::Prompt { index, reason });
            }
            if prompt.len() >= positions {
                let reason =
                    format!("has {} tokens, the model has {positions} positions; shorten it", prompt.len());
                return Err(Error::Prompt { index, reason });
            }
        }
        let mut order: Vec<usize> = (0..prompts.len()).collect();
        order.sort_by_key(|&at| std::cmp::Reverse(prompts[at].len()));
        let mut replies = vec![Vec::new(); prompts.len()];
        let mut done = 0;
        for part in order.chunks(self.config.batch_size) {
            for row in self.batch(prompts, part)? {
                replies[row.prompt] = row.history[row.prompt_len..].to_vec();
            }
            done += part.len();
            if let Some(progress) = self.progress {
                progress(done);
            }
        }
        Ok(replies)
    }

    fn batch(&self, prompts: &[Vec<u32>], part: &[usize]) -> Result<Vec<Row>> {
        let positions = self.model.limits().positions;
        let longest = part.iter().map(|&at| prompts[at].len()).max().unwrap_or(0);
        let mut cache =
            self.model.cache(part.len(), (longest + self.config.max_new_tokens).min(positions))?;
        let mut rows: Vec<Row> = part
            .iter()
            .map(|&prompt| {
                let room = self.config.max_new_tokens.min(positions - prompts[prompt].len());
                Row {
                    prompt,
                    prompt_len: prompts[prompt].len(),
                    history: prompts[prompt].clone(),
                    room,
                    ended: false,
                }
            })
            .collect();
        let mut finished = Vec::new();
        let mut builder = BatchBuilder::default();
        for (at, &prompt) in part.iter().enumerate() {
            builder.cached(at, 0, &prompts[prompt]);
        }
        let last: Vec<i64> = prompts_end(part.iter().map(|&at| prompts[at].len()));
        self.advance(builder, &mut cache, &mut rows, Some(&last))?;
        loop {
            let ended = rows.iter().filter(|row| row.ended).count();
            if ended == rows.len() {
                finished.append(&mut rows);
                return Ok(finished);
            }
            // Copying the cache costs as much as a few rows do in a step: rows leave when a quarter has ended, or when
            // an ended one has used up the model's positions.
            let full =
                rows.iter().zip(cache.lengths()).any(|(row, &length)| row.ended && length >= positions);
            if ended * 4 >= rows.len() || full {
                let staying: Vec<usize> = (0..rows.len()).filter(|&at| !rows[at].ended).collect();
                cache.keep(&staying)?;
                let (gone, stay) = rows.into_iter().partition::<Vec<_>, _>(|row| row.ended);
                finished.extend(gone);
                rows = stay;
            }
            let mut builder = BatchBuilder::default();
            for (at, row) in rows.iter().enumerate() {
                // An ended row that has not left yet repeats its last token in place of new ones; nobody reads it.
                let token = row.history.last().copied().unwrap_or(0);
                builder.cached(at, cache.lengths()[at], &[token]);
            }
            self.advance(builder, &mut cache, &mut rows, None)?;
        }
    }

    /// One forward pass, and the next token of every row that has not ended.
    fn advance(
        &self,
        builder: BatchBuilder,
        cache: &mut KvCache,
        rows: &mut [Row],
        last: Option<&[i64]>,
    ) -> Result<()> {
        let batch = builder.build(self.model.limits(), self.model.device())?;
        let mut hidden = self.model.hidden(&batch, Some(cache), false)?;
        if let Some(last) = last {
            hidden = hidden.f_index_select(0, &Tensor::f_from_slice(last)?.f_to_device(hidden.device())?)?;
        }
        let logits = self.model.logits(&hidden)?;
        let running: Vec<usize> = (0..rows.len()).filter(|&at| !rows[at].ended).collect();
        let index: Vec<i64> = running.iter().map(|&at| at as i64).collect();
        let logits =
            logits.f_index_select(0, &Tensor::f_from_slice(&index)?.f_to_device(logits.device())?)?;
        let nexts: Vec<Next<'_>> = running
            .iter()
            .map(|&at| {
                let row = &rows[at];
                let new = row.history.len() - row.prompt_len;
                Next {
                    prompt: row.prompt,
                    history: &row.history,
                    new,
                    ends: &self.ends,
                    short: self.config.is_short(row.history.len(), new),
                    draws: Draws { seed: self.config.seed, stream: row.prompt as u64 },
                }
            })
            .collect();
        let chosen = self.config.choose(&self.config.constrain(&logits, &nexts)?, &nexts)?;
        for (at, token) in running.into_iter().zip(chosen) {
            let row = &mut rows[at];
            if self.ends.contains(&token) {
                row.ended = true;
                continue;
            }
            row.history.push(token);
            row.ended = row.history.len() - row.prompt_len >= row.room;
        }
        Ok(())
    }
}

/// Where each of several prompts in a line ends.
fn prompts_end(lens: impl Iterator<Item = usize>) -> Vec<i64> {
    let mut end = 0;
    lens.map(|len| {
        end += len;
        end as i64 - 1
    })
    .collect()
}
