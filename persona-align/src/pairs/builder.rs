//! Building pairs from any generator of replies.

use std::fmt;

use persona_data::{Example, Highlight, PromptSet, ReplyGenerator, Utterance};

use super::words::{dice, words};
use super::{Judged, Pair, PairOptions, PairReport, RejectedFrom};
use crate::error::{Error, Result};

/// Says how good replies are, so that the worst of several can be the rejected one: a judge of consistency, a reward
/// model, or a function of an example and a reply.
pub trait ReplyJudge {
    /// One score a reply, higher for better, in order.
    ///
    /// # Errors
    /// Whatever keeps the judge from judging.
    fn scores(
        &self,
        replies: &[(&Example, &str)],
    ) -> Result<Vec<f64>, Box<dyn std::error::Error + Send + Sync>>;
}

impl<F: Fn(&Example, &str) -> f64> ReplyJudge for F {
    fn scores(
        &self,
        replies: &[(&Example, &str)],
    ) -> Result<Vec<f64>, Box<dyn std::error::Error + Send + Sync>> {
        Ok(replies.iter().map(|(example, reply)| self(example, reply)).collect())
    }
}

/// Builds pairs: chosen is the gold reply, rejected one that the model itself has given in a worse way, and both continue
/// the generation prompt, in which the relevant description is highlighted. [`history_only`](Self::history_only) is PAL's
/// (Li et al. 2025).
pub struct PairBuilder<'a> {
    prompts: &'a PromptSet,
    options: PairOptions,
    fit: Option<&'a Fit<'a>>,
    from: RejectedFrom,
    judge: Option<&'a dyn ReplyJudge>,
}

/// How many of an example's oldest turns have to go, so that its prompts and replies fit the model.
type Fit<'a> = dyn Fn(&Example) -> persona_data::Result<usize> + 'a;

impl fmt::Debug for PairBuilder<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PairBuilder")
            .field("options", &self.options)
            .field("from", &self.from)
            .finish_non_exhaustive()
    }
}

impl<'a> PairBuilder<'a> {
    /// Rejected replies come from the history-only prompt.
    #[must_use]
    pub fn history_only(prompts: &'a PromptSet, options: PairOptions) -> Self {
        Self { prompts, options, fit: None, from: RejectedFrom::HistoryOnly, judge: None }
    }

    /// Rejected replies come from the generation prompt with the persona of the next example that has another one, of
    /// another dialogue where ids are `DIALOGUE#TURN`. One of that persona's descriptions is highlighted where one of the
    /// example's own is.
    #[must_use]
    pub fn swapped_persona(prompts: &'a PromptSet, options: PairOptions) -> Self {
        Self { from: RejectedFrom::SwappedPersona, ..Self::history_only(prompts, options) }
    }

    /// Rejected replies are those that the judge likes least of `samples` replies to the generation prompt; of equal ones
    /// the first. The generator sees each prompt `samples` times in a row, and should sample.
    #[must_use]
    pub fn worst_of(
        prompts: &'a PromptSet,
        options: PairOptions,
        samples: usize,
        judge: &'a dyn ReplyJudge,
    ) -> Self {
        let from = RejectedFrom::WorstOf(samples);
        Self { from, judge: Some(judge), ..Self::history_only(prompts, options) }
    }

    /// Leaves out as many of an example's oldest turns as `fit` says, of both prompts alike. `ExampleEncoder::prompt`
    /// counts them. Without this a history longer than the model is an error of the generator.
    #[must_use]
    pub fn fitted_by(mut self, fit: &'a Fit<'a>) -> Self {
        self.fit = Some(fit);
        self
    }

