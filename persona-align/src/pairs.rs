//! Preference pairs: building them from any generator of replies, checking, saving and loading them.

use std::collections::HashMap;
use std::fmt;
use std::fs::File;
use std::io::Write;
use std::path::Path;

use persona_data::{Example, Highlight, PromptSet, ReplyGenerator, Utterance};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// A prompt with a better and a worse continuation, as text. A file of pairs holds one as JSON a line, in the shape that
/// TRL's `DPOTrainer` reads; the continuations stand as they follow the prompt, white space included.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pair {
    /// Where the pair comes from; not needed for training.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub id: String,
    /// What both continue.
    pub prompt: String,
    /// The better continuation.
    pub chosen: String,
    /// The worse one.
    pub rejected: String,
}

/// What happens to pairs that teach little. Each kind is counted in the report whether it is kept or not.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PairOptions {
    /// Keep pairs whose rejected reply is empty.
    pub keep_empty: bool,
    /// Keep pairs whose replies are the same, case and white space aside.
    pub keep_identical: bool,
    /// Keep pairs whose replies are alike beyond `similarity`.
    pub keep_similar: bool,
    /// Replies are over-similar when the Dice coefficient of their words is at least this, in 0 to 1.
    pub similarity: f64,
}

impl Default for PairOptions {
    fn default() -> Self {
        Self { keep_empty: false, keep_identical: false, keep_similar: false, similarity: 0.8 }
    }
}

/// What building pairs met.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct PairReport {
    /// Examples given.
    pub examples: usize,
    /// Pairs made.
    pub pairs: usize,
    /// Rejected replies that were empty.
    pub empty: usize,
    /// Rejected replies equal to the gold one.
    pub identical: usize,
    /// Rejected replies over-similar to the gold one, without the identical.
    pub similar: usize,
    /// Mean words of the gold replies.
    pub chosen_words: f64,
    /// Mean words of the generated replies.
    pub rejected_words: f64,
    /// Distinct generated replies over all generated replies.
    pub distinct_rejected: f64,
    /// Examples whose oldest turns were left out, of both prompts, so that they fit.
    #[serde(default)]
    pub cut: usize,
}

impl fmt::Display for PairReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} pairs of {} examples; rejected: {} empty, {} identical to gold, {} over-similar; words: chosen {:.1}, \
             rejected {:.1}; distinct rejected {:.0} %; {} with turns left out",
            self.pairs,
            self.examples,
            self.empty,
            self.identical,
            self.similar,
            self.chosen_words,
            self.rejected_words,
            100.0 * self.distinct_rejected,
            self.cut
        )
    }
}

/// Builds pairs as PAL does (Li et al. 2025): chosen is the gold reply; rejected is the model's own reply to the prompt
/// without the persona; both continue the generation prompt, in which the relevant description is highlighted.
pub struct PairBuilder<'a> {
    prompts: &'a PromptSet,
    options: PairOptions,
    fit: Option<&'a Fit<'a>>,
}

/// How many of an example's oldest turns have to go, so that its prompts and replies fit the model.
type Fit<'a> = dyn Fn(&Example) -> persona_data::Result<usize> + 'a;

impl fmt::Debug for PairBuilder<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PairBuilder").field("options", &self.options).finish_non_exhaustive()
    }
}

impl<'a> PairBuilder<'a> {
    /// Rejected replies come from the history-only prompt.
    #[must_use]
    pub fn history_only(prompts: &'a PromptSet, options: PairOptions) -> Self {
        Self { prompts, options, fit: None }
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
    /// [`Error::Option`] for a similarity outside 0 to 1; [`Error::Unlabelled`] for an example whose relevant
    /// descriptions nobody has named; [`Error::Generator`]; the prompts' errors.
    pub fn build<G: ReplyGenerator>(
        &self,
        examples: &[Example],
        generator: &mut G,
    ) -> Result<(Vec<Pair>, PairReport)> {
        if !(0.0..=1.0).contains(&self.options.similarity) {
            let value = self.options.similarity;
            return Err(Error::Option { name: "similarity", value, range: "it lies in 0 to 1" });
        }
        if let Some(example) = examples.iter().find(|example| example.relevant.is_none()) {
            return Err(Error::Unlabelled { id: example.id.clone() });
        }
        let histories = examples
            .iter()
            .map(|example| {
                let cut = self.fit.map_or(Ok(0), |fit| fit(example))?;
                Ok(example.history.get(cut..).unwrap_or_default())
            })
            .collect::<Result<Vec<_>>>()?;
        let prompts = histories
            .iter()
            .map(|history| self.prompts.history_only(history))
            .collect::<persona_data::Result<Vec<_>>>()?;
        let replies = generator.replies(&prompts).map_err(|error| Error::Generator(Box::new(error)))?;
        if replies.len() != prompts.len() {
            let text = format!("{} replies to {} prompts", replies.len(), prompts.len());
            return Err(Error::Generator(text.into()));
        }
        self.assemble(examples, &histories, &replies)
    }

    fn assemble(
        &self,
        examples: &[Example],
        histories: &[&[Utterance]],
        replies: &[String],
    ) -> Result<(Vec<Pair>, PairReport)> {
        let mut pairs = Vec::with_capacity(examples.len());
        let mut report = PairReport { examples: examples.len(), ..PairReport::default() };
        for ((example, history), reply) in examples.iter().zip(histories).zip(replies) {
            report.cut += usize::from(history.len() < example.history.len());
            let reply = reply.trim();
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
                let highlight = example.selected().map_or(Highlight::None, Highlight::Description);
                pairs.push(Pair {
                    id: example.id.clone(),
                    prompt: self.prompts.generation(&example.persona, history, highlight)?,
                    chosen: self.prompts.response_target(&example.response),
                    rejected: self.prompts.response_target(reply),
                });
            }
        }
        report.pairs = pairs.len();
        let count = examples.len().max(1) as f64;
        report.chosen_words /= count;
        report.rejected_words /= count;
        let distinct: std::collections::HashSet<&str> = replies.iter().map(|reply| reply.trim()).collect();
        report.distinct_rejected = distinct.len() as f64 / count;
        Ok((pairs, report))
    }
}

