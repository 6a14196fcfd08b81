//! Contracts 3 and 5: plain rows, shared prefixes and caches agree, and a row does not depend on its neighbours.

use persona_model::{Batch, BatchBuilder, CausalLm, Model, Precision, TargetBatch, TargetBatchBuilder};
use tch::{Device, Kind, Tensor};

use crate::{difference, models, tiny};

fn logits(model: &dyn CausalLm, rows: &[&[u32]]) -> Vec<Tensor> {
    let batch = Batch::rows_of(rows, model.limits(), Device::Cpu).unwrap();
    let logits = model.logits(&model.hidden(&batch, None, false).unwrap()).unwrap();
    let lens: Vec<i64> = rows.iter().map(|row| row.len() as i64).collect();
    logits.split_with_sizes(lens, 0)
}

#[test]
fn a_row_in_a_batch_equals_the_row_alone() {
    let rows: [&[u32]; 3] = [&[1, 2, 3, 4, 5, 6, 7], &[8], &[9, 10, 11]];
    for model in models() {
        for (row, together) in rows.iter().zip(logits(&model, &rows)) {
            assert!(difference(&logits(&model, &[row])[0], &together) < 1e-5);
        }
    }
}

#[test]
fn cached_and_chunked_equal_the_whole() {
    models().iter().for_each(|model| cached_and_chunked(model));
}

fn cached_and_chunked(model: &dyn CausalLm) {
    let rows: [&[u32]; 3] = [&[1, 2, 3, 4, 5, 6, 7, 8, 9], &[8, 4, 2], &[9, 10, 11, 3, 20]];
    let whole = logits(model, &rows);
    let mut cache = model.cache(3, 4).unwrap();
    // The first two tokens of every row, then one token of each row at a time, then what is left of the longest.
    for (at, row) in rows.iter().enumerate() {
        let mut builder = BatchBuilder::default();
        builder.cached(at, 0, &row[..2]);
        let batch = builder.build(model.limits(), Device::Cpu).unwrap();
        let hidden = model.hidden(&batch, Some(&mut cache), false).unwrap();
        assert!(difference(&model.logits(&hidden).unwrap(), &whole[at].narrow(0, 0, 2)) < 1e-5);
    }
    let mut active = vec![0, 1, 2];
    for step in 2..9 {
        let staying: Vec<usize> = (0..active.len()).filter(|&at| rows[active[at]].len() > step).collect();
        if staying.len() < active.len() {
            cache.keep(&staying).unwrap();
            active = staying.iter().map(|&at| active[at]).collect();
        }
        let mut builder = BatchBuilder::default();
        for (cached, &row) in active.iter().enumerate() {
            builder.cached(cached, step, &rows[row][step..step + 1]);
        }
        let batch = builder.build(model.limits(), Device::Cpu).unwrap();
        let hidden = model.hidden(&batch, Some(&mut cache), false).unwrap();
        let got = model.logits(&hidden).unwrap();
        for (at, &row) in active.iter().enumerate() {
            assert!(
                difference(&got.get(at as i64), &whole[row].get(step as i64)) < 1e-5,
                "row {row} step {step}"
            );
        }
    }
    // A chunk of several tokens on top of a cache.
    let mut cache = model.cache(1, 64).unwrap();
    let mut parts = Vec::new();
    for (past, chunk) in [(0, &rows[0][..4]), (4, &rows[0][4..7]), (7, &rows[0][7..])] {
        let mut builder = BatchBuilder::default();
        builder.cached(0, past, chunk);
        let batch = builder.build(model.limits(), Device::Cpu).unwrap();
        parts.push(model.logits(&model.hidden(&batch, Some(&mut cache), false).unwrap()).unwrap());
    }
    assert!(difference(&Tensor::cat(&parts, 0), &whole[0]) < 1e-5);
}

/// Targets of two prompts, the first with two continuations and one of a single token.
fn targets(shared: bool) -> TargetBatch {
    let limits = tiny().limits();
    let mut builder = TargetBatchBuilder::default();
    let (first, second): (&[u32], &[u32]) = (&[1, 2, 3, 4], &[7, 8]);
    let replies: [&[u32]; 3] = [&[5, 6, 7], &[9], &[10, 2]];
    if shared {
        builder.prompt(first, &replies);
    } else {
        for reply in replies {
            builder.prompt(first, &[reply]);
        }
    }
    builder.prompt(second, &[&[3, 3, 3]]);
    builder.build(limits, Device::Cpu).unwrap()
}

#[test]
fn a_shared_prefix_agrees_with_plain_rows_in_scores_and_gradients() {
    models().iter().for_each(|model| shared_prefix(model));
}

fn shared_prefix(model: &dyn CausalLm) {
    let gradients = |shared: bool| {
        model.parameters().set_trainable(true).unwrap();
        let log_probs = targets(shared).log_probs(model, true).unwrap();
        let gradients =
            Tensor::run_backward(&[log_probs.sum(Kind::Float)], model.parameters().leaves(), false, false);
        (log_probs.detach(), gradients)
    };
    let ((plain, plain_gradients), (shared, shared_gradients)) = (gradients(false), gradients(true));
    assert!(difference(&plain, &shared) < 1e-5);
    for (a, b) in plain_gradients.iter().zip(&shared_gradients) {
        assert!(difference(a, b) < 1e-4);
    }
}

#[test]
fn bf16_stays_near_float32() {
    let mut model = tiny();
    let exact = targets(true).log_probs(&model, false).unwrap();
    model.set_precision(Precision::Bf16);
    let mixed = targets(true).log_probs(&model, false).unwrap();
    assert_eq!(mixed.kind(), Kind::Float);
    let off = difference(&exact, &mixed);
    assert!(off > 0.0 && off < 0.1, "{off}");
    let held = model.copy(Kind::BFloat16).unwrap();
    assert!(difference(&exact, &targets(true).log_probs(&held, false).unwrap()) < 0.1);
}

#[test]
fn sums_are_per_sequence() {
    let batch = targets(true);
    assert_eq!(batch.lens(), [3, 1, 2, 3]);
    let sums = batch.sums(&Tensor::arange(9, (Kind::Float, Device::Cpu))).unwrap();
    assert_eq!(Vec::<f64>::try_from(sums).unwrap(), [3.0, 3.0, 9.0, 21.0]);
}
