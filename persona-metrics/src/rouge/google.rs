//! ROUGE as Google's package rouge_score computes it.

use std::mem::take;

use serde::{Deserialize, Serialize};

use super::measure::{Measure, Overlap, ROUGE, RougeType, Types, mean_of_measures};
use super::room::{Lines, Room, with_room};
use crate::error::{Error, Result};
use crate::metric::{Metric, PairMetric, pair_metric_methods};
use crate::ngrams::ngrams;
use crate::sums::MeanSums;
use crate::text::rouge_tokens;
use crate::tokens::{is_python_space, split_whitespace};

/// How [`GoogleRouge`] makes tokens of a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum RougeTokenizer {
    /// The package's own: lower case, then runs of `a` to `z` and `0` to `9`. Every other letter separates tokens
    /// (`café` is `caf`), and a text in Chinese or Japanese has no token and a score of 0.
    #[default]
    RougeScore,
    /// The package's own with `use_stemmer=True`: tokens of more than three characters are stemmed with NLTK's Porter
    /// stemmer.
    RougeScoreStemmed,
    /// Python's `str.split()`: nothing is lower-cased or left out.
    Whitespace,
    /// Every character (code point) that is not white space: for texts without spaces between words.
    Characters,
}

impl RougeTokenizer {
    fn name(self) -> &'static str {
        match self {
            Self::RougeScore => "rouge_score",
            Self::RougeScoreStemmed => "rouge_score-stemmed",
            Self::Whitespace => "whitespace",
            Self::Characters => "characters",
        }
    }

    /// Appends the tokens of a text, one space between two.
    fn tokenize(self, text: &str, out: &mut String) {
        match self {
            Self::RougeScore | Self::RougeScoreStemmed => {
                rouge_tokens(text, self == Self::RougeScoreStemmed, out);
            }
            Self::Whitespace => {
                for token in split_whitespace(text) {
                    out.push_str(token);
                    out.push(' ');
                }
            }
            Self::Characters => {
                for c in text.chars().filter(|&c| !is_python_space(c)) {
                    out.push(c);
                    out.push(' ');
                }
            }
        }
    }
}

/// ROUGE-1 to ROUGE-9, ROUGE-L and ROUGE-Lsum (Lin 2004) as Google's Python package `rouge_score` 0.1.2 computes them,
/// as shares of one; the mean over the pairs of a corpus.
///
/// - ROUGE-N: `common` n-grams count as often as the text that has fewer of them has them; `P = common / n-grams of
///   the hypothesis`, `R = common / n-grams of the reference`, `F = 2 P R / (P + R)`, each 0 where there is nothing to
///   divide by.
/// - ROUGE-L: `common` is the length of the longest common subsequence, over the numbers of tokens.
/// - ROUGE-Lsum: texts are split at line feeds. For each line of the reference, the places of its longest common
///   subsequences with the lines of the hypothesis are united; a token there counts as long as both texts have one left
///   that was not counted yet. Texts of one line have their ROUGE-L.
///
/// Of several references, each kind takes all three numbers from the one with the highest F, the first on ties (the
/// package's `score_multi`). Empty texts have 0.
///
/// The package's `split_summaries`, which looks for sentences with a trained model, is not here: put one sentence on a
/// line. Memory is linear in the lengths but for ROUGE-Lsum, whose table takes a bit for each pair of tokens of two
/// lines, up to 256 MiB; longer lines are [`Error::TableTooLarge`].
///
/// ```
/// use persona_metrics::{Rouge, RougeType};
///
/// let rouge = Rouge::google().types([RougeType::N(1), RougeType::L])?.use_stemmer(true);
/// let scores = rouge.sentence("two dogs barked", "a dog barks twice")?;
/// assert_eq!(scores.get("ROUGE-1 F").map(|score| format!("{:.3}", score.value())), Some("0.571".into()));
/// # Ok::<(), persona_metrics::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct GoogleRouge {
    types: Types,
    tokenizer: RougeTokenizer,
}

impl Default for GoogleRouge {
    fn default() -> Self {
        Self { types: Types::usual(), tokenizer: RougeTokenizer::default() }
    }
}

impl GoogleRouge {
    /// The kinds of ROUGE, in the order of the scores: orders 1 to 9, `L` and `Lsum`. At first ROUGE-1, ROUGE-2,
    /// ROUGE-L.
    ///
    /// # Errors
    /// No kind, the same kind twice, or one that the package does not have.
    pub fn types(mut self, types: impl IntoIterator<Item = RougeType>) -> Result<Self> {
        let has = |kind| matches!(kind, RougeType::N(1..=9) | RougeType::L | RougeType::Lsum);
        self.types = Types::new("rouge_score", types, has)?;
        Ok(self)
    }

    /// The package's own tokenizer, with or without its stemmer.
    #[must_use]
    pub fn use_stemmer(mut self, use_stemmer: bool) -> Self {
        self.tokenizer =
            if use_stemmer { RougeTokenizer::RougeScoreStemmed } else { RougeTokenizer::RougeScore };
        self
    }

