//! A run as a TOML file.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use persona_align::PairOptions;
use persona_data::{ExampleOptions, Format, Target};
use persona_infer::{DecodeConfig, Strategy};
use persona_model::Gpt2Config;
use persona_train::TrainConfig;
use serde::{Deserialize, Serialize};

/// Everything that a run of the PAL path follows from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// The report's heading.
    pub title: String,
    /// The folder that the run fills, relative to where the program is started.
    pub out: PathBuf,
    /// Every draw of the run comes from this.
    pub seed: u64,
    /// `cpu`, `cuda`, `cuda:N` or `auto`.
    pub device: String,
    /// The dialogues.
    pub data: DataRecipe,
    /// Prompts: `english`, `chinese`, `japanese`, or a file.
    pub prompts: String,
    /// The starting model.
    pub model: ModelRecipe,
    /// Plain fine-tuning, the baseline.
    pub plain: TrainConfig,
    /// Stage 1: selection and generation in one pool.
    pub stage1: TrainConfig,
    /// Preference pairs.
    #[serde(default)]
    pub pairs: PairOptions,
    /// Stage 2.
    pub align: AlignRecipe,
    /// Decoding of rejected replies and of everything that is measured.
    pub decode: DecodeConfig,
    /// What is measured and shown.
    pub report: ReportRecipe,
}

/// Where the dialogues come from and how they are divided.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataRecipe {
    /// One file that is divided into PAL's four parts by `parts`, or the training file where `valid` and `test` are given.
    pub train: PathBuf,
    /// A validation file, divided into Valid#1 and Valid#2 by the second and third of `parts`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub valid: Option<PathBuf>,
    /// A test file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub test: Option<PathBuf>,
    /// The files' format; recognised by content where it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<Format>,
    /// Targets for train, Valid#1, Valid#2 and test.
    pub parts: [Target; 4],
    /// How dialogues are cut into examples.
    pub examples: ExampleOptions,
    /// Skip and count what cannot be read, rather than stop.
    #[serde(default)]
    pub lenient: bool,
}

/// The starting model: a folder in the Hugging Face layout, or a fresh GPT-2 with a tokenizer trained on the data.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged, deny_unknown_fields)]
pub enum ModelRecipe {
    /// A checkpoint with its tokenizer.
    Folder {
        /// The folder.
        folder: PathBuf,
    },
    /// From scratch.
    Fresh {
        /// Entries of the byte-level BPE that is trained on the training part.
        vocabulary: usize,
        /// Longest prompt with its reply, in tokens.
        positions: usize,
        /// Hidden size.
        hidden: usize,
        /// Layers.
        layers: usize,
        /// Attention heads.
        heads: usize,
        /// Dropout everywhere.
        dropout: f64,
    },
}

impl ModelRecipe {
    /// The configuration of a fresh model with this vocabulary; nothing for a folder.
    #[must_use]
    pub fn config(&self, vocabulary: usize) -> Option<Gpt2Config> {
        let Self::Fresh { positions, hidden, layers, heads, dropout, .. } = *self else { return None };
        Some(Gpt2Config {
            vocab_size: vocabulary,
            n_positions: positions,
            n_embd: hidden,
            n_layer: layers,
            n_head: heads,
            resid_pdrop: dropout,
            embd_pdrop: dropout,
            attn_pdrop: dropout,
            ..Gpt2Config::default()
        })
    }
}

/// Stage 2.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AlignRecipe {
    /// DPO's beta.
    pub beta: f64,
    /// At most so many examples of Valid#1 are made into pairs.
    pub examples: usize,
    /// The loop.
    pub train: TrainConfig,
}

/// What is measured and shown.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReportRecipe {
    /// At most so many test examples are replied to by every system.
    pub test_examples: usize,
    /// At most so many examples of Valid#2 are evaluated in training and made into held-out pairs.
    pub valid_examples: usize,
    /// Conversations shown side by side.
    pub conversations: usize,
    /// Further rows of the table: PAL's model with other strategies of selection.
    #[serde(default)]
    pub strategies: Vec<Strategy>,
}

impl Recipe {
    /// Reads a recipe; the second value is its text.
    ///
    /// # Errors
    /// When the file cannot be read, names the line of what is wrong; when a setting is out of range, names it.
    pub fn load(path: &Path) -> Result<(Self, String)> {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("reading the recipe {}", path.display()))?;
        let mut recipe: Self =
            toml::from_str(&text).with_context(|| format!("the recipe {}", path.display()))?;
        ensure!(
            recipe.data.valid.is_some() == recipe.data.test.is_some(),
            "{}: `data.valid` and `data.test` are given together or not at all",
            path.display()
        );
        for config in [&mut recipe.plain, &mut recipe.stage1, &mut recipe.align.train] {
            config.seed = recipe.seed;
            config.validate().with_context(|| format!("the recipe {}", path.display()))?;
        }
        recipe.decode.seed = recipe.seed;
        recipe.decode.validate().with_context(|| format!("the recipe {}", path.display()))?;
        Ok((recipe, text))
    }
}
