//! One description of a batch, for training, scoring, prefill and decoding.
//!
//! Tokens of all rows stand in one line without padding, so that linear layers compute nothing that is thrown away; a
//! row says where it begins, how long it is, and what else its tokens attend to: nothing (a prompt alone), another row
//! of the batch (a shared prefix), or the past that a cache holds. Plain rows, several examples packed together, and
//! many continuations of one prompt are all this one type; what the rows are is the caller's affair.

mod builder;
mod layouts;

use std::cell::OnceCell;

use tch::{Device, Kind, Tensor};

pub use self::builder::BatchBuilder;
use crate::adapters::AdapterId;
use crate::error::{Error, Result};
use crate::padded::Padded;

/// What a row's tokens attend to besides the row's own tokens up to themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Context {
    /// Nothing.
    None,
    /// The whole of an earlier row of this batch, and what that one continues in it.
    Row(usize),
    /// What the cache holds of this cache row; the new tokens are appended to it.
    Cached(usize),
}

/// One row: `len` tokens from `start` on, continuing a context of `past` tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    /// Index of the first token in the batch's line of tokens.
    pub start: usize,
    /// Number of tokens, at least one.
    pub len: usize,
    /// What comes before.
    pub context: Context,
    /// How many tokens the context holds.
    pub past: usize,
}

impl Row {
    /// Whether nothing of the row's text comes before its first token.
    pub(crate) fn begins(&self) -> bool {
        match self.context {
            Context::None => true,
            Context::Row(_) => false,
            Context::Cached(_) => self.past == 0,
        }
    }
}

/// The rows that one continues, by their indices, the first of its text first.
pub(crate) fn continued<'r>(rows: &'r [Row], mut row: &'r Row) -> Vec<usize> {
    let mut before = Vec::new();
    while let Context::Row(of) = row.context
        && let Some(prefix) = rows.get(of)
    {
        before.push(of);
        row = prefix;
    }
    before.reverse();
    before
}

/// Tokens of several rows in one line, with their positions and who attends to whom.
///
/// # Shapes
/// N is the number of tokens of all rows together: `ids` and `positions` are `[N]`.
#[derive(Debug)]
pub struct Batch {
    pub(crate) ids: Tensor,
    pub(crate) positions: Tensor,
    rows: Vec<Row>,
    /// For each row that continues another row: which of its past and own tokens each token sees, `[len, past + len]`.
    pub(crate) masks: Vec<Option<Tensor>>,
    longest: usize,
    /// For each row the adapter that it is computed with.
    adapters: Option<Vec<Option<AdapterId>>>,
    /// For each row of targets the source row that it reads.
    sources: Option<Vec<usize>>,
    token_types: Option<TokenTypes>,
    /// Whether attention puts rows side by side; None for what suits the device.
    side_by_side: Option<bool>,
    padded: OnceCell<Padded>,
}

/// Which part of a pair each token belongs to.
#[derive(Debug)]
struct TokenTypes {
    /// `[N]`.
    ids: Tensor,
    /// The highest, and its row.
    highest: (u32, usize),
}

impl Batch {
    /// The same rows, without a copy of the tensors.
    pub(crate) fn shallow_clone(&self) -> Self {
        let types = self.token_types.as_ref();
        Self {
            ids: self.ids.shallow_clone(),
            positions: self.positions.shallow_clone(),
            rows: self.rows.clone(),
            masks: self.masks.iter().map(|mask| mask.as_ref().map(Tensor::shallow_clone)).collect(),
            longest: self.longest,
            adapters: self.adapters.clone(),
            sources: self.sources.clone(),
            token_types: types.map(|types| TokenTypes { ids: types.ids.shallow_clone(), ..*types }),
            side_by_side: self.side_by_side,
            padded: OnceCell::new(),
        }
    }

    /// The same rows, each computed with the adapter of this list, `None` being the base alone. Without a list all rows
    /// are computed with the model's active adapter.
    ///
    /// # Errors
    /// [`Error::Batch`] when the list has another length than there are rows.
    pub fn with_adapters(mut self, adapters: Vec<Option<AdapterId>>) -> Result<Self> {
        if adapters.len() != self.rows.len() {
            return Err(Error::Batch(format!("{} adapters for {} rows", adapters.len(), self.rows.len())));
        }
        self.adapters = Some(adapters);
        Ok(self)
    }

    pub(crate) fn adapters(&self) -> Option<&[Option<AdapterId>]> {
        self.adapters.as_deref()
    }

