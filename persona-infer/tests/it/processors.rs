//! Processed logits of transformers.

use persona_infer::processors;
use tch::{Kind, Tensor};

use crate::parity;

#[test]
fn parity_logits_processors() {
    parity::for_each("logits_processors", |case| {
        let scores = case.tensor("scores");
        let prefix = Vec::<Vec<i64>>::try_from(case.tensor("input_ids")).unwrap();
        let prefix: Vec<Vec<u32>> =
            prefix.iter().map(|row| row.iter().map(|&id| id as u32).collect()).collect();
        let histories: Vec<&[u32]> = prefix.iter().map(Vec::as_slice).collect();
        for (name, value) in case.json["settings"].as_object().unwrap() {
            let value = value.as_f64().unwrap();
            let got = match name.as_str() {
                "temperature" => processors::temperature(scores, value),
                "top_k" => processors::top_k(scores, value as usize),
                "top_p" => processors::top_p(scores, value),
                "min_p" => processors::min_p(scores, value),
                "typical_p" => processors::typical_p(scores, value),
                "epsilon_cutoff" => processors::epsilon_cutoff(scores, value),
                "repetition_penalty" => processors::repetition_penalty(scores, value, &histories),
                "no_repeat_ngram_size" => processors::no_repeat_ngrams(scores, value as usize, &histories),
                other => panic!("{}: unknown processor {other}", case.folder.display()),
            };
            let got = got.unwrap();
            let key = name.strip_suffix("_size").unwrap_or(name);
            let expected = case.tensor(key);
            let removed = |scores: &Tensor| scores.eq(f64::NEG_INFINITY);
            assert_eq!(removed(&got), removed(expected), "{name}: what is removed");
            let kept = removed(expected).logical_not();
            let off = (got.masked_select(&kept) - expected.masked_select(&kept)).abs().max();
            assert!(off.to_kind(Kind::Double).double_value(&[]) <= 1e-5, "{name}: off by {off:?}");
        }
        true
    });
}
