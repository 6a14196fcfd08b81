//! A run as a TOML file.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use persona_align::PairOptions;
use persona_data::{ExampleOptions, Format, Target};
use persona_infer::{DecodeConfig, Strategy};
use persona_model::Gpt2Config;
use persona_train::TrainConfig;
use serde::{Deserialize, Serialize};

use crate::systems::strategy_name;
use crate::workspace::{Workspace, lies_in};

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
    pub stage1: Stage1Recipe,
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
#[serde(untagged, try_from = "ModelTable")]
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

/// `[model]` as it is written: a misspelled key is named.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ModelTable {
    folder: Option<PathBuf>,
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
        let ModelTable { folder, vocabulary, positions, hidden, layers, heads, dropout } = table;
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
                None => Ok(Self::Folder { folder }),
            };
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

impl ModelRecipe {
    /// Checks a fresh model's sizes.
    ///
    /// # Errors
    /// Names the key.
    pub fn validate(&self) -> Result<()> {
        let Self::Fresh { vocabulary, positions, hidden, layers, heads, dropout } = *self else {
            return Ok(());
        };
        for (key, size) in
            [("positions", positions), ("hidden", hidden), ("layers", layers), ("heads", heads)]
        {
            ensure!(size > 0, "`model.{key}` is 0; give at least 1");
        }
        ensure!(
            vocabulary >= 259,
            "`model.vocabulary` is {vocabulary}; 256 bytes and 3 special tokens are the least"
        );
        ensure!(
            hidden.is_multiple_of(heads),
            "`model.heads` is {heads}, which does not divide `model.hidden`"
        );
        ensure!((0.0..1.0).contains(&dropout), "`model.dropout` is {dropout}; it lies in 0 to 1, without 1");
        Ok(())
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

/// Stage 1: the loop's settings, and beside them how much each task counts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "toml::Table")]
pub struct Stage1Recipe {
    /// Weights of the tasks' tokens in the loss; absent for 1 each.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub task_weights: Option<TaskWeights>,
    /// The loop.
    #[serde(flatten)]
    pub train: TrainConfig,
}

/// How much a target token of each task counts in stage 1's loss, above 0.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TaskWeights {
    /// Of the selection task.
    pub selection: f64,
    /// Of the generation task.
    pub generation: f64,
}

impl TryFrom<toml::Table> for Stage1Recipe {
    type Error = toml::de::Error;

