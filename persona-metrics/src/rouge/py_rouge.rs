//! ROUGE as the package py-rouge computes it.

use serde::{Deserialize, Serialize};

use super::measure::{Measure, Overlap, ROUGE, RougeType, Types, mean_of_measures};
use super::room::{Lines, Numbers, Room, with_room};
use crate::error::{Error, Result};
use crate::metric::{Metric, PairMetric, pair_metric_methods};
use crate::score::Scores;
use crate::sums::MeanSums;
use crate::text::py_rouge_tokens;
use crate::tokens::{Texts, is_python_space, split_whitespace};

/// ROUGE-N, ROUGE-L and ROUGE-W (Lin 2004) as the Python package `py-rouge` 1.1 computes them after the Perl script
/// ROUGE 1.5.5, without stemming; the mean over the examples of a corpus.
///
/// Texts are cut to the [`LengthLimit`], split into sentences at line feeds, lower-cased; what is not in `A` to `Z`, `a`
/// to `z`, `0` to `9` separates tokens, and a few contractions are two (`gonna` is `gon na`).
///
/// - ROUGE-N: `common` n-grams count as often as the text that has fewer of them has them; a text of `l` tokens has
///   `l - n + 1` n-grams, *below zero* for short texts.
/// - ROUGE-L: for each sentence of the reference, the places of its longest common subsequences with the sentences of
///   the hypothesis are united; a token there counts as long as the hypothesis has one left that was not counted yet.
/// - ROUGE-W: the same with subsequences that prefer matches in a row, `k` in a row being worth `k^w`; over
///   `(tokens of the hypothesis)^w` and `(sum over sentences of (tokens)^w)^w`.
/// - `P = common / hypothesis`, `R = common / reference`, 0 where there is nothing to divide by. With a weight factor
///   `w` other than 1, P and R of ROUGE-W *and of ROUGE-L* are raised to `1/w`.
/// - `F = P R / ((1 - alpha) P + alpha R)`, 0 where P or R is.
///
/// Of several references the counts are added up before P and R are taken (the package's `apply_avg`); see
/// [`PyRouge::apply_best`] and [`PyRouge::individual`] for the other two forms. Because of n-gram counts below zero the
/// sum over references can give a recall above one or below zero; a number that is not finite is an error.
///
/// The package stems by default, first by tables of words that ship with it; stemming is not offered here, so that
/// its default and ParlAI's ROUGE are not met. Tables of ROUGE-L and ROUGE-W take a bit for each pair of tokens of two
/// sentences, up to 256 MiB; longer sentences are [`Error::TableTooLarge`].
///
/// ```
/// use persona_metrics::{LengthLimit, Rouge, RougeType};
///
/// let rouge = Rouge::py_rouge().types([RougeType::W])?.weight_factor(1.2)?.limit(LengthLimit::None);
/// let together = rouge.sentence("the cat sat", "the cat sat on a mat")?.values();
/// let apart = rouge.sentence("the cat sat", "the a cat b sat c")?.values();
/// assert!(together[0] > apart[0]);
/// # Ok::<(), persona_metrics::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PyRouge {
    types: Types,
    limit: LengthLimit,
    best: bool,
    alpha: f64,
    weight_factor: f64,
    ensure_compatibility: bool,
}

/// How much of a text py-rouge compares.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LengthLimit {
    /// All of it.
    None,
    /// The first so many characters (code points; the package calls them bytes) of its sentences, without what is
    /// white space at their ends. A limit of 0 is none.
    Bytes(usize),
    /// The first so many words of `str.split()`. A limit of 0 is none.
    Words(usize),
}

impl Default for PyRouge {
    fn default() -> Self {
        Self {
            types: Types::usual(),
            limit: LengthLimit::Bytes(665),
            best: false,
            alpha: 0.5,
            weight_factor: 1.0,
            ensure_compatibility: true,
        }
    }
}

impl PyRouge {
    /// The kinds of ROUGE, in the order of the scores: any order, `L` and `W`. At first ROUGE-1, ROUGE-2, ROUGE-L.
    ///
    /// # Errors
    /// No kind, the same kind twice, or one that the package does not have.
    pub fn types(mut self, types: impl IntoIterator<Item = RougeType>) -> Result<Self> {
        let has = |kind| matches!(kind, RougeType::N(1..) | RougeType::L | RougeType::W);
        self.types = Types::new("py-rouge", types, has)?;
        Ok(self)
    }

