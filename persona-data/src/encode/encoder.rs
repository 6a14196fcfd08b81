//! From examples to ids, within a length.

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::lines::LineCache;
use super::report::{EncodeReport, Lengths, TaskReport};
use super::{EncodedExample, EncodedPair, EncodedPrompt, Task, TextTokenizer};
use crate::dialogue::{Example, Utterance};
use crate::error::{Error, Result};
use crate::prompt::{Highlight, PromptKind, PromptSet};

/// What [`ExampleEncoder::encode_all`] does with an example that cannot be encoded: one that does not fit, has an empty
/// target, a wrong or missing label, or a control token in its text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BadExamples {
    /// Stops with the error of the first one.
    #[default]
    Stop,
    /// Leaves it out, and counts it in the report.
    Drop,
}

/// The lengths that an encoded example may have, in tokens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EncodeOptions {
    /// Source and target together: for a decoder-only model at most its number of positions.
    pub max_length: usize,
    /// The source alone, for encoder-decoder models; `None` for no further limit.
    pub max_source: Option<usize>,
    /// The target alone, EOS included; an example with a longer one is a bad example, as a target is never cut. `None` for
    /// no further limit.
    pub max_target: Option<usize>,
    /// What happens to examples that cannot be encoded.
    pub bad_examples: BadExamples,
}

impl Default for EncodeOptions {
    fn default() -> Self {
        Self { max_length: 512, max_source: None, max_target: None, bad_examples: BadExamples::Stop }
    }
}

/// Turns examples into ids with one tokenizer and one set of prompts.
///
/// Prompt and target are tokenised apart, and EOS ends every target. A prompt that is too long loses whole turns, oldest
/// first; the persona, the last turn and the target stay whole. What does not fit then is an error.
///
/// ```
/// use persona_data::{
///     BpeOptions, EncodeOptions, Example, ExampleEncoder, PromptSet, Role, Task, Utterance, train_byte_level_bpe,
/// };
///
/// let example = Example {
///     id: "1#1".into(),
///     persona: vec!["I have a turtle.".into()],
///     history: vec![Utterance { role: Role::Partner, text: "Any pets?".into() }],
///     response: "Yes, a turtle.".into(),
///     relevant: Some(vec![0]),
///     candidates: Vec::new(),
/// };
/// let prompts = PromptSet::english()?;
/// let corpus = vec![prompts.selection(&example.persona, &example.history)?];
/// let tokenizer = train_byte_level_bpe(corpus.into_iter(), &BpeOptions::default())?;
/// let encoder = ExampleEncoder::new(&tokenizer, &prompts, EncodeOptions::default())?;
/// let (encoded, report) = encoder.encode_all(&[example], &Task::MIXED)?;
/// assert_eq!(encoded.len(), 2);
/// assert_eq!(tokenizer.decode(&encoded[0].target, false)?, " 1. I have a turtle.</s>");
/// println!("{report}");
/// # Ok::<(), persona_data::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct ExampleEncoder {
    tokenizer: TextTokenizer,
    prompts: PromptSet,
    options: EncodeOptions,
    /// How many special tokens the chat format puts around a prompt.
    control_tokens: usize,
}

/// Examples that one thread takes at a time.
const CHUNK: usize = 128;

/// A prompt that fits, and how many turns that took.
struct Fitted {
    text: String,
    ids: Vec<u32>,
    cut_turns: usize,
}

impl ExampleEncoder {
    /// An encoder. Tokenizer and prompts are cheap to clone, and are cloned.
    ///
    /// # Errors
    /// [`Error::EncodeOptions`] for limits that leave no room, [`Error::UnknownToken`] when the prompts' chat format writes
    /// a control token that the tokenizer does not have as one.
    pub fn new(tokenizer: &TextTokenizer, prompts: &PromptSet, options: EncodeOptions) -> Result<Self> {
        if options.max_length < 2
            || options.max_source == Some(0)
            || options.max_target.is_some_and(|max| max < 2)
        {
            let problem = format!("{options:?} leaves no room for a prompt, a target and EOS");
            return Err(Error::EncodeOptions { problem });
        }
        for token in prompts.chat().control_tokens() {
            if tokenizer.token_id(token).is_none() {
                return Err(Error::UnknownToken {
                    tokenizer: tokenizer.origin().to_owned(),
                    role: "chat format",
                    token: token.to_owned(),
                });
            }
        }
        let control_tokens = count_special(tokenizer, &tokenizer.encode(&prompts.wrap("", "")?)?);
        Ok(Self { tokenizer: tokenizer.clone(), prompts: prompts.clone(), options, control_tokens })
    }

