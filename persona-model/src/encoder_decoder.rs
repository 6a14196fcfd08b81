//! What training, scoring and decoding ask of an encoder-decoder.

use tch::Tensor;

use crate::batch::{Batch, Limits};
use crate::cache::KvCache;
use crate::cross_attention::SourceCache;
use crate::error::Result;
use crate::model::Model;

/// A model that reads a source and writes a target. Rows of sources and rows of targets are two batches; each target row
/// names the source row that it reads ([`Batch::with_sources`]), so that a source with several targets is encoded once.
pub trait EncoderDecoder: Model {
    /// The vocabulary and the positions, of sources and of targets.
    fn limits(&self) -> Limits;

    /// The token that every target begins with; it is read and never predicted.
    fn start_token(&self) -> u32;

    /// Encodes rows that stand alone. `train` switches dropout on, drawn from libtorch's generator: seed it first.
    ///
    /// # Errors
    /// libtorch's; [`Error::Batch`](crate::Error::Batch) for rows that continue others.
    fn encode<'b>(&self, source: &'b Batch, train: bool) -> Result<Encoded<'b>>;

    /// The last hidden states `[N, D]` in float32 of the N tokens of target rows, each of which begins with
    /// [`start_token`](Self::start_token).
    ///
    /// # Errors
    /// libtorch's; [`Error::Batch`](crate::Error::Batch) for a target row whose source is not there or was computed with another adapter,
    /// and where batch and cache do not belong together.
    fn decode(&self, target: &Batch, memory: Memory<'_, '_>, train: bool) -> Result<Tensor>;

    /// The logits `[M, V]` in float32 at M hidden states `[M, D]`.
    ///
    /// # Errors
    /// libtorch's.
    fn logits(&self, hidden: &Tensor) -> Result<Tensor>;

    /// A cache for targets that read these source rows, one cache row each, with room for `tokens` tokens each. The keys
    /// and values of the sources are computed here, once.
    ///
    /// # Errors
    /// libtorch's, out of memory above all; [`Error::Batch`](crate::Error::Batch) for a source row that is not there.
    fn cache(&self, encoded: &Encoded<'_>, sources: &[usize], tokens: usize) -> Result<DecoderCache>;
}

/// Sources and what the encoder made of them.
#[derive(Debug)]
pub struct Encoded<'b> {
    pub(crate) hidden: Tensor,
    pub(crate) source: &'b Batch,
}

impl Encoded<'_> {
    /// The encoder's last hidden states, `[N, D]` in float32 for the N tokens of all source rows.
    pub fn hidden(&self) -> &Tensor {
        &self.hidden
    }
}

/// Where a decoder reads its sources.
#[derive(Debug)]
pub enum Memory<'m, 'b> {
    /// The encoder's states: for training and scoring.
    Encoded(&'m Encoded<'b>),
    /// A cache of the sources' keys and values, and of the targets' own: for decoding.
    Cache(&'m mut DecoderCache),
}

/// The cache of incremental decoding: keys and values of the sources, which stay, and of the targets, which grow.
#[derive(Debug)]
pub struct DecoderCache {
    pub(crate) own: KvCache,
    pub(crate) sources: SourceCache,
}

impl DecoderCache {
    /// How many target tokens each row holds.
    #[must_use]
    pub fn lengths(&self) -> &[usize] {
        self.own.lengths()
    }

    /// Keeps only these rows, in this order, and the sources that they read.
    ///
    /// # Errors
    /// [`Error::Batch`](crate::Error::Batch) for a row that is not there.
    pub fn keep(&mut self, rows: &[usize]) -> Result<()> {
        self.own.keep(rows)?;
        self.sources.keep(rows)
    }
}

impl<M: EncoderDecoder + ?Sized> EncoderDecoder for Box<M> {
    fn limits(&self) -> Limits {
        (**self).limits()
    }

    fn start_token(&self) -> u32 {
        (**self).start_token()
    }

    fn encode<'b>(&self, source: &'b Batch, train: bool) -> Result<Encoded<'b>> {
        (**self).encode(source, train)
    }

    fn decode(&self, target: &Batch, memory: Memory<'_, '_>, train: bool) -> Result<Tensor> {
        (**self).decode(target, memory, train)
    }

    fn logits(&self, hidden: &Tensor) -> Result<Tensor> {
        (**self).logits(hidden)
    }

    fn cache(&self, encoded: &Encoded<'_>, sources: &[usize], tokens: usize) -> Result<DecoderCache> {
        (**self).cache(encoded, sources, tokens)
    }
}
