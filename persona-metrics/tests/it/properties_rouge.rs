//! What holds for every ROUGE on any text.

use persona_metrics::{GoogleRouge, LengthLimit, PyRouge, Rouge, RougeTokenizer, RougeType, Scores};
use proptest::prelude::*;

use crate::properties::{Pairs, in_unit_range, order, pair_metric, pairs, refuses_no_references, text};

const N1: RougeType = RougeType::N(1);
const N2: RougeType = RougeType::N(2);
const GOOGLE: [RougeType; 4] = [N1, N2, RougeType::L, RougeType::Lsum];

fn google() -> impl Strategy<Value = GoogleRouge> {
    let tokenizers = vec![
        RougeTokenizer::RougeScore,
        RougeTokenizer::RougeScoreStemmed,
        RougeTokenizer::Whitespace,
        RougeTokenizer::Characters,
    ];
    let rouge = Rouge::google().types(GOOGLE).unwrap();
    prop::sample::select(tokenizers).prop_map(move |tokenizer| rouge.clone().tokenizer(tokenizer))
}

fn py_rouge() -> impl Strategy<Value = PyRouge> {
    let limits = vec![LengthLimit::None, LengthLimit::Bytes(9), LengthLimit::Words(4)];
    (prop::sample::select(limits), 0..=10u8, 2..6u8, any::<bool>()).prop_map(
        |(limit, alpha, weight, compatibility)| {
            let rouge = Rouge::py_rouge().types([N1, RougeType::L, RougeType::W]).unwrap();
            let rouge = rouge.alpha(f64::from(alpha) / 10.0).unwrap();
            let rouge = rouge.weight_factor(f64::from(weight) / 2.0).unwrap();
            rouge.limit(limit).ensure_compatibility(compatibility)
        },
    )
}

/// Precision, recall and F of each kind.
fn measures(scores: &Scores) -> Vec<[f64; 3]> {
    scores.values().as_chunks().0.to_vec()
}

/// Texts of which the word packages find something, with one reference each.
fn pairs_with_words() -> impl Strategy<Value = Pairs> {
    let text = || (text(), text()).prop_map(|(a, b)| format!("{a}。{b}. w"));
    prop::collection::vec((0..3usize, (text(), text())), 1..8).prop_map(|pairs| {
        pairs.into_iter().map(|(shard, (hyp, reference))| (shard, (hyp, vec![reference]))).collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn google_rouge(pairs in pairs(), order in order(), rouge in google()) {
        in_unit_range(&pair_metric(&rouge, &pairs, &order).unwrap().values());
        refuses_no_references(&rouge);
        for (_, (hypothesis, references)) in &pairs {
            let own = rouge.sentence(hypothesis, hypothesis).unwrap().values();
            let tokens = rouge.tokens(hypothesis).len();
            let expected = |present: bool| [f64::from(u8::from(present)); 3];
            let expected = [tokens > 0, tokens > 1, tokens > 0, tokens > 0].map(expected).concat();
            prop_assert_eq!(own, expected);
            let best = measures(&rouge.sentence(hypothesis, references).unwrap());
            for reference in references {
                let one = measures(&rouge.sentence(hypothesis, reference).unwrap());
                let turned = measures(&rouge.sentence(reference, hypothesis).unwrap());
                for (best, one) in best.iter().zip(&one) {
                    prop_assert!(best[2] >= one[2]);
                }
                // ROUGE-Lsum is not symmetric.
                for (one, turned) in one.iter().zip(&turned).take(3) {
                    prop_assert_eq!((one[0], one[1], one[2]), (turned[1], turned[0], turned[2]));
                }
            }
        }
    }

    #[test]
    fn lines_without_line_feeds_have_one_rouge_l(hypothesis in text(), reference in text(), rouge in google()) {
        let line = |text: &str| text.replace('\n', " ");
        let scores = measures(&rouge.sentence(&line(&hypothesis), &line(&reference)).unwrap());
        prop_assert_eq!(scores[2], scores[3]);
    }

    #[test]
    fn py_rouge_measures(pairs in pairs(), order in order(), rouge in py_rouge()) {
        in_unit_range(&pair_metric(&rouge, &pairs, &order).unwrap().values());
        let best = rouge.clone().types([N1, N2, RougeType::L]).unwrap().apply_best(true);
        in_unit_range(&pair_metric(&best, &pairs, &order).unwrap().values());
        refuses_no_references(&rouge);
        for (_, (hypothesis, references)) in &pairs {
            let individual = rouge.individual(hypothesis, references).unwrap();
            prop_assert_eq!(individual.len(), references.len());
            let recall = best.sentence(hypothesis, references).unwrap().values()[1];
            let highest = individual.iter().map(|scores| scores.values()[1]).fold(0.0, f64::max);
            prop_assert_eq!(recall, highest);
        }
    }

    #[test]
    fn a_weight_of_one_makes_rouge_w_rouge_l(hypothesis in text(), reference in text()) {
        let rouge = Rouge::py_rouge().types([RougeType::L, RougeType::W]).unwrap();
        let scores = measures(&rouge.sentence(&hypothesis, &reference).unwrap());
        prop_assert_eq!(scores[0], scores[1]);
    }

    #[test]
    fn word_packages(pairs in pairs_with_words(), order in order(), exclusive: bool) {
        let pltrdy = Rouge::pltrdy().exclusive(exclusive);
        let scores = pair_metric(&pltrdy, &pairs, &order).unwrap().values();
        let chinese = Rouge::chinese().exclusive(exclusive);
        in_unit_range(&pair_metric(&chinese, &pairs, &order).unwrap().values());
        // Lists add up common subsequences over pairs of pieces, so that ROUGE-L can exceed one.
        in_unit_range(if exclusive { &scores } else { &scores[..6] });
        refuses_no_references(&pltrdy);
        refuses_no_references(&chinese);
    }
}
