//! What a system replies, and what is measured on its replies.

use anyhow::{Context, Result, ensure};
use persona_data::{EncodedExample, Example, ExampleEncoder, Highlight, PromptKind, ReplyGenerator, Task};
use persona_infer::{DecodeConfig, Reply, SelectThenGenerate, Strategy, TextGenerator, score_targets};
use persona_metrics::suite::Language;
use persona_metrics::{
    Bleu, CocoBleu, CocoRouge, Consistency, CopyRate, Distinct, Entropy, Perplexity, PersonaJudge,
    PreTokenization, Rouge, Score, selection_accuracy,
};
use persona_model::CausalLm;
use serde::{Deserialize, Serialize};

use crate::progress::counting_bar;
use crate::report::{Cell, Column, Row, Table};

/// A system's replies to the test examples, and how it scores the gold ones.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SystemReplies {
    /// The system's name.
    pub system: String,
    /// One a test example.
    pub replies: Vec<SystemReply>,
}

/// A system's reply to one example.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SystemReply {
    /// The example's id.
    pub id: String,
    /// The generated reply.
    pub text: String,
    /// What was highlighted for it.
    pub highlighted: Highlighted,
    /// The gold reply's log-probability after the prompt from which this reply was generated, in nats.
    pub gold_log_prob: f64,
    /// The gold reply's tokens, EOS included.
    pub gold_tokens: usize,
}

/// What a system highlights before it replies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Highlighted {
    /// The system does not select.
    NotSelecting,
    /// It selected that no description applies.
    None,
    /// The description of this index.
    Description(usize),
}

impl Highlighted {
    /// The selection, where the system selects.
    #[must_use]
    pub fn selection(self) -> Option<Option<usize>> {
        match self {
            Self::NotSelecting => None,
            Self::None => Some(None),
            Self::Description(index) => Some(Some(index)),
        }
    }
}

/// Replies to every example with a model and a strategy, and scores the gold replies after the same prompts.
///
/// # Errors
/// The decoder's.
pub fn reply_to_all(
    system: &str,
    model: &dyn CausalLm,
    encoder: &ExampleEncoder,
    decode: DecodeConfig,
    strategy: Strategy,
    examples: &[Example],
) -> Result<SystemReplies> {
    let passes = if strategy == Strategy::Select { 2 } else { 1 };
    let bar = counting_bar(system, passes * examples.len());
    let done = std::cell::Cell::new((0, 0));
    let progress = |count: usize| {
        // The counter starts anew with the second pass.
        let (passed, last) = done.get();
        let passed = if count < last { passed + last } else { passed };
        done.set((passed, count));
        bar.set_position((passed + count) as u64);
    };
    let generator = TextGenerator::new(model, encoder, decode)?.watched_by(&progress);
    let replies = SelectThenGenerate::new(generator).strategy(strategy).replies(examples)?;
    bar.finish_and_clear();

    let mut gold = Vec::with_capacity(examples.len());
    for (example, reply) in examples.iter().zip(&replies) {
        let task = if reply.selection.is_some() { Task::Generation } else { Task::Plain };
        let chosen = reply.selection.as_ref().and_then(|selection| selection.choice);
        let seen = Example { relevant: Some(chosen.into_iter().collect()), ..example.clone() };
        gold.push(encoder.encode(&seen, task)?);
    }
    let highlighted = |reply: &Reply| match &reply.selection {
        None => Highlighted::NotSelecting,
        Some(selection) => selection.choice.map_or(Highlighted::None, Highlighted::Description),
    };
    let replies = replies.into_iter().map(|reply| (highlighted(&reply), reply.text)).collect();
    scored(system, model, &gold, decode.batch_size, replies)
}

/// As [`reply_to_all`] from the history alone: the persona is not in the prompt.
///
/// # Errors
/// The decoder's.
pub fn reply_from_history(
    system: &str,
    model: &dyn CausalLm,
    encoder: &ExampleEncoder,
    decode: DecodeConfig,
    examples: &[Example],
) -> Result<SystemReplies> {
    let bar = counting_bar(system, examples.len());
    let progress = |count: usize| bar.set_position(count as u64);
    let prompt = |example: &Example| {
        let (kind, room) = (PromptKind::HistoryOnly, decode.max_new_tokens);
        Ok(encoder.prompt(&example.id, &example.persona, &example.history, kind, room)?.text)
    };
    let prompts = examples.iter().map(prompt).collect::<Result<Vec<String>>>()?;
    let texts = TextGenerator::new(model, encoder, decode)?.watched_by(&progress).replies(&prompts)?;
    bar.finish_and_clear();
    let gold = examples.iter().map(|example| encoder.encode(example, Task::HistoryOnly));
    let gold = gold.collect::<persona_data::Result<Vec<EncodedExample>>>()?;
    let replies = texts.into_iter().map(|text| (Highlighted::NotSelecting, text)).collect();
    scored(system, model, &gold, decode.batch_size, replies)
}

