//! The pre-training of a language model as a TOML file.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use persona_train::TrainConfig;
use serde::{Deserialize, Serialize};

use crate::recipe::{self, ModelRecipe};

/// Everything that a pre-trained model follows from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PretrainRecipe {
    /// What the model is called.
    pub title: String,
    /// The folder that the run fills, relative to where the program is started.
    pub out: PathBuf,
    /// Every draw of the run comes from this.
    pub seed: u64,
    /// `cpu`, `cuda`, `cuda:N` or `auto`.
    pub device: String,
    /// The dialogues.
    pub corpus: CorpusRecipe,
    /// The model, a fresh one.
    pub model: ModelRecipe,
    /// The loop.
    pub train: TrainConfig,
    /// The folder's model card.
    pub card: CardRecipe,
}

/// The dialogues, and how documents are made of them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CorpusRecipe {
    /// The folder that the paths of `sources` start in.
    pub folder: PathBuf,
    /// The share of dialogues that no weight and no piece of the vocabulary is made from.
    pub held_out: f64,
    /// The files.
    pub sources: Vec<SourceRecipe>,
}

/// A file of dialogues in any format that persona-data reads.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SourceRecipe {
    /// What the card calls it.
    pub name: String,
    /// The file, in the corpus' folder.
    pub path: PathBuf,
    /// The file's SHA-256 in hexadecimal; another file is refused. Absent for any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// Its licence, for the card.
    pub licence: String,
    /// Who made it, for the card.
    pub attribution: String,
}

/// What the card shows beside what is always measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CardRecipe {
    /// So many held-out dialogues are shown with a greedy reply.
    pub replies: usize,
}

impl PretrainRecipe {
    /// Reads a recipe; the second value is its text. `data` takes the place of `corpus.folder`.
    ///
    /// # Errors
    /// When the file cannot be read; names the line of what is wrong, and the key of a setting that is out of range; when
    /// the recipe or its data lie where a run writes.
    pub fn load(path: &Path, data: Option<&Path>) -> Result<(Self, String)> {
        let parse = |text: &str| {
            let mut recipe = Self::parse(text)?;
            if let Some(data) = data {
                recipe.corpus.folder = data.to_path_buf();
            }
            Ok(recipe)
        };
        recipe::read(path, parse, Self::check_places)
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
        ensure!(
            matches!(self.model, ModelRecipe::Fresh { .. }),
            "`model.folder`: this program trains from scratch; give `vocabulary`, `positions`, `hidden`, `layers`, \
             `heads` and `dropout`"
        );
        self.model.validate()?;
        let share = self.corpus.held_out;
        ensure!(share > 0.0 && share < 1.0, "`corpus.held_out` is {share}; it lies between 0 and 1");
        ensure!(!self.corpus.sources.is_empty(), "`corpus.sources` is empty; name at least one file");
        for source in &self.corpus.sources {
            for (key, text) in
                [("name", &source.name), ("licence", &source.licence), ("attribution", &source.attribution)]
            {
                ensure!(
                    !text.trim().is_empty(),
                    "`corpus.sources`: `{key}` of {} is empty; the card names it",
                    source.path.display()
                );
            }
        }
        self.train.validate().context("`train`")
    }

    /// How often so many steps read each of some documents.
    #[must_use]
    pub fn epochs(&self, steps: u64, documents: usize) -> f64 {
        steps as f64 * self.train.batch_size as f64 / documents.max(1) as f64
    }

    /// The place of a source's file.
    #[must_use]
    pub fn place(&self, source: &SourceRecipe) -> PathBuf {
        self.corpus.folder.join(&source.path)
    }

    /// Nothing that the run reads may lie where it writes.
    fn check_places(&self, path: &Path) -> Result<()> {
        let read: Vec<PathBuf> = self.corpus.sources.iter().map(|source| self.place(source)).collect();
        let read = read.iter().map(|path| ("corpus.sources", path.as_path()));
        recipe::refuse_places(&self.out, path, read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHIPPED: &str = include_str!("../../recipes/persona_mini.toml");

    #[test]
    fn the_shipped_recipe_is_good_and_what_is_wrong_is_named() {
        let recipe = PretrainRecipe::parse(SHIPPED).unwrap();
        assert!(recipe.corpus.sources.iter().all(|source| source.licence == "CC BY 4.0"));
        assert!(recipe.corpus.sources.iter().all(|source| source.sha256.is_some()));
        let message = |from: &str, to: &str| {
            assert!(SHIPPED.contains(from), "{from}");
            format!("{:#}", PretrainRecipe::parse(&SHIPPED.replacen(from, to, 1)).unwrap_err())
        };
        assert!(message("held_out = 0.01", "held_out = 1.0").contains("held_out"));
        assert!(message("[train]", "[train]\nseed = 2").contains("train.seed"));
        assert!(message("licence = \"CC BY 4.0\"", "licence = \" \"").contains("licence"));
        assert!(message("vocabulary = ", "folder = \"x\"\nvocabulary = ").contains("model.vocabulary"));
        assert!(message("title", "titel").contains("titel"));
        let fresh = "[model]\n";
        let start = SHIPPED.find(fresh).unwrap();
        let end = SHIPPED[start + 1..].find("\n[").unwrap() + start + 1;
        let folder = format!("{}[model]\nfolder = \"gpt2\"\n{}", &SHIPPED[..start], &SHIPPED[end..]);
        assert!(format!("{:#}", PretrainRecipe::parse(&folder).unwrap_err()).contains("model.folder"));
    }
}