/// Words without regard to case; text without spaces counts by character.
fn words(text: &str) -> Vec<String> {
    let text = text.to_lowercase();
    let words: Vec<&str> = text.split_whitespace().collect();
    if words.len() > 1 || text.is_ascii() {
        return words.into_iter().map(str::to_owned).collect();
    }
    text.trim().chars().map(String::from).collect()
}

/// Twice the shared words over all words, each counted as often as it stands.
fn dice(a: &[String], b: &[String]) -> f64 {
    let mut counts: HashMap<&str, usize> = HashMap::new();
    for word in a {
        *counts.entry(word).or_default() += 1;
    }
    let mut shared = 0;
    for word in b {
        if let Some(count) = counts.get_mut(word.as_str()).filter(|count| **count > 0) {
            *count -= 1;
            shared += 1;
        }
    }
    2.0 * shared as f64 / (a.len() + b.len()).max(1) as f64
}

/// Writes pairs as JSONL. The file appears whole or not at all.
///
/// # Errors
/// [`Error::Io`]; what stood there before is then untouched.
pub fn write_pairs(path: &Path, pairs: &[Pair]) -> Result<()> {
    let failed = |source| Error::Io { path: path.to_path_buf(), source };
    let mut unfinished = path.as_os_str().to_owned();
    unfinished.push(".unfinished");
    let unfinished = Path::new(&unfinished);
    let written = (|| {
        let mut file = std::io::BufWriter::new(File::create(unfinished)?);
        for pair in pairs {
            serde_json::to_writer(&mut file, pair)?;
            file.write_all(b"\n")?;
        }
        file.into_inner().map_err(std::io::IntoInnerError::into_error)?.sync_all()?;
        std::fs::rename(unfinished, path)
    })();
    if written.is_err() {
        let _ = std::fs::remove_file(unfinished);
    }
    written.map_err(failed)
}

/// Reads pairs from JSONL; other keys than the four are left aside, as TRL does.
///
/// # Errors
/// [`Error::Io`]; [`Error::Line`] with the line that is no pair, or no UTF-8, or has an empty prompt or chosen reply;
/// [`Error::NoPairs`] for a file without any.
pub fn read_pairs(path: &Path) -> Result<Vec<Pair>> {
    use serde::de::Error as _;
    let bytes = std::fs::read(path).map_err(|source| Error::Io { path: path.to_path_buf(), source })?;
    let mut pairs = Vec::new();
    for (at, line) in bytes.split(|&byte| byte == b'\n').enumerate() {
        if line.trim_ascii().is_empty() {
            continue;
        }
        let pair = serde_json::from_slice(line).and_then(|pair: Pair| {
            for (name, text) in [("prompt", &pair.prompt), ("chosen", &pair.chosen)] {
                if text.trim().is_empty() {
                    return Err(serde_json::Error::custom(format_args!("`{name}` is empty")));
                }
            }
            Ok(pair)
        });
        pairs.push(pair.map_err(|source| Error::Line { path: path.to_path_buf(), line: at + 1, source })?);
    }
    if pairs.is_empty() {
        return Err(Error::NoPairs { path: path.to_path_buf() });
    }
    Ok(pairs)
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
    fn files_without_pairs_and_with_broken_lines_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pairs.jsonl");
        let read = |bytes: &[u8]| {
            std::fs::write(&path, bytes).unwrap();
            read_pairs(&path).unwrap_err().to_string()
        };
        assert!(read(b"\n").contains("pairs.jsonl"));
        let good = br#"{"prompt": "p", "chosen": "c", "rejected": ""}"#;
        assert!(read(&[good, &b"\n{\"prompt\": \"\xff\"}"[..]].concat()).contains("pairs.jsonl:2"));
        let empty = br#"{"prompt": " ", "chosen": "c", "rejected": "r"}"#;
        assert!(read(&[&good[..], &b"\n\n"[..], &empty[..]].concat()).contains(":3: `prompt` is empty"));
    }

    #[test]
    fn a_generator_that_loses_replies_is_an_error() {
        let prompts = PromptSet::english().unwrap();
        let error = PairBuilder::history_only(&prompts, PairOptions::default())
            .build(&examples(), &mut Fixed(vec!["No."]))
            .unwrap_err();
        assert!(error.to_string().contains("1 replies to 4 prompts"), "{error}");
    }

    #[test]
    fn files_round_trip_and_bad_lines_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pairs.jsonl");
        let pair = Pair {
            id: String::new(),
            prompt: "p \"q\"\n".into(),
            chosen: " a".into(),
            rejected: " ü".into(),
        };
        write_pairs(&path, std::slice::from_ref(&pair)).unwrap();
        assert!(!std::fs::read_to_string(&path).unwrap().contains("\"id\""));
        assert_eq!(read_pairs(&path).unwrap(), [pair]);
        std::fs::write(
            &path,
            "{\"prompt\":\"p\",\"chosen\":\"c\",\"rejected\":\"r\",\"score\":1}\n\n{\"prompt\":1}\n",
        )
        .unwrap();
        let error = read_pairs(&path).unwrap_err().to_string();
        assert!(error.contains("pairs.jsonl:3:"), "{error}");
        assert!(write_pairs(&folder.path().join("no/such/place.jsonl"), &[]).is_err());
    }
}