    /// How much of each text is compared; the package's default is 665 characters.
    #[must_use]
    pub fn limit(mut self, limit: LengthLimit) -> Self {
        self.limit = limit;
        self
    }

    /// Of several references, whether each kind takes its numbers from the one with the highest recall, the first on
    /// ties. ROUGE-W compares `(common / reference^(1/w))^(1/w)` instead, and an empty reference is an error then, as
    /// in the package.
    #[must_use]
    pub fn apply_best(mut self, best: bool) -> Self {
        self.best = best;
        self
    }

    /// The weight of precision against recall in F, from 0 (F is recall) to 1 (F is precision); 0.5 at first.
    ///
    /// # Errors
    /// A number outside that range.
    pub fn alpha(mut self, alpha: f64) -> Result<Self> {
        if !(0.0..=1.0).contains(&alpha) {
            let problem = format!("alpha is {alpha}; it has to lie between 0 and 1");
            return Err(Error::InvalidSetting { metric: ROUGE, problem });
        }
        self.alpha = alpha;
        Ok(self)
    }

    /// The weight factor `w` of ROUGE-W; the official one is 1.2, the package's default of 1 makes it ROUGE-L. Above 1
    /// matches in a row weigh more; below 1 they weigh less, and ROUGE-W can exceed one. It is applied to ROUGE-L's P
    /// and R as well.
    ///
    /// # Errors
    /// A number that is not finite or not above 0.
    pub fn weight_factor(mut self, weight_factor: f64) -> Result<Self> {
        if !(weight_factor.is_finite() && weight_factor > 0.0) {
            let problem = format!("the weight factor is {weight_factor}; it has to be finite and above 0");
            return Err(Error::InvalidSetting { metric: ROUGE, problem });
        }
        self.weight_factor = weight_factor;
        Ok(self)
    }

    /// Whether texts are read as the Perl script reads them, which is the default: a sentence a line, and `cannot` is
    /// one token. If not, `cannot` is two, and a text is one sentence: the package looks for sentences with a trained
    /// model then, so that the numbers are its own for texts in which that finds no more than one.
    #[must_use]
    pub fn ensure_compatibility(mut self, ensure_compatibility: bool) -> Self {
        self.ensure_compatibility = ensure_compatibility;
        self
    }

    /// The scores against each reference by itself, in their order: the package's lists with `apply_avg=False` and
    /// `apply_best=False`.
    ///
    /// # Errors
    /// No reference, or a score without a value.
    pub fn individual<R: Texts + ?Sized>(&self, hypothesis: &str, references: &R) -> Result<Vec<Scores>> {
        let alone = self.clone().apply_best(false);
        let scores: Vec<Scores> = references
            .texts()
            .map(|reference| alone.sentence(hypothesis, reference))
            .collect::<Result<_>>()?;
        if scores.is_empty() { Err(Error::NoReferences { metric: ROUGE }) } else { Ok(scores) }
    }

    /// The package reads a text for ROUGE-N as a whole and for the others by sentences, cut to the same limit: no token
    /// reaches over the end of a sentence, so that the tokens are the same.
    fn read(&self, text: &str, numbers: &mut Numbers, into: &mut Lines, tokens: &mut String) {
        into.clear();
        let mut read = |text: &str, into: &mut Lines| {
            tokens.clear();
            py_rouge_tokens(text, None, tokens);
            if self.ensure_compatibility {
                return into.push_all(tokens, numbers);
            }
            for token in tokens.split(' ') {
                into.push_all(if token == "cannot" { "can not" } else { token }, numbers);
            }
        };
        // Units of the limit that have been read.
        let mut taken = 0;
        for sentence in text.split(|c| c == '\n' && self.ensure_compatibility) {
            match self.limit {
                LengthLimit::None | LengthLimit::Bytes(0) | LengthLimit::Words(0) => read(sentence, into),
                LengthLimit::Words(limit) => {
                    for word in split_whitespace(sentence).take(limit - taken) {
                        read(word, into);
                        taken += 1;
                    }
                }
                LengthLimit::Bytes(limit) => {
                    let sentence = sentence.trim_matches(is_python_space);
                    let end = sentence.char_indices().nth(limit - taken);
                    let sentence = end.and_then(|(end, _)| sentence.get(..end)).unwrap_or(sentence);
                    read(sentence, into);
                    taken += sentence.chars().count();
                }
            }
            into.end_line();
        }
    }

