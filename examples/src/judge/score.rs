//! A judge's probabilities and judgements.

use std::path::Path;

use anyhow::{Context, Result, bail};
use persona_data::PairReport;
use persona_metrics::model::{ClassifierJudge, LongTexts};
use persona_metrics::{Judgement, ModelError, PersonaJudge};
use tch::{Device, Kind};

/// The folder of the judge that ships with these programs. What it is made of and how far to trust it: its README.md.
pub const SHIPPED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/judge");

/// How the shipped judge is called in signatures.
const SHIPPED_NAME: &str = "persona-examples small judge 1";

/// A trained judge of a folder; pairs that are too long for it are cut, and counted.
///
/// As a [`PersonaJudge`] it finds whatever has no text neutral, without asking the model: who says nothing neither
/// restates nor contradicts. Its name says so, but for the shipped judge's.
#[derive(Debug)]
pub struct Judge {
    judge: ClassifierJudge,
    shipped: bool,
}

impl Judge {
    /// Loads a folder: a classifier in the Hugging Face layout whose labels are contradiction, neutral and entailment in
    /// any order. Pairs are cut to the least of the tokenizer's `model_max_length` and the model's positions.
    ///
    /// # Errors
    /// What persona-metrics, persona-model and persona-data have against the folder; another set of labels.
    pub fn load(folder: &Path, device: Device) -> Result<Self> {
        Self::load_in(folder, device, Kind::Float)
    }

    /// As [`load`](Self::load), computing in another kind; its name in signatures says so.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn load_in(folder: &Path, device: Device, kind: Kind) -> Result<Self> {
        let judge = ClassifierJudge::load(folder, device, kind)
            .with_context(|| format!("the judge {}", folder.display()))?;
        let shipped = matches!(
            (folder.canonicalize(), Path::new(SHIPPED).canonicalize()),
            (Ok(folder), Ok(shipped)) if folder == shipped
        );
        let judge = match kind {
            _ if !shipped => judge,
            Kind::Float => judge.named(SHIPPED_NAME),
            kind => judge.named(format!("{SHIPPED_NAME} ({kind:?})")),
        };
        Ok(Self { judge: judge.long_texts(LongTexts::Cut), shipped })
    }

    /// The probabilities of each (description, reply), in order and in that of
    /// [`NliLabel::ALL`](persona_data::NliLabel::ALL), with a report of the distinct pairs: each is computed once.
    ///
    /// # Errors
    /// A pair of which a text is empty; probabilities that are not finite; the model's.
    pub fn probabilities(&self, pairs: &[(&str, &str)]) -> Result<(Vec<[f64; 3]>, PairReport)> {
        if let Some((description, reply)) = pairs.iter().find(|pair| blank(pair)) {
            bail!(
                "the description {description:?} or the reply {reply:?} is empty: there is nothing to judge"
            );
        }
        let mut distinct = pairs.to_vec();
        distinct.sort_unstable();
        distinct.dedup();
        let report = PairReport::of(self.judge.tokenizer().encode_pairs(&distinct)?.iter());
        Ok((self.judge.probabilities(pairs)?, report))
    }
}

fn blank((description, reply): &(&str, &str)) -> bool {
    description.trim().is_empty() || reply.trim().is_empty()
}

impl PersonaJudge for Judge {
    fn name(&self) -> String {
        let name = self.judge.name();
        if self.shipped { name } else { format!("{name}, empty texts neutral") }
    }

    fn judge(&self, pairs: &[(&str, &str)]) -> Result<Vec<Judgement>, ModelError> {
        let asked: Vec<(&str, &str)> = pairs.iter().filter(|pair| !blank(pair)).copied().collect();
        let mut answers = self.judge.judge(&asked)?.into_iter();
        let answer = |pair| if blank(pair) { Some(Judgement::Neutral) } else { answers.next() };
        let all: Option<Vec<Judgement>> = pairs.iter().map(answer).collect();
        all.ok_or_else(|| "the judge gave fewer answers than it got pairs".into())
    }
}