    /// The same rows with a type for each token, for encoders that read pairs: BERT has 0 for the first text with its
    /// special tokens and 1 for the second. Without types all are 0.
    ///
    /// # Errors
    /// [`Error::Batch`] unless there is one list a row, and one type a token.
    pub fn with_token_types(mut self, types: &[&[u32]]) -> Result<Self> {
        let (rows, lists) = (self.rows.len(), types.len());
        if rows != lists {
            return Err(Error::Batch(format!("{lists} lists of token types for {rows} rows")));
        }
        let mut highest = (0, 0);
        for (at, (row, types)) in self.rows.iter().zip(types).enumerate() {
            if row.len != types.len() {
                let (tokens, types) = (row.len, types.len());
                return Err(Error::Batch(format!("row {at} has {tokens} tokens and {types} token types")));
            }
            let most = types.iter().copied().max().unwrap_or(0);
            if most > highest.0 {
                highest = (most, at);
            }
        }
        let ids: Vec<i64> = types.iter().copied().flatten().map(|&kind| i64::from(kind)).collect();
        let ids = Tensor::f_from_slice(&ids)?.f_to_device(self.device())?;
        self.token_types = Some(TokenTypes { ids, highest });
        Ok(self)
    }

    /// The type of each token, `[N]`, where any were given; each is below `kinds`.
    pub(crate) fn token_types(&self, kinds: usize) -> Result<Option<&Tensor>> {
        let Some(types) = &self.token_types else { return Ok(None) };
        let (highest, row) = types.highest;
        if highest as usize >= kinds {
            let reason = format!("token type {highest} in row {row}; this model has {kinds} token types");
            return Err(Error::Batch(reason));
        }
        Ok(Some(&types.ids))
    }

    /// Causal models have no token types, and read no sources.
    pub(crate) fn check_causal(&self) -> Result<()> {
        self.check_untyped()?;
        self.check_without_sources()
    }

    /// Only encoders that read pairs have token types.
    pub(crate) fn check_untyped(&self) -> Result<()> {
        if self.token_types.is_none() {
            return Ok(());
        }
        Err(Error::Batch("token types are for encoders; this model has none".to_owned()))
    }

    /// Only decoders of encoder-decoders read sources.
    fn check_without_sources(&self) -> Result<()> {
        if self.sources.is_none() {
            return Ok(());
        }
        let reason = "sources are for the targets of an encoder-decoder; these rows read none";
        Err(Error::Batch(reason.to_owned()))
    }

    /// Encoders read every row whole.
    pub(crate) fn check_alone(&self) -> Result<()> {
        self.check_without_sources()?;
        match self.rows.iter().position(|row| row.context != Context::None) {
            None => Ok(()),
            Some(row) => Err(Error::Batch(format!(
                "row {row} continues another row or a cache; an encoder reads rows that stand alone"
            ))),
        }
    }

    /// The same rows as targets of an encoder-decoder, each reading the source row of this list. Several may read one.
    /// Without a list row i reads source i.
    ///
    /// # Errors
    /// [`Error::Batch`] when the list has another length than there are rows.
    pub fn with_sources(mut self, sources: Vec<usize>) -> Result<Self> {
        if sources.len() != self.rows.len() {
            return Err(Error::Batch(format!("{} sources for {} rows", sources.len(), self.rows.len())));
        }
        self.sources = Some(sources);
        Ok(self)
    }

    pub(crate) fn sources(&self) -> Option<&[usize]> {
        self.sources.as_deref()
    }

    /// Whether attention lays the rows side by side with padding and computes them at once, or takes a row at a time. By
    /// itself it does the first on CUDA, where a kernel a row costs more than what is computed for padding. Every other
    /// layer computes the line of tokens, without padding. A cache goes its own way.
    #[must_use]
    pub fn with_padded_attention(mut self, padded: bool) -> Self {
        self.side_by_side = Some(padded);
        self
    }

    pub(crate) fn is_padded(&self) -> bool {
        let cached = self.rows.iter().any(|row| matches!(row.context, Context::Cached(_)));
        !cached && self.side_by_side.unwrap_or_else(|| self.device().is_cuda())
    }

    /// The rows side by side; a model is causal in all of its layers, or in none.
    pub(crate) fn padded(&self, causal: bool) -> Result<&Padded> {
        if let Some(padded) = self.padded.get() {
            return Ok(padded);
        }
        let padded = Padded::new(&self.rows, causal, self.device())?;
        Ok(self.padded.get_or_init(|| padded))
    }

    /// Whether every row adds one token to a cache: the step of decoding.
    pub(crate) fn is_step(&self) -> bool {
        self.rows.iter().all(|row| row.len == 1 && matches!(row.context, Context::Cached(_)))
    }

