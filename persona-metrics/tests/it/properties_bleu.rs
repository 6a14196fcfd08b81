//! BLEU, F1, accuracy and ranking on any text and any scores: see properties.rs.

use persona_metrics::{
    Bleu, Error, ExactMatch, NltkSmoothing, RankTies, Ranking, SacreSmoothing, SacreTokenizer, UnigramF1,
};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::properties::{in_unit_range, order, pair_metric, pairs, refuses_no_references};

const TOKENIZERS: [SacreTokenizer; 5] = [
    SacreTokenizer::V13a,
    SacreTokenizer::Intl,
    SacreTokenizer::Zh,
    SacreTokenizer::Char,
    SacreTokenizer::None,
];

const SMOOTHINGS: [SacreSmoothing; 5] = [
    SacreSmoothing::Exp,
    SacreSmoothing::FLOOR,
    SacreSmoothing::ADD_K,
    SacreSmoothing::AddK(0.5),
    SacreSmoothing::None,
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn sacrebleu(
        pairs in pairs(), order in order(), max_order in 1..7_u8, lowercase: bool, effective: bool,
        tokenizer in prop::sample::select(TOKENIZERS.to_vec()),
        smoothing in prop::sample::select(SMOOTHINGS.to_vec()),
    ) {
        let bleu = Bleu::sacrebleu().tokenizer(tokenizer).smoothing(smoothing).unwrap();
        let bleu = bleu.lowercase(lowercase).effective_order(effective).max_order(max_order).unwrap();
        let value = pair_metric(&bleu, &pairs, &order).unwrap().values()[0];
        prop_assert!((0.0..=100.0 + 1e-9).contains(&value), "{}", value);
        refuses_no_references(&bleu);
        for (_, (hypothesis, _)) in &pairs {
            let own = bleu.effective_order(true).report(&[hypothesis], &[hypothesis]).unwrap();
            // Nothing is left of a text without a token.
            let expected = if own.hypothesis_tokens == 0 { 0.0 } else { 100.0 };
            prop_assert!((own.score.value() - expected).abs() < 1e-9, "{}", own);
        }
    }

    #[test]
    fn nltk(
        pairs in pairs(), order in order(), orders in 1..7_u8, characters: bool, reweigh: bool, number in 0..5_u8,
    ) {
        let bleu = Bleu::nltk().smoothing(NltkSmoothing::method(number).unwrap()).unwrap();
        let bleu = bleu.orders(orders).unwrap().characters(characters).auto_reweigh(reweigh);
        let values = pair_metric(&bleu, &pairs, &order).unwrap().values();
        prop_assert!(values.iter().all(|value| (0.0..=1.0 + 1e-12).contains(value)), "{:?}", values);
        refuses_no_references(&bleu);
        let means = pair_metric(&bleu.clone().mean_of_sentences(), &pairs, &order).unwrap().values();
        let sentences = pairs.iter().map(|(_, (hypothesis, references))| {
            bleu.sentence(hypothesis, references).unwrap().values()[0]
        });
        let mean = sentences.sum::<f64>() / pairs.len() as f64;
        prop_assert!((means[0] - mean).abs() < 1e-12, "{} is not {}", means[0], mean);
    }

    /// The methods that look at the last pair: the shards come in the order of the examples.
    #[test]
    fn nltk_with_the_last_pair(
        mut pairs in pairs(), orders in 1..7_u8, characters: bool, number in 5..8_u8, parameter in 0.0..9.0,
    ) {
        pairs.sort_by_key(|(shard, _)| *shard);
        let smoothing = match number {
            6 => NltkSmoothing::Method6 { alpha: parameter },
            7 => NltkSmoothing::Method7 { k: parameter + 0.1 },
            _ => NltkSmoothing::Method5,
        };
        let bleu = Bleu::nltk().characters(characters).smoothing(smoothing).unwrap().orders(orders).unwrap();
        match pair_metric(&bleu, &pairs, &[0, 1, 2]) {
            Ok(scores) => prop_assert!(scores.values().iter().all(|&value| value >= 0.0), "{}", scores),
            Err(error) => {
                let raised = matches!(error, Error::NoMatches { .. } | Error::InvalidSetting { .. });
                prop_assert!(raised && number == 6, "{}", error);
            }
        }
    }

    /// Where no count is 0 the packages agree.
    #[test]
    fn nltk_is_sacrebleu_where_nothing_is_smoothed(pairs in pairs()) {
        let words = |text: &str| format!("{text} w x y z");
        let hypotheses: Vec<String> = pairs.iter().map(|(_, (hypothesis, _))| words(hypothesis)).collect();
        let references: Vec<Vec<String>> =
            pairs.iter().map(|(_, (_, references))| references.iter().map(|text| words(text)).collect()).collect();
        let nltk = Bleu::nltk().corpus(&hypotheses, &references).unwrap().values()[0];
        let sacrebleu = Bleu::sacrebleu().tokenizer(SacreTokenizer::None);
        let sacrebleu = sacrebleu.corpus(&hypotheses, &references).unwrap().values()[0];
        let coco = Bleu::pycocoevalcap().corpus(&hypotheses, &references).unwrap().values()[3];
        prop_assert!((100.0 * nltk - sacrebleu).abs() < 1e-9, "{} is not {}", 100.0 * nltk, sacrebleu);
        prop_assert!((nltk - coco).abs() < 1e-6, "{} is not {}", nltk, coco);
    }

    #[test]
    fn parlai(pairs in pairs(), order in order()) {
        let f1 = pair_metric(&UnigramF1::default(), &pairs, &order).unwrap().values();
        in_unit_range(&f1);
        let accuracy = pair_metric(&ExactMatch::default(), &pairs, &order).unwrap().values();
        in_unit_range(&accuracy);
        let bleu = pair_metric(&Bleu::parlai(), &pairs, &order).unwrap().values();
        prop_assert!(bleu.iter().all(|value| (0.0..=1.0 + 1e-12).contains(value)), "{:?}", bleu);
        refuses_no_references(&UnigramF1::default());
        refuses_no_references(&ExactMatch::default());
        refuses_no_references(&Bleu::parlai());
        for (_, (hypothesis, _)) in &pairs {
            prop_assert_eq!(ExactMatch::default().sentence(hypothesis, hypothesis).unwrap().values(), [1.0]);
            // 0 where nothing is left of the text.
            let own = UnigramF1::default().sentence(hypothesis, hypothesis).unwrap().values();
            prop_assert!(own == [1.0; 3] || own == [0.0; 3], "{:?}", own);
        }
    }

    #[test]
    fn ranking(examples in vec((vec(0..6_i8, 1..30), any::<prop::sample::Index>()), 1..12)) {
        let ranking = Ranking::default();
        let pessimistic = ranking.clone().ties(RankTies::Pessimistic);
        let mut whole = ranking.statistics();
        let mut halves = [ranking.statistics(), ranking.statistics()];
        for (number, (scores, right)) in examples.iter().enumerate() {
            let scores: Vec<f64> = scores.iter().map(|&score| f64::from(score) / 4.0).collect();
            let right = right.index(scores.len());
            let mut sorted: Vec<usize> = (0..scores.len()).collect();
            sorted.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
            let place = sorted.iter().position(|&index| index == right).unwrap() + 1;
            prop_assert_eq!(ranking.rank(&scores, right).unwrap(), place);
            let at_least = scores.iter().filter(|&&score| score >= scores[right]).count();
            prop_assert_eq!(pessimistic.rank(&scores, right).unwrap(), at_least);
            whole.update_scores(&scores, right).unwrap();
            halves[number % 2].update_scores(&scores, right).unwrap();
            let texts: Vec<String> = sorted.iter().map(|index| index.to_string()).collect();
            let by_text = ranking.sums_of_ranking(&texts, &right.to_string()).unwrap();
            prop_assert_eq!(by_text, ranking.sums_of_scores(&scores, right).unwrap());
        }
        let [mut left, right] = halves;
        left.merge(&right).unwrap();
        prop_assert_eq!(&left, &whole);
        let values = whole.values().unwrap();
        in_unit_range(&values);
        prop_assert!(values.windows(2).take(3).all(|hits| hits[0] <= hits[1]), "{:?}", values);
    }
}
