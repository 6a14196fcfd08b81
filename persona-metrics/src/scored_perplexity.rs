//! Perplexity over a language model.

use serde::{Deserialize, Serialize};

use crate::embedding::same_count;
use crate::error::{Error, ModelError, Result, same_length};
use crate::metric::{Examples, Metric, Statistics};
use crate::once::Once;
use crate::perplexity::{Perplexity, PerplexitySums};
use crate::score::{Scores, Unit};

/// What a language model makes of a target.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TargetNll {
    /// Sum of the negative log-likelihoods of its tokens, in nats.
    pub nll: f64,
    /// How many tokens that is.
    pub tokens: u64,
}

/// Scores targets after their prompts, for [`Perplexity::corpus`].
pub trait LanguageModel {
    /// Name for the signature: model, revision, whether an end of text belongs to the target. Not to contain `|`.
    fn name(&self) -> String;

    /// How many examples one call of [`nll`](Self::nll) gets at most. They are of like length, longest first.
    fn batch_size(&self) -> usize {
        64
    }

    /// For each (prompt, target) in order what the model makes of the target after the prompt, which may be empty.
    ///
    /// # Errors
    /// Whatever keeps the model from scoring them.
    fn nll(&self, examples: &[(&str, &str)]) -> Result<Vec<TargetNll>, ModelError>;
}

impl Perplexity {
    /// Perplexity of a language model on targets after their prompts. Beside the scores of [`Perplexity`] there are the mean
    /// negative log-likelihoods of a token, which some papers call perplexity: [`ScoredPerplexity::TOKEN_NLL`] over all
    /// tokens, [`ScoredPerplexity::EXAMPLE_NLL`] with every example weighing the same.
    ///
    /// Values of models with different tokenizers are not comparable, but for those by word.
    ///
    /// # Errors
    /// Lists of unequal length, an empty corpus, a target without a token, a model that fails or gives a NaN.
    pub fn corpus<M, P, T>(&self, model: &M, prompts: &[P], targets: &[T]) -> Result<Scores>
    where
        M: LanguageModel + ?Sized,
        P: AsRef<str>,
        T: AsRef<str>,
    {
        self.collect(model, prompts, targets)?.scores()
    }

    /// Statistics of a corpus: one shard of a larger whole.
    ///
    /// # Errors
    /// As [`Perplexity::corpus`], but an empty corpus has statistics.
    pub fn collect<M, P, T>(
        &self,
        model: &M,
        prompts: &[P],
        targets: &[T],
    ) -> Result<Statistics<ScoredPerplexity>>
    where
        M: LanguageModel + ?Sized,
        P: AsRef<str>,
        T: AsRef<str>,
    {
        let (metric, sums) = self.score(model, prompts, targets)?;
        let mut statistics = Metric::statistics(&metric);
        sums.iter().try_for_each(|sums| statistics.push(sums))?;
        Ok(statistics)
    }

    /// Each example by itself, to draw them again (see [`stats`](crate::stats)). [`Perplexity::examples`] takes sums that
    /// are at hand.
    ///
    /// # Errors
    /// As [`Perplexity::corpus`], but an empty corpus has no examples.
    pub fn examples_of<M, P, T>(
        &self,
        model: &M,
        prompts: &[P],
        targets: &[T],
    ) -> Result<Examples<ScoredPerplexity>>
    where
        M: LanguageModel + ?Sized,
        P: AsRef<str>,
        T: AsRef<str>,
    {
        let (metric, sums) = self.score(model, prompts, targets)?;
        Ok(Examples::new(metric, sums))
    }

    fn score<M, P, T>(
        &self,
        model: &M,
        prompts: &[P],
        targets: &[T],
    ) -> Result<(ScoredPerplexity, Vec<PerplexitySums>)>
    where
        M: LanguageModel + ?Sized,
        P: AsRef<str>,
        T: AsRef<str>,
    {
        same_length("prompts", prompts.len(), "targets", targets.len())?;
        let pairs = prompts.iter().map(AsRef::as_ref).zip(targets.iter().map(AsRef::as_ref));
        let pairs: Vec<(&str, &str)> = pairs.collect();
        let metric = ScoredPerplexity { perplexity: *self, model: model.name() };
        let mut once = Once::of(pairs.iter().copied());
        once.answer(pairs.iter().copied(), model.batch_size(), |examples| {
            let (name, model_name) = (Self::NAME, || metric.model.clone());
            let answers = model.nll(examples);
            let answers =
                answers.map_err(|source| Error::Model { metric: name, model: model_name(), source })?;
            same_count((name, model_name), examples.len(), answers.len())?;
            Ok(answers)
        })?;
        let answers = pairs.iter().filter_map(|&pair| Some((pair.1, once.get(pair)?)));
        let sums = answers.enumerate().map(|(index, (target, &TargetNll { nll, tokens }))| {
            self.example(nll, tokens, target).map_err(|error| error.at(index))
        });
        Ok((metric.clone(), sums.collect::<Result<_>>()?))
    }
}

