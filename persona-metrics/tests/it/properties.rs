//! What holds for every metric on any text: no panic, a value in its range, shards that add up in any order.

use std::fmt::Debug;

use persona_metrics::stats::Resample;
use persona_metrics::{
    Bleu, Consistency, CopyRate, Distinct, Entropy, Error, Judgement, PairMetric, Perplexity,
    PreTokenization, Rouge, Scores, SelectionAccuracy, TextMetric,
};
use proptest::collection::vec;
use proptest::prelude::*;
use serde::{Serialize, de::DeserializeOwned};

/// Texts with repeated words, white space of every kind, punctuation, combining marks and anything else.
pub(crate) fn text() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        6 => prop::sample::select(vec!["i", "a", "dog", "Dog", "like", "."]),
        2 => prop::sample::select(vec![" ", "  ", "\u{1c}", "\u{85}", "\u{3000}", "\t\n", ""]),
        1 => prop::sample::select(vec!["?!", "it's", "e\u{301}", "狗", "💖", "\u{0}", "İ"]),
    ];
    prop_oneof![
        8 => vec(piece, 0..14).prop_map(|pieces| pieces.join(" ")),
        1 => ".{0,12}",
    ]
}

pub(crate) fn pre_tokenization() -> impl Strategy<Value = PreTokenization> {
    prop::sample::select(vec![PreTokenization::None, PreTokenization::SpacePunctuation])
}

/// Statistics of the whole, and of three shards added in any order: equal to the last bit, through JSON as well.
/// Each example names the shard that it falls into.
pub(crate) fn assert_mergeable<S, T>(
    examples: &[(usize, T)],
    empty: impl Fn() -> S,
    update: impl Fn(&mut S, &T),
    merge: impl Fn(&mut S, &S),
    order: &[usize],
) -> S
where
    S: PartialEq + Debug + Serialize + DeserializeOwned,
{
    let mut whole = empty();
    let mut shards = [empty(), empty(), empty()];
    for (shard, example) in examples {
        update(&mut whole, example);
        update(&mut shards[*shard], example);
    }
    let mut sum = empty();
    for &shard in order {
        let json = serde_json::to_string(&shards[shard]).unwrap();
        merge(&mut sum, &serde_json::from_str(&json).unwrap());
    }
    assert_eq!(sum, whole);
    whole
}

pub(crate) fn order() -> impl Strategy<Value = Vec<usize>> {
    Just(vec![0, 1, 2]).prop_shuffle()
}

pub(crate) fn in_unit_range(values: &[f64]) {
    assert!(values.iter().all(|value| (0.0..=1.0).contains(value)), "{values:?}");
}

pub(crate) type Pairs = Vec<(usize, (String, Vec<String>))>;

/// Hypotheses with one to three references each.
pub(crate) fn pairs() -> impl Strategy<Value = Pairs> {
    vec((0..3usize, (text(), vec(text(), 1..4))), 1..8)
}

pub(crate) type Shards = Vec<(usize, String)>;

pub(crate) fn texts() -> impl Strategy<Value = Shards> {
    vec((0..3usize, text()), 1..12)
}

/// One by one, in a list, and in three shards merged in any order: the same scores, or the same refusal.
pub(crate) fn pair_metric<M: PairMetric>(
    metric: &M,
    pairs: &Pairs,
    order: &[usize],
) -> Result<Scores, Error> {
    let whole = assert_mergeable(
        pairs,
        || metric.statistics(),
        |statistics, (hypothesis, references)| statistics.update(hypothesis, references).unwrap(),
        |sum, shard| sum.merge(shard).unwrap(),
        order,
    );
    let (hypotheses, references): (Vec<_>, Vec<_>) = pairs.iter().map(|(_, pair)| pair.clone()).unzip();
    assert_eq!(metric.collect(&hypotheses, &references).unwrap(), whole);
    let all: Vec<u32> = (0..hypotheses.len() as u32).collect();
    let examples = metric.examples(&hypotheses, &references).unwrap();
    let scores = whole.scores();
    assert_eq!(examples.scores_of(&all).ok(), scores.as_ref().ok().map(Scores::values));
    scores
}

pub(crate) fn text_metric<M: TextMetric>(
    metric: &M,
    texts: &Shards,
    order: &[usize],
) -> Result<Scores, Error> {
    let whole = assert_mergeable(
        texts,
        || metric.statistics(),
        |statistics, text| statistics.update_text(text).unwrap(),
        |sum, shard| sum.merge(shard).unwrap(),
        order,
    );
    let texts: Vec<&String> = texts.iter().map(|(_, text)| text).collect();
    assert_eq!(metric.collect(&texts).unwrap(), whole);
    whole.scores()
}

