//! Select-then-Generate, PAL's inference: first which description matters, then the reply with it highlighted.

use persona_data::{Example, Highlight, PromptKind, Selection, Utterance};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::text::TextGenerator;

/// Where the highlighted description comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Strategy {
    /// The model's own selection, matched back to the persona: PAL's inference.
    #[default]
    Select,
    /// One of the persona's descriptions, drawn from this seed and the example's index.
    Random(u64),
    /// None is highlighted and nothing is said about it: the whole persona is the condition.
    NotSelect,
    /// The example's label, which was made by looking at the gold reply: an upper bound, not a system. The released code
    /// of PAL does this.
    Oracle,
}

/// A generated reply.
#[derive(Debug, Clone, PartialEq)]
pub struct Reply {
    /// What was selected, and on what that rests, where the strategy selects.
    pub selection: Option<Selected>,
    /// The reply.
    pub text: String,
}

/// A selection.
#[derive(Debug, Clone, PartialEq)]
pub struct Selected {
    /// The index of the highlighted description, `None` for none.
    pub choice: Option<usize>,
    /// What the model said, and how it was matched, where the model selected.
    pub answer: Option<(String, Selection)>,
}

/// Replies with a persona, in two steps of one model.
#[derive(Debug, Clone, Copy)]
pub struct SelectThenGenerate<'a> {
    generator: TextGenerator<'a>,
    strategy: Strategy,
}

impl<'a> SelectThenGenerate<'a> {
    /// With the model's own selection.
    #[must_use]
    pub fn new(generator: TextGenerator<'a>) -> Self {
        Self { generator, strategy: Strategy::Select }
    }

    /// Chooses where the highlighted description comes from.
    #[must_use]
    pub fn strategy(mut self, strategy: Strategy) -> Self {
        self.strategy = strategy;
        self
    }

    /// The reply to one history.
    ///
    /// # Errors
    /// As [`replies`](Self::replies).
    pub fn reply(&self, persona: &[String], history: &[Utterance]) -> Result<Reply> {
        let example = Example {
            id: "the prompt".to_owned(),
            persona: persona.to_vec(),
            history: history.to_vec(),
            response: String::new(),
            relevant: None,
            candidates: Vec::new(),
        };
        let mut replies = self.replies(std::slice::from_ref(&example))?;
        Ok(replies.pop().unwrap_or_else(|| Reply { selection: None, text: String::new() }))
    }

    /// The replies to the histories of examples; their gold responses are not read. Labels are read by
    /// [`Strategy::Oracle`] alone, for which an example without labels has no description highlighted.
    ///
    /// # Errors
    /// [`Error::Data`](crate::Error::Data) with the example's id where a prompt does not fit, and the decoder's.
    pub fn replies(&self, examples: &[Example]) -> Result<Vec<Reply>> {
        let selections = self.selections(examples)?;
        let prompts = examples
            .iter()
            .zip(&selections)
            .map(|(example, selection)| {
                let highlight = match selection {
                    None => Highlight::Absent,
                    Some(Selected { choice: Some(index), .. }) => Highlight::Description(*index),
                    Some(Selected { choice: None, .. }) => Highlight::None,
                };
                self.prompt(example, PromptKind::Generation(highlight))
            })
            .collect::<Result<Vec<_>>>()?;
        let texts = self.generator.continue_ids(&prompts)?;
        Ok(selections.into_iter().zip(texts).map(|(selection, text)| Reply { selection, text }).collect())
    }

    /// What each example's highlighted description is, by the strategy.
    ///
    /// # Errors
    /// As [`replies`](Self::replies).
    pub fn selections(&self, examples: &[Example]) -> Result<Vec<Option<Selected>>> {
        let chosen = |choice| Some(Selected { choice, answer: None });
        Ok(match self.strategy {
            Strategy::NotSelect => vec![None; examples.len()],
            Strategy::Oracle => examples.iter().map(|example| chosen(example.selected())).collect(),
            Strategy::Random(seed) => examples
                .iter()
                .enumerate()
                .map(|(at, example)| {
                    let mut rng = ChaCha8Rng::seed_from_u64(seed);
                    rng.set_stream(at as u64);
                    let count = example.persona.len();
                    chosen((count > 0).then(|| rng.random_range(0..count)))
                })
                .collect(),
            Strategy::Select => {
                let prompts = examples
                    .iter()
                    .map(|example| self.prompt(example, PromptKind::Selection))
                    .collect::<Result<Vec<_>>>()?;
                let answers = self.generator.continue_ids(&prompts)?;
                let set = self.generator.encoder.prompts();
                examples
                    .iter()
                    .zip(answers)
                    .map(|(example, answer)| {
                        let matched = set.match_selection(&answer, &example.persona);
                        Some(Selected { choice: matched.choice, answer: Some((answer, matched)) })
                    })
                    .collect()
            }
        })
    }

    fn prompt(&self, example: &Example, kind: PromptKind<'_>) -> Result<Vec<u32>> {
        let room = self.generator.config.max_new_tokens;
        let prompt =
            self.generator.encoder.prompt(&example.id, &example.persona, &example.history, kind, room)?;
        Ok(prompt.ids)
    }
}
