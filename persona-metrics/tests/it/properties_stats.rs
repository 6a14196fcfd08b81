//! What holds for the statistics on any input: no panic, no NaN, values in their ranges, symmetries.

use persona_metrics::stats::{
    AlphaScale, Alternative, Draws, KappaWeights, Summary, Swaps, TTest, TTestResult,
    approximate_randomisation, bootstrap, category_counts, cohen_kappa, cohen_kappa_on_scale, fleiss_kappa,
    holm, jackknife, joined, kendall, krippendorff_alpha, paired_bootstrap, pearson, randolph_kappa,
    spearman,
};
use persona_metrics::{Error, Result};
use proptest::collection::vec;
use proptest::prelude::*;

/// Ordinary numbers with ties, numbers at the ends of the range, NaN and the infinities.
fn any_number() -> impl Strategy<Value = f64> {
    prop_oneof![
        12 => (-4..5).prop_map(|half| f64::from(half) / 2.0),
        6 => -10.0..10.0,
        1 => prop::num::f64::ANY,
        1 => prop::sample::select(vec![f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -0.0, f64::MAX, 5e-324]),
    ]
}

fn number() -> impl Strategy<Value = f64> {
    prop_oneof![(-4..5).prop_map(|half| f64::from(half) / 2.0), -10.0..10.0]
}

fn pairs<S: Strategy<Value = f64>>(
    number: fn() -> S,
    most: usize,
) -> impl Strategy<Value = (Vec<f64>, Vec<f64>)> {
    vec((number(), number()), 0..most).prop_map(|pairs| pairs.into_iter().unzip())
}

fn level() -> impl Strategy<Value = f64> {
    prop_oneof![8 => 1e-12..1.0, 1 => prop::num::f64::ANY]
}

fn is_probability(value: f64) -> bool {
    (0.0..=1.0).contains(&value)
}

fn check_test(result: Result<TTestResult>) {
    let Ok(test) = result else { return };
    assert!(is_probability(test.p_value), "{test:?}");
    assert!(!test.statistic.is_nan() && test.degrees_of_freedom >= 0.999, "{test:?}");
    assert!(test.low <= test.difference && test.difference <= test.high, "{test:?}");
    assert_eq!(test.statistic.is_infinite(), test.standard_error == 0.0, "{test:?}");
}

