//! Which metrics a paper's table has.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::item::{Pools, Texts};
use super::record::Fields;
use super::{Language, Suite};
use crate::error::Error;
use crate::{
    Bleu, Chrf, CopyRate, Distinct, Entropy, ExactMatch, MeteorWithoutWordNet, PooledDistinct,
    PreTokenization, Rouge, RougeTokenizer, UnigramF1,
};

/// The metrics of the tables that numbers are compared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Preset {
    /// One standard form of every metric that the records allow.
    #[default]
    Standard,
    /// PAL: BLEU-1/2 and ROUGE-L of pycocoevalcap in the swapped order of its released code, Entropy-1 to 4 and
    /// Distinct-1/2 by that code, and the copy rate. C.score needs a judge.
    Pal,
    /// The persona-injection paper: BLEU of NLTK over characters, the mean over replies; ROUGE-L of rouge_score with
    /// stemming. BERTScore and perplexity need models.
    PersonaInjection,
    /// The paper on per-user models: Distinct-1/2 and Dist-S over the replies of all users to a question, the mean over
    /// questions. Records with equal histories answer one question. Similarity needs an encoder.
    UserSpecific,
    /// ParlAI's metrics: F1 with precision and recall, exact match, BLEU-1 to 4, Distinct within and between replies,
    /// and hits@k with MRR where there are candidates.
    Parlai,
    /// sacreBLEU's BLEU, chrF2 and chrF++.
    Sacrebleu,
}

impl Preset {
    /// All presets.
    pub const ALL: [Self; 6] = [
        Self::Standard,
        Self::Pal,
        Self::PersonaInjection,
        Self::UserSpecific,
        Self::Parlai,
        Self::Sacrebleu,
    ];

    /// The name on a command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Standard => "standard",
            Self::Pal => "pal",
            Self::PersonaInjection => "persona-injection",
            Self::UserSpecific => "user-specific",
            Self::Parlai => "parlai",
            Self::Sacrebleu => "sacrebleu",
        }
    }
}

impl Preset {
    /// The suite of this preset for English records with these parts. Metrics that need other parts are noted as missing.
    pub fn suite(self, fields: Fields) -> Suite {
        self.suite_in(fields, Language::English)
    }

    /// The suite of this preset for records in a language. Metrics whose package knows spaces alone are noted as missing
    /// where there are none.
    pub fn suite_in(self, fields: Fields, language: Language) -> Suite {
        let suite = Suite::new(self, fields);
        match self {
            Self::Standard => standard(suite, language),
            Self::Pal => pal(suite, language),
            Self::PersonaInjection => persona_injection(suite, language),
            Self::UserSpecific => user_specific(suite),
            Self::Parlai => parlai(suite, language),
            Self::Sacrebleu => sacrebleu(suite, language),
        }
    }
}

fn persona_injection(suite: Suite, language: Language) -> Suite {
    suite
        .references(Bleu::nltk().characters(true).mean_of_sentences())
        .references(Rouge::google().tokenizer(language.rouge(RougeTokenizer::RougeScoreStemmed)))
        .without("BERTScore", "needs an encoder")
        .without("Perplexity", "needs a language model")
}

fn user_specific(suite: Suite) -> Suite {
    let suite = if suite.fields.history {
        suite.with(Pools::of_questions(PooledDistinct::user_specific()))
    } else {
        suite.without("Distinct, Dist-S", "needs the history, by which replies to one question are found")
    };
    suite.without("Similarity, Acc@sim0.9", "needs a sentence encoder")
}

/// Why a metric is left out where words are not apart.
const SPACES_ALONE: &str = "ParlAI splits texts at spaces alone";

fn parlai(suite: Suite, language: Language) -> Suite {
    if language != Language::English {
        let suite = suite.references(ExactMatch::default()).ranking();
        return suite.without("F1, BLEU, Distinct", SPACES_ALONE);
    }
    suite
        .references(UnigramF1::default())
        .references(ExactMatch::default())
        .references(Bleu::parlai())
        .with(Texts::new(Distinct::parlai_inter()))
        .with(Pools::of_replies(PooledDistinct::parlai_intra()))
        .ranking()
}

fn sacrebleu(suite: Suite, language: Language) -> Suite {
    suite
        .references(Bleu::sacrebleu().tokenizer(language.sacre()))
        .references(Chrf::default())
        .references(Chrf::plus_plus())
}

fn standard(suite: Suite, language: Language) -> Suite {
    let words = language.words(PreTokenization::None);
    let suite = suite
        .references(Bleu::sacrebleu().tokenizer(language.sacre()))
        .references(Chrf::default())
        .references(Rouge::google().tokenizer(language.rouge(RougeTokenizer::RougeScore)))
        .references(MeteorWithoutWordNet::nltk().pre_tokenization(words));
    let suite = match language {
        Language::English => suite.references(UnigramF1::default()),
        _ => suite.without(<UnigramF1 as crate::Metric>::NAME, SPACES_ALONE),
    };
    suite
        .with(Texts::new(Distinct::li().pre_tokenization(words)))
        .with(Texts::new(Entropy::dialogpt().pre_tokenization(words)))
        .copy_rate(copies(language))
        .ranking()
}

fn pal(suite: Suite, language: Language) -> Suite {
    let words = language.words(PreTokenization::None);
    let spaced = language.words(PreTokenization::SpacePunctuation);
    suite
        .references(Bleu::pycocoevalcap().swapped(true).pre_tokenization(words))
        .references(Rouge::pycocoevalcap().swapped(true).pre_tokenization(words))
        .with(Texts::new(Entropy::pal().pre_tokenization(spaced)))
        .with(Texts::new(Distinct::pal().pre_tokenization(spaced)))
        .copy_rate(copies(language))
        .without("C.score", "needs a judge")
}

fn copies(language: Language) -> CopyRate {
    CopyRate::default().pre_tokenization(language.words(PreTokenization::SpacePunctuation))
}

impl fmt::Display for Preset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Preset {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        let found = Self::ALL.into_iter().find(|preset| preset.name() == name);
        found.ok_or_else(|| Error::UnknownPreset { name: name.to_owned() })
    }
}
