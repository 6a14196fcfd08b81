//! Greedy ids of transformers' T5; batch and alone agree; bad sources are named.

use persona_infer::{Error, greedy};
use persona_model::{Model, T5, T5Config};
use tch::{Device, Kind};

use crate::parity;

#[test]
fn parity_seq2seq() {
    parity::for_each("seq2seq", |case| {
        let (model, _) = T5::load(&case.folder.join("model"), Device::Cpu, Kind::Float).unwrap();
        let sources = case.rows("input_ids", "attention_mask");
        let limit = case.json["max_new_tokens"].as_u64().unwrap() as usize;
        let end = model.config().eos_token_id.unwrap();
        // The reference's rows are the start token, the new ones with EOS, and padding.
        let expected: Vec<Vec<u32>> = Vec::<Vec<i64>>::try_from(case.tensor("greedy"))
            .unwrap()
            .iter()
            .map(|row| row[1..].iter().map(|&id| id as u32).take_while(|&id| id != end).collect())
            .collect();
        assert_eq!(greedy(&model, &sources, &[end], limit).unwrap(), expected, "{}", case.folder.display());
        for (source, expected) in sources.iter().zip(&expected) {
            let alone = greedy(&model, std::slice::from_ref(source), &[end], limit).unwrap();
            assert_eq!(alone[0], *expected, "alone: {}", case.folder.display());
        }
        true
    });
}

fn tiny() -> T5 {
    let config = T5Config {
        vocab_size: 40,
        d_model: 16,
        d_kv: 8,
        d_ff: 32,
        num_layers: 2,
        num_heads: 2,
        tie_word_embeddings: false, // a tied model repeats what it reads
        ..T5Config::default()
    };
    T5::new(config, 5, Device::Cpu, Kind::Float).unwrap()
}

#[test]
fn rows_that_end_leave_and_change_nothing_for_the_others() {
    let model = tiny();
    let sources: Vec<Vec<u32>> =
        (0..150u32).map(|at| (0..=at % 9).map(|token| (at * 7 + token * 3) % 40).collect()).collect();
    let free = greedy(&model, &sources, &[], 12).unwrap();
    assert!(free.iter().all(|target| target.len() == 12));
    // Ends that cut the same targets at several places.
    let ends = [free[0][2], free[70][5], free[149][9]];
    let cut: Vec<Vec<u32>> = free
        .iter()
        .map(|target| target.iter().copied().take_while(|id| !ends.contains(id)).collect())
        .collect();
    assert!(cut.iter().map(Vec::len).collect::<std::collections::BTreeSet<_>>().len() > 3);
    assert_eq!(greedy(&model, &sources, &ends, 12).unwrap(), cut);
    for (source, cut) in sources.iter().zip(&cut).step_by(7) {
        assert_eq!(greedy(&model, std::slice::from_ref(source), &ends, 12).unwrap()[0], *cut);
    }
}

#[test]
fn bad_sources_are_named() {
    let mut model = tiny();
    let message = |sources: &[Vec<u32>]| greedy(&model, sources, &[1], 4).unwrap_err().to_string();
    assert!(message(&[vec![1], vec![]]).contains("prompt 1: has no tokens"));
    assert!(message(&[vec![1], vec![2, 40]]).contains("prompt 1: has token id 40"));
    assert!(message(&[vec![1; T5Config::POSITIONS + 1]]).contains("the model has 16384 positions"));
    assert!(greedy(&model, &[], &[1], 4).unwrap().is_empty());
    assert_eq!(greedy(&model, &[vec![1]], &[1], 0).unwrap(), [Vec::<u32>::new()]);
    let _ = model.parameters_mut().flat_mut().fill_(f64::NAN);
    let error = greedy(&model, &vec![vec![1]; 70], &[1], 4).unwrap_err();
    assert!(matches!(error, Error::NonFinite { index: 0, tokens: 0, .. }), "{error}");
}
