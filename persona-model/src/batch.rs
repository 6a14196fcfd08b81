//! One description of a batch, for training, scoring, prefill and decoding.
//!
//! Tokens of all rows stand in one line without padding, so that linear layers compute nothing that is thrown away; a
//! row says where it begins, how long it is, and what else its tokens attend to: nothing (a prompt alone), another row
//! of the batch (a shared prefix), or the past that a cache holds. Plain rows, several examples packed together, and
//! many continuations of one prompt are all this one type; what the rows are is the caller's affair.

use tch::{Device, Kind, Tensor};

use crate::adapters::AdapterId;
use crate::error::{Error, Result};

/// What a row's tokens attend to besides the row's own tokens up to themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Context {
    /// Nothing.
    None,
    /// The whole of an earlier row of this batch, which itself has no context.
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
        Ok(Self { ids, positions, rows, masks, longest, adapters: None, sources: None, token_types: None })
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
        Ok(Self { adapters: self.adapters.clone(), ..laid_out })
    }

    /// The rows, in the order in which they were added.
    #[must_use]
    pub fn rows(&self) -> &[Row] {
        &self.rows
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

/// Collects the rows of a [`Batch`].
#[derive(Debug, Default)]
pub struct BatchBuilder {
    ids: Vec<i64>,
    rows: Vec<Row>,
}

impl BatchBuilder {
    /// Adds a row that stands alone, and returns its index.
    pub fn row(&mut self, ids: &[u32]) -> usize {
        self.push(ids, Context::None, 0)
    }

    /// Adds a row that continues an earlier row of this batch, and returns its index.
    pub fn continuation(&mut self, of: usize, ids: &[u32]) -> usize {
        let past = self.rows.get(of).map_or(0, |row| row.len);
        self.push(ids, Context::Row(of), past)
    }

    /// Adds a row that continues what a cache holds (`past` tokens) of one of its rows, and returns its index.
    pub fn cached(&mut self, cache_row: usize, past: usize, ids: &[u32]) -> usize {
        self.push(ids, Context::Cached(cache_row), past)
    }

    /// The index that the first token of the next row will have.
    #[must_use]
    pub fn tokens(&self) -> usize {
        self.ids.len()
    }

    fn push(&mut self, ids: &[u32], context: Context, past: usize) -> usize {
        let start = self.ids.len();
        self.ids.extend(ids.iter().map(|&id| i64::from(id)));
        self.rows.push(Row { start, len: ids.len(), context, past });
        self.rows.len() - 1
    }

    /// Checks the rows and puts them on a device.
    ///
    /// # Errors
    /// [`Error::Vocabulary`] and [`Error::TooLong`] with the row; [`Error::Batch`] for no rows, an empty row, and a
    /// continuation of a row that is not there or that itself continues another.
    pub fn build(self, limits: Limits, device: Device) -> Result<Batch> {
        if self.rows.is_empty() {
            return Err(Error::Batch("no rows".to_owned()));
        }
        for (at, row) in self.rows.iter().enumerate() {
            if row.len == 0 {
                return Err(Error::Batch(format!("row {at} has no tokens")));
            }
            for &id in &self.ids[row.start..row.start + row.len] {
                if id as usize >= limits.vocabulary {
                    return Err(Error::Vocabulary { id: id as u32, row: at, vocabulary: limits.vocabulary });
                }
            }
            if let Context::Row(of) = row.context
                && !self.rows.get(of).is_some_and(|prefix| of < at && prefix.context == Context::None)
            {
                return Err(Error::Batch(format!(
                    "row {at} continues row {of}, which must be an earlier row without a context"
                )));
            }
        }
        let ids = Tensor::f_from_slice(&self.ids)?.f_to_device(device)?;
        Batch::lay_out(ids, self.rows, limits.positions, device)
    }
}

/// Which of `past + len` tokens each of the last `len` sees: `[len, past + len]`, true where it looks.
pub(crate) fn causal_mask(len: usize, past: usize, device: Device) -> Result<Tensor> {
    let ones = Tensor::f_ones([len as i64, (past + len) as i64], (Kind::Bool, device))?;
    Ok(ones.f_tril(past as i64)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { vocabulary: 10, positions: 6 };

    #[test]
    fn rows_and_continuations_get_their_positions() {
        let mut builder = BatchBuilder::default();
        let prompt = builder.row(&[1, 2, 3]);
        builder.continuation(prompt, &[4, 5]);
        builder.cached(0, 4, &[6]);
        let batch = builder.build(LIMITS, Device::Cpu).unwrap();
        assert_eq!(Vec::<i64>::try_from(&batch.positions).unwrap(), [0, 1, 2, 3, 4, 4]);
        assert_eq!((batch.tokens(), batch.longest()), (6, 5));
    }

    #[test]
    fn bad_rows_are_named() {
        let build = |rows: &[&[u32]]| Batch::rows_of(rows, LIMITS, Device::Cpu).unwrap_err().to_string();
        assert!(build(&[&[1], &[1, 10]]).contains("token id 10 in row 1"));
        assert!(build(&[&[1; 7]]).contains("7 tokens, the model has 6"));
        assert!(build(&[&[1], &[]]).contains("row 1 has no tokens"));
        assert!(build(&[]).contains("no rows"));
        let mut builder = BatchBuilder::default();
        builder.continuation(3, &[1]);
        assert!(builder.build(LIMITS, Device::Cpu).unwrap_err().to_string().contains("continues row 3"));
    }
}
