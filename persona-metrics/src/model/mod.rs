//! The traits of this crate on the models of persona-model: [`TextEncoder`] embeds tokens and sentences,
//! [`ClassifierJudge`] judges replies, [`CausalScorer`] scores targets.
//!
//! Each loads a folder in the Hugging Face layout with the tokenizer that lies in it. A model stays on its thread.
//!
//! ```no_run
//! use persona_metrics::model::TextEncoder;
//! use persona_metrics::{BertScore, EmbeddingSimilarity};
//! use tch::{Device, Kind};
//!
//! let encoder = TextEncoder::load("all-MiniLM-L6-v2", Device::Cpu, Kind::Float)?;
//! let (hypotheses, references) = (["i have a dog"], ["i own a dog"]);
//! println!("{}", BertScore::default().corpus(&encoder, &hypotheses, &references)?);
//! println!("{}", EmbeddingSimilarity::default().corpus(&encoder, &hypotheses, &references)?);
//! # Ok::<(), persona_metrics::Error>(())
//! ```

mod batches;
mod encoder;
mod judge;
mod language_model;

use std::path::Path;

use persona_data::EncodedText;
use tch::Kind;

pub use self::encoder::TextEncoder;
pub use self::judge::ClassifierJudge;
pub use self::language_model::CausalScorer;
use crate::error::{Error, ModelError, Result, shortened};

/// What happens to a text, or a pair, that is longer than the model reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum LongTexts {
    /// [`Error::TextTooLong`].
    #[default]
    Refuse,
    /// Its end is cut off, as the packages do; of a pair that of the longer text. The model's name in the signature says
    /// so.
    Cut,
}

impl LongTexts {
    /// Stops at the first text that was cut, where that is not asked for.
    fn check<'t>(
        self,
        (model, limit): (&str, usize),
        rows: &[EncodedText],
        text: impl Fn(usize) -> &'t str,
    ) -> Result<()> {
        match rows.iter().position(|row| row.cut) {
            Some(at) if self == Self::Refuse => {
                Err(Error::TextTooLong { model: model.to_owned(), text: shortened(text(at)), limit })
            }
            _ => Ok(()),
        }
    }

    /// The model's name with what is done to long texts.
    fn name(self, model: &str, limit: usize) -> String {
        match self {
            Self::Refuse => model.to_owned(),
            Self::Cut => format!("{model} (texts cut to {limit} tokens)"),
        }
    }
}

/// How a model is called unless told otherwise: as its folder, with the kind of its weights where that is not float32.
fn folder_name(folder: &Path, kind: Kind) -> String {
    let full = folder.canonicalize();
    let name = full.as_deref().unwrap_or(folder).file_name().unwrap_or(folder.as_os_str());
    let kind = if kind == Kind::Float { String::new() } else { format!(" ({kind:?})") };
    signature_part(&format!("{}{kind}", name.to_string_lossy()))
}

/// A name that cannot be taken for two parts of a signature.
fn signature_part(name: &str) -> String {
    name.replace('|', "/")
}

fn unusable(folder: &Path) -> impl Fn(ModelError) -> Error {
    |source| Error::ModelFiles { path: folder.to_owned(), source }
}