    /// The pairs of these examples, in order.
    ///
    /// # Errors
    /// [`Error::Option`] for a similarity outside 0 to 1, and for the worst of fewer than 2; [`Error::Unlabelled`] for an
    /// example whose relevant descriptions nobody has named; [`Error::Generator`] and [`Error::Judge`]; the prompts'
    /// errors.
    pub fn build<G: ReplyGenerator>(
        &self,
        examples: &[Example],
        generator: &mut G,
    ) -> Result<(Vec<Pair>, PairReport)> {
        if !(0.0..=1.0).contains(&self.options.similarity) {
            let value = self.options.similarity;
            return Err(Error::Option { name: "similarity", value, range: "it lies in 0 to 1" });
        }
        if let RejectedFrom::WorstOf(samples @ 0..2) = self.from {
            let (name, range) = ("samples", "the worst of at least 2 is taken");
            return Err(Error::Option { name, value: samples as f64, range });
        }
        if let Some(example) = examples.iter().find(|example| example.relevant.is_none()) {
            return Err(Error::Unlabelled { id: example.id.clone() });
        }
        let mut report =
            PairReport { examples: examples.len(), rejected_from: self.from, ..PairReport::default() };
        let histories = examples
            .iter()
            .map(|example| {
                let cut = self.fit.map_or(Ok(0), |fit| fit(example))?;
                Ok(example.history.get(cut..).unwrap_or_default())
            })
            .collect::<Result<Vec<_>>>()?;
        // Each example with its history, and the prompt that its rejected reply comes from.
        let mut asked = Vec::with_capacity(examples.len());
        let mut prompts = Vec::with_capacity(examples.len());
        for (at, (example, history)) in examples.iter().zip(histories).enumerate() {
            if !self.options.keep_none && example.selected().is_none() {
                report.none += 1;
                continue;
            }
            let Some(prompt) = self.prompt(examples, at, history)? else {
                report.without_other += 1;
                continue;
            };
            asked.push((example, history));
            prompts.push(prompt);
        }
        let samples = if let RejectedFrom::WorstOf(samples) = self.from { samples } else { 1 };
        let prompts: Vec<String> =
            prompts.iter().flat_map(|prompt| std::iter::repeat_n(prompt.clone(), samples)).collect();
        let replies = generator.replies(&prompts).map_err(|error| Error::Generator(Box::new(error)))?;
        if replies.len() != prompts.len() {
            let text = format!("{} replies to {} prompts", replies.len(), prompts.len());
            return Err(Error::Generator(text.into()));
        }
        let replies = match self.judge {
            None => replies.iter().map(|reply| reply.trim()).collect(),
            Some(judge) => worst(judge, &asked, &replies, samples, &mut report)?,
        };
        self.assemble(&asked, &replies, report)
    }

    /// The prompt of an example's rejected reply; nothing where no other persona can be swapped in.
    fn prompt(&self, examples: &[Example], at: usize, history: &[Utterance]) -> Result<Option<String>> {
        let Some(example) = examples.get(at) else { return Ok(None) };
        let prompt = match self.from {
            RejectedFrom::HistoryOnly => self.prompts.history_only(history)?,
            RejectedFrom::WorstOf(_) => {
                self.prompts.generation(&example.persona, history, highlight(example))?
            }
            RejectedFrom::SwappedPersona => {
                let others = examples.iter().cycle().skip(at + 1).take(examples.len().saturating_sub(1));
                let mut others = others.filter(|other| {
                    dialogue(&other.id) != dialogue(&example.id)
                        && !other.persona.is_empty()
                        && other.persona.iter().all(|description| !example.persona.contains(description))
                });
                let Some(other) = others.next() else { return Ok(None) };
                let highlight = example.selected().map_or(Highlight::None, |selected| {
                    Highlight::Description(selected % other.persona.len())
                });
                self.prompts.generation(&other.persona, history, highlight)?
            }
        };
        Ok(Some(prompt))
    }

