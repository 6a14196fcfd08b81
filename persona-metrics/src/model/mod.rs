//! The traits of this crate on the models of persona-model: [`TextEncoder`] embeds tokens and sentences,
//! [`ClassifierJudge`] judges replies, [`CausalScorer`] scores targets.
//!
//! Each loads a folder in the Hugging Face layout with the tokenizer that lies in it. A model stays on its thread.
//!
//! In signatures a loaded model is called by its folder, or by its repository where that is the Hub's cache; by 8
//! hexadecimal digits of a hash of `config.json` and the weights; and by the kind of its weights where that is not
//! float32: `all-MiniLM-L6-v2 0123abcd (BFloat16)`. `named` replaces all of it.
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
mod sentence_settings;

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use persona_data::EncodedText;
use tch::Kind;
use xxhash_rust::xxh3::Xxh3;

pub use self::encoder::TextEncoder;
pub use self::judge::ClassifierJudge;
pub use self::language_model::CausalScorer;
use crate::error::{Error, ModelError, Result};

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
    fn check(self, rows: &[EncodedText], error: impl FnOnce(usize) -> Error) -> Result<()> {
        match rows.iter().position(|row| row.cut) {
            Some(at) if self == Self::Refuse => Err(error(at)),
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

/// How a model is called unless told otherwise; see the module.
fn folder_name(folder: &Path, kind: Kind) -> Result<String, ModelError> {
    let full = folder.canonicalize()?;
    let component = |up: usize| {
        full.ancestors().nth(up).and_then(Path::file_name).unwrap_or_default().to_string_lossy().into_owned()
    };
    // A snapshot in the Hub's cache lies in models--OWNER--NAME/snapshots/REVISION.
    let name = match component(2).strip_prefix("models--") {
        Some(repository) if component(1) == "snapshots" => repository.replace("--", "/"),
        _ => component(0),
    };
    let hash = weights_hash(&full)?;
    let kind = if kind == Kind::Float { String::new() } else { format!(" ({kind:?})") };
    Ok(signature_part(&format!("{name} {hash:08x}{kind}")))
}

/// Of config.json and the weights of a folder.
fn weights_hash(folder: &Path) -> Result<u32, ModelError> {
    let single = folder.join("model.safetensors");
    let mut files = vec![folder.join("config.json")];
    if single.is_file() {
        files.push(single);
    } else {
        let entries = std::fs::read_dir(folder)?.map(|entry| Ok(entry?.path()));
        let mut shards = entries.collect::<std::io::Result<Vec<PathBuf>>>()?;
        shards.retain(|path| path.extension().is_some_and(|extension| extension == "safetensors"));
        shards.sort();
        files.append(&mut shards);
    }
    let mut hash = Xxh3::new();
    let mut buffer = vec![0; 1 << 20];
    for path in files {
        let mut read = || -> std::io::Result<()> {
            let mut file = File::open(&path)?;
            loop {
                match file.read(&mut buffer)? {
                    0 => return Ok(()),
                    count => hash.update(buffer.get(..count).unwrap_or_default()),
                }
            }
        };
        read().map_err(|error| format!("{}: {error}", path.display()))?;
    }
    Ok((hash.digest() >> 32) as u32)
}

/// A name that cannot be taken for two parts of a signature.
fn signature_part(name: &str) -> String {
    name.replace('|', "/")
}

fn unusable(folder: &Path) -> impl Fn(ModelError) -> Error {
    |source| Error::ModelFiles { path: folder.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_models_apart_and_not_spellings() {
        let root = tempfile::tempdir().unwrap();
        let model = |folder: &str, weights: &str| {
            let folder = root.path().join(folder);
            std::fs::create_dir_all(&folder).unwrap();
            std::fs::write(folder.join("config.json"), "{}").unwrap();
            std::fs::write(folder.join("model.safetensors"), weights).unwrap();
            folder
        };
        let name = |folder: &Path| folder_name(folder, Kind::Float).unwrap();
        let (one, other, same) = (model("a/model", "1"), model("b/model", "2"), model("c/model", "1"));
        assert!(name(&one).starts_with("model "), "{}", name(&one));
        assert_ne!(name(&one), name(&other));
        assert_eq!(name(&one), name(&same));
        assert_eq!(name(&one), name(&one.join("../../a/model")));
        assert_eq!(folder_name(&one, Kind::BFloat16).unwrap(), format!("{} (BFloat16)", name(&one)));
        let hub = model("models--owner--a-name/snapshots/0123456789abcdef", "1");
        assert_eq!(name(&hub), name(&one).replace("model", "owner/a-name"));
        // Shards.
        std::fs::rename(one.join("model.safetensors"), one.join("model-1-of-1.safetensors")).unwrap();
        assert_eq!(name(&one), name(&same));
    }
}