/// Replies beside the log-probabilities of the gold ones.
fn scored(
    system: &str,
    model: &dyn CausalLm,
    gold: &[EncodedExample],
    batch_size: usize,
    replies: Vec<(Highlighted, String)>,
) -> Result<SystemReplies> {
    let scores = score_targets(model, gold, batch_size)?;
    let replies = gold.iter().zip(replies).zip(scores);
    let replies = replies.map(|((gold, (highlighted, text)), score)| SystemReply {
        id: gold.id.clone(),
        text,
        highlighted,
        gold_log_prob: score.log_prob,
        gold_tokens: score.tokens,
    });
    Ok(SystemReplies { system: system.to_owned(), replies: replies.collect() })
}

/// How a strategy is called in a table.
#[must_use]
pub fn strategy_name(strategy: Strategy) -> String {
    match strategy {
        Strategy::Select => "own selection".to_owned(),
        Strategy::Random(seed) => format!("random selection {seed}"),
        Strategy::NotSelect => "no selection".to_owned(),
        Strategy::Oracle => "oracle selection".to_owned(),
    }
}

/// The gold replies as a row of their own.
#[must_use]
pub fn gold(examples: &[Example]) -> Vec<String> {
    examples.iter().map(|example| example.response.clone()).collect()
}

/// Why there is no C.score.
const NO_JUDGE: &str = "no judge";

/// The table: every system, then gold.
///
/// # Errors
/// The metrics', with the system's name.
pub fn table(
    systems: &[SystemReplies],
    examples: &[Example],
    judge: Option<&dyn PersonaJudge>,
) -> Result<Table> {
    let references = gold(examples);
    let metrics = TextMetrics::of(&references);
    let personas: Vec<&[String]> = examples.iter().map(|example| example.persona.as_slice()).collect();
    let labels: Vec<&[usize]> =
        examples.iter().map(|example| example.relevant.as_deref().unwrap_or(&[])).collect();
    let mut columns: Vec<Column> = Vec::new();
    let mut rows = Vec::new();
    for system in systems {
        let texts: Vec<String> = system.replies.iter().map(|reply| reply.text.clone()).collect();
        let mut scores = text_scores(&metrics, &texts, &references, &personas)
            .with_context(|| format!("the scores of {}", system.system))?
            .into_iter()
            .map(|(score, decimals)| (column(&score, decimals), Cell::Value(score.displayed_value())))
            .collect::<Vec<_>>();
        scores.push(selection_cell(system, &labels)?);
        scores.push(perplexity_cell(system, examples)?);
        scores.extend(judge_cells(judge, &texts, &personas)?);
        let (names, cells) = scores.into_iter().unzip();
        columns = names;
        rows.push(Row { system: system.system.clone(), cells });
    }
    let mut cells: Vec<Cell> = text_scores(&metrics, &references, &references, &personas)
        .context("the scores of gold")?
        .into_iter()
        .map(|(score, _)| Cell::Value(score.displayed_value()))
        .collect();
    cells.extend(["labels come from gold", "no model"].map(|why| Cell::Missing(why.to_owned())));
    cells.extend(judge_cells(judge, &references, &personas)?.into_iter().map(|(_, cell)| cell));
    rows.push(Row { system: "gold".to_owned(), cells });
    Ok(Table { columns, rows })
}

/// The metrics of texts alone, as in the table.
pub struct TextMetrics {
    /// BLEU-1 to BLEU-4, of which a table has the first two.
    pub bleu: CocoBleu,
    /// ROUGE-L.
    pub rouge: CocoRouge,
    /// Entropy-1 to Entropy-4.
    pub entropy: Entropy,
    /// Distinct-1 and Distinct-2.
    pub distinct: Distinct,
    /// The copy rate.
    pub copies: CopyRate,
}

impl TextMetrics {
    /// For replies in the language of the gold ones. In English punctuation stands apart, as in PERSONA-CHAT's own files:
    /// whether it does moves BLEU by ten points, so the signatures say so.
    #[must_use]
    pub fn of(gold: &[String]) -> Self {
        let words = language(gold).words(PreTokenization::SpacePunctuation);
        Self {
            bleu: Bleu::pycocoevalcap().pre_tokenization(words).lowercase(true),
            rouge: Rouge::pycocoevalcap().pre_tokenization(words).lowercase(true),
            entropy: Entropy::pal().pre_tokenization(words),
            distinct: Distinct::pal().pre_tokenization(words),
            copies: CopyRate::default().pre_tokenization(words),
        }
    }
}

/// What most texts are written in. Chinese that is cut into words already is measured by these.
fn language(texts: &[String]) -> Language {
    let unspaced: Vec<&String> = texts.iter().filter(|text| Language::is_unspaced(text)).collect();
    let has_kana = |text: &&&String| text.chars().any(|c| ('\u{3041}'..='\u{30ff}').contains(&c));
    let japanese = unspaced.iter().filter(has_kana).count();
    match (2 * unspaced.len() > texts.len(), 2 * japanese > unspaced.len()) {
        (false, _) => Language::English,
        (true, false) => Language::Chinese,
        (true, true) => Language::Japanese,
    }
}