    fn assemble(
        &self,
        asked: &[(&Example, &[Utterance])],
        replies: &[&str],
        mut report: PairReport,
    ) -> Result<(Vec<Pair>, PairReport)> {
        let mut pairs = Vec::with_capacity(asked.len());
        for (&(example, history), &reply) in asked.iter().zip(replies) {
            report.cut += usize::from(history.len() < example.history.len());
            let (gold_words, reply_words) = (words(&example.response), words(reply));
            report.chosen_words += gold_words.len() as f64;
            report.rejected_words += reply_words.len() as f64;
            let keep = if reply_words.is_empty() {
                report.empty += 1;
                self.options.keep_empty
            } else if gold_words == reply_words {
                report.identical += 1;
                self.options.keep_identical
            } else if dice(&gold_words, &reply_words) >= self.options.similarity {
                report.similar += 1;
                self.options.keep_similar
            } else {
                true
            };
            if keep {
                pairs.push(Pair {
                    id: example.id.clone(),
                    prompt: self.prompts.generation(&example.persona, history, highlight(example))?,
                    chosen: self.prompts.response_target(&example.response),
                    rejected: self.prompts.response_target(reply),
                });
            }
        }
        report.pairs = pairs.len();
        let count = asked.len().max(1) as f64;
        report.chosen_words /= count;
        report.rejected_words /= count;
        let distinct: std::collections::HashSet<&str> = replies.iter().copied().collect();
        report.distinct_rejected = distinct.len() as f64 / count;
        Ok((pairs, report))
    }
}

fn highlight(example: &Example) -> Highlight<'_> {
    example.selected().map_or(Highlight::None, Highlight::Description)
}

/// The dialogue of an example's id, `DIALOGUE#TURN`.
fn dialogue(id: &str) -> &str {
    id.rsplit_once('#').map_or(id, |(dialogue, _)| dialogue)
}

/// Of every example's replies the one with the lowest score, with what the judge said in the report.
fn worst<'r>(
    judge: &dyn ReplyJudge,
    asked: &[(&Example, &[Utterance])],
    replies: &'r [String],
    samples: usize,
    report: &mut PairReport,
) -> Result<Vec<&'r str>> {
    let mut questions = Vec::with_capacity(asked.len() * (samples + 1));
    for ((example, _), replies) in asked.iter().zip(replies.chunks(samples)) {
        questions.push((*example, example.response.as_str()));
        questions.extend(replies.iter().map(|reply| (*example, reply.trim())));
    }
    let scores = judge.scores(&questions).map_err(Error::Judge)?;
    if scores.len() != questions.len() {
        return Err(Error::Judge(format!("{} scores of {} replies", scores.len(), questions.len()).into()));
    }
    if let Some((score, (example, reply))) =
        scores.iter().zip(&questions).find(|(score, _)| !score.is_finite())
    {
        return Err(Error::Judge(
            format!("{score} for the reply {reply:?} to example {}", example.id).into(),
        ));
    }
    let mut judged = Judged::default();
    let mut taken = Vec::with_capacity(asked.len());
    for (scores, replies) in scores.chunks(samples + 1).zip(replies.chunks(samples)) {
        let Some((gold, scores)) = scores.split_first() else { continue };
        let Some((reply, score)) = replies.iter().zip(scores).min_by(|a, b| a.1.total_cmp(b.1)) else {
            continue;
        };
        judged.chosen += gold;
        judged.rejected += score;
        judged.best += scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        judged.not_worse += usize::from(score >= gold);
        taken.push(reply.trim());
    }
    let count = asked.len().max(1) as f64;
    for mean in [&mut judged.chosen, &mut judged.rejected, &mut judged.best] {
        *mean /= count;
    }
    report.judged = Some(judged);
    Ok(taken)
}

#[cfg(test)]
mod tests {
    use persona_data::{Role, Utterance};

    use super::*;

