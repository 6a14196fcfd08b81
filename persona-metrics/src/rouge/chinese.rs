//! ROUGE as the package rouge-chinese computes it.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use super::measure::{Measure, Overlap, ROUGE, RougeType, Types, mean_of_measures};
use super::room::{Room, with_room};
use super::words::{has, measure, ngram_overlaps, only_reference, read};
use crate::error::Result;
use crate::metric::{Metric, PairMetric, pair_metric_methods};
use crate::sums::MeanSums;
use crate::tokens::{Preprocessing, Split, is_python_space, preprocessing_setters};

/// ROUGE-1 to ROUGE-5 and ROUGE-L as the Python package `rouge-chinese` 1.0.3 computes them, as shares of one; the
/// mean over the pairs of a corpus, as its `get_scores(..., avg=True)`.
///
/// Texts come with spaces between the words (cut by jieba) or between the characters. They are cut into sentences
/// after `。！？?`, `......` and `……`, and after one of `。！？?` with a closing quote, where the next character does not
/// continue the sentence, and at line feeds; the words of a sentence are those of `str.split()`.
///
/// - ROUGE-N as in [`PltrdyRouge`](crate::PltrdyRouge): by default sets of n-grams.
/// - ROUGE-L: the length of the longest common subsequence of all words of either text in a row, over the numbers of
///   words, whether n-grams are sets or not.
/// - `F = 2 P R / (P + R + 1e-8)`, so that a perfect match has 0.999999995.
///
/// One reference a hypothesis. A text of which nothing is left is an error, as in the package.
///
/// ```
/// use persona_metrics::Rouge;
///
/// let scores = Rouge::chinese().sentence("我 喜欢 狗 。", "我 喜欢 猫 。")?;
/// assert_eq!(scores.get("ROUGE-L P").map(|score| score.value()), Some(0.75));
/// # Ok::<(), persona_metrics::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ChineseRouge {
    types: Types,
    exclusive: bool,
    preprocessing: Preprocessing,
}

impl Default for ChineseRouge {
    fn default() -> Self {
        Self { types: Types::usual(), exclusive: true, preprocessing: Preprocessing::new(Split::Whitespace) }
    }
}

impl ChineseRouge {
    preprocessing_setters!("The package does nothing.");

    /// The kinds of ROUGE, in the order of the scores: orders 1 to 5 and `L`. At first ROUGE-1, ROUGE-2, ROUGE-L.
    ///
    /// # Errors
    /// No kind, the same kind twice, or one that the package does not have.
    pub fn types(mut self, types: impl IntoIterator<Item = RougeType>) -> Result<Self> {
        self.types = Types::new("rouge-chinese", types, has)?;
        Ok(self)
    }

    /// Whether ROUGE-N counts repeated n-grams once, which is the package's default. ROUGE-L is not concerned.
    #[must_use]
    pub fn exclusive(mut self, exclusive: bool) -> Self {
        self.exclusive = exclusive;
        self
    }

    fn measures(&self, room: &mut Room) -> Vec<Measure> {
        let ngrams = ngram_overlaps(room, self.types.largest_order(), self.exclusive);
        let overlap = |kind| match kind {
            RougeType::N(order) => {
                ngrams.get(usize::from(order).wrapping_sub(1)).copied().unwrap_or_default()
            }
            _ => {
                let (hypothesis, reference) = (room.hypothesis.tokens(), room.reference.tokens());
                let common = room.subsequences.length(hypothesis, reference);
                Overlap::of(common as u64, hypothesis.len() as u64, reference.len() as u64)
            }
        };
        self.types.iter().map(overlap).map(|overlap| measure(&overlap)).collect()
    }
}

/// Puts a line feed after each end of a sentence. The package replaces an end of a sentence and one more character,
/// from the left and without overlap, four times; the character after an end is not looked at again in that pass.
fn cut_sentences(text: &str) -> String {
    let text = cut(text, sentence_end, |_| Some(0), closing_quote);
    let text = cut(&text, |c| c == '.', |rest| rest.starts_with(".....").then_some(5), closing_quote);
    let text =
        cut(&text, |c| c == '…', |rest| rest.starts_with('…').then_some('…'.len_utf8()), closing_quote);
    let quote = |rest: &str| rest.chars().next().filter(|&c| closing_quote(c)).map(char::len_utf8);
    let mut text = cut(&text, sentence_end, quote, |c| c == '，' || sentence_end(c)).into_owned();
    text.truncate(text.trim_end_matches(is_python_space).len());
    text
}

fn sentence_end(c: char) -> bool {
    matches!(c, '。' | '！' | '？' | '?')
}

