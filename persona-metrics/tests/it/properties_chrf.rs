//! chrF on any text: see properties.rs.

use persona_metrics::Chrf;
use proptest::prelude::*;

use crate::properties::{order, pair_metric, pairs, refuses_no_references};

/// The settings of sacrebleu's options.
fn chrf() -> impl Strategy<Value = Chrf> {
    let beta = prop::sample::select(vec![0.0, 0.5, 1.0, 2.0, 3.0]);
    (1..8_u8, 0..4_u8, beta, any::<(bool, bool, bool)>()).prop_map(
        |(characters, words, beta, (case, space, eps))| {
            Chrf::default()
                .char_order(characters)
                .word_order(words)
                .beta(beta)
                .unwrap()
                .lowercase(case)
                .whitespace(space)
                .eps_smoothing(eps)
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn of_any_pairs(chrf in chrf(), pairs in pairs(), order in order()) {
        let value = pair_metric(&chrf, &pairs, &order).unwrap().values()[0];
        prop_assert!((0.0..=100.0 + 1e-9).contains(&value), "{}", value);
        refuses_no_references(&chrf);
        for (_, (hypothesis, references)) in &pairs {
            // More references can only help, and a text is its own best reference.
            let one = chrf.sentence(hypothesis, &references[..1]).unwrap().values()[0];
            let all = chrf.sentence(hypothesis, references).unwrap().values()[0];
            prop_assert!(one <= all, "{} of one reference, {} of {}", one, all, references.len());
            let own = chrf.sentence(hypothesis, hypothesis).unwrap().values()[0];
            prop_assert!(all <= own + 1e-9, "{} with others, {} with itself", all, own);
        }
    }
}
