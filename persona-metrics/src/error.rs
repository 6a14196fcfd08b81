//! What can go wrong when a metric is computed.

use std::error::Error as StdError;
use std::path::PathBuf;

use crate::suite::Fields;

/// Result of this crate's functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Whatever keeps a model or a judge behind a trait of this crate from answering.
pub type ModelError = Box<dyn StdError + Send + Sync>;

/// An input for which a metric has no value. A score that would be NaN or infinite is one of these instead.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Two lists that belong together differ in length.
    #[error("{left} {left_name} but {right} {right_name}: give one entry of each per example")]
    LengthMismatch {
        /// What the first list holds.
        left_name: &'static str,
        /// Length of the first list.
        left: usize,
        /// What the second list holds.
        right_name: &'static str,
        /// Length of the second list.
        right: usize,
    },
    /// A corpus score was asked for before anything was counted.
    #[error("{metric}: the corpus is empty; a score needs at least one example")]
    EmptyCorpus {
        /// Name of the metric.
        metric: &'static str,
    },
    /// An example without references. An empty text is a reference, an empty list is not.
    #[error("{metric}: no reference; give at least one, or leave the example out")]
    NoReferences {
        /// Name of the metric.
        metric: &'static str,
    },
    /// The swapped argument order is defined for one reference per hypothesis only.
    #[error(
        "{metric}: the swapped order takes exactly one reference a hypothesis, here are {references}; \
         use the standard order"
    )]
    SwapNeedsOneReference {
        /// Name of the metric.
        metric: &'static str,
        /// How many references the example has.
        references: usize,
    },
    /// The package followed takes one reference a hypothesis.
    #[error("{metric}: the package takes exactly one reference a hypothesis, here are {references}")]
    NeedsOneReference {
        /// Name of the metric.
        metric: &'static str,
        /// How many references the example has.
        references: usize,
    },
    /// A hypothesis for which the package followed raises an exception because nothing is left of it.
    #[error("{metric}: the hypothesis is empty; leave the example out or give it a value yourself")]
    EmptyHypothesis {
        /// Name of the metric.
        metric: &'static str,
    },
    /// A reference for which the package followed raises an exception because nothing is left of it.
    #[error("{metric}: the reference is empty; leave the example out")]
    EmptyReference {
        /// Name of the metric.
        metric: &'static str,
    },
    /// The table of a common subsequence would be too large for memory.
    #[error(
        "{metric}: lines of {reference} and {hypothesis} tokens need a table of more than {limit} cells; \
         break the texts into shorter lines or sentences"
    )]
    TableTooLarge {
        /// Name of the metric.
        metric: &'static str,
        /// Tokens of the reference's line.
        reference: usize,
        /// Tokens of the hypothesis' line.
        hypothesis: usize,
        /// Cells of the largest table.
        limit: u64,
    },
    /// A setting that the metric does not have, or that is out of its range.
    #[error("{metric}: {problem}")]
    InvalidSetting {
        /// Name of the metric.
        metric: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// A pool without a text. An empty text is one.
    #[error("{metric}: the pool holds no text; leave it out")]
    EmptyPool {
        /// Name of the metric.
        metric: &'static str,
    },
    /// No text is long enough for a single n-gram, so that a ratio would divide by zero.
    #[error("{metric}-{order}: no text of the corpus has {order} tokens; the ratio has no value")]
    NoNgrams {
        /// Name of the metric.
        metric: &'static str,
        /// Order of the n-grams.
        order: usize,
    },
    /// A form of the metric that has no value where nothing matches.
    #[error("{metric}: {form} has no value where no n-gram of order {order} matches")]
    NoMatches {
        /// Name of the metric.
        metric: &'static str,
        /// Which form of it.
        form: &'static str,
        /// Order of the n-grams.
        order: usize,
    },
    /// A ranking of no candidate.
    #[error("{metric}: the example has no candidate; leave it out")]
    NoCandidates {
        /// Name of the metric.
        metric: &'static str,
    },
    /// A ranking of another number of candidates than was set.
    #[error("{metric}: every example has to have {expected} candidates, this one has {candidates}")]
    CandidateCount {
        /// Name of the metric.
        metric: &'static str,
        /// The number that was set.
        expected: usize,
        /// The number that the example has.
        candidates: usize,
    },
    /// Statistics collected under different settings were merged.
    #[error("statistics of different settings cannot be merged: {left} and {right}")]
    SettingsDiffer {
        /// Settings of the statistics merged into.
        left: String,
        /// Settings of the statistics to add.
        right: String,
    },
    /// A negative log-likelihood that is NaN, infinite or clearly below zero.
    #[error("perplexity: {nll} over {tokens} tokens is no sum of negative log-likelihoods")]
    InvalidNll {
        /// The sum that was handed in.
        nll: f64,
        /// The tokens that it was taken over.
        tokens: u64,
    },
    /// An example without a single target token: its mean would be 0 / 0.
    #[error("perplexity: the example has no target token; leave it out")]
    NoTargetTokens,
    /// The per-word form was asked for, but the words are not known.
    #[error("perplexity: no word was counted, or an example came without its text; hand in every text")]
    UnknownWords,
    /// A number that left the finite range, or a running sum that left its own.
    #[error("{metric}: the value {value} is outside the range that can be represented")]
    OutOfRange {
        /// Name of the metric.
        metric: &'static str,
        /// The value.
        value: f64,
    },
    /// C.score's maximum over descriptions has no value for an empty persona.
    #[error("C.score: the maximum over descriptions needs at least one description; leave the example out")]
    NoDescriptions,
    /// The judge gave a NaN or infinite class score.
    #[error("C.score: the judge gave the class scores {scores:?}; they have to be finite")]
    JudgeScores {
        /// The scores, in the order in which the judge gave them.
        scores: [f64; 3],
    },
    /// The judge answered for another number of pairs than it was asked about.
    #[error("C.score: the judge {judge:?} was asked about {asked} pairs and answered {answered}")]
    JudgeCount {
        /// Name of the judge.
        judge: String,
        /// Pairs in the batch.
        asked: usize,
        /// Judgements that came back.
        answered: usize,
    },
    /// The judge failed.
    #[error("C.score: the judge {judge:?} failed on a batch that holds pair {first_pair}")]
    Judge {
        /// Name of the judge.
        judge: String,
        /// Index of the batch's first (description, reply) pair, counted over the whole call.
        first_pair: usize,
        /// The judge's own error.
        #[source]
        source: ModelError,
    },
    /// A model behind a trait failed.
    #[error("{metric}: the model {model:?} failed")]
    Model {
        /// Name of the metric.
        metric: &'static str,
        /// Name of the model.
        model: String,
        /// The model's own error.
        #[source]
        source: ModelError,
    },
    /// A model answered for another number of texts than it was asked about.
    #[error("{metric}: the model {model:?} was asked about {asked} texts and answered {answered}")]
    ModelCount {
        /// Name of the metric.
        metric: &'static str,
        /// Name of the model.
        model: String,
        /// Texts in the batch.
        asked: usize,
        /// Answers that came back.
        answered: usize,
    },
    /// Embeddings that contradict each other, or hold a NaN or an infinity.
    #[error("embedding of {text:?}: {problem}")]
    Embedding {
        /// The beginning of the text.
        text: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A text is longer than the encoder reads, and is not to be cut.
    #[error(
        "the model {model:?} reads {limit} tokens, {text:?} has more; shorten the text, or let long texts be cut"
    )]
    TextTooLong {
        /// Name of the model.
        model: String,
        /// The beginning of the text.
        text: String,
        /// The most tokens that the model reads.
        limit: usize,
    },
    /// Two texts that are read as one are longer together than the model reads, and are not to be cut.
    #[error(
        "the model {model:?} reads {limit} tokens, {pair} together have more; shorten the longer of the two, \
         {longer:?}{cut}",
        cut = if *may_be_cut { ", or let long texts be cut" } else { "" }
    )]
    PairTooLong {
        /// Name of the model.
        model: String,
        /// What the two texts are.
        pair: &'static str,
        /// The beginning of the longer one.
        longer: String,
        /// The most tokens that the model reads.
        limit: usize,
        /// Whether there is a setting that cuts.
        may_be_cut: bool,
    },
    /// A judge whose classes are not the three of natural language inference.
    #[error(
        "the classifier's labels are {labels:?}; a judge has contradiction, neutral and entailment, in any order: \
         name them so in `id2label` of its config.json"
    )]
    JudgeClasses {
        /// The labels that it has, in the order of its logits.
        labels: Vec<String>,
    },
    /// A model or its tokenizer could not be had from its folder.
    #[error("{path}: no model for the metrics", path = path.display())]
    ModelFiles {
        /// The folder.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: ModelError,
    },
    /// The file of baselines for rescaling cannot be used.
    #[error("{path}: {problem}", path = path.display())]
    Baseline {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, and what to do.
        problem: String,
    },
    /// Weights by inverse document frequency that sum to 0 for a text that is not empty.
    #[error(
        "BERTScore: every token of a text stands in all {documents} references, so that its idf weights sum to 0; \
         take the weights from more references, or none"
    )]
    NoIdfWeight {
        /// References that the weights come from.
        documents: u64,
    },
    /// An index beyond the end of a corpus.
    #[error("index {index} is outside a corpus of {len} examples")]
    IndexOutOfRange {
        /// The index, counted from 0.
        index: usize,
        /// Number of examples.
        len: usize,
    },
    /// A statistic that has no value for its input, such as 0 / 0.
    #[error("{statistic} has no value: {reason}")]
    Undefined {
        /// Name of the statistic.
        statistic: &'static str,
        /// Why it has none.
        reason: &'static str,
    },
    /// Too few values for a statistic.
    #[error("{statistic}: {given} {what}; it needs at least {needed}")]
    TooFew {
        /// Name of the statistic.
        statistic: &'static str,
        /// What there are too few of.
        what: &'static str,
        /// How many are needed.
        needed: usize,
        /// How many there are.
        given: usize,
    },
    /// A number that has to be a probability and is none.
    #[error("{name} is {value}; it has to lie between 0 and 1")]
    NotAProbability {
        /// What the number stands for.
        name: &'static str,
        /// The number.
        value: f64,
    },
    /// An error in one trial of a resampling.
    #[error("trial {trial} (counted from 0)")]
    Trial {
        /// Number of the trial.
        trial: usize,
        /// What is wrong with it.
        #[source]
        source: Box<Error>,
    },
    /// A record without a part that the first record of the corpus has, or with one that it has not.
    #[error("the record has {here}, the first one has {first}; give every record the same parts")]
    FieldsDiffer {
        /// What the first record has.
        first: Fields,
        /// What this one has.
        here: Fields,
    },
    /// Two systems that are compared answered other examples.
    #[error(
        "references, personas or history are not those of the first system; compare replies to the same examples"
    )]
    ExamplesDiffer,
    /// A preset of that name does not exist.
    #[error(
        "no preset `{name}`; there are standard, pal, persona-injection, user-specific, parlai and sacrebleu"
    )]
    UnknownPreset {
        /// The name.
        name: String,
    },
    /// A language that is not known, or that needs a feature.
    #[error("no language `{name}`; there are english, chinese (with the feature `jieba`) and japanese")]
    UnknownLanguage {
        /// The name.
        name: String,
    },
    /// An error in one example of a corpus.
    #[error("example {index} (counted from 0)")]
    Example {
        /// Index of the example in the lists that were handed in.
        index: usize,
        /// What is wrong with it.
        #[source]
        source: Box<Error>,
    },
}

impl Error {
    /// The error with its example's index moved by the examples before this part of the corpus.
    pub(crate) fn later(self, before: usize) -> Self {
        match self {
            Error::Example { index, source } => {
                Error::Example { index: index.saturating_add(before), source }
            }
            other => other,
        }
    }

    /// The error and what lies behind it, in one line.
    pub(crate) fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut cause = self.source();
        while let Some(error) = cause {
            text = format!("{text}: {error}");
            cause = error.source();
        }
        text
    }

    pub(crate) fn at(self, index: usize) -> Self {
        Error::Example { index, source: Box::new(self) }
    }
}

/// The beginning of a text, for messages.
pub(crate) fn shortened(text: &str) -> String {
    const SHOWN: usize = 60;
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}...", text.get(..end).unwrap_or_default()),
        None => text.to_owned(),
    }
}

pub(crate) fn same_length(
    left_name: &'static str,
    left: usize,
    right_name: &'static str,
    right: usize,
) -> Result<()> {
    if left == right { Ok(()) } else { Err(Error::LengthMismatch { left_name, left, right_name, right }) }
}
