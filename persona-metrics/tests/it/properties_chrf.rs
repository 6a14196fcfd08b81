//! chrF and METEOR on any text: see properties.rs.

use persona_metrics::{Chrf, MeteorWithoutWordNet};
use proptest::prelude::*;

use crate::properties::{in_unit_range, order, pair_metric, pairs, refuses_no_references};

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
    fn chrf_of_any_pairs(chrf in chrf(), pairs in pairs(), order in order()) {
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

    #[test]
    fn meteor(pairs in pairs(), order in order(), parameters in [0..=100_u8, 0..=100, 0..=100]) {
        // Two decimals: serde_json reads longer ones with an error in the last bit.
        let [alpha, beta, gamma] = parameters.map(|percent| f64::from(percent) / 100.0);
        let meteor = MeteorWithoutWordNet::nltk().parameters(alpha, 4.0 * beta, gamma).unwrap();
        in_unit_range(&pair_metric(&meteor, &pairs, &order).unwrap().values());
        refuses_no_references(&meteor);
        for (_, (hypothesis, references)) in &pairs {
            for reference in references {
                // Every word is matched once at most, and the two ways round match as many.
                let (there, back) =
                    (meteor.alignment(hypothesis, reference), meteor.alignment(reference, hypothesis));
                prop_assert_eq!(there.len(), back.len());
                let mut places: Vec<usize> = there.iter().map(|&(_, place)| place).collect();
                places.sort();
                places.dedup();
                prop_assert_eq!(places.len(), there.len());
            }
            let words = meteor.alignment(hypothesis, hypothesis);
            prop_assert!(words.iter().enumerate().all(|(index, &pair)| pair == (index, index)));
        }
    }
}
