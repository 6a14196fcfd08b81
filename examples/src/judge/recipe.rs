//! The training of a judge as a TOML file.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use persona_train::TrainConfig;
use serde::{Deserialize, Serialize};
use tch::Kind;

use super::data::Source;
use crate::recipe;

/// Everything that the training of a judge follows from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JudgeRecipe {
    /// What the judge is called.
    pub title: String,
    /// The folder that the run fills, relative to where the program is started.
    pub out: PathBuf,
    /// Every draw of the run comes from this.
    pub seed: u64,
    /// `cpu`, `cuda`, `cuda:N` or `auto`.
    pub device: String,
    /// The most tokens of a pair; longer ones are cut, longest text first.
    pub max_tokens: usize,
    /// What training starts from.
    pub model: StartRecipe,
    /// How the trained weights are kept.
    #[serde(default)]
    pub weights: Weights,
    /// How much a pair of each class counts: contradiction, neutral, entailment; absent for 1 each.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class_weights: Option<[f64; 3]>,
    /// What is trained on.
    pub train_data: Vec<Source>,
    /// What is evaluated on while training.
    pub valid_data: Vec<Source>,
    /// The loop.
    pub train: TrainConfig,
}

/// What training starts from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum StartRecipe {
    /// A checkpoint with its tokenizer. One whose labels are contradiction, neutral and entailment keeps its head, any
    /// other gets a fresh one: a judge trained on general pairs is trained on with pairs of personas.
    Folder {
        /// The folder.
        folder: PathBuf,
    },
    /// The first layers of a BERT, with the pieces of its vocabulary that the training pairs use most, a fresh head, and
    /// positions for `max_tokens`.
    Shrunk {
        /// The BERT's folder.
        folder: PathBuf,
        /// How many layers.
        layers: usize,
        /// At most so many pieces.
        vocabulary: usize,
    },
    /// A BERT from scratch, with a WordPiece vocabulary of the training pairs.
    Fresh {
        /// Entries of the vocabulary.
        vocabulary: usize,
        /// Hidden size.
        hidden: usize,
        /// Layers.
        layers: usize,
        /// Attention heads.
        heads: usize,
        /// Size between the two products of a layer's second half.
        inner: usize,
        /// Dropout everywhere.
        dropout: f64,
    },
}

/// The kind of number that trained weights are kept in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Weights {
    /// 4 bytes a weight.
    #[default]
    Float32,
    /// 2 bytes a weight, rounded.
    Bfloat16,
}

impl Weights {
    /// libtorch's name.
    #[must_use]
    pub fn kind(self) -> Kind {
        match self {
            Self::Float32 => Kind::Float,
            Self::Bfloat16 => Kind::BFloat16,
        }
    }
}

impl JudgeRecipe {
    /// Reads a recipe; the second value is its text.
    ///
    /// # Errors
    /// When the file cannot be read; names the line of what is wrong, and the key of a setting that is out of range; when
    /// the recipe, its data or its model lie where a run writes.
    pub fn load(path: &Path) -> Result<(Self, String)> {
        recipe::read(path, Self::parse, Self::check_places)
    }

    fn parse(text: &str) -> Result<Self> {
        let mut parsed: Self = toml::from_str(text)?;
        recipe::refuse_keys(text, &[&["train"]], &["seed"], recipe::ONE_SEED)?;
        parsed.train.seed = parsed.seed;
        parsed.validate()?;
        Ok(parsed)
    }

    /// Checks every range.
    ///
    /// # Errors
    /// Names the key.
    pub fn validate(&self) -> Result<()> {
        ensure!(!self.out.as_os_str().is_empty(), "`out` is empty; name a folder");
        ensure!(self.max_tokens >= 8, "`max_tokens` is {}; give at least 8", self.max_tokens);
        for (key, sources) in [("train_data", &self.train_data), ("valid_data", &self.valid_data)] {
            ensure!(!sources.is_empty(), "`{key}` is empty; name at least one source");
            for source in sources {
                source.validate().with_context(|| format!("`{key}`"))?;
            }
        }
        let weights = self.class_weights.unwrap_or([1.0; 3]);
        ensure!(
            weights.iter().all(|weight| *weight > 0.0 && weight.is_finite()),
            "`class_weights` is {weights:?}; each must be above 0 and finite"
        );
        if let StartRecipe::Shrunk { layers, .. } = self.model {
            ensure!(layers > 0, "`model.layers` is 0; give at least 1");
        }
        if let StartRecipe::Fresh { vocabulary, hidden, layers, heads, inner, dropout } = self.model {
            for (key, size) in [
                ("vocabulary", vocabulary),
                ("hidden", hidden),
                ("layers", layers),
                ("heads", heads),
                ("inner", inner),
            ] {
                ensure!(size > 0, "`model.{key}` is 0; give at least 1");
            }
            ensure!(
                hidden.is_multiple_of(heads),
                "`model.heads` is {heads}, which does not divide `model.hidden`"
            );
            ensure!(
                (0.0..1.0).contains(&dropout),
                "`model.dropout` is {dropout}; it lies in 0 to 1, without 1"
            );
        }
        self.train.validate().context("`train`")
    }

    /// Nothing that the run reads may lie where it writes.
    fn check_places(&self, path: &Path) -> Result<()> {
        let model = match &self.model {
            StartRecipe::Folder { folder } | StartRecipe::Shrunk { folder, .. } => {
                Some(("model.folder", folder.as_path()))
            }
            StartRecipe::Fresh { .. } => None,
        };
        let train = self.train_data.iter().flat_map(Source::paths).map(|path| ("train_data", path));
        let valid = self.valid_data.iter().flat_map(Source::paths).map(|path| ("valid_data", path));
        recipe::refuse_places(&self.out, path, train.chain(valid).chain(model))
    }
}