    fn measure(&self, kind: RougeType, overlap: &Overlap) -> Measure {
        let (mut precision, mut recall) = (overlap.precision(), overlap.recall());
        if self.weight_factor != 1.0 && !matches!(kind, RougeType::N(_)) {
            precision = precision.powf(1.0 / self.weight_factor);
            recall = recall.powf(1.0 / self.weight_factor);
        }
        let f = if precision == 0.0 || recall == 0.0 {
            0.0
        } else {
            precision * recall / ((1.0 - self.alpha) * precision + self.alpha * recall)
        };
        Measure { precision, recall, f }
    }

    /// What [`PyRouge::apply_best`] compares.
    fn quality(&self, kind: RougeType, overlap: &Overlap, measure: &Measure) -> Result<f64> {
        if kind != RougeType::W {
            return Ok(measure.recall);
        }
        let reference = overlap.reference.powf(1.0 / self.weight_factor);
        if reference == 0.0 {
            return Err(Error::EmptyReference { metric: ROUGE });
        }
        Ok((overlap.common / reference).powf(1.0 / self.weight_factor))
    }

    fn choose(&self, kind: RougeType, overlaps: impl Iterator<Item = Overlap>) -> Result<Measure> {
        if !self.best {
            let sum = overlaps.fold(Overlap::default(), |sum, overlap| Overlap {
                common: sum.common + overlap.common,
                hypothesis: sum.hypothesis + overlap.hypothesis,
                reference: sum.reference + overlap.reference,
            });
            return Ok(self.measure(kind, &sum));
        }
        let mut best: Option<(f64, Measure)> = None;
        for overlap in overlaps {
            let measure = self.measure(kind, &overlap);
            let quality = self.quality(kind, &overlap, &measure)?;
            if best.is_none_or(|(best, _)| quality > best) {
                best = Some((quality, measure));
            }
        }
        Ok(best.map(|(_, measure)| measure).unwrap_or_default())
    }

    /// By kind, the overlap of the texts in the room.
    fn overlaps(&self, room: &mut Room) -> Result<Vec<Overlap>> {
        let matches = room.matches(self.types.largest_order());
        let (hypothesis, reference) = (room.hypothesis.tokens().len(), room.reference.tokens().len());
        let overlap = |kind| match kind {
            RougeType::N(order) => {
                let order = usize::from(order);
                let common = matches.get(order.wrapping_sub(1)).copied().unwrap_or_default() as f64;
                let ngrams = |tokens: usize| tokens as f64 - (order as f64 - 1.0);
                Ok(Overlap { common, hypothesis: ngrams(hypothesis), reference: ngrams(reference) })
            }
            RougeType::W if self.weight_factor != 1.0 => weighted_overlap(room, self.weight_factor),
            _ => plain_overlap(room),
        };
        self.types.iter().map(overlap).collect()
    }
}

/// ROUGE-L's counts.
fn plain_overlap(room: &mut Room) -> Result<Overlap> {
    let mut common = 0;
    room.united_places(None, |line, marked, left| {
        let places = line.iter().zip(marked).filter(|(_, marked)| **marked);
        common += places.filter(|(token, _)| take(left, **token)).count() as u64;
    })?;
    Ok(Overlap::of(common, room.hypothesis.tokens().len() as u64, room.reference.tokens().len() as u64))
}

/// ROUGE-W's counts for a weight factor other than 1. A run of counted tokens ends where the place after it is not
/// part of a subsequence; a token that is not counted neither adds to a run nor ends it, and a run that has not ended
/// with its line is lost.
fn weighted_overlap(room: &mut Room, weight: f64) -> Result<Overlap> {
    let power = |count: usize| (count as f64).powf(weight);
    let longest = room.reference.lines().map(<[u32]>::len).max().unwrap_or_default();
    let powers: Vec<f64> = (0..=longest).map(power).collect();
    let mut common = 0.0;
    room.united_places(Some(&powers), |line, marked, left| {
        let mut run = 0;
        let next = marked.iter().skip(1).chain([&false]);
        for ((&token, _), next) in line.iter().zip(marked).zip(next).filter(|((_, marked), _)| **marked) {
            if take(left, token) {
                run += 1;
                if !next {
                    common += power(run);
                    run = 0;
                }
            }
        }
    })?;
    let hypothesis = power(room.hypothesis.tokens().len());
    let reference: f64 = room.reference.lines().map(|line| power(line.len())).sum();
    Ok(Overlap { common, hypothesis, reference: reference.powf(weight) })
}