fn closing_quote(c: char) -> bool {
    matches!(c, '”' | '’')
}

/// A sentence ends with a character that `starts` its end and with as many bytes after it as `rest_of_end` says, but
/// not before a character that `continues` it.
fn cut(
    text: &str,
    starts: impl Fn(char) -> bool + Copy,
    rest_of_end: impl Fn(&str) -> Option<usize>,
    continues: impl Fn(char) -> bool,
) -> Cow<'_, str> {
    let end = |start: usize, c: char| {
        let after_first = start + c.len_utf8();
        let end = after_first + rest_of_end(text.get(after_first..)?)?;
        let next = text.get(end..)?.chars().next().filter(|&c| !continues(c))?;
        Some((end, end + next.len_utf8()))
    };
    let mut cut = String::new();
    let (mut written, mut read) = (0, 0);
    while let Some(start) = text.get(read..).and_then(|rest| rest.find(starts)).map(|start| read + start) {
        let Some(c) = text.get(start..).and_then(|rest| rest.chars().next()) else { break };
        read = start + c.len_utf8();
        if let Some((end, next)) = end(start, c) {
            cut.push_str(text.get(written..end).unwrap_or_default());
            cut.push('\n');
            (written, read) = (end, next);
        }
    }
    if written == 0 {
        return Cow::Borrowed(text);
    }
    cut.push_str(text.get(written..).unwrap_or_default());
    Cow::Owned(cut)
}

pair_metric_methods!(ChineseRouge);

impl Metric for ChineseRouge {
    mean_of_measures!();

    fn settings(&self) -> String {
        let exclusive = if self.exclusive { "yes" } else { "no" };
        format!(
            "variant:rouge-chinese|{}|exclusive:{exclusive}|{}",
            self.types,
            self.preprocessing.signature()
        )
    }
}

impl PairMetric for ChineseRouge {
    fn count(&self, sums: &mut MeanSums, hypothesis: &str, references: &[&str]) -> Result<()> {
        let cut = |text| cut_sentences(&self.preprocessing.prepare(text));
        let (hypothesis, reference) = (cut(hypothesis), cut(only_reference(references)?));
        let measures = with_room(|room| {
            read(room, hypothesis.split('\n'), reference.split('\n'))?;
            Ok(self.measures(room))
        })?;
        sums.push(ROUGE, &Measure::numbers(&measures))
    }
}

#[cfg(test)]
mod tests {
    use super::cut_sentences;
    use crate::{Error, Rouge};

    #[test]
    fn sentences_end_as_the_package_cuts_them() {
        assert_eq!(cut_sentences("好。你？我 "), "好。\n你？\n我");
        // The second mark of a pair is not looked at again, and a text's last mark is not followed by anything.
        assert_eq!(cut_sentences("啊！！！好"), "啊！\n！！\n好");
        assert_eq!(cut_sentences("啊？！好。"), "啊？\n！好。");
        assert_eq!(cut_sentences("“好。”他说。”，对"), "“好。”\n他说。”，对");
        assert_eq!(cut_sentences("a.......b……c"), "a......\n.b……\nc");
        assert_eq!(cut_sentences("a?\n\nb"), "a?\n\n\nb");
        assert_eq!(cut_sentences(" \u{3000}\n"), "");
    }

    #[test]
    fn a_cut_separates_words_and_blank_sentences_are_an_empty_word() {
        let recall = |hypothesis, reference| {
            Rouge::chinese().sentence(hypothesis, reference).unwrap().get("ROUGE-1 R").unwrap().value()
        };
        assert_eq!(recall("好。 你", "好。你"), 1.0);
        assert_eq!(recall("x", "x\n \nx"), 0.5);
    }

    #[test]
    fn rouge_l_counts_repeated_words_whatever_exclusive_says() {
        for exclusive in [false, true] {
            let scores = Rouge::chinese().exclusive(exclusive).sentence("好 好 你", "好 好 好 好").unwrap();
            assert_eq!(scores.get("ROUGE-L R").unwrap().value(), 0.5);
            assert_eq!(scores.get("ROUGE-1 R").unwrap().value(), if exclusive { 1.0 } else { 0.5 });
        }
    }

    #[test]
    fn nothing_left_of_a_text_is_an_error() {
        assert!(matches!(Rouge::chinese().sentence(" \n", "好"), Err(Error::EmptyHypothesis { .. })));
        assert!(matches!(Rouge::chinese().sentence("好", ""), Err(Error::EmptyReference { .. })));
        assert!(matches!(Rouge::chinese().sentence("好", &["a", "b"]), Err(Error::NeedsOneReference { .. })));
    }
}
