//! Which descriptions a response draws on, where the file does not say.

use std::cmp::Ordering;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::LazyLock;

use rayon::prelude::*;

use crate::dialogue::Dialogue;
use crate::error::{Error, Result};

/// Whoever can tell which descriptions a response draws on.
pub trait Labeller: Sync {
    /// The indexes into `persona` of the descriptions that `response` draws on, the best first; empty when none applies.
    ///
    /// # Errors
    /// Whatever keeps the labeller from an answer.
    fn label(&self, persona: &[String], response: &str) -> Result<Vec<usize>>;
}

/// Labels by shared words: the cosine of the TF-IDF vectors of description and response.
///
/// Words are runs of letters and digits in lower case, without a few dozen that carry no topic, and with the endings of
/// plurals and of the -ing and -ed forms taken off. Chinese characters and Japanese kana, which stand without spaces, give
/// each pair of neighbours as a word. A word's weight is `1 + ln((1 + N) / (1 + n))`, with `n` of the `N` texts seen by
/// [`fit`](Self::fit) containing it.
///
/// This sees overlap, not meaning: "i love dogs" is not found behind "my poodle is called rex". Published labels come from
/// a model of entailment.
#[derive(Debug, Clone)]
pub struct OverlapLabeller {
    texts: usize,
    containing: HashMap<String, usize>,
}

impl OverlapLabeller {
    /// The cosine from which a description counts as relevant.
    ///
    /// Fixed beforehand, and not to be tuned to a result. It was chosen once, by one number only: the share of replies to
    /// which no description applies, which published labels of PERSONA-CHAT put between 49 and 67 % depending on their own
    /// threshold. With this value it lies between 40 and 60 % on all of PERSONA-CHAT at hand: English (44 %, and 45 % of a
    /// part of the training set), XPersona's Chinese (50 %) and Japanese (42 %). On Synthetic-Persona-Chat it is 68 %, and
    /// no threshold brings that near 60: two replies in three there share no word of content with their speaker's persona.
    pub const THRESHOLD: f64 = 0.05;

    /// Learns word frequencies: each description and each turn of the dialogues is one text.
    ///
    /// # Errors
    /// [`Error::NoText`] when there is no word in them.
    pub fn fit(dialogues: &[Dialogue]) -> Result<Self> {
        let count = |dialogue: &Dialogue| {
            let mut containing: HashMap<String, usize> = HashMap::new();
            let descriptions = dialogue.personas.iter().flatten();
            let texts: Vec<&String> =
                descriptions.chain(dialogue.turns.iter().map(|turn| &turn.text)).collect();
            for text in &texts {
                for word in words(text).into_iter().collect::<HashSet<_>>() {
                    *containing.entry(word).or_default() += 1;
                }
            }
            Self { texts: texts.len(), containing }
        };
        let empty = || Self { texts: 0, containing: HashMap::new() };
        let add = |mut all: Self, one: Self| {
            all.texts += one.texts;
            for (word, count) in one.containing {
                *all.containing.entry(word).or_default() += count;
            }
            all
        };
        let fitted = dialogues.par_iter().map(count).reduce(empty, add);
        if fitted.containing.is_empty() { Err(Error::NoText) } else { Ok(fitted) }
    }

    /// The cosine of each description with the response, from 0 to 1.
    #[must_use]
    pub fn scores(&self, persona: &[String], response: &str) -> Vec<f64> {
        let response = self.vector(response);
        persona.iter().map(|description| cosine(&self.vector(description), &response)).collect()
    }

    /// The text's words with their weights; the order is fixed, so that sums come out the same each time.
    fn vector(&self, text: &str) -> BTreeMap<String, f64> {
        let mut vector = BTreeMap::new();
        for word in words(text) {
            let containing = self.containing.get(&word).copied().unwrap_or(0);
            let weight = 1.0 + ((1 + self.texts) as f64 / (1 + containing) as f64).ln();
            *vector.entry(word).or_insert(0.0) += weight;
        }
        vector
    }
}

