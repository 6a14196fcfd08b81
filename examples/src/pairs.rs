//! Preference pairs of a run, and the controls that style alone cannot win.

use anyhow::{Result, bail};
use persona_align::{
    Pair, PairBuilder, PairOptions, PairReport, PreferenceLoss, ReferencedPair, RejectedFrom, ReplyJudge,
    read_pairs, write_pairs,
};
use persona_data::{EncodedPair, Example, ExampleEncoder, Highlight, OverlapLabeller, PromptKind};
use persona_infer::{DecodeConfig, TextGenerator};
use persona_metrics::PersonaJudge;
use persona_model::CausalLm;
use persona_train::evaluate;

use crate::progress::counting_bar;
use crate::systems::gold_prompt;
use crate::workspace::Workspace;

/// The file of the reference's log-probabilities of pairs of this name.
#[must_use]
pub fn reference_file(name: &str) -> String {
    format!("{name}.reference.safetensors")
}

/// How pairs are made.
#[derive(Clone, Copy)]
pub struct Making<'a> {
    /// Where rejected replies come from.
    pub rejected: RejectedFrom,
    /// Who chooses the worst of several.
    pub judge: Option<&'a dyn PersonaJudge>,
    /// How rejected replies are decoded.
    pub decode: DecodeConfig,
    /// What happens to pairs that teach little.
    pub options: PairOptions,
}

/// Pairs of gold replies with the model's own, from the run's files where they are there already. `name` calls the files,
/// `inputs` is the digest of what the pairs are made from.
///
/// # Errors
/// Those of [`make`] and the files'.
pub fn build(
    workspace: &Workspace,
    (name, inputs): (&str, &str),
    model: &dyn CausalLm,
    encoder: &ExampleEncoder,
    making: Making<'_>,
    examples: &[Example],
) -> Result<(Vec<Pair>, PairReport)> {
    let path = workspace.path(&format!("{name}.jsonl"));
    let report = workspace.cached(&format!("{name}.report.json"), inputs, || {
        let (pairs, report) = make(name, model, encoder, making, examples)?;
        // The pairs first: where the report stands, they do too. Log-probabilities would be those of other pairs.
        write_pairs(&path, &pairs)?;
        match std::fs::remove_file(workspace.path(&reference_file(name))) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
        Ok(report)
    })?;
    Ok((read_pairs(&path)?, report))
}

/// Pairs of gold replies with the model's own. `name` is shown.
///
/// # Errors
/// The generator's, the builder's and the judge's; the worst of several without a judge.
pub fn make(
    name: &str,
    model: &dyn CausalLm,
    encoder: &ExampleEncoder,
    Making { rejected, judge, decode, options }: Making<'_>,
    examples: &[Example],
) -> Result<(Vec<Pair>, PairReport)> {
    let replies = if let RejectedFrom::WorstOf(samples) = rejected { samples } else { 1 };
    let bar = counting_bar(name, replies * examples.len());
    let progress = |done: usize| bar.set_position(done as u64);
    let mut generator = TextGenerator::new(model, encoder, decode)?.watched_by(&progress);
    let fit = |example: &Example| {
        let highlight = example.selected().map_or(Highlight::None, Highlight::Description);
        let gold = encoder.tokenizer().encode(&encoder.prompts().response_target(&example.response))?;
        // Room for either reply, and for the end that is trained on.
        let room = decode.max_new_tokens.max(gold.len()) + 1;
        let kind = PromptKind::Generation(highlight);
        let prompt = encoder.prompt(&example.id, &example.persona, &example.history, kind, room)?;
        Ok(prompt.cut_turns)
    };
    let prompts = encoder.prompts();
    let by_persona = judge.map(ByPersona);
    let builder = match (rejected, &by_persona) {
        (RejectedFrom::HistoryOnly, _) => PairBuilder::history_only(prompts, options),
        (RejectedFrom::SwappedPersona, _) => PairBuilder::swapped_persona(prompts, options),
        (RejectedFrom::WorstOf(samples), Some(judge)) => {
            PairBuilder::worst_of(prompts, options, samples, judge)
        }
        (other, _) => bail!("{name}: rejected replies {other}: there is no judge"),
    };
    let made = builder.fitted_by(&fit).build(examples, &mut generator)?;
    bar.finish_and_clear();
    Ok(made)
}

/// A judge of personas as a judge of replies, for [`PairBuilder::worst_of`]: the sum of its judgements over the
/// descriptions, as in C.score.
#[derive(Debug, Clone, Copy)]
pub struct ByPersona<J>(pub J);

impl<J: PersonaJudge + ?Sized> ReplyJudge for ByPersona<&J> {
    fn scores(
        &self,
        replies: &[(&Example, &str)],
    ) -> Result<Vec<f64>, Box<dyn std::error::Error + Send + Sync>> {
        let questions: Vec<(&str, &str)> = replies
            .iter()
            .flat_map(|(example, reply)| {
                example.persona.iter().map(move |description| (description.as_str(), *reply))
            })
            .collect();
        let judgements = self.0.judge(&questions)?;
        let mut left = judgements.as_slice();
        let sums = replies.iter().map(|(example, _)| {
            let (now, later) = left.split_at(example.persona.len().min(left.len()));
            left = later;
            now.iter().map(|judgement| judgement.value() as f64).sum()
        });
        Ok(sums.collect())
    }
}

