//! A run as a TOML file.

mod check;
mod model;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use persona_align::{PairOptions, RejectedFrom};
use persona_data::{
    ChatFormat, EncodedExample, EntailmentRule, Example, ExampleOptions, Format, PromptSet, Target, Task,
    thin_none,
};
use persona_infer::{DecodeConfig, Strategy};
use persona_model::{CausalLm, Precision};
use persona_train::{NextToken, TrainConfig};
use serde::{Deserialize, Serialize};
use tch::Kind;

pub use check::EVALUATED;
pub(crate) use check::check_rejected;
pub use model::{LoraRecipe, ModelRecipe, PublishedShape};

use crate::judge::SHIPPED;
use crate::pipeline::prompt_set;
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
    /// The judge of persona consistency; absent for labels by shared words and no C.score.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub judge: Option<PalJudge>,
    /// Decoding of rejected replies and of everything that is measured.
    pub decode: DecodeConfig,
    /// What is measured and shown.
    pub report: ReportRecipe,
    /// What the data hold, for a dry run where they are not at hand.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expect: Option<Expected>,
}

/// What the data hold, for a dry run where they are not at hand.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expected {
    /// Training examples, each of which is trained on once a task.
    pub train: usize,
    /// Examples of Valid#1, each of which makes a pair.
    pub pairs: usize,
    /// Selection examples in tokens.
    pub selection: Lengths,
    /// Generation examples in tokens.
    pub generation: Lengths,
}

/// Lengths of examples in tokens.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lengths {
    /// The mean of the prompts.
    pub prompt: f64,
    /// The mean of the targets, ends included.
    pub target: f64,
    /// The longest prompt with its target.
    pub longest: usize,
}

/// A judge of (description, reply), and what it is for beside C.score of the replies.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PalJudge {
    /// A classifier in the Hugging Face layout with the labels contradiction, neutral and entailment, such as the program
    /// `judge` trains; the shipped one where it is left out.
    #[serde(default = "PalJudge::folder")]
    pub folder: PathBuf,
    /// Label the turns that have no label by it, rather than by shared words.
    #[serde(default)]
    pub labels: bool,
    /// When a description counts as one that the reply draws on.
    #[serde(default)]
    pub rule: EntailmentRule,
    /// Of so many validation examples the replies are judged while training, where `early_stopping.metric` of a training
    /// is `c_score/sum` or `c_score/max`.
    #[serde(default = "PalJudge::examples")]
    pub examples: usize,
}

impl PalJudge {
    fn folder() -> PathBuf {
        SHIPPED.into()
    }

    fn examples() -> usize {
        64
    }
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

/// Stage 1: the loop's settings, and beside them how much each task counts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "toml::Table")]
pub struct Stage1Recipe {
    /// Weights of the tasks' tokens in the loss; absent for 1 each.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub task_weights: Option<TaskWeights>,
    /// The share that stays of the selection examples whose answer is that no description applies; absent for all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub none_kept: Option<f64>,
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
        let none_kept = table.remove("none_kept").map(toml::Value::try_into).transpose()?;
        Ok(Self { task_weights, none_kept, train: table.try_into()? })
    }
}

impl Stage1Recipe {
    /// Checks what stands beside the loop's settings.
    pub(crate) fn validate(&self) -> Result<()> {
        if let Some(TaskWeights { selection, generation }) = self.task_weights {
            for (task, weight) in [("selection", selection), ("generation", generation)] {
                let good = weight > 0.0 && weight.is_finite();
                ensure!(good, "`stage1.task_weights.{task}` is {weight}; it must be above 0 and finite");
            }
        }
        let kept = self.none_kept.unwrap_or(1.0);
        ensure!((0.0..=1.0).contains(&kept), "`stage1.none_kept` is {kept}; it lies in 0 to 1");
        Ok(())
    }

    /// Gives each task its weight.
    pub(crate) fn weighted<M: CausalLm>(&self, objective: NextToken<M>) -> Result<NextToken<M>> {
        let Some(weights) = self.task_weights else { return Ok(objective) };
        let objective = objective.weight(Task::Selection, weights.selection)?;
        Ok(objective.weight(Task::Generation, weights.generation)?)
    }

