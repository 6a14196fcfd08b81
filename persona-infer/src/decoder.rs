//! Decoding of token ids in batches with a cache.

use persona_model::{BatchBuilder, CausalLm, KvCache};
use tch::{Kind, Tensor};

use crate::error::{Error, Result};
use crate::sampling::DecodeConfig;

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
    new: Vec<u32>,
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
                replies[row.prompt] = row.new;
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
                Row { prompt, new: Vec::new(), room, ended: false }
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
                let token = row.new.last().or(self.ends.first()).copied().unwrap_or(0);
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
        let logits = self
            .model
            .logits(&hidden)?
            .f_to_kind(Kind::Float)?
            .f_to_device(tch::Device::Cpu)?
            .f_contiguous()?;
        let vocabulary = self.model.limits().vocabulary;
        let mut values = vec![0.0f32; logits.numel()];
        logits.f_copy_data(&mut values, logits.numel())?;
        for (row, logits) in rows.iter_mut().zip(values.chunks_exact(vocabulary)) {
            if row.ended {
                continue;
            }
            if let Some(&value) = logits.iter().find(|logit| logit.is_nan() || **logit == f32::INFINITY) {
                return Err(Error::NonFinite { index: row.prompt, tokens: row.new.len(), value });
            }
            let token = self.config.choose(logits, row.prompt, row.new.len());
            if self.ends.contains(&token) {
                row.ended = true;
                continue;
            }
            row.new.push(token);
            row.ended = row.new.len() >= row.room;
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
