//! An experiment as a TOML file.

mod check;

use std::path::{Path, PathBuf};

use anyhow::Result;
use persona_align::{PairOptions, RejectedFrom};
use persona_data::{EntailmentRule, ExampleOptions, Target};
use persona_infer::{DecodeConfig, Strategy};
use persona_model::Precision;
use persona_train::TrainConfig;
use serde::{Deserialize, Serialize};

use crate::judge::SHIPPED;
use crate::recipe::{self, ModelRecipe, Stage1Recipe};

/// Everything that an experiment follows from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExperimentRecipe {
    /// The report's heading.
    pub title: String,
    /// The folder that the experiment fills, relative to where the program is started.
    pub out: PathBuf,
    /// `cpu`, `cuda`, `cuda:N` or `auto`.
    pub device: String,
    /// Prompts: `english`, `chinese`, `japanese`, or a file.
    pub prompts: String,
    /// The kind of number of all products, of trainings and replies; weights and optimiser states are float32.
    pub precision: Precision,
    /// Everything is trained once a seed: fresh weights, order, dropout and drawn replies come from it, the examples do
    /// not.
    pub seeds: Vec<u64>,
    /// The rows of the table.
    pub systems: Vec<System>,
    /// Those of `systems` that are measured with the revised personas as well.
    #[serde(default)]
    pub revised: Vec<System>,
    /// What was predicted before the first run, and what the paper reports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub predictions: Option<PathBuf>,
    /// The dialogues.
    pub data: ExperimentData,
    /// How many examples of each part are used.
    #[serde(default)]
    pub sizes: Sizes,
    /// The starting model of every system.
    pub model: ModelRecipe,
    /// Fine-tuning from history to reply, without and with the persona in the prompt.
    pub fine_tuning: TrainConfig,
    /// Stage 1. The ablations with one of its two tasks make half of its steps, and without `none_kept` see each example
    /// as often.
    pub stage1: Stage1Recipe,
    /// Preference pairs.
    #[serde(default)]
    pub pairs: PairOptions,
    /// Stage 2.
    pub align: AlignPart,
    /// Who judges consistency, and labels what has no labels.
    #[serde(default)]
    pub judge: JudgePart,
    /// Decoding of rejected replies and of everything that is measured.
    pub decode: DecodeConfig,
    /// The same of models that learned no replies of this data, the starting model and what is aligned from it; absent for
    /// `decode`.
    pub decode_start: Option<DecodeConfig>,
    /// What is shown.
    #[serde(default)]
    pub report: ReportPart,
}

/// The dialogues of an experiment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExperimentData {
    /// The files below lie in it. `--data` gives another.
    pub folder: PathBuf,
    /// The training dialogues; all dialogues where there is no `valid`.
    pub train: PathBuf,
    /// Descriptions with the training replies that follow from them, as `[[description, reply], ...]`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub train_labels: Option<PathBuf>,
    /// The validation dialogues, which `split` divides into Valid#1 and Valid#2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub valid: Option<PathBuf>,
    /// The validation dialogues with revised personas, in the same order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revised: Option<PathBuf>,
    /// A record list with the parts `valid1` and `valid2`, applied by the dialogues' places; absent for the one of
    /// PERSONA-CHAT's 1,000 validation dialogues that ships with persona-data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub split: Option<PathBuf>,
    /// The share of Valid#2, in whole dialogues, that losses and rewards are evaluated on while training. The rest is the
    /// test part, which no training reads.
    #[serde(default = "ExperimentData::choose")]
    pub choose: f64,
    /// Where there is no `valid`: targets for train, Valid#1, the part to choose on and the test part.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parts: Option<[Target; 4]>,
    /// Draws the parts and the examples.
    pub seed: u64,
    /// How dialogues are cut into examples.
    #[serde(default)]
    pub examples: ExampleOptions,
}

impl ExperimentData {
    fn choose() -> f64 {
        0.2
    }

    /// The files that are read, with their keys.
    #[must_use]
    pub fn files(&self) -> Vec<(&'static str, PathBuf)> {
        let named = [
            ("data.train", Some(&self.train)),
            ("data.train_labels", self.train_labels.as_ref()),
            ("data.valid", self.valid.as_ref()),
            ("data.revised", self.revised.as_ref()),
            ("data.split", self.split.as_ref()),
        ];
        named.into_iter().filter_map(|(key, file)| Some((key, self.folder.join(file?)))).collect()
    }
}

/// How many examples of each part are used, drawn from `data.seed`; absent for all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Sizes {
    /// Training examples, each for every task.
    pub train: Option<usize>,
    /// Examples of Valid#1, each made into a pair.
    pub pairs: Option<usize>,
    /// Examples that losses and rewards are evaluated on while training.
    pub choose: Option<usize>,
    /// Examples that every system replies to.
    pub test: Option<usize>,
    /// So many test examples are left out: those that an experiment on the same data with `test` of this size looked at, so
    /// that what was decided by them is not measured on them. What is left are other turns of the same dialogues and
    /// personas, and no new ones.
    #[serde(skip_serializing_if = "is_zero")]
    pub test_skip: usize,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(value: &usize) -> bool {
    *value == 0
}

/// Stage 2.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AlignPart {
    /// DPO's beta.
    pub beta: f64,
    /// Where rejected replies come from: `history_only` as the paper, `swapped_persona`, or `{ worst_of = N }` by the
    /// judge.
    #[serde(default)]
    pub rejected: RejectedFrom,
    /// The temperature that rejected replies are drawn with; absent for that of `[decode]`. The worst of several are drawn.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rejected_temperature: Option<f64>,
    /// Steps after which PAL is measured as well: the curve of alignment. One above `train.steps` lets that one training
    /// go on; multiples of `train.eval_every`, or the last.
    #[serde(default)]
    pub curve: Vec<u64>,
    /// The learning rate of `without_pairs`; absent for that of `train`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub without_pairs_learning_rate: Option<f64>,
    /// The loop.
    pub train: TrainConfig,
}