const ALTERNATIVES: [Alternative; 3] = [Alternative::TwoSided, Alternative::Less, Alternative::Greater];
const WEIGHTS: [KappaWeights; 3] = [KappaWeights::None, KappaWeights::Linear, KappaWeights::Quadratic];
const SCALES: [AlphaScale; 4] =
    [AlphaScale::Nominal, AlphaScale::Ordinal, AlphaScale::Interval, AlphaScale::Ratio];

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn t_tests_take_anything(
        a in vec(any_number(), 0..6), b in vec(any_number(), 0..6), level in level(),
        means in [any_number(), any_number()], deviations in [any_number(), any_number()], n in [0..5_u64, 0..5],
    ) {
        for alternative in ALTERNATIVES {
            let test = TTest::default().alternative(alternative).level(level);
            for result in [test.student(&a, &b), test.welch(&a, &b), test.paired(&a, &b)] {
                check_test(result);
            }
            let summary =
                |i: usize| Summary { n: n[i], mean: means[i], standard_deviation: Some(deviations[i]) };
            check_test(test.student_summaries(&summary(0), &summary(1)));
            check_test(test.welch_summaries(&summary(0), &summary(1)));
        }
    }

    #[test]
    fn t_tests_are_antisymmetric((a, b) in pairs(number, 9)) {
        for form in [TTest::student as fn(&TTest, &[f64], &[f64]) -> _, TTest::welch, TTest::paired] {
            let [both, less, greater] =
                ALTERNATIVES.map(|alternative| form(&TTest::default().alternative(alternative), &a, &b));
            let (Ok(both), Ok(less), Ok(greater)) = (both, less, greater) else { continue };
            prop_assert!((less.p_value + greater.p_value - 1.0).abs() < 1e-12);
            prop_assert!((both.p_value - 2.0 * less.p_value.min(greater.p_value)).abs() < 1e-12);
            let swapped: TTestResult = form(&TTest::default(), &b, &a).unwrap();
            prop_assert!((swapped.p_value - both.p_value).abs() < 1e-9);
            prop_assert!((swapped.difference + both.difference).abs() < 1e-12);
            prop_assert!((swapped.low + both.high).abs() <= 1e-9 * both.high.abs().max(1.0));
        }
    }

    #[test]
    fn correlations((a, b) in pairs(any_number, 40)) {
        for correlation in [pearson, spearman, kendall] {
            let Ok(result) = correlation(&a, &b) else { continue };
            prop_assert!((-1.0..=1.0).contains(&result.coefficient) && is_probability(result.p_value));
            let swapped = correlation(&b, &a).unwrap();
            prop_assert!((swapped.coefficient - result.coefficient).abs() < 1e-12);
            let negated: Vec<f64> = b.iter().map(|b| -b).collect();
            let negated = correlation(&a, &negated).unwrap();
            prop_assert!((negated.coefficient + result.coefficient).abs() < 1e-12);
            prop_assert!((negated.p_value - result.p_value).abs() < 1e-6);
            prop_assert!(correlation(&a, &a).unwrap().coefficient > 1.0 - 1e-12);
        }
    }

    #[test]
    fn rank_correlations_know_order_only((a, b) in pairs(number, 20)) {
        let cubes: Vec<f64> = a.iter().map(|a| a.powi(3)).collect();
        for correlation in [spearman, kendall] {
            let Ok(result) = correlation(&a, &b) else { continue };
            prop_assert_eq!(correlation(&cubes, &b).unwrap(), result);
        }
    }

    #[test]
    fn kendall_counts_pairs((a, b) in pairs(number, 20)) {
        let Ok(result) = kendall(&a, &b) else { return Ok(()) };
        let [mut lead, mut untied_a, mut untied_b] = [0.0; 3];
        for i in 0..a.len() {
            for j in 0..i {
                let sign = |x: f64, y: f64| f64::from(i8::from(x > y) - i8::from(x < y));
                lead += sign(a[i], a[j]) * sign(b[i], b[j]);
                untied_a += sign(a[i], a[j]).abs();
                untied_b += sign(b[i], b[j]).abs();
            }
        }
        prop_assert!((result.coefficient - lead / (untied_a * untied_b).sqrt()).abs() < 1e-12);
    }

    #[test]
    fn kappas_of_tables(ratings in vec(vec(0..4usize, 3), 0..8), categories in 3..6usize) {
        let Ok(table) = category_counts(&ratings, categories) else {
            prop_assert!(categories == 3 && ratings.concat().contains(&3));
            return Ok(());
        };
        let agree = ratings.iter().all(|subject| subject.iter().all(|rating| *rating == subject[0]));
        for kappa in [fleiss_kappa(&table), randolph_kappa(&table)].into_iter().flatten() {
            prop_assert!(is_probability(kappa.observed) && is_probability(kappa.expected));
            prop_assert!((-1.0..=1.0).contains(&kappa.value), "{:?}", kappa);
            prop_assert_eq!(kappa.value == 1.0, agree);
        }
    }

    #[test]
    fn tables_of_any_counts(table in vec(vec(prop_oneof![0..4_u32, Just(u32::MAX)], 0..4), 0..5)) {
        for kappa in [fleiss_kappa(&table), randolph_kappa(&table)].into_iter().flatten() {
            prop_assert!(kappa.value.is_finite() && kappa.value <= 1.0, "{:?}", kappa);
        }
    }

    #[test]
    fn cohens_kappa(ratings in vec((0..5_u8, 0..5_u8), 0..12)) {
        let (a, b): (Vec<u8>, Vec<u8>) = ratings.iter().copied().unzip();
        for weights in WEIGHTS {
            let Ok(kappa) = cohen_kappa(&a, &b, weights) else {
                prop_assert!(a.is_empty() || a.iter().chain(&b).all(|label| *label == a[0]));
                continue;
            };
            prop_assert!((-1.0 - 1e-12..=1.0).contains(&kappa.value), "{:?}", kappa);
            prop_assert!((kappa.value - cohen_kappa(&b, &a, weights).unwrap().value).abs() < 1e-12);
            prop_assert_eq!(kappa.value == 1.0, a == b);
            let again = (kappa.observed - kappa.expected) / (1.0 - kappa.expected);
            prop_assert!((kappa.value - again).abs() < 1e-9);
            let on_scale = cohen_kappa_on_scale(&[0, 1, 2, 3, 4], &a, &b, weights).unwrap();
            prop_assert!(weights != KappaWeights::None || on_scale == kappa);
        }
    }

    #[test]
    fn krippendorffs_alpha(
        raters in (1..8usize).prop_flat_map(|units| vec(vec(prop::option::of(any_number()), units), 0..5)),
    ) {
        for scale in SCALES {
            let Ok(alpha) = krippendorff_alpha(&raters, scale) else { continue };
            prop_assert!(alpha.value <= 1.0 && alpha.observed >= 0.0 && alpha.expected > 0.0, "{:?}", alpha);
            let reversed: Vec<_> = raters.iter().rev().cloned().collect();
            let reversed = krippendorff_alpha(&reversed, scale).unwrap();
            prop_assert!((reversed.value - alpha.value).abs() <= 1e-9 * alpha.value.abs().max(1.0));
            let agreeing = vec![raters[0].clone(); 2];
            if let Ok(full) = krippendorff_alpha(&agreeing, scale) {
                prop_assert_eq!(full.value, 1.0);
            }
        }
    }

    #[test]
    fn holms_correction(p_values in vec(prop_oneof![20 => 0.0..=1.0, 1 => any_number()], 0..12)) {
        match holm(&p_values) {
            Ok(adjusted) => {
                let least = p_values.iter().copied().fold(1.0, f64::min);
                let least_adjusted = adjusted.iter().copied().fold(1.0, f64::min);
                prop_assert_eq!(least_adjusted, (least * p_values.len() as f64).min(1.0));
                prop_assert_eq!(adjusted.len(), p_values.len());
                for (i, (&raw, &adjusted_raw)) in p_values.iter().zip(&adjusted).enumerate() {
                    prop_assert!(raw <= adjusted_raw && adjusted_raw <= 1.0);
                    for j in 0..i {
                        prop_assert!((p_values[j] <= raw) <= (adjusted[j] <= adjusted_raw));
                    }
                }
            }
            Err(Error::EmptyCorpus { .. }) => prop_assert!(p_values.is_empty()),
            Err(error) => {
                prop_assert!(p_values.iter().any(|p| !is_probability(*p)), "{}", error);
            }
        }
    }

    #[test]
    fn jackknife_takes_anything(
        value in any_number(), leave_one_out in vec(any_number(), 0..8), level in level(),
    ) {
        let Ok(result) = jackknife(value, &leave_one_out, level) else { return Ok(()) };
        prop_assert!(result.standard_error >= 0.0 && result.bias.is_finite());
        prop_assert!(result.low <= value && value <= result.high);
        prop_assert!((result.high - value - (value - result.low)).abs() <= 1e-9 * value.abs().max(result.high - value).max(1.0));
    }

    /// Of a mean the jackknife gives the textbook standard error and no bias.
    #[test]
    fn jackknife_of_a_mean(values in vec(number(), 2..12)) {
        let n = values.len() as f64;
        let sum: f64 = values.iter().sum();
        let leave_one_out: Vec<f64> = values.iter().map(|value| (sum - value) / (n - 1.0)).collect();
        let result = jackknife(sum / n, &leave_one_out, 0.95).unwrap();
        let deviation = Summary::of(&values).unwrap().standard_deviation.unwrap();
        prop_assert!((result.standard_error - deviation / n.sqrt()).abs() < 1e-9);
        prop_assert!(result.bias.abs() < 1e-9);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn bootstrap_intervals(values in vec(any_number(), 0..8), trials in 0..30usize, seed: u64, level in level()) {
        let draws = Draws::seeded(trials, seed);
        let Ok(intervals) = bootstrap(values.as_slice(), &draws, level) else { return Ok(()) };
        let interval = intervals[0];
        let least = values.iter().copied().fold(f64::INFINITY, f64::min);
        let most = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let rounding = 1e-12 * least.abs().max(most.abs());
        prop_assert!(least - rounding <= interval.low && interval.low <= interval.high);
        prop_assert!(interval.high <= most + rounding && interval.standard_error >= 0.0);
        prop_assert_eq!(bootstrap(values.as_slice(), &draws, level).unwrap()[0], interval);
    }

    #[test]
    fn paired_tests_are_symmetric(
        (a, b) in pairs(any_number, 8), trials in 0..30usize, seed: u64, level in level(),
    ) {
        let (draws, swaps) = (Draws::seeded(trials, seed), Swaps::seeded(trials, seed));
        let (ab, ba) = (joined(&a, &b).unwrap(), joined(&b, &a).unwrap());
        if let Ok(tests) = paired_bootstrap(ab.as_slice(), &draws, level) {
            let (test, swapped) = (tests[0], paired_bootstrap(ba.as_slice(), &draws, level).unwrap()[0]);
            prop_assert_eq!((test.a, test.b), (swapped.b, swapped.a));
            prop_assert_eq!((test.wins_a, test.wins_b), (swapped.wins_b, swapped.wins_a));
            prop_assert_eq!(test.p_sacrebleu, swapped.p_sacrebleu);
            prop_assert!(test.wins_a + test.wins_b <= 1.0 + 1e-12);
            prop_assert!((test.p_koehn + test.wins_b - 1.0).abs() < 1e-12);
            prop_assert!(is_probability(test.p_sacrebleu) && test.p_sacrebleu > 0.0);
            prop_assert!(test.low <= test.high && test.a.half_width >= 0.0 && test.b.half_width >= 0.0);
        }
        if let Ok(tests) = approximate_randomisation(ab.as_slice(), &swaps) {
            let (test, swapped) = (tests[0], approximate_randomisation(ba.as_slice(), &swaps).unwrap()[0]);
            prop_assert_eq!(test.p_value, swapped.p_value);
            prop_assert_eq!(test.difference, -swapped.difference);
            prop_assert!(is_probability(test.p_value) && test.p_value > 0.0);
            prop_assert!(a != b || test.p_value == 1.0);
        }
    }

    #[test]
    fn rows_from_outside(
        values in vec(number(), 1..5), rows in vec(vec(0..6_u32, 0..6), 0..5), swaps in vec(vec(any::<bool>(), 0..4), 0..4),
    ) {
        let fits = |length: usize| rows.iter().all(|row| row.len() == length && row.iter().all(|&i| (i as usize) < length));
        let result = bootstrap(values.as_slice(), &Draws::given(&rows), 0.9);
        prop_assert_eq!(result.is_ok(), rows.len() > 1 && fits(values.len()));
        let both = joined(&values, &values).unwrap();
        let result = paired_bootstrap(both.as_slice(), &Draws::given(&rows), 0.9);
        prop_assert_eq!(result.is_ok(), !rows.is_empty() && fits(values.len()));
        let result = approximate_randomisation(both.as_slice(), &Swaps::given(&swaps));
        prop_assert_eq!(result.is_ok(), !swaps.is_empty() && swaps.iter().all(|row| row.len() == values.len()));
    }
}