/// Gold replies against gold replies of other personas: for each example the persona of another dialogue is drawn, and
/// of the replies given under it the one that comes closest to the example's own gold reply is the rejected one. Both
/// sides are written by the same hand, so only what they say can tell them apart.
///
/// # Errors
/// The prompts'.
pub fn swapped(
    examples: &[Example],
    labeller: &OverlapLabeller,
    encoder: &ExampleEncoder,
) -> Result<Vec<Pair>> {
    let mut pairs = Vec::new();
    for (at, example) in examples.iter().enumerate() {
        // The next example of another dialogue with another persona, in the order of the sample, which is drawn.
        let other = examples[at + 1..]
            .iter()
            .chain(&examples[..at])
            .find(|other| dialogue(&other.id) != dialogue(&example.id) && other.persona != example.persona);
        let Some(other) = other else { continue };
        let replies: Vec<String> = examples
            .iter()
            .filter(|candidate| candidate.persona == other.persona)
            .map(|candidate| candidate.response.clone())
            .filter(|reply| *reply != example.response)
            .collect();
        let scores = labeller.scores(&replies, &example.response);
        let best = (0..replies.len()).max_by(|&a, &b| scores[a].total_cmp(&scores[b]).then(b.cmp(&a)));
        let Some(best) = best else { continue };
        let prompts = encoder.prompts();
        pairs.push(Pair {
            id: example.id.clone(),
            prompt: prompts.render(gold_prompt(example), &example.persona, &example.history)?,
            chosen: prompts.response_target(&example.response),
            rejected: prompts.response_target(&replies[best]),
        });
    }
    Ok(pairs)
}

/// The dialogue of an example's id, `DIALOGUE#TURN`.
fn dialogue(id: &str) -> &str {
    id.rsplit_once('#').map_or(id, |(dialogue, _)| dialogue)
}

/// Encodes pairs; those too long for the model are left out and counted.
///
/// # Errors
/// The tokenizer's.
pub fn encode(pairs: &[Pair], encoder: &ExampleEncoder) -> Result<(Vec<EncodedPair>, usize)> {
    let mut encoded = Vec::with_capacity(pairs.len());
    let mut too_long = 0;
    for pair in pairs {
        match encoder.encode_pair(&pair.id, &pair.prompt, &pair.chosen, &pair.rejected) {
            Ok(pair) => encoded.push(pair),
            Err(persona_data::Error::TooLong { .. }) => too_long += 1,
            Err(error) => return Err(error.into()),
        }
    }
    Ok((encoded, too_long))
}

/// Those pairs whose replies differ by at most one token or a tenth in length.
#[must_use]
pub fn of_one_length(pairs: &[EncodedPair]) -> Vec<EncodedPair> {
    let alike = |pair: &&EncodedPair| {
        let (a, b) = (pair.chosen.len(), pair.rejected.len());
        a.abs_diff(b) <= (a.max(b) / 10).max(1)
    };
    pairs.iter().filter(alike).cloned().collect()
}

/// The share of pairs whose chosen reply gains more over the reference than the rejected one, and the mean margin of the
/// rewards.
///
/// # Errors
/// The model's.
pub fn reward_accuracy(
    policy: impl CausalLm,
    pairs: &[ReferencedPair],
    beta: f64,
    batch: usize,
) -> Result<(f64, f64)> {
    let values = evaluate(&PreferenceLoss::sigmoid(beta).on(policy), pairs, batch)?;
    let value =
        |name: &str| values.iter().find(|(found, _)| found == name).map_or(f64::NAN, |(_, value)| *value);
    Ok((value("rewards/accuracies"), value("rewards/margins")))
}

#[cfg(test)]
mod tests {
    use persona_metrics::Judgement;

    use super::*;

    /// Finds that a reply follows from what it holds a word of, and contradicts the rest.
    struct Words;

    impl PersonaJudge for Words {
        fn name(&self) -> String {
            "words".into()
        }

        fn judge(&self, pairs: &[(&str, &str)]) -> Result<Vec<Judgement>, persona_metrics::ModelError> {
            let follows = |(description, reply): &(&str, &str)| {
                if reply.contains(description) { Judgement::Entailment } else { Judgement::Contradiction }
            };
            Ok(pairs.iter().map(follows).collect())
        }
    }

    #[test]
    fn a_judge_of_personas_scores_replies_by_the_sum() {
        let example = |persona: &[&str]| Example {
            id: "a#0".into(),
            persona: persona.iter().map(ToString::to_string).collect(),
            history: Vec::new(),
            response: "x".into(),
            relevant: None,
            candidates: Vec::new(),
        };
        let (two, none) = (example(&["dog", "cat"]), example(&[]));
        let replies = [(&two, "my dog"), (&none, "dog"), (&two, "a dog and a cat"), (&two, "no")];
        assert_eq!(ByPersona(&Words).scores(&replies).unwrap(), [0.0, 0.0, 2.0, -2.0]);
    }

    #[test]
    fn a_dialogue_is_called_by_everything_before_the_turn() {
        assert_eq!(dialogue("a#1#4"), "a#1");
        assert_eq!(dialogue("valid-00017"), "valid-00017");
    }
}