impl Labeller for OverlapLabeller {
    fn label(&self, persona: &[String], response: &str) -> Result<Vec<usize>> {
        let scores = self.scores(persona, response).into_iter().enumerate();
        let mut passed: Vec<(usize, f64)> = scores.filter(|(_, score)| *score >= Self::THRESHOLD).collect();
        // The sort is stable: of equals the one listed first stays first.
        passed.sort_by(|(_, a), (_, b)| b.partial_cmp(a).unwrap_or(Ordering::Equal));
        Ok(passed.into_iter().map(|(index, _)| index).collect())
    }
}

fn cosine(a: &BTreeMap<String, f64>, b: &BTreeMap<String, f64>) -> f64 {
    let length = |v: &BTreeMap<String, f64>| v.values().map(|w| w * w).sum::<f64>().sqrt();
    let dot: f64 = a.iter().filter_map(|(word, weight)| b.get(word).map(|other| weight * other)).sum();
    // Without a common word the lengths may be zero.
    if dot > 0.0 { dot / (length(a) * length(b)) } else { 0.0 }
}

/// Words without a topic of their own, among them the pieces that apostrophes leave ("i'm", "don't").
const STOP_WORDS: &str = "a an the i im me my mine you your yours u he him his she her hers it its we us our ours they them \
    their s m re ve ll d t don doesn didn isn wasn aren won can cant could would should will shall may might must am is \
    are was were be been being do does did doing done have has had having and or but so if then than as at by for from \
    in into of off on onto out over to up with about that this these those there here what which who whom whose when \
    where why how not no nor yes yeah oh ok okay well just very really too also only even much many more most some any \
    all both each other own same such again once hello hi hey thanks thank please";

fn is_stop_word(word: &str) -> bool {
    static SET: LazyLock<HashSet<&str>> = LazyLock::new(|| STOP_WORDS.split_whitespace().collect());
    SET.contains(word)
}

/// The words of a text, in order.
fn words(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut before: Option<char> = None;
    let mut alone = false;
    let end_word = |word: &mut String, words: &mut Vec<String>| {
        if !word.is_empty() && !is_stop_word(word) {
            words.push(stem(word).to_owned());
        }
        word.clear();
    };
    for c in text.chars().flat_map(char::to_lowercase) {
        if is_unspaced(c) {
            end_word(&mut word, &mut words);
            if let Some(before) = before {
                words.push([before, c].iter().collect());
            }
            alone = before.is_none();
            before = Some(c);
            continue;
        }
        // A character between others of another kind is a word of its own.
        if let Some(single) = before.take().filter(|_| alone) {
            words.push(single.to_string());
        }
        if c.is_alphanumeric() {
            word.push(c);
        } else {
            end_word(&mut word, &mut words);
        }
    }
    end_word(&mut word, &mut words);
    words.extend(before.filter(|_| alone).map(String::from));
    words
}

/// Whether the character belongs to a script that puts no spaces between words: Han, hiragana, katakana.
fn is_unspaced(c: char) -> bool {
    matches!(c,
        '\u{3041}'..='\u{3096}' | '\u{30a1}'..='\u{30fa}' | '\u{30fc}' | '\u{31f0}'..='\u{31ff}' | '\u{ff66}'..='\u{ff9d}'
        | '\u{3005}' | '\u{3400}'..='\u{4dbf}' | '\u{4e00}'..='\u{9fff}' | '\u{f900}'..='\u{faff}'
        | '\u{20000}'..='\u{3ffff}')
}

/// The word without the commonest English endings, so that "dogs" meets "dog" and "hiking" meets "hiked". What is left
/// need not be a word.
fn stem(word: &str) -> &str {
    let cut =
        |ending: &str, keep: usize| word.strip_suffix(ending).filter(|rest| rest.chars().count() >= keep);
    let rest = if word.ends_with("ss") || word.ends_with("us") || word.ends_with("is") {
        word
    } else {
        cut("ies", 3)
            .or_else(|| cut("ing", 3))
            .or_else(|| cut("ed", 3))
            .or_else(|| cut("s", 3))
            .unwrap_or(word)
    };
    let rest = rest.strip_suffix(['e', 'y', 'i']).filter(|rest| rest.chars().count() >= 3).unwrap_or(rest);
    undouble(rest)
}

/// "runn" (of "running") becomes "run"; "ll" and "ss" are as common at the end of whole words and become one letter too,
/// on both sides alike.
fn undouble(word: &str) -> &str {
    let mut ends = word.char_indices().rev();
    match (ends.next(), ends.next()) {
        (Some((at, last)), Some((second, before))) if last == before && second >= 2 => {
            word.get(..at).unwrap_or(word)
        }
        _ => word,
    }
}