    /// The tokenizer.
    #[must_use]
    pub fn tokenizer(&self) -> &TextTokenizer {
        &self.tokenizer
    }

    /// The prompts.
    #[must_use]
    pub fn prompts(&self) -> &PromptSet {
        &self.prompts
    }

    /// The limits.
    #[must_use]
    pub fn options(&self) -> &EncodeOptions {
        &self.options
    }

    /// One example for one task.
    ///
    /// # Errors
    /// [`Error::EmptyTarget`], [`Error::TooLong`], [`Error::Unlabelled`] (selection and generation need labels),
    /// [`Error::ExampleLabel`], [`Error::ControlToken`], each with the example's id.
    pub fn encode(&self, example: &Example, task: Task) -> Result<EncodedExample> {
        self.encode_counted(example, task, &mut LineCache::default()).map(|(encoded, _)| encoded)
    }

    /// Every example for every task, on all cores. The result is in the order of `examples`, each with its tasks in the
    /// order of `tasks`, however many threads there are.
    ///
    /// # Errors
    /// With [`BadExamples::Stop`] the first error of [`ExampleEncoder::encode`]. [`Error::EncodeOptions`] for no task at
    /// all.
    pub fn encode_all(
        &self,
        examples: &[Example],
        tasks: &[Task],
    ) -> Result<(Vec<EncodedExample>, EncodeReport)> {
        if tasks.is_empty() {
            return Err(Error::EncodeOptions { problem: "no task was named".to_owned() });
        }
        let results: Vec<Vec<_>> = examples
            .par_chunks(CHUNK)
            .map(|chunk| {
                let mut cache = LineCache::default();
                let pairs = chunk.iter().flat_map(|example| tasks.iter().map(move |&task| (example, task)));
                pairs.map(|(example, task)| (task, self.encode_counted(example, task, &mut cache))).collect()
            })
            .collect();

        let mut encoded = Vec::with_capacity(examples.len() * tasks.len());
        let mut report = EncodeReport::default();
        for &task in tasks {
            report.tasks.insert(task, TaskReport::default());
        }
        for (task, result) in results.into_iter().flatten() {
            let counts = report.tasks.entry(task).or_default();
            match result {
                Ok((example, cut_turns)) => {
                    counts.examples += 1;
                    counts.examples_cut += usize::from(cut_turns > 0);
                    counts.turns_cut += cut_turns;
                    encoded.push(example);
                }
                Err(error) if self.options.bad_examples == BadExamples::Stop => return Err(error),
                Err(error) => {
                    counts.dropped += 1;
                    if report.first_errors.len() < EncodeReport::ERRORS_KEPT {
                        report.first_errors.push(error.to_string());
                    }
                }
            }
        }
        for (task, counts) in &mut report.tasks {
            let lengths = |of: fn(&EncodedExample) -> usize| {
                Lengths::of(encoded.iter().filter(|example| example.task == *task).map(of).collect())
            };
            counts.source = lengths(|example| example.source.len());
            counts.target = lengths(|example| example.target.len());
        }
        Ok((encoded, report))
    }

    /// A prompt for inference that leaves `room` tokens for the reply, cut by the same rules as in training.
    ///
    /// # Errors
    /// [`Error::TooLong`] when it does not fit even so, [`Error::HighlightIndex`], [`Error::ControlToken`]; `id` stands
    /// for the example's id in them.
    pub fn prompt(
        &self,
        id: &str,
        persona: &[String],
        history: &[Utterance],
        kind: PromptKind<'_>,
        room: usize,
    ) -> Result<EncodedPrompt> {
        let Fitted { text, ids, cut_turns } =
            self.fit(id, kind.key(), kind, (persona, history), room, &mut LineCache::default())?;
        Ok(EncodedPrompt { text, ids, cut_turns })
    }

