//! C.score's judge on persona-model's classifiers.

use std::path::Path;

use persona_data::EncoderTokenizer;
use persona_model::{Classifier, Model, load_classifier};
use tch::{Device, Kind};

use super::batches::{in_batches, numbers};
use super::{LongTexts, folder_name, signature_part, unusable};
use crate::consistency::{Judgement, PersonaJudge};
use crate::error::{Error, ModelError, Result, shortened};
use crate::once::Once;

/// A classifier of natural language inference as [`PersonaJudge`]: the description is its premise, the reply its
/// hypothesis, as in PAL's code.
///
/// The classes are known by the names of the checkpoint's labels, in whatever order and case. The first of the highest
/// logits wins, in the order of the labels.
pub struct ClassifierJudge {
    model: Box<dyn Classifier>,
    tokenizer: EncoderTokenizer,
    /// The classes in the order of the logits.
    classes: [Judgement; 3],
    name: String,
    reply_first: bool,
    long: LongTexts,
}

impl std::fmt::Debug for ClassifierJudge {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClassifierJudge")
            .field("name", &self.name)
            .field("tokenizer", &self.tokenizer)
            .field("classes", &self.classes)
            .field("reply_first", &self.reply_first)
            .field("long", &self.long)
            .finish_non_exhaustive()
    }
}

impl ClassifierJudge {
    /// Loads the classifier and the tokenizer of a folder, in `kind`, named as the [module](super) says.
    ///
    /// # Errors
    /// [`Error::ModelFiles`] with what persona-model or persona-data has against the folder, or for a tokenizer with more
    /// ids than the model embeds; [`Error::JudgeClasses`].
    pub fn load(folder: impl AsRef<Path>, device: Device, kind: Kind) -> Result<Self> {
        let folder = folder.as_ref();
        let unusable = unusable(folder);
        let (model, _) = load_classifier(folder, device, kind).map_err(|error| unusable(error.into()))?;
        let tokenizer = EncoderTokenizer::from_folder(folder).map_err(|error| unusable(error.into()))?;
        let checked = tokenizer.check_vocabulary(model.limits().vocabulary);
        checked.map_err(|error| unusable(error.into()))?;
        Self::new(model, tokenizer, folder_name(folder, kind).map_err(unusable)?)
    }

    /// A classifier with its tokenizer, under a name for signatures.
    ///
    /// # Errors
    /// [`Error::JudgeClasses`] unless its labels are contradiction, neutral and entailment;
    /// [`Error::InvalidSetting`] for a model or tokenizer that reads fewer than 8 tokens.
    pub fn new(
        model: Box<dyn Classifier>,
        tokenizer: EncoderTokenizer,
        name: impl AsRef<str>,
    ) -> Result<Self> {
        let classes = classes(model.labels())?;
        let longest = tokenizer.max_tokens().min(model.limits().positions);
        let invalid = |error: persona_data::Error| Error::InvalidSetting {
            metric: "C.score",
            problem: error.to_string(),
        };
        Ok(Self {
            model,
            tokenizer: tokenizer.with_max_tokens(longest).map_err(invalid)?,
            classes,
            name: signature_part(name.as_ref()),
            reply_first: false,
            long: LongTexts::Refuse,
        })
    }

    /// Calls the model so in signatures: give the repository and revision, and what it was trained on.
    #[must_use]
    pub fn named(self, name: impl AsRef<str>) -> Self {
        Self { name: signature_part(name.as_ref()), ..self }
    }

    /// The reply is the premise and the description the hypothesis, as in PAML's code.
    #[must_use]
    pub fn reply_first(self, reply_first: bool) -> Self {
        Self { reply_first, ..self }
    }

    /// What happens to pairs that are too long; unless set they are refused.
    #[must_use]
    pub fn long_texts(self, long: LongTexts) -> Self {
        Self { long, ..self }
    }

    /// The most tokens of a pair, special ones included: PAL's judge reads 128.
    ///
    /// # Errors
    /// Fewer than 8, or more than the model reads.
    pub fn max_tokens(self, max_tokens: usize) -> Result<Self> {
        let longest = self.tokenizer.max_tokens();
        let invalid = |problem| Error::InvalidSetting { metric: "C.score", problem };
        if max_tokens > longest {
            return Err(invalid(format!("{max_tokens} tokens a pair; {} reads {longest}", self.name)));
        }
        let tokenizer = self.tokenizer.with_max_tokens(max_tokens);
        Ok(Self { tokenizer: tokenizer.map_err(|error| invalid(error.to_string()))?, ..self })
    }

    /// What makes tokens of pairs, and cuts them.
    pub fn tokenizer(&self) -> &EncoderTokenizer {
        &self.tokenizer
    }

