//! `[model]`: what a run starts from.

use std::path::PathBuf;

use persona_model::{Gpt2Config, LoraConfig};
use serde::{Deserialize, Serialize};

/// The starting model: a folder in the Hugging Face layout, or a fresh GPT-2 with a tokenizer trained on the data.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged, try_from = "ModelTable")]
pub enum ModelRecipe {
    /// A checkpoint with its tokenizer.
    Folder {
        /// The folder.
        folder: PathBuf,
        /// The published model that it is to hold, for a dry run before it is there.
        #[serde(skip_serializing_if = "Option::is_none")]
        like: Option<PublishedShape>,
        /// The chat format around prompts, by its name in persona-data: `llama3`.
        #[serde(skip_serializing_if = "Option::is_none")]
        chat: Option<String>,
        /// The adapter that is trained; absent for the whole model.
        #[serde(skip_serializing_if = "Option::is_none")]
        lora: Option<LoraRecipe>,
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

/// A model whose sizes are known without its files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum PublishedShape {
    /// GPT-2 with 124 million parameters, and DialoGPT small.
    #[serde(rename = "gpt2")]
    Gpt2,
    /// Llama 3.1 with 8 billion parameters.
    #[serde(rename = "llama-3.1-8b")]
    Llama31,
}

/// A LoRA (Hu et al. 2022).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoraRecipe {
    /// The rank.
    pub r: usize,
    /// The scale is `alpha / r`.
    pub alpha: f64,
    /// The share of a layer's inputs that is dropped before the adapter in training; 0 where it is left out.
    #[serde(default)]
    pub dropout: f64,
    /// The linear layers that it sits on, by the ends of their names.
    pub targets: Vec<String>,
}

/// `[model]` as it is written: a misspelled key is named.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ModelTable {
    folder: Option<PathBuf>,
    like: Option<PublishedShape>,
    chat: Option<String>,
    lora: Option<LoraRecipe>,
    vocabulary: Option<usize>,
    positions: Option<usize>,
    hidden: Option<usize>,
    layers: Option<usize>,
    heads: Option<usize>,
    dropout: Option<f64>,
}

impl TryFrom<ModelTable> for ModelRecipe {
    type Error = String;

    fn try_from(table: ModelTable) -> Result<Self, String> {
        let ModelTable { folder, like, chat, lora, vocabulary, positions, hidden, layers, heads, dropout } =
            table;
        if let Some(folder) = folder {
            let given = [
                ("vocabulary", vocabulary.is_some()),
                ("positions", positions.is_some()),
                ("hidden", hidden.is_some()),
                ("layers", layers.is_some()),
                ("heads", heads.is_some()),
                ("dropout", dropout.is_some()),
            ];
            return match given.iter().find(|(_, given)| *given) {
                Some((key, _)) => {
                    Err(format!("`model.{key}` is for a fresh model; `model.folder` has its own"))
                }
                None => Ok(Self::Folder { folder, like, chat, lora }),
            };
        }
        let of_folder =
            [("like", like.is_some()), ("chat", chat.is_some()), ("lora", lora.is_some())].into_iter();
        if let Some((key, _)) = of_folder.into_iter().find(|(_, given)| *given) {
            return Err(format!("`model.{key}` belongs to `model.folder`, which is missing"));
        }
        let missing =
            |key: &str| format!("`model.{key}` is missing, as is `model.folder`; a model has either");
        Ok(Self::Fresh {
            vocabulary: vocabulary.ok_or_else(|| missing("vocabulary"))?,
            positions: positions.ok_or_else(|| missing("positions"))?,
            hidden: hidden.ok_or_else(|| missing("hidden"))?,
            layers: layers.ok_or_else(|| missing("layers"))?,
            heads: heads.ok_or_else(|| missing("heads"))?,
            dropout: dropout.ok_or_else(|| missing("dropout"))?,
        })
    }
}

impl LoraRecipe {
    /// The adapter as persona-model makes it.
    #[must_use]
    pub fn config(&self) -> LoraConfig {
        let targets: Vec<&str> = self.targets.iter().map(String::as_str).collect();
        LoraConfig { lora_dropout: self.dropout, ..LoraConfig::on(&targets, self.r, self.alpha) }
    }
}

impl ModelRecipe {
    /// The adapter that is trained, where it is not the whole model.
    #[must_use]
    pub fn lora(&self) -> Option<&LoraRecipe> {
        if let Self::Folder { lora, .. } = self { lora.as_ref() } else { None }
    }

    /// The name of the chat format around prompts, where there is one.
    #[must_use]
    pub fn chat(&self) -> Option<&str> {
        if let Self::Folder { chat, .. } = self { chat.as_deref() } else { None }
    }

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
