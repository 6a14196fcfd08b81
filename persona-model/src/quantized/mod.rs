//! Base weights in four bits (QLoRA; Dettmers et al. 2023): the linear layers of a model's blocks in NF4, frozen, and
//! adapters trained over them. Embeddings, norms, biases and the head stay in floating point.

mod config;
mod format;
mod load;
mod stored;
mod weight;

use tch::Kind;

pub(crate) use self::config::update as update_config;
pub(crate) use self::load::load;
pub use self::weight::Nf4Weight;

/// How weights are quantised to NF4, with bitsandbytes' block of 64.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Nf4 {
    /// Quantise the blocks' scales too: 4.13 bits a weight in place of 4.5.
    pub double_quant: bool,
}

impl Default for Nf4 {
    /// With double quantisation, as QLoRA trains.
    fn default() -> Self {
        Self { double_quant: true }
    }
}

/// How a checkpoint is held once it is loaded.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LoadOptions {
    /// The kind of all parameters that are not quantised. Weights are cast to it before they are quantised, as in
    /// transformers.
    pub kind: Kind,
    /// Quantise the linear layers of the blocks while loading, a tensor at a time. A checkpoint that is quantised already
    /// is read as it is, with or without this.
    pub quantize: Option<Nf4>,
    /// Leave the weights in their file, mapped into memory, where that can be: on the CPU, in one file that holds every
    /// parameter in this kind. Loading then takes no time and no memory of its own, and processes that have the same file
    /// mapped share it. [`Parameters::is_mapped`](crate::Parameters::is_mapped) says whether it was done. Such weights are
    /// not trained; adapters over them are. The file must not be written to meanwhile: replace it by renaming, as
    /// everything here and Hugging Face's libraries do.
    pub mapped: bool,
}

impl LoadOptions {
    /// Parameters in `kind`, left in their file where that can be.
    #[must_use]
    pub fn mapped(kind: Kind) -> Self {
        Self { mapped: true, ..kind.into() }
    }

    /// Parameters in `kind`, the linear layers of the blocks in NF4 with double quantisation.
    ///
    /// Scoring and decoding hold the 4-bit weights and read one of them back at a time. A training step holds all that it
    /// has read back until its backward pass is done, in the kind of the products: 2 bytes a weight in bfloat16, 4 in
    /// float32.
    #[must_use]
    pub fn nf4(kind: Kind) -> Self {
        Self { kind, quantize: Some(Nf4::default()), mapped: false }
    }
}

impl From<Kind> for LoadOptions {
    /// All parameters in a kind, nothing quantised.
    fn from(kind: Kind) -> Self {
        Self { kind, quantize: None, mapped: false }
    }
}
