//! Distinct and Entropy of any order, drawn again, with one text left out, and of pools: see properties.rs.

use persona_metrics::stats::Resample;
use persona_metrics::{
    Distinct, Entropy, Error, LeaveOneOut, Metric, NgramExamples, PooledDistinct, TextMetric,
};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::properties::{in_unit_range, order, text, text_metric, texts};

fn settings() -> impl Strategy<Value = (Distinct, Entropy)> {
    let distinct = prop::sample::select(vec![Distinct::li(), Distinct::pal(), Distinct::parlai_inter()]);
    let entropy = prop::sample::select(vec![Entropy::dialogpt(), Entropy::pal()]);
    (1..6_u8, any::<bool>(), distinct, entropy).prop_map(|(orders, characters, distinct, entropy)| {
        (
            distinct.orders(orders).unwrap().characters(characters),
            entropy.orders(orders).unwrap().characters(characters),
        )
    })
}

/// A corpus drawn again, and all corpora with one text left out, have the scores of their texts.
fn resampled<M: TextMetric>(
    metric: &M,
    (examples, left_out): (&NgramExamples, Result<Vec<LeaveOneOut>, Error>),
    texts: &[String],
    draws: &[u32],
) {
    let drawn: Vec<&String> = draws.iter().map(|&index| &texts[index as usize]).collect();
    match (examples.scores_of(draws), metric.corpus(&drawn)) {
        (Ok(values), Ok(scores)) => assert_eq!(values, scores.values()),
        (values, scores) => assert!(values.is_err() && scores.is_err(), "{values:?}, {scores:?}"),
    }
    let without = |left_out: usize| {
        let mut others = texts.to_vec();
        others.remove(left_out);
        metric.corpus(&others).map(|scores| scores.values())
    };
    match left_out {
        Ok(scores) => {
            for (place, score) in scores.iter().enumerate() {
                let corpus = metric.corpus(texts).unwrap().values()[place];
                assert!((score.value - corpus).abs() < 1e-12, "{score:?}");
                for (index, &value) in score.without.iter().enumerate() {
                    let expected = without(index).unwrap()[place];
                    assert!((value - expected).abs() < 1e-12, "without {index}: {value}, not {expected}");
                }
            }
        }
        Err(Error::Example { index, .. }) => assert!(without(index).is_err()),
        Err(error) => assert!(metric.corpus(texts).is_err(), "{error}"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_order(replies in texts(), order in order(), (distinct, entropy) in settings()) {
        if let Ok(scores) = text_metric(&distinct, &replies, &order) {
            in_unit_range(&scores.values());
        }
        let scores = text_metric(&entropy, &replies, &order).unwrap();
        prop_assert!(scores.values().iter().all(|&value| value >= 0.0), "{}", scores);
    }

    #[test]
    fn drawn_again(
        (texts, draws) in vec(text(), 1..10).prop_flat_map(|texts| {
            let indexes = 0..texts.len() as u32;
            (Just(texts), vec(indexes, 1..20))
        }),
        (distinct, entropy) in settings(),
    ) {
        resampled(&distinct, (&distinct.examples(&texts), distinct.leave_one_out(&texts)), &texts, &draws);
        resampled(&entropy, (&entropy.examples(&texts), entropy.leave_one_out(&texts)), &texts, &draws);
    }

    #[test]
    fn pools(pools in vec(vec(text(), 1..6), 1..6), orders in 1..4_u8, characters: bool) {
        for pooled in [PooledDistinct::parlai_intra(), PooledDistinct::clv(), PooledDistinct::user_specific()] {
            let pooled = pooled.orders(orders).unwrap().characters(characters);
            let Ok(scores) = pooled.corpus(&pools) else { continue };
            in_unit_range(&scores.values());
            let all: Vec<u32> = (0..pools.len() as u32).collect();
            prop_assert_eq!(pooled.examples(&pools).unwrap().scores_of(&all).unwrap(), scores.values());
            // One pool is a corpus.
            let intra = pooled.settings().starts_with("pools:parlai");
            let distinct = if intra { Distinct::parlai_inter() } else { Distinct::li() };
            let distinct = distinct.orders(orders).unwrap().characters(characters);
            if let (Ok(one), Ok(corpus)) = (pooled.corpus(&pools[..1]), distinct.corpus(&pools[0])) {
                for (one, corpus) in one.values().iter().zip(corpus.values()) {
                    prop_assert!((one - corpus).abs() < 1e-18, "{} of a pool, {} of a corpus", one, corpus);
                }
            }
        }
    }
}
