//! Baselines by word: relative frequencies, and a 5-gram with interpolated Kneser-Ney smoothing.

use std::collections::HashMap;

/// The longest n-gram.
pub const ORDER: usize = 5;

/// An n-gram of at most [`ORDER`] words; the places before a shorter one are 0, which is no word.
type Gram = [u32; ORDER];

/// Before the first word of a turn.
const BEGIN: u32 = 1;
/// After the last word of a turn.
const END: u32 = 2;

/// The words of a text: runs of letters, digits and apostrophes, and every other character that is no white space.
pub fn words(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text.trim_start();
    std::iter::from_fn(move || {
        let first = rest.chars().next()?;
        let within = |c: char| c.is_alphanumeric() || c == '\'';
        let end = if within(first) {
            rest.find(|c: char| !within(c)).unwrap_or(rest.len())
        } else {
            first.len_utf8()
        };
        let (word, after) = rest.split_at_checked(end)?;
        rest = after.trim_start();
        Some(word)
    })
}

/// Frequencies of words and of n-grams in turns.
///
/// The 5-gram is interpolated Kneser-Ney (Kneser and Ney 1995; Chen and Goodman 1998) with one discount an order,
/// `n1 / (n1 + 2 n2)`, where `n1` and `n2` n-grams have the counts 1 and 2. Below the highest order an n-gram's count is
/// that of the different words before it, but of one that begins a turn how often it stands there. The unigram goes on
/// into the uniform distribution over the words and the end of a turn, so that the probabilities of these sum to 1.
#[derive(Debug)]
pub struct NgramModel {
    ids: HashMap<String, u32>,
    /// How often each word, by id, and the end of a turn stand in the turns.
    frequencies: Vec<u64>,
    /// The sum of the frequencies.
    events: u64,
    /// By order, from 1.
    orders: Vec<Order>,
}

#[derive(Debug, Default)]
struct Order {
    counts: HashMap<Gram, u32>,
    /// Of each context, the sum of the counts of what follows it, and how many different words that is.
    contexts: HashMap<Gram, (u64, u32)>,
    discount: f64,
}

/// The discount where no n-gram has the count 1 or none has 2.
const DISCOUNT: f64 = 0.5;

/// Natural logarithms of the probability of one turn, its end included.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TurnScore {
    /// Words and the end.
    pub events: usize,
    /// By relative frequency.
    pub unigram: f64,
    /// By the 5-gram.
    pub ngram: f64,
}

impl NgramModel {
    /// Counts turns.
    pub fn train<'t>(turns: impl Iterator<Item = &'t str>) -> Self {
        let mut ids: HashMap<String, u32> = HashMap::new();
        let mut frequencies = vec![0_u64; END as usize + 1];
        let mut orders: Vec<Order> = (0..ORDER).map(|_| Order::default()).collect();
        let mut events = 0;
        for turn in turns {
            let mut sequence = vec![BEGIN];
            for word in words(turn) {
                let id = match ids.get(word) {
                    Some(&id) => id,
                    None => {
                        let id = frequencies.len() as u32;
                        ids.insert(word.to_owned(), id);
                        frequencies.push(0);
                        id
                    }
                };
                sequence.push(id);
            }
            sequence.push(END);
            for (at, &id) in sequence.iter().enumerate().skip(1) {
                events += 1;
                if let Some(count) = frequencies.get_mut(id as usize) {
                    *count += 1;
                }
                let length = (at + 1).min(ORDER);
                let gram = gram(sequence.get(at + 1 - length..=at).unwrap_or_default());
                if let Some(order) = orders.get_mut(length - 1) {
                    *order.counts.entry(gram).or_default() += 1;
                }
            }
        }
        for length in (1..ORDER).rev() {
            let longer: Vec<Gram> =
                orders.get(length).map(|order| order.counts.keys().copied().collect()).unwrap_or_default();
            let Some(order) = orders.get_mut(length - 1) else { continue };
            for gram in longer {
                *order.counts.entry(last(gram, length)).or_default() += 1;
            }
        }
        orders.iter_mut().for_each(Order::finish);
        Self { ids, frequencies, events, orders }
    }

    /// Different words.
    #[must_use]
    pub fn vocabulary(&self) -> usize {
        self.ids.len()
    }

    /// Words and ends of turns that were counted.
    #[must_use]
    pub fn events(&self) -> u64 {
        self.events
    }

    /// How likely a turn is; nothing where one of its words was never counted.
    #[must_use]
    pub fn score(&self, turn: &str) -> Option<TurnScore> {
        let mut sequence = vec![BEGIN];
        for word in words(turn) {
            sequence.push(*self.ids.get(word)?);
        }
        sequence.push(END);
        let mut score = TurnScore { events: sequence.len() - 1, unigram: 0.0, ngram: 0.0 };
        for (at, &id) in sequence.iter().enumerate().skip(1) {
            let frequency = self.frequencies.get(id as usize).copied().unwrap_or_default();
            score.unigram += (frequency as f64 / self.events as f64).ln();
            let context = sequence.get(at.saturating_sub(ORDER - 1)..at).unwrap_or_default();
            score.ngram += self.probability(context, id).ln();
        }
        Some(score)
    }

    /// The 5-gram's probability of a word, or the end, after at most four words.
    fn probability(&self, context: &[u32], word: u32) -> f64 {
        let mut probability = 1.0 / (self.ids.len() + 1) as f64;
        for (length, order) in self.orders.iter().enumerate().take(context.len() + 1) {
            let before = context.get(context.len() - length..).unwrap_or_default();
            // A context that was never seen: no longer one was.
            let Some(&(total, followers)) = order.contexts.get(&gram(before)) else { break };
            let whole: Vec<u32> = before.iter().copied().chain([word]).collect();
            let count = order.counts.get(&gram(&whole)).copied().unwrap_or_default();
            let kept = (f64::from(count) - order.discount).max(0.0);
            probability = (kept + order.discount * f64::from(followers) * probability) / total as f64;
        }
        probability
    }
}