    /// Rows that stand alone.
    ///
    /// # Errors
    /// As [`BatchBuilder::build`].
    pub fn rows_of(rows: &[&[u32]], limits: Limits, device: Device) -> Result<Self> {
        let mut builder = BatchBuilder::default();
        for row in rows {
            builder.row(row);
        }
        builder.build(limits, device)
    }

    /// Rows that stand alone, with a type for each token where any is not 0.
    ///
    /// # Errors
    /// As [`rows_of`](Self::rows_of) and [`with_token_types`](Self::with_token_types).
    pub fn typed_rows_of(rows: &[&[u32]], types: &[&[u32]], limits: Limits, device: Device) -> Result<Self> {
        let batch = Self::rows_of(rows, limits, device)?;
        let typed = types.iter().copied().flatten().any(|&kind| kind != 0);
        if typed { batch.with_token_types(types) } else { Ok(batch) }
    }

    /// Gives rows their positions, and their masks where they continue another row.
    fn lay_out(ids: Tensor, rows: Vec<Row>, most: usize, device: Device) -> Result<Self> {
        let mut positions = Vec::with_capacity(rows.iter().map(|row| row.len).sum());
        let mut masks = Vec::with_capacity(rows.len());
        let mut longest = 0;
        for (at, row) in rows.iter().enumerate() {
            let length = row.past.saturating_add(row.len);
            longest = longest.max(length);
            if length > most {
                return Err(Error::TooLong { row: at, length, positions: most });
            }
            positions.extend((row.past..length).map(|position| position as i64));
            masks.push(match row.context {
                Context::Row(_) => Some(causal_mask(row.len, row.past, device)?),
                Context::None | Context::Cached(_) => None,
            });
        }
        let positions = Tensor::f_from_slice(&positions)?.f_to_device(device)?;
        Ok(Self {
            ids,
            positions,
            rows,
            masks,
            longest,
            adapters: None,
            sources: None,
            token_types: None,
            side_by_side: None,
            padded: OnceCell::new(),
        })
    }

    /// The batch with virtual tokens before its texts, for each row so many: a row that begins its text gets them as its
    /// first tokens, any other has them in its context. `ids` stay those of the text alone.
    pub(crate) fn behind(&self, virtual_tokens: &[usize], most: usize) -> Result<Self> {
        let mut start = 0;
        let rows = self.rows.iter().zip(virtual_tokens).map(|(row, &before)| {
            let (past, len) =
                if row.begins() { (row.past, row.len + before) } else { (row.past + before, row.len) };
            start += len;
            Row { start: start - len, len, past, context: row.context }
        });
        let laid_out = Self::lay_out(self.ids.shallow_clone(), rows.collect(), most, self.device())?;
        Ok(Self { adapters: self.adapters.clone(), side_by_side: self.side_by_side, ..laid_out })
    }

    /// The rows, in the order in which they were added.
    #[must_use]
    pub fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// Where each of the B rows begins, `[B]` on the batch's device.
    pub(crate) fn starts(&self) -> Result<Tensor> {
        let starts: Vec<i64> = self.rows.iter().map(|row| row.start as i64).collect();
        Ok(Tensor::f_from_slice(&starts)?.f_to_device(self.device())?)
    }

    /// The ids of all rows in one line, `[N]`.
    pub fn ids(&self) -> &Tensor {
        &self.ids
    }

    /// The number of tokens N.
    #[must_use]
    pub fn tokens(&self) -> usize {
        self.rows.iter().map(|row| row.len).sum()
    }

    /// The longest row's tokens, its context included.
    #[must_use]
    pub fn longest(&self) -> usize {
        self.longest
    }

    /// The device of the tensors.
    #[must_use]
    pub fn device(&self) -> Device {
        self.ids.device()
    }
}

/// What a model accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The number of embeddings: ids are below it.
    pub vocabulary: usize,
    /// The number of positions: rows with their context are no longer.
    pub positions: usize,
}

/// Which of `past + len` tokens each of the last `len` sees: `[len, past + len]`, true where it looks.
pub(crate) fn causal_mask(len: usize, past: usize, device: Device) -> Result<Tensor> {
    let ones = Tensor::f_ones([len as i64, (past + len) as i64], (Kind::Bool, device))?;
    Ok(ones.f_tril(past as i64)?)
}

/// Of one vector a token, those of the tokens at some places, or all.
pub(crate) fn tokens_at(x: Tensor, at: Option<&Tensor>) -> Result<Tensor> {
    match at {
        Some(at) => Ok(x.f_index_select(0, at)?),
        None => Ok(x),
    }
}