    struct Fixed(Vec<&'static str>);

    impl ReplyGenerator for Fixed {
        type Error = std::io::Error;

        fn replies(&mut self, prompts: &[String]) -> std::io::Result<Vec<String>> {
            assert!(prompts.iter().all(|prompt| !prompt.contains("turtle")), "the persona must not be seen");
            Ok(self.0.iter().map(ToString::to_string).collect())
        }
    }

    fn examples() -> Vec<Example> {
        (0..4)
            .map(|at| Example {
                id: format!("d#{at}"),
                persona: vec!["I have a turtle.".into()],
                history: vec![Utterance { role: Role::Partner, text: "Any pets?".into() }],
                response: "Yes, one small turtle here.".into(),
                relevant: Some(vec![0]),
                candidates: Vec::new(),
            })
            .collect()
    }

    #[test]
    fn pairs_that_teach_nothing_are_counted_and_dropped_or_kept() {
        let replies =
            || Fixed(vec!["No.", " ", "yes, one  small TURTLE here.", "Yes, one small turtle there."]);
        let prompts = PromptSet::english().unwrap();
        let options = PairOptions::default();
        let (pairs, report) =
            PairBuilder::history_only(&prompts, options).build(&examples(), &mut replies()).unwrap();
        assert_eq!((report.examples, report.pairs), (4, 1));
        assert_eq!((report.empty, report.identical, report.similar), (1, 1, 1));
        assert_eq!((pairs[0].id.as_str(), pairs[0].rejected.trim()), ("d#0", "No."));
        assert!(pairs[0].prompt.contains("turtle"), "the pair's prompt has the persona");

        let options = PairOptions { keep_empty: true, keep_identical: true, keep_similar: true, ..options };
        let (pairs, report) =
            PairBuilder::history_only(&prompts, options).build(&examples(), &mut replies()).unwrap();
        assert_eq!((pairs.len(), report.empty), (4, 1));
    }

    #[test]
    fn examples_to_which_nothing_applies_are_left_out_on_request() {
        let mut examples = examples();
        examples[1].relevant = Some(Vec::new());
        let prompts = PromptSet::english().unwrap();
        let build = |keep_none, replies: &[&'static str]| {
            let options = PairOptions { keep_none, ..PairOptions::default() };
            let mut generator = Fixed(replies.to_vec());
            PairBuilder::history_only(&prompts, options).build(&examples, &mut generator).unwrap()
        };
        let (pairs, report) = build(true, &["a", "b", "c", "d"]);
        assert_eq!((pairs.len(), report.none), (4, 0));
        // Nothing is generated for those left out, and the others keep their replies.
        let (pairs, report) = build(false, &["a", "c", "d"]);
        let made: Vec<_> = pairs.iter().map(|pair| (pair.id.as_str(), pair.rejected.trim())).collect();
        assert_eq!(made, [("d#0", "a"), ("d#2", "c"), ("d#3", "d")]);
        assert_eq!((report.examples, report.pairs, report.none, report.chosen_words), (4, 3, 1, 5.0));
        assert!(report.to_string().contains("1 to which no description applies"), "{report}");
    }

    #[test]
    fn long_histories_lose_the_same_turns_in_both_prompts() {
        let mut examples = examples();
        examples[1].history.push(Utterance { role: Role::Agent, text: "Let me think.".into() });
        examples[1].history.push(Utterance { role: Role::Partner, text: "Well?".into() });
        let prompts = PromptSet::english().unwrap();
        let fit = |example: &Example| Ok(example.history.len().saturating_sub(2));
        let builder = PairBuilder::history_only(&prompts, PairOptions::default()).fitted_by(&fit);
        let (pairs, report) = builder.build(&examples, &mut Fixed(vec!["a b", "c d", "e f", "g h"])).unwrap();
        assert_eq!((pairs.len(), report.cut), (4, 1));
        assert!(!pairs[1].prompt.contains("Any pets?") && pairs[1].prompt.contains("Well?"));
        assert!(pairs[0].prompt.contains("Any pets?"));
    }

    #[test]
    fn unlabelled_examples_are_named() {
        let mut examples = examples();
        examples[2].relevant = None;
        let prompts = PromptSet::english().unwrap();
        let builder = PairBuilder::history_only(&prompts, PairOptions::default());
        let error = builder.build(&examples, &mut Fixed(vec![""; 4])).unwrap_err();
        assert!(matches!(&error, Error::Unlabelled { id } if id == "d#2"), "{error}");
    }

    #[test]
    fn a_generator_that_loses_replies_is_an_error() {
        let prompts = PromptSet::english().unwrap();
        let error = PairBuilder::history_only(&prompts, PairOptions::default())
            .build(&examples(), &mut Fixed(vec!["No."]))
            .unwrap_err();
        assert!(error.to_string().contains("1 replies to 4 prompts"), "{error}");
    }

    /// Answers every prompt by what a function says of it and of its number.
    struct Answers<F>(F);

    impl<F: FnMut(usize, &str) -> String> ReplyGenerator for Answers<F> {
        type Error = std::io::Error;

        fn replies(&mut self, prompts: &[String]) -> std::io::Result<Vec<String>> {
            Ok(prompts.iter().enumerate().map(|(at, prompt)| (self.0)(at, prompt)).collect())
        }
    }

    #[test]
    fn a_swapped_persona_is_one_of_another_dialogue() {
        let mut examples = examples();
        for (at, (id, persona)) in
            [("a#0", "I have a turtle."), ("a#1", "I fly."), ("b#0", "I have a turtle."), ("c#0", "I sail.")]
                .into_iter()
                .enumerate()
        {
            examples[at].id = id.into();
            examples[at].persona = vec![persona.into()];
        }
        examples[0].relevant = Some(vec![]);
        let mut seen = Vec::new();
        let mut generator = Answers(|at, prompt: &str| {
            seen.push(prompt.to_owned());
            format!("reply number {at}")
        });
        let prompts = PromptSet::english().unwrap();
        let builder = PairBuilder::swapped_persona(&prompts, PairOptions::default());
        let (pairs, report) = builder.build(&examples, &mut generator).unwrap();
        assert_eq!((pairs.len(), report.without_other), (4, 0));
        for (prompt, (own, other)) in
            seen.iter().zip([("turtle", "sail"), ("fly", "turtle"), ("turtle", "sail"), ("sail", "turtle")])
        {
            assert!(prompt.contains(other) && !prompt.contains(own), "{prompt}");
        }
        assert!(pairs[0].prompt.contains("turtle") && pairs[0].rejected.contains("reply number 0"));
        assert!(report.to_string().contains("with the persona of another example"), "{report}");

        let builder = PairBuilder::swapped_persona(&prompts, PairOptions::default());
        let (pairs, report) = builder.build(&examples[..1], &mut Answers(|_, _: &str| "x".into())).unwrap();
        assert_eq!((pairs.len(), report.without_other), (0, 1));
    }

    #[test]
    fn the_worst_of_several_is_taken_and_the_judge_reported() {
        let prompts = PromptSet::english().unwrap();
        let replies = ["a turtle and more words", "no", "what is it", "perhaps one"];
        let generator = || {
            Answers(|at: usize, prompt: &str| {
                assert!(prompt.contains("turtle"));
                replies[at % 4].to_owned()
            })
        };
        // More words are better.
        let judge = |_: &Example, reply: &str| reply.split(' ').count() as f64;
        let builder = PairBuilder::worst_of(&prompts, PairOptions::default(), 4, &judge);
        let (pairs, report) = builder.build(&examples(), &mut generator()).unwrap();
        assert!(pairs.len() == 4 && pairs.iter().all(|pair| pair.rejected.trim() == "no"), "{pairs:?}");
        let expected = Judged { chosen: 5.0, rejected: 1.0, best: 5.0, not_worse: 0 };
        assert_eq!((report.judged, report.rejected_from), (Some(expected), RejectedFrom::WorstOf(4)));
        assert!(report.to_string().contains("judge: gold 5.000, rejected 1.000"), "{report}");

        let one = PairBuilder::worst_of(&prompts, PairOptions::default(), 1, &judge);
        assert!(matches!(
            one.build(&examples(), &mut generator()),
            Err(Error::Option { name: "samples", .. })
        ));
        let nan = |_: &Example, _: &str| f64::NAN;
        let builder = PairBuilder::worst_of(&prompts, PairOptions::default(), 2, &nan);
        let error = builder.build(&examples(), &mut generator()).unwrap_err().to_string();
        assert!(error.contains("judging") && error.contains("d#0"), "{error}");
    }
}