    /// A preference pair from finished texts: the prompt as [`ExampleEncoder::prompt`] or a [`PromptSet`] gives it, the
    /// replies as [`PromptSet::response_target`] does, prefix included. A reply gets EOS where it does not end in it.
    /// Nothing is cut: where a text's turns end is not known any more. An empty rejected reply is EOS alone: it is what a
    /// model that says nothing has generated. For what a chat template has made there is
    /// [`encode_rendered_pair`](Self::encode_rendered_pair).
    ///
    /// # Errors
    /// [`Error::EmptyPrompt`], [`Error::EmptyTarget`] for an empty chosen reply, [`Error::ControlToken`] in a reply before
    /// its end, [`Error::TooLong`] when the prompt with the longer reply does not fit.
    pub fn encode_pair(&self, id: &str, prompt: &str, chosen: &str, rejected: &str) -> Result<EncodedPair> {
        let chosen = self.target(id, "chosen", self.without_eos(chosen)?)?;
        let rejected = match self.without_eos(rejected)? {
            nothing if nothing.trim().is_empty() => vec![self.tokenizer.eos_id()],
            rejected => self.target(id, "rejected", rejected)?,
        };
        self.pair(id, prompt, chosen, rejected)
    }

    /// A preference pair from texts that a chat template has made of a conversation: the replies hold the control tokens
    /// that the template ends them with, and get no EOS beside them. Control tokens in the messages' own texts are not
    /// told apart from the template's.
    ///
    /// # Errors
    /// [`Error::EmptyPrompt`], [`Error::EmptyTarget`] for an empty reply, [`Error::TooLong`] when the prompt with the longer
    /// reply does not fit.
    pub fn encode_rendered_pair(
        &self,
        id: &str,
        prompt: &str,
        chosen: &str,
        rejected: &str,
    ) -> Result<EncodedPair> {
        let reply = |task: &'static str, text: &str| -> Result<Vec<u32>> {
            let ids = self.tokenizer.encode(text)?;
            if ids.is_empty() {
                return Err(Error::EmptyTarget { id: id.to_owned(), task });
            }
            self.within_max_target(id, task, ids)
        };
        self.pair(id, prompt, reply("chosen", chosen)?, reply("rejected", rejected)?)
    }

    /// A pair whose replies are encoded.
    fn pair(&self, id: &str, prompt: &str, chosen: Vec<u32>, rejected: Vec<u32>) -> Result<EncodedPair> {
        let prompt = self.tokenizer.encode(prompt)?;
        if prompt.is_empty() {
            return Err(Error::EmptyPrompt { id: id.to_owned() });
        }
        let (limit, name) = self.source_limit(id, "pair", chosen.len().max(rejected.len()))?;
        if prompt.len() > limit {
            return Err(Error::TooLong {
                id: id.to_owned(),
                task: "pair",
                source_len: prompt.len(),
                target_len: chosen.len().max(rejected.len()),
                limit: name,
            });
        }
        Ok(EncodedPair { id: id.to_owned(), prompt, chosen, rejected })
    }

    fn encode_counted(
        &self,
        example: &Example,
        task: Task,
        cache: &mut LineCache,
    ) -> Result<(EncodedExample, usize)> {
        let Example { id, persona, history, .. } = example;
        let bad_label = example.relevant.iter().flatten().find(|&&index| index >= persona.len());
        if let Some(&index) = bad_label {
            return Err(Error::ExampleLabel { id: id.clone(), index, descriptions: persona.len() });
        }
        let needs_label = matches!(task, Task::Selection | Task::Generation);
        if needs_label && example.relevant.is_none() {
            return Err(Error::Unlabelled { id: id.clone(), task: task.name() });
        }
        let kind = match task {
            Task::Selection => PromptKind::Selection,
            Task::Generation => {
                PromptKind::Generation(example.selected().map_or(Highlight::None, Highlight::Description))
            }
            Task::Plain => PromptKind::Generation(Highlight::Absent),
            Task::HistoryOnly => PromptKind::HistoryOnly,
        };
        let target = match task {
            Task::Selection => self.prompts.selection_target(persona, example.selected())?,
            Task::Generation | Task::Plain | Task::HistoryOnly => {
                self.prompts.response_target(&example.response)
            }
        };
        let target = self.target(id, task.name(), &target)?;
        let Fitted { ids, cut_turns, .. } =
            self.fit(id, task.name(), kind, (persona, history), target.len(), cache)?;
        Ok((EncodedExample { id: id.clone(), task, source: ids, target }, cut_turns))
    }

    /// A text before the EOS that it ends in.
    fn without_eos<'t>(&self, text: &'t str) -> Result<&'t str> {
        let eos = self.tokenizer.decode(&[self.tokenizer.eos_id()], false)?;
        Ok(text.strip_suffix(eos.as_str()).unwrap_or(text))
    }

    /// The ids of a target, EOS included.
    fn target(&self, id: &str, task: &'static str, text: &str) -> Result<Vec<u32>> {
        if text.trim().is_empty() {
            return Err(Error::EmptyTarget { id: id.to_owned(), task });
        }
        let mut ids = self.tokenizer.encode(text)?;
        self.check_control_tokens(id, &ids, 0, [text])?;
        let eos = self.tokenizer.eos_id();
        if ids.contains(&eos) {
            let token = self.tokenizer.decode(&[eos], false)?;
            return Err(Error::ControlToken { id: id.to_owned(), text: text.to_owned(), token });
        }
        ids.push(eos);
        self.within_max_target(id, task, ids)
    }

    /// The ids of a target, unless they are too many.
    fn within_max_target(&self, id: &str, task: &'static str, ids: Vec<u32>) -> Result<Vec<u32>> {
        match self.options.max_target {
            Some(max) if ids.len() > max => Err(Error::TooLong {
                id: id.to_owned(),
                task,
                source_len: 0,
                target_len: ids.len(),
                limit: format!("max_target {max}"),
            }),
            _ => Ok(ids),
        }
    }

    /// How many tokens are left for a source before a target, and the name of the limit that says so.
    fn source_limit(&self, id: &str, task: &'static str, target_len: usize) -> Result<(usize, String)> {
        let EncodeOptions { max_length, max_source, .. } = self.options;
        let name = || format!("max_length {max_length}");
        let left = max_length.checked_sub(target_len).ok_or_else(|| Error::TooLong {
            id: id.to_owned(),
            task,
            source_len: 0,
            target_len,
            limit: name(),
        })?;
        match max_source {
            Some(max) if max < left => Ok((max, format!("max_source {max}"))),
            _ => Ok((left, name())),
        }
    }

    /// The prompt with as many of the latest turns as fit before a target of that length.
    fn fit(
        &self,
        id: &str,
        task: &'static str,
        kind: PromptKind<'_>,
        (persona, history): (&[String], &[Utterance]),
        target_len: usize,
        cache: &mut LineCache,
    ) -> Result<Fitted> {
        let (limit, limit_name) = self.source_limit(id, task, target_len)?;
        let mut from = |cut_turns: usize| -> Result<Fitted> {
            let text = self.prompts.render(kind, persona, history.get(cut_turns..).unwrap_or_default())?;
            let ids = cache.encode(&self.tokenizer, &text)?;
            Ok(Fitted { text, ids, cut_turns })
        };
        let whole = from(0)?;
        let mut source_len = whole.ids.len();
        let mut fitted = (source_len <= limit).then_some(whole);
        if fitted.is_none() {
            // The fewest cuts that fit, by bisection. Where none does, the last one tried leaves only the last turn.
            let (mut low, mut high) = (1, history.len());
            while low < high {
                let middle = low + (high - low) / 2;
                let tried = from(middle)?;
                if tried.ids.len() <= limit {
                    fitted = Some(tried);
                    high = middle;
                } else {
                    source_len = tried.ids.len();
                    low = middle + 1;
                }
            }
        }
        let fitted = fitted.ok_or_else(|| Error::TooLong {
            id: id.to_owned(),
            task,
            source_len,
            target_len,
            limit: limit_name,
        })?;
        let highlight = match kind {
            PromptKind::Generation(Highlight::Text(text)) => Some(text),
            _ => None,
        };
        let turns = history.iter().map(|turn| turn.text.as_str());
        let texts = persona.iter().map(String::as_str).chain(turns).chain(highlight);
        self.check_control_tokens(id, &fitted.ids, self.control_tokens, texts)?;
        Ok(fitted)
    }

    /// Looks for control tokens in the texts of an example: they would end a turn, or the whole prompt, where the data
    /// says so. The texts are searched only where the ids hold other than the `expected` number of special tokens.
    fn check_control_tokens<'t>(
        &self,
        id: &str,
        ids: &[u32],
        expected: usize,
        texts: impl IntoIterator<Item = &'t str>,
    ) -> Result<()> {
        if count_special(&self.tokenizer, ids) == expected {
            return Ok(());
        }
        for text in texts {
            if let Some(token) = self.tokenizer.special_in(text) {
                let (id, text, token) = (id.to_owned(), text.to_owned(), token.to_owned());
                return Err(Error::ControlToken { id, text, token });
            }
        }
        Ok(())
    }
}

fn count_special(tokenizer: &TextTokenizer, ids: &[u32]) -> usize {
    ids.iter().filter(|&&id| tokenizer.is_special(id)).count()
}