    fn try_from(mut table: toml::Table) -> Result<Self, toml::de::Error> {
        let task_weights = table.remove("task_weights").map(toml::Value::try_into).transpose()?;
        Ok(Self { task_weights, train: table.try_into()? })
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

/// What a training measures on the validation examples, for `early_stopping.metric`.
pub const EVALUATED: [(&str, &[&str]); 3] = [
    ("plain", &["eval_loss", "eval_loss/plain"]),
    ("stage1", &["eval_loss", "eval_loss/selection", "eval_loss/generation"]),
    (
        "align.train",
        &[
            "eval_loss",
            "eval_rewards/chosen",
            "eval_rewards/rejected",
            "eval_rewards/margins",
            "eval_rewards/accuracies",
            "eval_logps/chosen",
            "eval_logps/rejected",
        ],
    ),
];

impl Recipe {
    /// Reads a recipe; the second value is its text.
    ///
    /// # Errors
    /// When the file cannot be read; names the line of what is wrong, and the key of a setting that is out of range;
    /// when the recipe, its data or its model lie where a run writes.
    pub fn load(path: &Path) -> Result<(Self, String)> {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("reading the recipe {}", path.display()))?;
        let recipe = Self::parse(&text).with_context(|| format!("the recipe {}", path.display()))?;
        recipe.check_places(path)?;
        Ok((recipe, text))
    }

    fn parse(text: &str) -> Result<Self> {
        let mut recipe: Self = toml::from_str(text)?;
        let table: toml::Table = toml::from_str(text)?;
        for path in [&["plain"][..], &["stage1"], &["align", "train"], &["decode"]] {
            let inner = path.iter().try_fold(&table, |table, key| table.get(*key)?.as_table());
            ensure!(
                inner.is_none_or(|table| !table.contains_key("seed")),
                "`{}.seed`: every draw of a run comes from the one `seed` at the top; leave this one out",
                path.join(".")
            );
        }
        for config in [&mut recipe.plain, &mut recipe.stage1.train, &mut recipe.align.train] {
            config.seed = recipe.seed;
        }
        recipe.decode.seed = recipe.seed;
        recipe.validate()?;
        Ok(recipe)
    }

    /// Checks every range.
    ///
    /// # Errors
    /// Names the key.
    pub fn validate(&self) -> Result<()> {
        ensure!(!self.out.as_os_str().is_empty(), "`out` is empty; name a folder");
        let data = &self.data;
        ensure!(
            data.valid.is_some() == data.test.is_some(),
            "`data.valid` and `data.test` are given together or not at all"
        );
        for part in &data.parts {
            ensure!(*part != Target::Given, "`data.parts`: \"given\" is for lists that a split writes");
            if let Target::Fraction(share) = part {
                ensure!((0.0..=1.0).contains(share), "`data.parts`: the fraction {share} is not in 0 to 1");
            }
        }
        self.model.validate()?;
        if let ModelRecipe::Fresh { positions, .. } = self.model {
            let reply = self.decode.max_new_tokens;
            ensure!(
                reply < positions,
                "`decode.max_new_tokens` is {reply}, and `model.positions` {positions}"
            );
        }
        let configs = [&self.plain, &self.stage1.train, &self.align.train];
        for ((name, measured), config) in EVALUATED.iter().zip(configs) {
            config.validate().with_context(|| format!("`{name}`"))?;
            if let Some(stopping) = &config.early_stopping {
                ensure!(
                    measured.contains(&stopping.metric.as_str()),
                    "`{name}.early_stopping.metric`: nothing measures `{}`; there is {}",
                    stopping.metric,
                    measured.join(", ")
                );
            }
        }
        let similarity = self.pairs.similarity;
        ensure!((0.0..=1.0).contains(&similarity), "`pairs.similarity` is {similarity}; it lies in 0 to 1");
        let weights = self.stage1.task_weights.map(|weights| [weights.selection, weights.generation]);
        for (key, value) in ["stage1.task_weights.selection", "stage1.task_weights.generation", "align.beta"]
            .into_iter()
            .zip(weights.unwrap_or([1.0; 2]).into_iter().chain([self.align.beta]))
        {
            ensure!(value > 0.0 && value.is_finite(), "`{key}` is {value}; it must be above 0 and finite");
        }
        self.decode.validate().context("`decode`")?;
        for (key, count) in [
            ("align.examples", self.align.examples),
            ("report.test_examples", self.report.test_examples),
            ("report.valid_examples", self.report.valid_examples),
        ] {
            ensure!(count > 0, "`{key}` is 0; give at least 1");
        }
        for (at, strategy) in self.report.strategies.iter().enumerate() {
            ensure!(
                !self.report.strategies[..at].contains(strategy),
                "`report.strategies` names one of them twice: {}",
                strategy_name(*strategy)
            );
        }
        Ok(())
    }

    /// Nothing that the run reads may lie where it writes, and where `--fresh` removes.
    fn check_places(&self, path: &Path) -> Result<()> {
        ensure!(
            !lies_in(path, &self.out),
            "the recipe {} lies in `out`, {}, which is the run's; give another `out`",
            path.display(),
            self.out.display()
        );
        let data = &self.data;
        let mut read = vec![("data.train", data.train.as_path()), ("prompts", Path::new(&self.prompts))];
        read.extend(data.valid.iter().map(|path| ("data.valid", path.as_path())));
        read.extend(data.test.iter().map(|path| ("data.test", path.as_path())));
        if let ModelRecipe::Folder { folder } = &self.model {
            read.push(("model.folder", folder));
        }
        for (key, path) in read {
            if let Some(name) = Workspace::name_around(&self.out, path) {
                bail!(
                    "`{key}`, {}, lies in {name} of `out`, where the run writes; give another `out`",
                    path.display()
                );
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEMO: &str = include_str!("../recipes/demo.toml");

    fn message(from: &str, to: &str) -> String {
        assert!(DEMO.contains(from), "{from}");
        format!("{:#}", Recipe::parse(&DEMO.replacen(from, to, 1)).unwrap_err())
    }

    #[test]
    fn the_demo_is_good() {
        let recipe = Recipe::parse(DEMO).unwrap();
        assert_eq!((recipe.stage1.train.steps, recipe.stage1.task_weights), (550, None));
        let text = toml::to_string(&recipe).unwrap();
        assert!(text.contains("[stage1"), "{text}");
    }

    #[test]
    fn what_is_out_of_range_is_named() {
        for (from, to, key) in [
            ("beta = 0.1", "beta = 0.0", "`align.beta`"),
            ("beta = 0.1", "beta = nan", "`align.beta`"),
            ("similarity = 0.8", "similarity = 1.5", "`pairs.similarity`"),
            ("examples = 800", "examples = 0", "`align.examples`"),
            ("\nvalid_examples = 250", "\nvalid_examples = 0", "`report.valid_examples`"),
            ("test_examples = 250", "test_examples = 0", "`report.test_examples`"),
            ("fraction = 0.72", "fraction = 1.72", "`data.parts`"),
            ("heads = 3", "heads = 5", "`model.heads`"),
            ("vocabulary = 2048", "vocabulary = 12", "`model.vocabulary`"),
            ("dropout = 0.0", "dropout = 1.0", "`model.dropout`"),
            ("max_new_tokens = 40", "max_new_tokens = 256", "`decode.max_new_tokens`"),
            ("steps = 550", "steps = 0", "`stage1`: training setting `steps`"),
            ("out = \"target/demo\"", "out = \"\"", "`out`"),
            ("strategies = []", "strategies = [\"oracle\", \"oracle\"]", "`report.strategies`"),
            ("[pairs]", "task_weights = {}\n[pairs]", "selection"),
            (
                "[pairs]",
                "task_weights = { selection = 0.0, generation = 1.0 }\n[pairs]",
                "`stage1.task_weights.selection`",
            ),
        ] {
            let message = message(from, to);
            assert!(message.contains(key), "{to}: {message}");
        }
    }

    #[test]
    fn early_stopping_watches_what_is_measured() {
        let stop = |metric: &str| {
            format!("early_stopping = {{ metric = '{metric}', better = 'lower', patience = 1 }}\n[pairs]")
        };
        assert!(message("[pairs]", &stop("eval_los")).contains("`stage1.early_stopping.metric`"));
        assert!(Recipe::parse(&DEMO.replacen("[pairs]", &stop("eval_loss/selection"), 1)).is_ok());
    }

    #[test]
    fn a_seed_of_a_part_is_refused() {
        for (table, key) in [
            ("[plain]", "`plain.seed`"),
            ("[stage1]", "`stage1.seed`"),
            ("[align.train]", "`align.train.seed`"),
            ("[decode]", "`decode.seed`"),
        ] {
            let found = message(&format!("\n{table}"), &format!("\n{table}\nseed = 7 #"));
            assert!(found.contains(key), "{found}");
        }
    }

    #[test]
    fn a_misspelled_key_is_named() {
        assert!(message("layers = 4", "layer = 4").contains("`layer`"));
        assert!(message("layers = 4\n", "").contains("`model.layers` is missing"));
        assert!(message("layers = 4", "layers = 4\nfolder = 'x'").contains("`model.vocabulary`"));
        assert!(message("steps = 550", "stepz = 550").contains("`stepz`"));
    }

    #[test]
    fn task_weights_stand_beside_the_settings_of_the_loop() {
        let weights = "task_weights = { selection = 2.0, generation = 0.5 }\n[pairs]";
        let recipe = Recipe::parse(&DEMO.replacen("[pairs]", weights, 1)).unwrap();
        assert_eq!(recipe.stage1.task_weights, Some(TaskWeights { selection: 2.0, generation: 0.5 }));
        let text = toml::to_string(&recipe).unwrap();
        assert!(text.contains("[stage1.task_weights]"), "{text}");
    }

    #[test]
    fn a_recipe_in_the_folder_of_its_run_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("my.toml");
        let out = |out: &Path| {
            std::fs::write(&path, DEMO.replace("target/demo", &out.display().to_string())).unwrap();
            Recipe::load(&path).map(drop).map_err(|error| format!("{error:#}"))
        };
        assert!(out(folder.path()).unwrap_err().contains("lies in `out`"));
        assert!(out(&folder.path().join("sub/..")).is_ok(), "a folder that is not there yet");
        std::fs::create_dir(folder.path().join("sub")).unwrap();
        assert!(out(&folder.path().join("sub/..")).unwrap_err().contains("lies in `out`"));
        assert!(out(&folder.path().join("sub")).is_ok());
        let data = folder.path().join("sub/plain/data.jsonl");
        std::fs::create_dir(folder.path().join("sub/plain")).unwrap();
        std::fs::write(&data, "").unwrap();
        let text = DEMO.replace("target/demo", &folder.path().join("sub").display().to_string());
        let train = format!("train = \"{}\"", data.display());
        std::fs::write(&path, text.replace("train = \"examples/data/spc_valid_480.jsonl.gz\"", &train))
            .unwrap();
        let message = format!("{:#}", Recipe::load(&path).unwrap_err());
        assert!(message.contains("`data.train`") && message.contains("plain"), "{message}");
    }
}