    /// The probabilities of contradiction, neutral and entailment for each (description, reply), in order: the softmax of
    /// the logits. Each distinct pair is computed once.
    ///
    /// # Errors
    /// [`Error::Model`] with the reason: a pair that is too long, logits that are not finite, libtorch's.
    pub fn probabilities(&self, pairs: &[(&str, &str)]) -> Result<Vec<[f64; 3]>> {
        let logits = self.logits(pairs).map_err(|source| Error::Model {
            metric: "C.score",
            model: self.name.clone(),
            source,
        })?;
        let probability = |logits: [f64; 3]| {
            let highest = logits.into_iter().fold(f64::NEG_INFINITY, f64::max);
            let weights = logits.map(|logit| (logit - highest).exp());
            let sum: f64 = weights.iter().sum();
            Judgement::CONTRADICTION_FIRST.map(|wanted| {
                let weight = self.classes.iter().zip(weights).find(|(class, _)| **class == wanted);
                weight.map_or(0.0, |(_, weight)| weight / sum)
            })
        };
        Ok(logits.into_iter().map(probability).collect())
    }

    /// The logits of each pair, in the order of the model's labels.
    fn logits(&self, pairs: &[(&str, &str)]) -> Result<Vec<[f64; 3]>, ModelError> {
        let mut once = Once::of(pairs.iter().copied());
        once.answer(pairs.iter().copied(), usize::MAX, |pairs| self.logits_of_each(pairs))?;
        let logits: Option<Vec<[f64; 3]>> = pairs.iter().map(|&pair| once.get(pair).copied()).collect();
        logits.ok_or_else(|| "the model gave fewer answers than it got pairs".into())
    }

    fn logits_of_each(&self, pairs: &[(&str, &str)]) -> Result<Vec<[f64; 3]>, ModelError> {
        let in_order = |&(description, reply)| {
            if self.reply_first { (reply, description) } else { (description, reply) }
        };
        let rows = self.tokenizer.encode_pairs(&pairs.iter().map(in_order).collect::<Vec<_>>())?;
        self.long.check(&rows, |at| {
            let (description, reply) = pairs.get(at).copied().unwrap_or_default();
            Error::PairTooLong {
                model: self.name.clone(),
                pair: "description and reply",
                longer: shortened(if description.len() > reply.len() { description } else { reply }),
                limit: self.tokenizer.max_tokens(),
                may_be_cut: true,
            }
        })?;
        let place = (self.model.limits(), self.model.device());
        let logits: Vec<[f64; 3]> = in_batches(&rows, place, |batch| {
            let logits = numbers(&self.model.logits(batch, false)?)?;
            let rows = logits.chunks(3).map(|row| <[f32; 3]>::try_from(row).map(|row| row.map(f64::from)));
            Ok(rows.collect::<Result<_, _>>()?)
        })?;
        let bad = logits.iter().zip(pairs).find(|(logits, _)| logits.iter().any(|logit| !logit.is_finite()));
        if let Some((&scores, (description, reply))) = bad {
            let source = Error::JudgeScores { scores };
            let (description, reply) = (shortened(description), shortened(reply));
            return Err(Box::new(PairError { description, reply, source }));
        }
        Ok(logits)
    }
}

/// What is wrong with one pair.
#[derive(Debug, thiserror::Error)]
#[error("description {description:?}, reply {reply:?}")]
struct PairError {
    description: String,
    reply: String,
    #[source]
    source: Error,
}

impl PersonaJudge for ClassifierJudge {
    fn name(&self) -> String {
        let name = self.long.name(&self.name, self.tokenizer.max_tokens());
        if self.reply_first { format!("{name}, reply first") } else { name }
    }

    fn judge(&self, pairs: &[(&str, &str)]) -> Result<Vec<Judgement>, ModelError> {
        let judge = |scores| Ok(Judgement::from_scores(scores, self.classes)?);
        self.logits(pairs)?.into_iter().map(judge).collect()
    }
}

/// The classes that labels name.
fn classes(labels: &[String]) -> Result<[Judgement; 3]> {
    let class = |label: &String| match label.trim().to_ascii_lowercase().as_str() {
        "contradiction" => Some(Judgement::Contradiction),
        "neutral" => Some(Judgement::Neutral),
        "entailment" => Some(Judgement::Entailment),
        _ => None,
    };
    let classes: Option<Vec<Judgement>> = labels.iter().map(class).collect();
    let classes = classes.and_then(|classes| <[Judgement; 3]>::try_from(classes).ok());
    let all = |classes: &[Judgement; 3]| {
        Judgement::CONTRADICTION_FIRST.iter().all(|wanted| classes.contains(wanted))
    };
    classes.filter(all).ok_or_else(|| Error::JudgeClasses { labels: labels.to_vec() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_are_known_by_name() {
        let of = |labels: &[&str]| classes(&labels.iter().map(|&label| label.to_owned()).collect::<Vec<_>>());
        use Judgement::{Contradiction, Entailment, Neutral};
        assert_eq!(
            of(&["ENTAILMENT", "neutral", "Contradiction"]).unwrap(),
            [Entailment, Neutral, Contradiction]
        );
        for labels in [
            &["entailment", "neutral"][..],
            &["entailment", "neutral", "neutral"],
            &["LABEL_0", "LABEL_1", "LABEL_2"],
            &["entailment", "neutral", "contradiction", "other"],
            &["not_entailment", "neutral", "contradiction"],
        ] {
            let error = of(labels).unwrap_err();
            assert!(matches!(error, Error::JudgeClasses { .. }));
            assert!(error.to_string().contains("id2label") && error.to_string().contains(labels[0]));
        }
    }
}
