//! Metrics for dialogue agents with a persona. Strings go in, a score and its signature come out; no libtorch, no other
//! crate of this workspace. Metrics that need a model ask for it through a trait; the feature `model` implements these
//! traits on persona-model's encoders, classifiers and language models.
//!
//! ```
//! use persona_metrics::Bleu;
//!
//! let hypotheses = ["i love florida .", "do you have a dog ?"];
//! let references = ["i love florida in the winter .", "do you like your dog ?"];
//! println!("{}", Bleu::pycocoevalcap().corpus(&hypotheses, &references)?);
//! # let scores = Bleu::pycocoevalcap().corpus(&hypotheses, &references)?;
//! # assert!(scores.to_string().starts_with("BLEU-1 = 59.27 | variant:pycocoevalcap|"), "{scores}");
//! # Ok::<(), persona_metrics::Error>(())
//! ```
//!
//! prints one line an order, such as
//!
//! ```text
//! BLEU-1 = 59.27 | variant:pycocoevalcap|case:mixed|pre:none|split:whitespace|swap:no|refs:1|version:persona-metrics-0.1.0
//! ```
//!
//! # The metrics
//!
//! | type | scores | follows |
//! |---|---|---|
//! | [`Bleu`] | BLEU | sacrebleu; NLTK; ParlAI; pycocoevalcap, PAL's swapped arguments by option |
//! | [`Rouge`] | ROUGE-N, -L, -Lsum, -W | rouge_score, py-rouge, rouge, rouge-chinese, pycocoevalcap; PAL's swapped arguments by option |
//! | [`Chrf`] | chrF, chrF++ | sacrebleu |
//! | [`MeteorWithoutWordNet`] | METEOR of exact and stemmed matches | nltk with an empty WordNet |
//! | [`UnigramF1`], [`ExactMatch`] | F1, precision, recall; accuracy | ParlAI |
//! | [`Ranking`] | hits@k, MRR | ParlAI |
//! | [`Entropy`] | Entropy-1 to Entropy-4, or more | DialoGPT's script, or PAL's code |
//! | [`Distinct`] | Distinct-1, Distinct-2, or more | Li et al. 2016 as in DialoGPT's script, PAL's code, or ParlAI |
//! | [`PooledDistinct`] | Distinct of pools of replies, averaged; Dist-S | ParlAI, CLV's code, Otsuka et al. 2024 |
//! | [`CopyRate`] | share of replies mostly copied from the persona | defined here |
//! | [`SelectionAccuracy`] | selection accuracy, 'none' base rate, confusion | defined here |
//! | [`AgentRetention`], [`RetentionTable`] | responses before the first break of character | Macavei et al. |
//! | [`Perplexity`] | by token, mean of examples, by word, mean NLL, by a [`LanguageModel`] | Hugging Face and ParlAI, PAL's code |
//! | [`BertScore`] | BERTScore, by a [`TokenEmbedder`] | bert-score |
//! | [`EmbeddingSimilarity`] | mean cosine, Acc@sim0.9, histogram, by a [`SentenceEmbedder`] | Otsuka et al. 2024 |
//! | [`Consistency`], [`ConsistencyReport`] | C.score, by a [`PersonaJudge`] | Madotto et al. 2019 (sum), PAL's code (maximum) |
//!
//! # Corpora of any size
//!
//! A corpus score is computed from statistics that are sums: collect them line by line, on threads or on machines
//! (they are serde types), merge them in any order, and ask for the score once. The result has the same bits whatever
//! the order, the shards and the number of threads were. (NLTK's smoothing methods 5 to 7 are the exception: they look at
//! the corpus' last pair, which is the last one of what was merged last.)
//!
//! ```
//! use persona_metrics::Rouge;
//!
//! let rouge = Rouge::pycocoevalcap();
//! let mut first = rouge.statistics();
//! first.update("i have a dog", "i have two dogs")?;
//! let mut second = rouge.statistics();
//! second.update("hello", &["hi", "hello there"])?;
//! second.merge(&first)?;
//! println!("{}", second.scores()?);
//! # Ok::<(), persona_metrics::Error>(())
//! ```
//!
//! # What is not silent
//!
//! Lists of unequal length, an empty corpus, an example without references, a ratio with nothing to divide by, NaN from
//! a judge or a model: each is an [`Error`], never a panic and never a NaN. Empty texts are allowed and have the value
//! that the package followed gives them. Two scores may be compared when their signatures are equal.

mod bertscore;
mod bits;
mod bleu;
mod chrf;
mod consistency;
mod consistency_report;
mod copying;
mod diversity;
mod embedding;
mod error;
mod example;
mod meteor;
mod metric;
#[cfg(feature = "model")]
pub mod model;
mod ngrams;
mod once;
mod parlai;
mod perplexity;
mod ranking;
mod retention;
mod rouge;
mod score;
mod scored_perplexity;
mod selection;
mod similarity;
pub mod stats;
pub mod suite;
mod sums;
mod table;
mod text;
mod token_hash;
mod tokens;

pub use bertscore::{Baseline, BertScore, EmbeddedBertScore, Idf, WeightedTokens, greedy_match};
pub use bleu::{
    Bleu, BleuCounts, CocoBleu, LastPair, NltkBleu, NltkCounts, NltkMeanBleu, NltkSmoothing, ParlaiBleu,
    SacreBleu, SacreReport, SacreSmoothing, SacreTokenizer,
};
pub use chrf::{Chrf, ChrfCounts};
pub use consistency::{Consistency, ConsistencyForm, JudgedConsistency, Judgement, PersonaJudge};
pub use consistency_report::{ConsistencyReport, ConsistencyRow};
pub use copying::CopyRate;
pub use diversity::{Distinct, Entropy, LeaveOneOut, NgramExamples, PoolSums, PooledDistinct};
pub use embedding::{SentenceEmbedder, TokenEmbedder, TokenVectors, cosine};
pub use error::{Error, ModelError, Result};
pub use meteor::MeteorWithoutWordNet;
pub use metric::{Examples, Metric, PairMetric, Statistics, Sums, TextMetric};
pub use parlai::{ExactMatch, UnigramF1};
pub use perplexity::{Perplexity, PerplexitySums};
pub use ranking::{RankTies, Ranking};
pub use retention::{AgentRetention, RetentionTable};
pub use rouge::{
    ChineseRouge, CocoRouge, GoogleRouge, LengthLimit, PltrdyRouge, PyRouge, Rouge, RougeTokenizer, RougeType,
};
pub use score::{Score, Scores, Signature, Unit};
pub use scored_perplexity::{LanguageModel, ScoredPerplexity, TargetNll};
pub use selection::{Selection, SelectionAccuracy, SelectionConfusion, SelectionCounts, selection_accuracy};
pub use similarity::{EmbeddedSimilarity, EmbeddingSimilarity, SimilaritySums};
pub use sums::MeanSums;
pub use table::NgramTable;
#[cfg(feature = "jieba")]
pub use text::jieba_words;
pub use tokens::{PreTokenization, Texts};