impl AlignPart {
    /// The steps after which PAL's weights are kept, ascending; its own among them.
    #[must_use]
    pub fn kept(&self) -> Vec<u64> {
        let mut kept = self.curve.clone();
        kept.push(self.train.steps);
        kept.sort_unstable();
        kept.dedup();
        kept
    }
}

/// The judge of (description, reply).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct JudgePart {
    /// A classifier in the Hugging Face layout; the shipped one where it is left out.
    pub folder: PathBuf,
    /// When a description counts as one that a reply draws on, where the data have no labels.
    pub rule: EntailmentRule,
}

impl Default for JudgePart {
    fn default() -> Self {
        Self { folder: SHIPPED.into(), rule: EntailmentRule::default() }
    }
}

/// What is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ReportPart {
    /// Conversations side by side.
    pub conversations: usize,
    /// Trials of each test of significance. Beside PAL, p is at least the number of other systems over one more than these.
    pub trials: usize,
}

impl Default for ReportPart {
    fn default() -> Self {
        Self { conversations: 20, trials: 1000 }
    }
}

/// A row of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum System {
    /// The starting model, persona and history in its prompt.
    Start,
    /// Fine-tuned from the history to the reply; it never sees a persona.
    FineTuning,
    /// Fine-tuned with the persona as text in the prompt.
    Prompting,
    /// Stage 1, then DPO; selects, then replies.
    Pal,
    /// "w/o Mix": no stage 1, DPO from the starting model, whose own replies are rejected.
    WithoutMix,
    /// "w/o PA": stage 1 alone.
    WithoutPa,
    /// "only DG": stage 1 with the generation task alone, then DPO.
    OnlyGeneration,
    /// "only PS": stage 1 with the selection task alone, then DPO.
    OnlySelection,
    /// "w/o PC": stage 1, then as many further steps on the gold replies of PAL's pairs, without the rejected ones.
    WithoutPairs,
    /// PAL's model with a description drawn at random.
    PalRandom,
    /// PAL's model with the whole persona and no selection.
    PalNotSelect,
    /// PAL's model with the label, which was made from the gold reply: an upper bound.
    PalOracle,
}

impl System {
    /// How it is called in tables.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Start => "starting model",
            Self::FineTuning => "fine-tuning, history alone",
            Self::Prompting => "fine-tuning, persona in the prompt",
            Self::Pal => "PAL",
            Self::WithoutMix => "PAL w/o Mix (no stage 1)",
            Self::WithoutPa => "PAL w/o PA (stage 1 alone)",
            Self::OnlyGeneration => "PAL, only generation in stage 1",
            Self::OnlySelection => "PAL, only selection in stage 1",
            Self::WithoutPairs => "PAL w/o pairs (SFT on their gold)",
            Self::PalRandom => "PAL, random selection",
            Self::PalNotSelect => "PAL, no selection",
            Self::PalOracle => "PAL, oracle selection",
        }
    }

    /// Where the highlighted description comes from; nothing where the persona is not read.
    #[must_use]
    pub fn strategy(self, seed: u64) -> Option<Strategy> {
        match self {
            Self::FineTuning => None,
            Self::Start | Self::Prompting | Self::PalNotSelect => Some(Strategy::NotSelect),
            Self::PalRandom => Some(Strategy::Random(seed)),
            Self::PalOracle => Some(Strategy::Oracle),
            _ => Some(Strategy::Select),
        }
    }

    /// Whether it is a model of its own, and not PAL's with another strategy.
    #[must_use]
    pub fn is_own(self) -> bool {
        !matches!(self, Self::PalRandom | Self::PalNotSelect | Self::PalOracle)
    }
}

impl ExperimentRecipe {
    /// Reads a recipe; the second value is its text. `data` takes the place of `data.folder`.
    ///
    /// # Errors
    /// When the file cannot be read; names the line of what is wrong, and the key of a setting that is out of range;
    /// when the recipe, its data or its model lie where the experiment writes.
    pub fn load(path: &Path, data: Option<&Path>) -> Result<(Self, String)> {
        let parse = |text: &str| {
            let mut recipe = Self::parse(text)?;
            if let Some(folder) = data {
                recipe.data.folder = folder.to_path_buf();
            }
            Ok(recipe)
        };
        recipe::read(path, parse, Self::check_places)
    }

    fn parse(text: &str) -> Result<Self> {
        let mut parsed: Self = toml::from_str(text)?;
        let trainings: [&[&str]; 3] = [&["fine_tuning"], &["stage1"], &["align", "train"]];
        let why = "seeds and precision stand once at the top, and every system makes all of its steps";
        recipe::refuse_keys(text, &trainings, &["seed", "precision", "early_stopping"], why)?;
        let why = "every draw comes from the `seeds` at the top";
        recipe::refuse_keys(text, &[&["decode"], &["decode_start"]], &["seed"], why)?;
        let precision = parsed.precision;
        for config in [&mut parsed.fine_tuning, &mut parsed.stage1.train, &mut parsed.align.train] {
            config.precision = precision;
        }
        parsed.validate()?;
        Ok(parsed)
    }

    /// The settings of the ablations with one task of stage 1.
    #[must_use]
    pub fn one_task(&self) -> TrainConfig {
        let mut config = self.stage1.train.clone();
        config.steps = config.steps.div_ceil(2);
        config.warmup_steps = config.warmup_steps.div_ceil(2);
        config
    }
}