    /// Leaves out selection examples without an answer, as `none_kept` says; a fact about it where it says something.
    pub(crate) fn thinned(
        &self,
        encoded: &mut Vec<EncodedExample>,
        examples: &[Example],
        seed: u64,
    ) -> Result<Option<String>> {
        let Some(kept) = self.none_kept else { return Ok(None) };
        let left_out = thin_none(encoded, examples, kept, seed)?;
        Ok(Some(format!("{left_out} selection examples without a description left out")))
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
    /// Where rejected replies come from: `history_only` as the paper, `swapped_persona`, or `{ worst_of = N }` by the
    /// recipe's judge.
    #[serde(default)]
    pub rejected: RejectedFrom,
    /// The temperature that rejected replies are drawn with; absent for the `[decode]` of everything else. The worst of
    /// several are drawn.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rejected_temperature: Option<f64>,
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

/// Reads a recipe of any program: parses its text, and checks that nothing it names lies where the run writes. The second
/// value is the text.
pub(crate) fn read<R>(
    path: &Path,
    parse: impl FnOnce(&str) -> Result<R>,
    check_places: impl FnOnce(&R, &Path) -> Result<()>,
) -> Result<(R, String)> {
    let text =
        std::fs::read_to_string(path).with_context(|| format!("reading the recipe {}", path.display()))?;
    let recipe = parse(&text).with_context(|| format!("the recipe {}", path.display()))?;
    check_places(&recipe, path)?;
    Ok((recipe, text))
}

/// Refuses a recipe in the folder that its run writes, and what it names with its key where that is one of a run's own
/// files there, or lies in one.
pub(crate) fn refuse_places<'p>(
    out: &Path,
    recipe: &Path,
    read: impl IntoIterator<Item = (&'static str, &'p Path)>,
) -> Result<()> {
    ensure!(
        !lies_in(recipe, out),
        "the recipe {} lies in `out`, {}, which is the run's; give another `out`",
        recipe.display(),
        out.display()
    );
    for (key, path) in read {
        if let Some(name) = Workspace::name_around(out, path) {
            bail!(
                "`{key}`, {}, lies in {name} of `out`, where the run writes; give another `out`",
                path.display()
            );
        }
    }
    Ok(())
}

/// Refuses keys of parts that stand once at the top of a recipe.
pub(crate) fn refuse_keys(text: &str, parts: &[&[&str]], keys: &[&str], why: &str) -> Result<()> {
    let table: toml::Table = toml::from_str(text)?;
    for part in parts {
        let inner = part.iter().try_fold(&table, |table, key| table.get(*key)?.as_table());
        if let Some(key) = keys.iter().find(|key| inner.is_some_and(|inner| inner.contains_key(**key))) {
            bail!("`{}.{key}`: {why}; leave this one out", part.join("."));
        }
    }
    Ok(())
}

/// Why a part of a recipe has no seed.
pub(crate) const ONE_SEED: &str = "every draw of a run comes from the one `seed` at the top";

impl Recipe {
    /// Reads a recipe; the second value is its text.
    ///
    /// # Errors
    /// When the file cannot be read; names the line of what is wrong, and the key of a setting that is out of range;
    /// when the recipe, its data or its model lie where a run writes.
    pub fn load(path: &Path) -> Result<(Self, String)> {
        read(path, Self::parse, Self::check_places)
    }

    fn parse(text: &str) -> Result<Self> {
        let mut recipe: Self = toml::from_str(text)?;
        let parts: [&[&str]; 4] = [&["plain"], &["stage1"], &["align", "train"], &["decode"]];
        refuse_keys(text, &parts, &["seed"], ONE_SEED)?;
        for config in [&mut recipe.plain, &mut recipe.stage1.train, &mut recipe.align.train] {
            config.seed = recipe.seed;
        }
        recipe.decode.seed = recipe.seed;
        recipe.validate()?;
        Ok(recipe)
    }

    /// The prompts, in the chat format of `model.chat` where it names one.
    ///
    /// # Errors
    /// The set's; a chat format for a set that has one of its own.
    pub fn prompt_set(&self) -> Result<PromptSet> {
        let set = prompt_set(&self.prompts)?;
        let Some(chat) = self.model.chat() else { return Ok(set) };
        ensure!(
            *set.chat() == ChatFormat::builtin("none")?,
            "`model.chat` is `{chat}`, and the prompts of {} have the chat format `{}` already; leave one out",
            self.prompts,
            set.chat().name()
        );
        set.with_chat(ChatFormat::builtin(chat)?).context("`model.chat`")
    }

    /// The kind in which the starting model is held: an adapter's base, which is not trained, in bfloat16 where every
    /// training computes in it; float32 otherwise.
    #[must_use]
    pub fn base_kind(&self) -> Kind {
        let trainings = [&self.plain, &self.stage1.train, &self.align.train];
        let halved = trainings.iter().all(|training| training.precision == Precision::Bf16);
        if self.model.lora().is_some() && halved { Kind::BFloat16 } else { Kind::Float }
    }
}
