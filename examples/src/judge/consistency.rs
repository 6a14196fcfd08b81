//! C.score of a model's replies while it trains.

use std::fmt;

use anyhow::{Result, ensure};
use persona_data::{Example, ExampleEncoder};
use persona_infer::{DecodeConfig, SelectThenGenerate, Strategy, TextGenerator};
use persona_metrics::{Consistency, PersonaJudge};
use persona_model::CausalLm;
use persona_train::Evaluator;

/// Replies to some examples at every evaluation of a training and judges the replies: `c_score/sum` and `c_score/max`,
/// which early stopping may watch. See [`Consistency`].
pub struct ConsistencyEvaluator<'a> {
    judge: &'a dyn PersonaJudge,
    encoder: &'a ExampleEncoder,
    decode: DecodeConfig,
    strategy: Strategy,
    examples: Vec<Example>,
}

impl fmt::Debug for ConsistencyEvaluator<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConsistencyEvaluator")
            .field("judge", &self.judge.name())
            .field("strategy", &self.strategy)
            .field("examples", &self.examples.len())
            .finish_non_exhaustive()
    }
}

impl<'a> ConsistencyEvaluator<'a> {
    /// What is measured.
    pub const NAMES: [&'static str; 2] = ["c_score/sum", "c_score/max"];

    /// Replies with a strategy.
    ///
    /// # Errors
    /// When there is no example, or one has no persona: nothing could be judged.
    pub fn new(
        judge: &'a dyn PersonaJudge,
        encoder: &'a ExampleEncoder,
        decode: DecodeConfig,
        strategy: Strategy,
        examples: Vec<Example>,
    ) -> Result<Self> {
        ensure!(
            !examples.is_empty(),
            "C.score while training: there is no validation example with a persona"
        );
        if let Some(example) = examples.iter().find(|example| example.persona.is_empty()) {
            anyhow::bail!("C.score while training: the example {:?} has no persona", example.id);
        }
        Ok(Self { judge, encoder, decode, strategy, examples })
    }

    fn scores(&self, model: &dyn CausalLm) -> Result<Vec<(String, f64)>> {
        let generator = TextGenerator::new(model, self.encoder, self.decode)?;
        let replies = SelectThenGenerate::new(generator).strategy(self.strategy).replies(&self.examples)?;
        let texts: Vec<&str> = replies.iter().map(|reply| reply.text.as_str()).collect();
        let personas: Vec<&[String]> =
            self.examples.iter().map(|example| example.persona.as_slice()).collect();
        let (judge, judgements) = Consistency::judgements(self.judge, &texts, &personas)?;
        let mut values = Vec::new();
        for (name, form) in Self::NAMES.into_iter().zip([Consistency::sum(), Consistency::max()]) {
            let scores = form.of_judgements(&judge, &judgements)?;
            values.extend(scores.values().iter().map(|&value| (name.to_owned(), value)));
        }
        Ok(values)
    }
}

/// An error of several causes, as persona-train takes them.
#[derive(Debug)]
struct Failed(anyhow::Error);

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "C.score: {:#}", self.0)
    }
}

impl std::error::Error for Failed {}

impl<M: CausalLm> Evaluator<M> for ConsistencyEvaluator<'_> {
    fn evaluate(&mut self, model: &M, _step: u64) -> persona_train::Result<Vec<(String, f64)>> {
        self.scores(model).map_err(|error| persona_train::Error::objective(Failed(error)))
    }
}