/// What [`label_dialogues`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct LabelReport {
    /// Turns that were labelled now.
    pub labelled: usize,
    /// Of these, turns to which no description applies.
    pub none: usize,
    /// Of these, turns to which more than one applies.
    pub several: usize,
    /// Turns whose labels were there and stayed.
    pub kept: usize,
    /// Turns left without labels because their speaker has no persona.
    pub without_persona: usize,
}

impl LabelReport {
    /// The share of the labelled turns to which no description applies; 0 where nothing was labelled.
    #[must_use]
    pub fn none_share(&self) -> f64 {
        self.none as f64 / self.labelled.max(1) as f64
    }

    /// The share of the labelled turns to which more than one description applies; 0 where nothing was labelled.
    #[must_use]
    pub fn several_share(&self) -> f64 {
        self.several as f64 / self.labelled.max(1) as f64
    }
}

/// Labels every unlabelled turn whose speaker has a persona, on all cores. Labels that are there stay.
///
/// # Errors
/// The labeller's first error in the order of the dialogues, or [`Error::LabellerIndex`] when it names a description that
/// is not there; the dialogues are then unchanged.
pub fn label_dialogues(dialogues: &mut [Dialogue], labeller: &dyn Labeller) -> Result<LabelReport> {
    let labels: Vec<Result<Vec<Option<Vec<usize>>>>> =
        dialogues.par_iter().map(|dialogue| labels_of(dialogue, labeller)).collect();
    let labels = labels.into_iter().collect::<Result<Vec<_>>>()?;
    let mut report = LabelReport::default();
    for (dialogue, labels) in dialogues.iter_mut().zip(labels) {
        for (turn, label) in dialogue.turns.iter_mut().zip(labels) {
            match (label, &turn.relevant) {
                (Some(label), _) => {
                    report.labelled += 1;
                    report.none += usize::from(label.is_empty());
                    report.several += usize::from(label.len() > 1);
                    turn.relevant = Some(label);
                }
                (None, Some(_)) => report.kept += 1,
                (None, None) => report.without_persona += 1,
            }
        }
    }
    Ok(report)
}

/// A label for each turn that is to have one.
fn labels_of(dialogue: &Dialogue, labeller: &dyn Labeller) -> Result<Vec<Option<Vec<usize>>>> {
    let mut labels = Vec::with_capacity(dialogue.turns.len());
    for (at, turn) in dialogue.turns.iter().enumerate() {
        let persona = dialogue.persona(turn.speaker);
        if turn.relevant.is_some() || persona.is_empty() {
            labels.push(None);
            continue;
        }
        let label = labeller.label(persona, &turn.text)?;
        if let Some(&index) = label.iter().find(|&&index| index >= persona.len()) {
            let (dialogue, descriptions) = (dialogue.id.clone(), persona.len());
            return Err(Error::LabellerIndex { dialogue, turn: at, index, descriptions });
        }
        labels.push(Some(label));
    }
    Ok(labels)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_lower_case_stems_without_stop_words() {
        assert_eq!(words("I'm hiking with my 2 Dogs!"), ["hik", "2", "dog"]);
        assert_eq!(words("she hiked; they hike, he hikes"), ["hik", "hik", "hik"]);
        assert_eq!(words("running runs, ran"), ["run", "run", "ran"]);
        assert_eq!(words("studies study"), ["stud", "stud"]);
        assert_eq!(words("the king's bus is his"), ["king", "bus"]);
        assert_eq!(words(" ... "), [] as [&str; 0]);
    }

    #[test]
    fn unspaced_scripts_give_pairs_and_lone_characters() {
        assert_eq!(words("\u{72d7}\u{3068}\u{732b}"), ["\u{72d7}\u{3068}", "\u{3068}\u{732b}"]);
        assert_eq!(words("a \u{72d7} b2\u{732b}"), ["\u{72d7}", "b2", "\u{732b}"]);
        assert_eq!(words("\u{72d7}dogs\u{732b}\u{732b}"), ["\u{72d7}", "dog", "\u{732b}\u{732b}"]);
    }
}