/// Whether the hypothesis has one of this token left; it has one less then.
fn take(left: &mut [(u32, u32)], token: u32) -> bool {
    match left.get_mut(token as usize) {
        Some((of_hypothesis @ 1.., _)) => {
            *of_hypothesis -= 1;
            true
        }
        _ => false,
    }
}

pair_metric_methods!(PyRouge);

impl Metric for PyRouge {
    mean_of_measures!();

    fn settings(&self) -> String {
        let limit = match self.limit {
            LengthLimit::None | LengthLimit::Bytes(0) | LengthLimit::Words(0) => "none".to_owned(),
            LengthLimit::Bytes(limit) => format!("{limit}-characters"),
            LengthLimit::Words(limit) => format!("{limit}-words"),
        };
        let several = if self.best { "best" } else { "sum" };
        let sentences = if self.ensure_compatibility { "lines" } else { "one" };
        format!(
            "variant:py-rouge|{}|stem:no|sentences:{sentences}|limit:{limit}|alpha:{}|weight:{}|several:{several}",
            self.types, self.alpha, self.weight_factor
        )
    }
}

impl PairMetric for PyRouge {
    fn count(&self, sums: &mut MeanSums, hypothesis: &str, references: &[&str]) -> Result<()> {
        if references.is_empty() {
            return Err(Error::NoReferences { metric: ROUGE });
        }
        let overlaps: Vec<Vec<Overlap>> = with_room(|room| {
            self.read(hypothesis, &mut room.numbers, &mut room.hypothesis, &mut room.tokens);
            let overlaps = |reference: &&str| {
                self.read(reference, &mut room.numbers, &mut room.reference, &mut room.tokens);
                self.overlaps(room)
            };
            references.iter().map(overlaps).collect::<Result<_>>()
        })?;
        let of_kind = |place: usize| overlaps.iter().filter_map(move |overlaps| overlaps.get(place).copied());
        let measures = self.types.iter().enumerate().map(|(place, kind)| self.choose(kind, of_kind(place)));
        let measures: Vec<Measure> = measures.collect::<Result<_>>()?;
        sums.push(ROUGE, &Measure::numbers(&measures))
    }
}

#[cfg(test)]
mod tests {
    use crate::{Error, LengthLimit, PyRouge, Rouge, RougeType};

    /// Precision, recall and F of one kind.
    fn measure<R: crate::Texts + ?Sized>(
        rouge: PyRouge,
        kind: RougeType,
        hypothesis: &str,
        references: &R,
    ) -> [f64; 3] {
        let values = rouge.types([kind]).unwrap().sentence(hypothesis, references).unwrap().values();
        [values[0], values[1], values[2]]
    }

    fn weighted(weight: f64) -> PyRouge {
        Rouge::py_rouge().weight_factor(weight).unwrap()
    }

    #[test]
    fn rouge_w_prefers_matches_in_a_row() {
        let w = |hypothesis| measure(weighted(2.0), RougeType::W, hypothesis, "a b c d")[0];
        // Runs of 2 + 0 and of 1 + 1: the square roots of 4 / 16 and of 2 / 16.
        assert_eq!(w("a b x y"), 0.5);
        assert_eq!(w("a x c y"), 0.125_f64.sqrt());
        // The reference's length is raised twice.
        assert_eq!(measure(weighted(2.0), RougeType::W, "a b", "a b"), [1.0, 0.5, 2.0 / 3.0]);
        // ROUGE-L is not weighted itself, its precision and recall are.
        assert_eq!(measure(weighted(2.0), RougeType::L, "a b c d", "a")[..2], [0.5, 1.0]);
        assert_eq!(measure(weighted(2.0), RougeType::N(1), "a b c d", "a")[..2], [0.25, 1.0]);
    }

    #[test]
    fn tokens_that_the_hypothesis_has_no_more_of_do_not_end_a_run() {
        // The second line of the reference marks a and c; a is spent, so that its run is c alone.
        let rouge = || weighted(2.0);
        let reference = "a b\na c";
        let [precision, ..] = measure(rouge(), RougeType::W, "a b c", reference);
        assert!((precision - (5.0_f64 / 9.0).sqrt()).abs() < 1e-15, "{precision}");
        // Here c is spent at the end of its line, and the run of a is lost.
        let [precision, ..] = measure(rouge(), RougeType::W, "x c a c", "c\nc\na c");
        assert!((precision - (2.0_f64 / 16.0).sqrt()).abs() < 1e-15, "{precision}");
    }