/// An example without references is an error that names it.
pub(crate) fn refuses_no_references<M: PairMetric>(metric: &M) {
    let missing = metric.corpus(&["a", "b"], &[vec!["a"], vec![]]);
    assert!(matches!(missing, Err(Error::Example { index: 1, .. })), "{missing:?}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn bleu(pairs in pairs(), order in order(), pre in pre_tokenization(), lowercase: bool) {
        let bleu = Bleu::pycocoevalcap().pre_tokenization(pre).lowercase(lowercase);
        in_unit_range(&pair_metric(&bleu, &pairs, &order).unwrap().values());
        refuses_no_references(&bleu);
    }

    #[test]
    fn bleu_of_a_text_with_itself_is_nearly_one(text in text()) {
        let tokens = text.split(is_python_space).filter(|token| !token.is_empty()).count();
        let values = Bleu::pycocoevalcap().sentence(&text, &text).unwrap().values();
        for (order, value) in (1..).zip(values) {
            prop_assert_eq!(tokens >= order, value > 1.0 - 1e-6, "order {}, {}", order, value);
        }
    }

    #[test]
    fn rouge_l(pairs in pairs(), order in order(), pre in pre_tokenization(), lowercase: bool) {
        let rouge = Rouge::pycocoevalcap().pre_tokenization(pre).lowercase(lowercase);
        in_unit_range(&pair_metric(&rouge, &pairs, &order).unwrap().values());
        refuses_no_references(&rouge);
        for (_, (hypothesis, _)) in &pairs {
            prop_assert_eq!(rouge.sentence(hypothesis, hypothesis).unwrap().values(), [1.0]);
        }
    }

    #[test]
    fn entropy(replies in texts(), order in order(), pre in pre_tokenization()) {
        for entropy in [Entropy::dialogpt(), Entropy::pal(), Entropy::dialogpt().pre_tokenization(pre)] {
            let scores = text_metric(&entropy, &replies, &order).unwrap();
            let letters: usize = replies.iter().map(|(_, reply)| reply.chars().count() + 1).sum();
            let largest = (letters as f64).ln() + 1e-9;
            prop_assert!(scores.values().iter().all(|value| (0.0..=largest).contains(value)), "{}", scores);
        }
    }

    #[test]
    fn distinct(replies in texts(), order in order()) {
        for distinct in [Distinct::li(), Distinct::pal()] {
            match text_metric(&distinct, &replies, &order) {
                Ok(scores) => in_unit_range(&scores.values()),
                Err(error) => assert!(matches!(error, Error::NoNgrams { .. }), "{error}"),
            }
        }
        // An empty reply is one token in PAL's split.
        prop_assert!(Distinct::pal().corpus(&[text_of(&replies)]).is_ok());
    }

    #[test]
    fn copy_rate(
        pairs in vec((0..3usize, (text(), vec(text(), 0..4))), 1..8),
        order in order(), pre in pre_tokenization(), lowercase: bool,
    ) {
        let copying = CopyRate::default().pre_tokenization(pre).lowercase(lowercase);
        in_unit_range(&pair_metric(&copying, &pairs, &order).unwrap().values());
        for (_, (reply, _)) in &pairs {
            // Everything is a copy of itself, but no words are no copy.
            prop_assert_eq!(copying.is_copy(reply, reply), !reply.chars().all(is_python_space));
        }
    }

    #[test]
    fn selection(
        examples in vec((0..3usize, (prop::option::of(0..5usize), vec(0..5usize, 0..3))), 1..20),
        order in order(),
    ) {
        let whole = assert_mergeable(
            &examples,
            || SelectionAccuracy.statistics(),
            |statistics, (predicted, labels)| statistics.update(*predicted, labels).unwrap(),
            |sum, shard| sum.merge(shard).unwrap(),
            &order,
        );
        let report = whole.report().unwrap();
        in_unit_range(&[report.accuracy.value(), report.none_base_rate.value()]);
        let described = report.accuracy_where_described.map(|score| score.value());
        prop_assert_eq!(described.is_none(), report.none_base_rate.value() == 1.0);
        in_unit_range(described.as_slice());
        prop_assert_eq!(report.confusion.examples(), examples.len() as u64);
    }

    #[test]
    fn perplexity(
        examples in vec((0..3usize, (0.0..20.0f64, 1..50u64, text())), 1..12),
        order in order(),
    ) {
        let whole = assert_mergeable(
            &examples,
            || Perplexity::by_word().statistics(),
            |statistics, (mean, tokens, text)| {
                statistics.update(mean * *tokens as f64, *tokens, text).unwrap();
            },
            |sum, shard| sum.merge(shard).unwrap(),
            &order,
        );
        let largest = 20.0_f64.exp() * (1.0 + 1e-12);
        let words = examples.iter().any(|(_, (_, _, text))| !text.chars().all(is_python_space));
        prop_assert_eq!(whole.values().is_ok(), words);
        if let Ok(scores) = whole.scores() {
            prop_assert!(scores.values()[..2].iter().all(|value| (1.0..=largest).contains(value)), "{}", scores);
            prop_assert!(scores.get(Perplexity::WORD).unwrap().value() >= 1.0);
        }
    }

    #[test]
    fn perplexity_takes_any_number_without_panic(nll: f64, tokens: u64) {
        let mut statistics = Perplexity::default().statistics();
        if statistics.update(nll, tokens, "").is_ok() && let Ok(scores) = statistics.scores() {
            prop_assert!(scores.values().iter().all(|value| value.is_finite()));
        }
    }

    #[test]
    fn consistency(
        replies in vec((0..3usize, vec(prop::sample::select(Judgement::CONTRADICTION_FIRST.to_vec()), 1..6)), 1..10),
        order in order(),
    ) {
        for (consistency, largest) in [(Consistency::sum(), 5.0), (Consistency::max(), 1.0)] {
            let whole = assert_mergeable(
                &replies,
                || consistency.statistics("any"),
                |statistics, judgements| statistics.update(judgements).unwrap(),
                |sum, shard| sum.merge(shard).unwrap(),
                &order,
            );
            let value = whole.values().unwrap()[0];
            prop_assert!((-largest..=largest).contains(&value));
        }
    }
}

/// What `str.split()` splits at.
fn is_python_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

fn text_of(replies: &[(usize, String)]) -> String {
    replies.iter().map(|(_, reply)| reply.as_str()).collect()
}