    /// Another way to tokens, as the package's `tokenizer`; it takes the place of the stemmer, too.
    #[must_use]
    pub fn tokenizer(mut self, tokenizer: RougeTokenizer) -> Self {
        self.tokenizer = tokenizer;
        self
    }

    /// The tokens of a text that are compared.
    pub fn tokens(&self, text: &str) -> Vec<String> {
        let mut tokens = String::new();
        self.tokenizer.tokenize(text, &mut tokens);
        tokens.split(' ').filter(|token| !token.is_empty()).map(str::to_owned).collect()
    }

    /// The tokens of each line, written over `lines`.
    fn read(&self, text: &str, mut lines: Lines, room: &mut Room) -> Lines {
        lines.clear();
        let Room { numbers, tokens, stems, .. } = room;
        let mut read_line = |line: &str| {
            tokens.clear();
            if self.tokenizer == RougeTokenizer::RougeScoreStemmed {
                RougeTokenizer::RougeScore.tokenize(line, tokens);
                lines.push_stems(tokens, stems, numbers);
            } else {
                self.tokenizer.tokenize(line, tokens);
                lines.push_all(tokens, numbers);
            }
            if lines.open() > 0 {
                lines.end_line();
            }
        };
        // No token reaches over a line feed.
        if self.types.iter().any(|kind| kind == RougeType::Lsum) {
            text.split('\n').for_each(read_line);
        } else {
            read_line(text);
        }
        lines
    }

    /// Keeps in `best` what is better of this reference.
    fn measure(&self, room: &mut Room, orders: usize, best: &mut [Option<Measure>]) -> Result<()> {
        let (hypothesis, reference) = (room.hypothesis.tokens().len(), room.reference.tokens().len());
        let matches = room.matches(orders);
        let mut subsequence = None;
        for (kind, best) in self.types.iter().zip(best) {
            let overlap = match kind {
                RougeType::N(order) => {
                    let order = usize::from(order);
                    let common = matches.get(order.wrapping_sub(1)).copied().unwrap_or_default();
                    Overlap::of(common, ngrams(hypothesis, order), ngrams(reference, order))
                }
                RougeType::Lsum if room.hypothesis.are_several() || room.reference.are_several() => {
                    Overlap::of(union_of_subsequences(room)?, hypothesis as u64, reference as u64)
                }
                _ => {
                    let Room { hypothesis, reference, subsequences, .. } = room;
                    let length = || subsequences.length(hypothesis.tokens(), reference.tokens()) as u64;
                    let common = *subsequence.get_or_insert_with(length);
                    Overlap::of(common, hypothesis.tokens().len() as u64, reference.tokens().len() as u64)
                }
            };
            let (precision, recall) = (overlap.precision(), overlap.recall());
            let sum = precision + recall;
            let f = if sum > 0.0 { 2.0 * precision * recall / sum } else { 0.0 };
            if best.is_none_or(|best| f > best.f) {
                *best = Some(Measure { precision, recall, f });
            }
        }
        Ok(())
    }
}

/// Tokens of the united subsequences, each as often as both texts have it.
fn union_of_subsequences(room: &mut Room) -> Result<u64> {
    let mut common = 0;
    room.united_places(None, |line, marked, left| {
        for (&token, _) in line.iter().zip(marked).filter(|(_, marked)| **marked) {
            if let Some((of_hypothesis @ 1.., of_reference @ 1..)) = left.get_mut(token as usize) {
                *of_hypothesis -= 1;
                *of_reference -= 1;
                common += 1;
            }
        }
    })?;
    Ok(common)
}

pair_metric_methods!(GoogleRouge);

impl Metric for GoogleRouge {
    mean_of_measures!();

    fn settings(&self) -> String {
        format!("variant:rouge_score|{}|tok:{}", self.types, self.tokenizer.name())
    }
}

impl PairMetric for GoogleRouge {
    fn count(&self, sums: &mut MeanSums, hypothesis: &str, references: &[&str]) -> Result<()> {
        if references.is_empty() {
            return Err(Error::NoReferences { metric: ROUGE });
        }
        let orders = self.types.largest_order();
        let mut best = vec![None; self.types.iter().count()];
        with_room(|room| {
            room.hypothesis = self.read(hypothesis, take(&mut room.hypothesis), room);
            references.iter().try_for_each(|reference| {
                room.reference = self.read(reference, take(&mut room.reference), room);
                self.measure(room, orders, &mut best)
            })
        })?;
        let best: Vec<Measure> = best.into_iter().flatten().collect();
        sums.push(ROUGE, &Measure::numbers(&best))
    }
}

#[cfg(test)]
mod tests {
    use crate::{Error, GoogleRouge, Rouge, RougeTokenizer, RougeType};