impl Order {
    /// Sums the contexts and estimates the discount.
    fn finish(&mut self) {
        let (mut once, mut twice) = (0_u64, 0_u64);
        for (gram, &count) in &self.counts {
            once += u64::from(count == 1);
            twice += u64::from(count == 2);
            let mut context = [0; ORDER];
            context[1..].copy_from_slice(&gram[..ORDER - 1]);
            let (total, followers) = self.contexts.entry(context).or_default();
            *total += u64::from(count);
            *followers += 1;
        }
        self.discount =
            if once == 0 || twice == 0 { DISCOUNT } else { once as f64 / (once as f64 + 2.0 * twice as f64) };
    }
}

/// At most [`ORDER`] words as an n-gram.
fn gram(words: &[u32]) -> Gram {
    let mut gram = [0; ORDER];
    for (place, &word) in gram.iter_mut().rev().zip(words.iter().rev()) {
        *place = word;
    }
    gram
}

/// The last words of an n-gram.
fn last(mut gram: Gram, length: usize) -> Gram {
    gram.iter_mut().take(ORDER - length).for_each(|word| *word = 0);
    gram
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_runs_of_letters_and_single_marks() {
        let split = |text| words(text).collect::<Vec<_>>();
        assert_eq!(split(" I'm well-made, 2nd.. "), ["I'm", "well", "-", "made", ",", "2nd", ".", "."]);
        assert_eq!(split("é世?"), ["é世", "?"]);
        assert!(split(" ").is_empty());
    }

    #[test]
    fn probabilities_sum_to_one_after_any_context() {
        let turns = ["a b c a b d", "a b c a b c", "b c", "d d d d d d a", "a b c a b d", ""];
        let model = NgramModel::train(turns.into_iter());
        let all: Vec<u32> = (END..model.frequencies.len() as u32).collect();
        assert_eq!(all.len(), model.vocabulary() + 1);
        for context in
            [&[BEGIN][..], &[BEGIN, 3], &[3, 4, 5, 3], &[6, 6, 6, 6], &[5, 5, 5, 5], &[4, 6], &[], &[6, 3]]
        {
            let sum: f64 = all.iter().map(|&word| model.probability(context, word)).sum();
            assert!((sum - 1.0).abs() < 1e-12, "{context:?}: {sum}");
        }
    }

    #[test]
    fn what_was_seen_is_likelier_and_unknown_words_have_no_score() {
        let model = NgramModel::train(["i like dogs", "i like cats", "you like dogs"].into_iter());
        let score = |turn| model.score(turn).unwrap();
        assert!(score("you like cats").ngram > score("cats like you").ngram);
        assert_eq!(score("you like cats").unigram, score("cats like you").unigram);
        assert_eq!(model.score("i like birds"), None);
        assert_eq!((score("").events, model.events()), (1, 12));
        // 12 events: 3 ends, 2 "i", 3 "like", 2 "dogs".
        let expected = [2.0_f64, 3.0, 2.0, 3.0].map(|count| (count / 12.0).ln()).iter().sum::<f64>();
        assert!((score("i like dogs").unigram - expected).abs() < 1e-12);
    }

    #[test]
    fn a_bigram_by_hand() {
        // Turns "a", "a", "b": the bigrams BEGIN-a and BEGIN-b begin a turn and keep their frequencies 2 and 1; a-END and
        // b-END stand after one word each. Unigrams: a and b follow one word, END two, of 4.
        let model = NgramModel::train(["a", "a", "b"].into_iter());
        let order = |length: usize| &model.orders[length - 1];
        assert_eq!(order(1).contexts[&[0; ORDER]], (4, 3));
        assert_eq!(order(2).counts[&gram(&[BEGIN, 3])], 2);
        let unigram = |count: f64| {
            let discount = 2.0 / (2.0 + 2.0);
            ((count - discount) + discount * 3.0 / 3.0) / 4.0
        };
        // Counts 2 and 1 after BEGIN; with a-END and b-END (from the trigrams) 3 bigrams have 1 and one has 2.
        let discount = 3.0 / (3.0 + 2.0);
        let expected = ((2.0 - discount) + discount * 2.0 * unigram(1.0)) / 3.0;
        assert!((model.probability(&[BEGIN], 3) - expected).abs() < 1e-12);
    }
}