/// Perplexity with the language model that scores the targets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScoredPerplexity {
    perplexity: Perplexity,
    model: String,
}

impl ScoredPerplexity {
    /// The score of the mean negative log-likelihood of a token, in nats.
    pub const TOKEN_NLL: &'static str = "NLL (token)";
    /// The score of the mean over examples of the mean negative log-likelihood of their tokens, in nats.
    pub const EXAMPLE_NLL: &'static str = "NLL (example mean)";
}

impl Metric for ScoredPerplexity {
    const NAME: &'static str = Perplexity::NAME;
    type Sums = PerplexitySums;

    fn empty(&self) -> PerplexitySums {
        self.perplexity.empty()
    }

    fn names(&self) -> Vec<String> {
        let mut names = self.perplexity.names();
        names.extend([Self::TOKEN_NLL, Self::EXAMPLE_NLL].map(str::to_owned));
        names
    }

    fn unit(&self) -> Unit {
        Unit::Plain
    }

    fn values(&self, sums: &PerplexitySums) -> Result<Vec<f64>> {
        let mut values = self.perplexity.values(sums)?;
        values.extend(sums.mean_nlls());
        Ok(values)
    }

    fn settings(&self) -> String {
        format!("model:{}|{}", self.model, self.perplexity.settings())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::Resample;

    /// A token a character of the target, each as likely as the prompt says.
    struct Stub;

    impl LanguageModel for Stub {
        fn name(&self) -> String {
            "stub".to_owned()
        }

        fn nll(&self, examples: &[(&str, &str)]) -> Result<Vec<TargetNll>, ModelError> {
            let one = |&(prompt, target): &(&str, &str)| {
                let tokens = target.len() as u64;
                Ok(TargetNll { nll: prompt.parse::<f64>()? * tokens as f64, tokens })
            };
            examples.iter().filter(|(prompt, _)| *prompt != "left out").map(one).collect()
        }
    }

    #[test]
    fn all_forms_of_one_corpus() {
        let scores = Perplexity::by_word().corpus(&Stub, &["2", "0.5", "2"], &["ab", "abcd", "ab"]).unwrap();
        let (token, example) = (10.0_f64 / 8.0, 1.5_f64);
        assert_eq!(scores.values(), [token.exp(), example.exp(), (10.0_f64 / 3.0).exp(), token, example]);
        let line = scores.get(ScoredPerplexity::EXAMPLE_NLL).unwrap().to_string();
        assert!(line.starts_with("NLL (example mean) = 1.50 | model:stub|words:case:mixed|"), "{line}");
        let examples = Perplexity::default().examples_of(&Stub, &["1", "2"], &["a", "b"]).unwrap();
        assert_eq!(examples.scores_of(&[1, 1]).unwrap()[2..], [2.0, 2.0]);
    }

    #[test]
    fn bad_answers_are_errors() {
        let score = |prompt, target| Perplexity::default().corpus(&Stub, &[prompt], &[target]).unwrap_err();
        let source = |error: Error| match error {
            Error::Example { index: 0, source } => *source,
            other => panic!("{other}"),
        };
        assert!(matches!(source(score("1", "")), Error::NoTargetTokens));
        assert!(matches!(source(score("NaN", "a")), Error::InvalidNll { .. }));
        assert!(matches!(score("x", "a"), Error::Model { .. }));
        assert!(matches!(score("left out", "a"), Error::ModelCount { asked: 1, answered: 0, .. }));
        let none: [&str; 0] = [];
        assert!(matches!(Perplexity::default().corpus(&Stub, &none, &none), Err(Error::EmptyCorpus { .. })));
        assert!(Perplexity::default().corpus(&Stub, &none, &["a"]).is_err());
    }
}