/// What is measured on texts alone, with the decimals shown.
fn text_scores(
    metrics: &TextMetrics,
    texts: &[String],
    references: &[String],
    personas: &[&[String]],
) -> Result<Vec<(Score, usize)>> {
    let mut scores: Vec<(Score, usize)> =
        metrics.bleu.corpus(texts, references)?.into_iter().take(2).map(|s| (s, 2)).collect();
    scores.extend(metrics.rouge.corpus(texts, references)?.into_iter().map(|score| (score, 2)));
    scores.extend(metrics.entropy.corpus(texts)?.into_iter().map(|score| (score, 2)));
    scores.extend(metrics.distinct.corpus(texts)?.into_iter().map(|score| (score, 2)));
    scores.extend(metrics.copies.corpus(texts, personas)?.into_iter().map(|score| (score, 1)));
    Ok(scores)
}

fn column(score: &Score, decimals: usize) -> Column {
    Column { name: score.name().to_owned(), signature: score.signature().to_string(), decimals }
}

fn selection_cell(system: &SystemReplies, labels: &[&[usize]]) -> Result<(Column, Cell)> {
    let signature = "any label of an example is right; 'none' is right where there is none".to_owned();
    let column = Column { name: "Selection".to_owned(), signature, decimals: 1 };
    let choices: Option<Vec<Option<usize>>> =
        system.replies.iter().map(|reply| reply.highlighted.selection()).collect();
    let cell = match choices {
        Some(choices) => Cell::Value(100.0 * selection_accuracy(&choices, labels)?.accuracy.value()),
        None => Cell::Missing("does not select".to_owned()),
    };
    Ok((column, cell))
}

fn perplexity_cell(system: &SystemReplies, examples: &[Example]) -> Result<(Column, Cell)> {
    let mut statistics = Perplexity::default().statistics();
    for (reply, example) in system.replies.iter().zip(examples) {
        statistics.update(-reply.gold_log_prob, reply.gold_tokens as u64, &example.response)?;
    }
    let scores = statistics.scores()?;
    let score = scores.get(Perplexity::TOKEN).context("no perplexity by token")?;
    let signature =
        format!("by token, of the gold reply after the system's own prompt|{}", score.signature());
    let column = Column { name: "Perplexity".to_owned(), signature, decimals: 1 };
    Ok((column, Cell::Value(score.displayed_value())))
}

/// C.score in both forms, or one empty column.
fn judge_cells(
    judge: Option<&dyn PersonaJudge>,
    texts: &[String],
    personas: &[&[String]],
) -> Result<Vec<(Column, Cell)>> {
    let Some(judge) = judge else {
        let signature = "needs a persona judge: `judge` in the recipe".to_owned();
        let column = Column { name: "C.score".to_owned(), signature, decimals: 3 };
        return Ok(vec![(column, Cell::Missing(NO_JUDGE.to_owned()))]);
    };
    // Nobody to judge by is a value of the sum, and no maximum.
    let (texts, personas): (Vec<&String>, Vec<&[String]>) =
        texts.iter().zip(personas.iter().copied()).filter(|(_, persona)| !persona.is_empty()).unzip();
    ensure!(!texts.is_empty(), "C.score: no example has a persona");
    let (judge, judgements) = Consistency::judgements(judge, &texts, &personas)?;
    let mut cells = Vec::new();
    for (name, form) in [("C.score sum", Consistency::sum()), ("C.score max", Consistency::max())] {
        for score in form.of_judgements(&judge, &judgements)? {
            let column = Column { name: name.to_owned(), ..column(&score, 3) };
            cells.push((column, Cell::Value(score.displayed_value())));
        }
    }
    Ok(cells)
}

/// The prompt of an example's reply with its gold label highlighted, as preference pairs have it.
#[must_use]
pub fn gold_prompt(example: &Example) -> PromptKind<'static> {
    PromptKind::Generation(example.selected().map_or(Highlight::None, Highlight::Description))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gold_replies_say_what_the_words_are() {
        let texts = |texts: &[&str]| texts.iter().map(ToString::to_string).collect::<Vec<String>>();
        assert_eq!(language(&texts(&["i ski .", "我喜欢狗。", "me too !"])), Language::English);
        assert_eq!(language(&texts(&["我 喜欢 狗 。", "你 呢 ？"])), Language::English);
        assert_eq!(language(&texts(&["我喜欢狗。", "你呢？", "ok"])), Language::Chinese);
        assert_eq!(language(&texts(&["犬が好きです。", "そうですか。", "東京都"])), Language::Japanese);
        let gold = texts(&["我非常喜欢这只猫。"]);
        let scores =
            text_scores(&TextMetrics::of(&gold), &texts(&["我非常喜欢这只狗。"]), &gold, &[&[]]).unwrap();
        assert!(
            (scores[0].0.value() - 6.0 / 7.0).abs() < 1e-9
                && scores[0].0.signature().to_string().contains("jieba")
        );
    }
}