    #[test]
    fn of_several_references_the_counts_add_up_or_the_best_recall_counts() {
        let references = ["a b c d", "a x"];
        let sum = measure(Rouge::py_rouge(), RougeType::N(1), "a b", &references);
        assert_eq!(sum[..2], [0.75, 0.5]);
        let best = measure(Rouge::py_rouge().apply_best(true), RougeType::N(1), "a b", &references);
        assert_eq!(best, [1.0, 0.5, 2.0 / 3.0]);
        let individual = Rouge::py_rouge().individual("a b", &references).unwrap();
        assert_eq!(individual[1].values()[..2], [0.5, 0.5]);
        // A reference of one token has no bigram, and one of none has minus one.
        let sum = measure(Rouge::py_rouge(), RougeType::N(2), "a b c", &["a b c", ""]);
        assert_eq!(sum[..2], [0.5, 2.0]);
        let no_texts: [&str; 0] = [];
        assert!(matches!(Rouge::py_rouge().individual("a", &no_texts), Err(Error::NoReferences { .. })));
    }

    #[test]
    fn the_best_weighted_reference_must_not_be_empty() {
        let best = weighted(1.2).apply_best(true).types([RougeType::W]).unwrap();
        assert!(matches!(best.sentence("a", &["a", "."]), Err(Error::EmptyReference { .. })));
        assert!(weighted(1.2).types([RougeType::W]).unwrap().sentence("a", &["a", "."]).is_ok());
        assert!(Rouge::py_rouge().apply_best(true).sentence("a", ".").is_ok());
    }

    #[test]
    fn limits_count_characters_or_words_over_sentences() {
        let recall = |limit, hypothesis| {
            measure(Rouge::py_rouge().limit(limit), RougeType::N(1), hypothesis, "aa bb")[1]
        };
        assert_eq!(recall(LengthLimit::Words(2), "x\naa bb"), 0.5);
        assert_eq!(recall(LengthLimit::Words(0), "x\naa bb"), 1.0);
        // Line feeds and the white space beside them are not counted.
        assert_eq!(recall(LengthLimit::Bytes(5), "x \n aa bb"), 0.5);
        assert_eq!(recall(LengthLimit::Bytes(6), "x \n aa bb"), 1.0);
        assert_eq!(recall(LengthLimit::Bytes(4), "é aa bb"), 0.5);
    }

    #[test]
    fn compatibility_keeps_cannot_and_lines() {
        let recall = |compatibility, kind, hypothesis, reference| {
            let rouge = Rouge::py_rouge().ensure_compatibility(compatibility);
            measure(rouge, kind, hypothesis, reference)[1]
        };
        assert_eq!(recall(true, RougeType::N(1), "can not", "I cannot"), 0.0);
        assert_eq!(recall(false, RougeType::N(1), "can not", "I cannot"), 2.0 / 3.0);
        assert_eq!(recall(true, RougeType::L, "b\na", "a\nb"), 1.0);
        assert_eq!(recall(false, RougeType::L, "b\na", "a\nb"), 0.5);
    }

    #[test]
    fn settings_are_checked_and_signed() {
        for alpha in [-0.1, 1.1, f64::NAN] {
            assert!(matches!(Rouge::py_rouge().alpha(alpha), Err(Error::InvalidSetting { .. })));
        }
        for weight in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert!(matches!(Rouge::py_rouge().weight_factor(weight), Err(Error::InvalidSetting { .. })));
        }
        assert!(Rouge::py_rouge().types([RougeType::Lsum]).is_err());
        let rouge = weighted(1.2).alpha(0.8).unwrap().limit(LengthLimit::Words(7)).apply_best(true);
        let scores = rouge.sentence("a", &["a", "b"]).unwrap();
        let signature = scores.iter().next().unwrap().signature().as_str();
        let expected = "variant:py-rouge|types:1,2,L|stem:no|sentences:lines|limit:7-words|alpha:0.8|weight:1.2\
                        |several:best|refs:2|";
        assert!(signature.starts_with(expected), "{signature}");
    }
}
