//! Contracts 3 and 5: plain rows, shared prefixes and caches agree, and a row does not depend on its neighbours.

use persona_model::{
    Batch, BatchBuilder, CausalLm, Gpt2, Gpt2Config, KvCache, Model, Precision, TargetBatch,
    TargetBatchBuilder,
};
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

#[test]
fn rows_after_a_shared_beginning_equal_whole_rows() {
    models().iter().for_each(|model| after_shared(model));
}

fn after_shared(model: &dyn CausalLm) {
    let advance = |cache: &mut KvCache, rows: &[(usize, &[u32])]| -> Tensor {
        let mut builder = BatchBuilder::default();
        for (row, ids) in rows {
            builder.cached(*row, cache.lengths()[*row], ids);
        }
        let batch = builder.build(model.limits(), Device::Cpu).unwrap();
        model.logits(&model.hidden(&batch, Some(cache), false).unwrap()).unwrap()
    };
    let mut prompts = model.cache(2, 4).unwrap();
    let _ = advance(&mut prompts, &[(0, &[1, 2, 3, 4]), (1, &[7, 8])]);
    let mut cache = model.cache(5, 4).unwrap();
    let (a, b) = (cache.hold(&prompts, 0).unwrap(), cache.hold(&prompts, 1).unwrap());
    drop(prompts);
    for (row, shared) in [(0, a), (1, a), (3, b), (4, a)] {
        cache.attach(row, shared).unwrap();
    }
    let _ = advance(&mut cache, &[(2, &[30, 31, 32])]);
    // Row 4 is some tokens ahead, in one chunk after its beginning.
    let _ = advance(&mut cache, &[(4, &[20, 21])]);
    let mut texts: [Vec<u32>; 5] =
        [vec![1, 2, 3, 4], vec![1, 2, 3, 4], vec![30, 31, 32], vec![7, 8], vec![1, 2, 3, 4, 20, 21]];
    let step = |cache: &mut KvCache, rows: &[usize], texts: &mut [Vec<u32>; 5], seed: u32| {
        for &row in rows {
            texts[row].push((seed * 7 + row as u32 * 3) % 40);
        }
        let new: Vec<(usize, &[u32])> =
            rows.iter().map(|&row| (row, &texts[row][texts[row].len() - 1..])).collect();
        let got = advance(cache, &new);
        for (at, &row) in rows.iter().enumerate() {
            let whole = &logits(model, &[&texts[row]])[0];
            assert!(difference(&got.get(at as i64), &whole.get(-1)) < 1e-5, "row {row}, step {seed}");
        }
    };
    step(&mut cache, &[0, 1, 2, 3, 4], &mut texts, 1);
    step(&mut cache, &[0, 1, 2, 3, 4], &mut texts, 2);
    step(&mut cache, &[4, 0, 3], &mut texts, 3);
    // Rows go on from each other, as beams do.
    cache.copy(&[(4, 0), (0, 4), (1, 1)]).unwrap();
    texts.swap(0, 4);
    step(&mut cache, &[0, 1, 4], &mut texts, 4);
    assert!(cache.release(b).unwrap_err().to_string().contains("cache row 3"));
    assert!(cache.attach(2, a).unwrap_err().to_string().contains("row 2 holds tokens"));
    cache.clear(3).unwrap();
    cache.release(b).unwrap();
    assert!(cache.attach(3, b).unwrap_err().to_string().contains("not held"));
    assert!(cache.copy(&[(0, 9)]).unwrap_err().to_string().contains("row 9"));
    let other = model.cache(1, 4).unwrap();
    assert!(cache.hold(&other, 0).unwrap_err().to_string().contains("holds nothing"));
    cache.keep(&[4, 1]).unwrap();
    texts.swap(0, 4);
    step(&mut cache, &[0, 1], &mut texts, 5);
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

/// Prompts of which all begin alike, and some further than others; one ends where the others go on.
fn prompts_of_one_template(builder: &mut TargetBatchBuilder) {
    let template: Vec<u32> = (5..15).collect();
    let longer: Vec<u32> = (20..29).collect();
    builder.prompt(&[&template, &longer[..], &[1]].concat(), &[&[3, 4], &[5]]);
    builder.prompt(&[&template[..], &[30, 31]].concat(), &[&[6, 7, 8]]);
    builder.prompt(&[9, 8], &[&[2, 2]]);
    builder.prompt(&[&template[..], &longer[..]].concat(), &[&[9]]);
    builder.prompt(&template, &[&[7, 7, 7], &[1, 2]]);
}

#[test]
fn beginnings_that_prompts_share_change_no_score_and_no_gradient() {
    for model in models() {
        let scored = |mut builder: TargetBatchBuilder| {
            prompts_of_one_template(&mut builder);
            let batch = builder.build(model.limits(), Device::Cpu).unwrap();
            model.parameters().set_trainable(true).unwrap();
            let log_probs = batch.log_probs(&model, true).unwrap();
            let weights = Tensor::arange(log_probs.numel() as i64, (Kind::Float, Device::Cpu)).sin();
            let gradients = model.gradients(&(&log_probs * weights).sum(Kind::Float)).unwrap();
            (log_probs.detach(), gradients)
        };
        let (plain, plain_gradients) = scored(TargetBatchBuilder::default());
        let (shared, shared_gradients) = scored(TargetBatchBuilder::for_model(&model, true));
        assert!(difference(&plain, &shared) < 1e-5);
        for (plain, shared) in plain_gradients.into_iter().zip(shared_gradients) {
            assert!(difference(&plain.unwrap(), &shared.unwrap()) < 1e-4);
        }
    }
}

#[test]
fn prompts_have_dropout_of_their_own() {
    let config = Gpt2Config { resid_pdrop: 0.5, ..tiny().config().clone() };
    let model = Gpt2::new(config, 1, Device::Cpu, Kind::Float).unwrap();
    let scored = |mut builder: TargetBatchBuilder, train| {
        for _ in 0..2 {
            builder.prompt(&[1, 2, 3, 4, 5, 6, 7, 8, 9, 10], &[&[3]]);
        }
        tch::manual_seed(3);
        let batch = builder.build(model.limits(), Device::Cpu).unwrap();
        Vec::<f64>::try_from(batch.log_probs(&model, train).unwrap()).unwrap()
    };
    let drawn = scored(TargetBatchBuilder::for_model(&model, true), true);
    assert_ne!(drawn[0], drawn[1]);
    assert_eq!(drawn, scored(TargetBatchBuilder::default(), true));
    let shared = scored(TargetBatchBuilder::for_model(&model, false), false);
    assert_eq!(shared[0], shared[1], "one token predicts both");
}

/// Logits at every token of the rows, and the gradients of a weighted sum of them.
fn logits_and_gradients(model: &dyn CausalLm, batch: &Batch) -> (Tensor, Vec<Tensor>) {
    model.parameters().set_trainable(true).unwrap();
    let logits = model.logits(&model.hidden(batch, None, true).unwrap()).unwrap();
    let weights = Tensor::arange(logits.numel() as i64, (Kind::Float, Device::Cpu)).sin().view_as(&logits);
    let gradients = model.gradients(&(&logits * weights).sum(Kind::Float)).unwrap();
    (logits.detach(), gradients.into_iter().map(Option::unwrap).collect())
}

#[test]
fn padded_and_packed_rows_and_attention_side_by_side_agree() {
    let rows: [&[u32]; 4] = [&[1, 2, 3, 4, 5, 6, 7], &[8], &[9, 10, 11], &[3, 1]];
    for model in models() {
        let limits = model.limits();
        let plain = Batch::rows_of(&rows, limits, Device::Cpu).unwrap();
        let expected = logits_and_gradients(&model, &plain);
        let check = |batch: Batch| {
            let (logits, gradients) = logits_and_gradients(&model, &batch);
            assert!(difference(&logits, &expected.0) < 1e-5);
            for (a, b) in gradients.iter().zip(&expected.1) {
                assert!(difference(a, b) < 1e-4);
            }
        };
        // Padding is on the left in one row, on both sides in another; its id is no token of the model.
        let mut ids = vec![99_i64; 4 * 8];
        let mut mask = vec![0_i64; 4 * 8];
        for (at, (row, left)) in rows.iter().zip([1, 7, 2, 0]).enumerate() {
            for (token, &id) in row.iter().enumerate() {
                ids[at * 8 + left + token] = i64::from(id);
                mask[at * 8 + left + token] = 1;
            }
        }
        let tensor = |values: &[i64]| Tensor::from_slice(values).view([4, 8]);
        check(Batch::from_padded(&tensor(&ids), &tensor(&mask), limits).unwrap());
        check(Batch::from_packed(&rows.concat(), &[7, 1, 3, 2], limits, Device::Cpu).unwrap());
        check(Batch::rows_of(&rows, limits, Device::Cpu).unwrap().with_padded_attention(true));
    }
}

#[test]
fn attention_side_by_side_agrees_on_shared_prefixes() {
    for model in models() {
        let build = || {
            let mut builder = BatchBuilder::default();
            let first = builder.row(&[1, 2, 3, 4, 5]);
            builder.continuation(first, &[6, 7]);
            let second = builder.row(&[8, 9]);
            let third = builder.continuation(second, &[10, 11, 12]);
            builder.continuation(first, &[13]);
            builder.continuation(third, &[14, 15]);
            builder.continuation(third, &[16]);
            builder.build(model.limits(), Device::Cpu).unwrap()
        };
        let (logits, gradients) = logits_and_gradients(&model, &build());
        let (padded, padded_gradients) = logits_and_gradients(&model, &build().with_padded_attention(true));
        assert!(difference(&logits, &padded) < 1e-5);
        for (a, b) in gradients.iter().zip(&padded_gradients) {
            let scale = a.abs().max().double_value(&[]).max(1.0);
            assert!(difference(a, b) < 1e-5 * scale, "{} of {scale}", difference(a, b));
        }
    }
}

#[test]
fn values_are_padded_on_the_right() {
    let batch = Batch::rows_of(&[&[1, 2, 3], &[4]], tiny().limits(), Device::Cpu).unwrap();
    let values = Tensor::from_slice(&[1.0_f32, 2.0, 3.0, 4.0]).view([4, 1]);
    let padded = batch.pad(&values, -1.0).unwrap();
    assert_eq!(padded.size(), [2, 3, 1]);
    assert_eq!(Vec::<f64>::try_from(padded.view(-1)).unwrap(), [1.0, 2.0, 3.0, 4.0, -1.0, -1.0]);
    assert!(batch.pad(&values.narrow(0, 0, 3), 0.0).unwrap_err().to_string().contains("for 4 tokens"));
}

#[test]
fn padded_and_packed_rows_that_do_not_fit_are_refused() {
    let limits = tiny().limits();
    let tensor = |shape: &[i64]| Tensor::ones(shape, (Kind::Int64, Device::Cpu));
    let padded = |ids: &Tensor, mask: &Tensor| Batch::from_padded(ids, mask, limits).unwrap_err().to_string();
    assert!(padded(&tensor(&[2, 3]), &tensor(&[2, 2])).contains("differ in shape"));
    assert!(padded(&tensor(&[3]), &tensor(&[3])).contains("[B, T]"));
    assert!(padded(&(tensor(&[2, 3]) * -5), &tensor(&[2, 3])).contains("row 0"));
    assert!(padded(&tensor(&[2, 3]), &tensor(&[2, 3]).zeros_like()).contains("no tokens"));
    let packed =
        |lengths: &[usize]| Batch::from_packed(&[1, 2, 3], lengths, limits, Device::Cpu).unwrap_err();
    assert!(packed(&[1, 1]).to_string().contains("3 packed ids"));
    assert!(packed(&[2, usize::MAX]).to_string().contains("3 packed ids"));
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