    /// Precision, recall and F of one kind.
    fn measure<R: crate::Texts + ?Sized>(
        rouge: GoogleRouge,
        kind: RougeType,
        hypothesis: &str,
        references: &R,
    ) -> [f64; 3] {
        let values = rouge.types([kind]).unwrap().sentence(hypothesis, references).unwrap().values();
        [values[0], values[1], values[2]]
    }

    #[test]
    fn ngrams_are_clipped_and_short_texts_have_zero() {
        let rouge = || Rouge::google();
        assert_eq!(measure(rouge(), RougeType::N(1), "the the the", "The cat!"), [1.0 / 3.0, 0.5, 0.4]);
        assert_eq!(measure(rouge(), RougeType::N(9), "a b c", "a b c"), [0.0; 3]);
        for (hypothesis, reference) in [("", ""), ("a", "..."), ("狗", "狗")] {
            let rouge = rouge().types([RougeType::N(1), RougeType::L, RougeType::Lsum]).unwrap();
            assert_eq!(rouge.sentence(hypothesis, reference).unwrap().values(), [0.0; 9]);
        }
    }

    #[test]
    fn each_kind_takes_the_reference_with_its_highest_f_the_first_on_ties() {
        let references = ["a x", "x a b", "b a"];
        assert_eq!(measure(Rouge::google(), RougeType::N(1), "a b", &references), [1.0; 3]);
        assert_eq!(measure(Rouge::google(), RougeType::L, "a b", &references), [1.0, 2.0 / 3.0, 0.8]);
        // Both have an F of 0.5.
        assert_eq!(measure(Rouge::google(), RougeType::N(1), "a b", &["a x", "b x"]), [0.5; 3]);
        let no_texts: [&str; 0] = [];
        assert!(matches!(Rouge::google().sentence("a", &no_texts), Err(Error::NoReferences { .. })));
    }

    #[test]
    fn lsum_unites_lines_and_counts_a_token_no_more_often_than_both_have_it() {
        let rouge = || Rouge::google();
        // Lin 2004, section 3.2: the union is w1 w2 w3 w5.
        let (hypothesis, reference) = ("w1 w2 w6 w7 w8\nw1 w3 w8 w9 w5", "w1 w2 w3 w4 w5");
        assert_eq!(measure(rouge(), RougeType::Lsum, hypothesis, reference)[..2], [0.4, 0.8]);
        assert_eq!(measure(rouge(), RougeType::L, "b\na", "a\nb"), [0.5; 3]);
        assert_eq!(measure(rouge(), RougeType::Lsum, "b\na", "a\n\nb"), [1.0; 3]);
        // One a in the hypothesis matches both lines, and counts once.
        assert_eq!(measure(rouge(), RougeType::Lsum, "a", "a b\na c"), [1.0, 0.25, 0.4]);
    }

    #[test]
    fn tokenizers() {
        let tokens = |tokenizer| Rouge::google().tokenizer(tokenizer).tokens("Café x1 狗。\n Dogs");
        assert_eq!(tokens(RougeTokenizer::RougeScore), ["caf", "x1", "dogs"]);
        assert_eq!(tokens(RougeTokenizer::RougeScoreStemmed), ["caf", "x1", "dog"]);
        assert_eq!(tokens(RougeTokenizer::Whitespace), ["Café", "x1", "狗。", "Dogs"]);
        assert_eq!(
            tokens(RougeTokenizer::Characters),
            ["C", "a", "f", "é", "x", "1", "狗", "。", "D", "o", "g", "s"]
        );
        let signature = |rouge: GoogleRouge| {
            rouge.sentence("a", "a").unwrap().iter().next().unwrap().signature().to_string()
        };
        let stemmed = signature(Rouge::google().use_stemmer(true));
        assert!(stemmed.starts_with("variant:rouge_score|types:1,2,L|tok:rouge_score-stemmed|refs:1|"));
        let turned_off = Rouge::google().use_stemmer(true).use_stemmer(false);
        assert_eq!(turned_off, Rouge::google());
    }

    #[test]
    fn long_lines_need_no_table_but_for_lsum() {
        let long: Vec<String> = (0..50_000).map(|number| format!("t{number}")).collect();
        let long = long.join(" ");
        let rouge = Rouge::google().types([RougeType::N(1), RougeType::N(2)]).unwrap();
        assert_eq!(rouge.sentence(&long, &long).unwrap().values(), [1.0; 6]);
        assert_eq!(measure(Rouge::google(), RougeType::L, &long, "t7 t5 t40000")[1], 2.0 / 3.0);
        let rouge = Rouge::google().types([RougeType::Lsum]).unwrap();
        let lines = format!("{long}\nt1");
        let error = rouge.corpus(&["a", &lines], &["a", &lines]).unwrap_err();
        let Error::Example { index: 1, source } = error else { panic!("{error}") };
        assert!(matches!(*source, Error::TableTooLarge { reference: 50_000, hypothesis: 50_000, .. }));
        // What comes after is not disturbed.
        assert_eq!(rouge.sentence("a\nb", "b\na").unwrap().values(), [1.0; 3]);
    }
}
