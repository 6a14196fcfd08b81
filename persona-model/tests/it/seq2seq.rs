//! Kind `seq2seq`, and what holds of encoder-decoders: batches, caches, shared sources, gradients, adapters.

use persona_model::{
    AdapterId, Batch, BatchBuilder, EncoderDecoder, LoraConfig, Memory, Model, Precision, Seq2SeqBatch,
    Seq2SeqBatchBuilder, T5, T5Config,
};
use tch::{Device, Kind, Tensor};

use crate::{difference, parity};

fn config() -> T5Config {
    T5Config {
        vocab_size: 40,
        d_model: 16,
        d_kv: 6,
        d_ff: 24,
        num_layers: 2,
        num_decoder_layers: Some(3),
        num_heads: 2,
        relative_attention_num_buckets: 8,
        relative_attention_max_distance: 12,
        dropout_rate: 0.0,
        ..T5Config::default()
    }
}

/// 1.0 with a rectifier and a tied head, 1.1 with a gate and a head of its own.
pub(crate) fn models() -> [T5; 2] {
    let gated = T5Config {
        feed_forward_proj: "gated-gelu".into(),
        tie_word_embeddings: false,
        initializer_factor: 0.5,
        ..config()
    };
    [config(), gated].map(|config| T5::new(config, 3, Device::Cpu, Kind::Float).unwrap())
}

pub(crate) fn rows(model: &T5, rows: &[&[u32]]) -> Batch {
    Batch::rows_of(rows, model.limits(), Device::Cpu).unwrap()
}

fn logits(model: &T5, source: &Batch, target: &Batch) -> Tensor {
    let _no_grad = tch::no_grad_guard();
    let encoded = model.encode(source, false).unwrap();
    model.logits(&model.decode(target, Memory::Encoded(&encoded), false).unwrap()).unwrap()
}

pub(crate) const SOURCES: [&[u32]; 3] =
    [&[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16], &[8], &[9, 10, 11]];
const TARGETS: [&[u32]; 3] = [&[0, 4, 2], &[0, 9, 8, 7, 6, 5, 4, 3, 2, 1, 30, 31, 32, 33], &[0]];

#[test]
fn parity_seq2seq() {
    parity::for_each("seq2seq", |case| {
        let (model, report) = T5::load(&case.folder.join("model"), Device::Cpu, Kind::Float).unwrap();
        assert!(report.is_exact() && report.ignored.is_empty(), "{report}");
        let sources = case.rows("input_ids", "attention_mask");
        let views: Vec<&[u32]> = sources.iter().map(Vec::as_slice).collect();
        // The reference reads padding as token 0 and predicts after it too: its logits are compared whole.
        let labels = Vec::<Vec<i64>>::try_from(case.tensor("labels")).unwrap();
        let shifted: Vec<Vec<u32>> = labels
            .iter()
            .map(|row| {
                let read = row[..row.len() - 1].iter().map(|&id| id.max(0) as u32);
                std::iter::once(model.start_token()).chain(read).collect()
            })
            .collect();
        let shifted: Vec<&[u32]> = shifted.iter().map(Vec::as_slice).collect();
        let found = logits(&model, &rows(&model, &views), &rows(&model, &shifted));
        let expected = case.tensor("logits");
        let off = difference(&found, &expected.view([-1, expected.size()[2]]));
        assert!(off < 1e-4, "{}: {off}", case.folder.display());

        let mut builder = Seq2SeqBatchBuilder::default();
        for (source, labels) in views.iter().zip(&labels) {
            let target: Vec<u32> = labels.iter().filter(|&&id| id != -100).map(|&id| id as u32).collect();
            builder.source(source, &[&target]);
        }
        let batch = builder.build(&model).unwrap();
        let loss = batch.log_probs(&model, false).unwrap().neg().mean(Kind::Float);
        assert!(difference(&loss, case.tensor("loss")) < 1e-4, "{}", case.folder.display());
        true
    });
}

#[test]
fn a_row_in_a_batch_equals_the_row_alone() {
    for model in models() {
        let together = logits(&model, &rows(&model, &SOURCES), &rows(&model, &TARGETS));
        let lens: Vec<i64> = TARGETS.iter().map(|row| row.len() as i64).collect();
        for ((source, target), together) in
            SOURCES.iter().zip(&TARGETS).zip(together.split_with_sizes(lens, 0))
        {
            let alone = logits(&model, &rows(&model, &[source]), &rows(&model, &[target]));
            assert!(difference(&alone, &together) < 1e-5);
        }
    }
}

/// One target for each source, or three for the first and two for the last.
fn each_or_shared(shared: bool) -> (Vec<usize>, Vec<&'static [u32]>) {
    if !shared {
        return (vec![0, 1, 2], TARGETS.to_vec());
    }
    (vec![2, 0, 0, 2, 0], vec![TARGETS[1], TARGETS[0], TARGETS[1], &[0, 6, 7, 8, 9, 10, 11], &[0, 5]])
}

#[test]
fn cached_and_chunked_equal_the_whole() {
    let _no_grad = tch::no_grad_guard();
    for (model, shared) in models().iter().flat_map(|model| [(model, false), (model, true)]) {
        let source = rows(model, &SOURCES);
        let (read, targets) = each_or_shared(shared);
        let whole = logits(model, &source, &rows(model, &targets).with_sources(read.clone()).unwrap());
        let lens: Vec<i64> = targets.iter().map(|row| row.len() as i64).collect();
        let whole = whole.split_with_sizes(lens, 0);
        let encoded = model.encode(&source, false).unwrap();
        // A token of every row at a time; rows leave when they have ended, and change their order.
        let mut cache = model.cache(&encoded, &read, 4).unwrap();
        let mut active: Vec<usize> = (0..targets.len()).collect();
        for step in 0..14 {
            let mut staying: Vec<usize> =
                (0..active.len()).filter(|&at| targets[active[at]].len() > step).collect();
            if staying.len() < active.len() {
                staying.reverse();
                cache.keep(&staying).unwrap();
                active = staying.iter().map(|&at| active[at]).collect();
            }
            let mut builder = BatchBuilder::default();
            for (cached, &row) in active.iter().enumerate() {
                builder.cached(cached, step, &targets[row][step..=step]);
            }
            let batch = builder.build(model.limits(), Device::Cpu).unwrap();
            let hidden = model.decode(&batch, Memory::Cache(&mut cache), false).unwrap();
            let found = model.logits(&hidden).unwrap();
            for (at, &row) in active.iter().enumerate() {
                let off = difference(&found.get(at as i64), &whole[row].get(step as i64));
                assert!(off < 1e-5, "row {row} step {step} shared {shared}: {off}");
            }
        }
        assert_eq!(cache.lengths(), [14].repeat(active.len()));
        // Chunks of several tokens, the rows at different places.
        let mut cache = model.cache(&encoded, &read, 64).unwrap();
        let mut held = vec![0; targets.len()];
        for size in [1, 4, 2, 20] {
            let mut builder = BatchBuilder::default();
            let mut parts = Vec::new();
            for (row, target) in targets.iter().enumerate() {
                let end = (held[row] + size + row).min(target.len());
                if end > held[row] {
                    builder.cached(row, held[row], &target[held[row]..end]);
                    parts.push(whole[row].narrow(0, held[row] as i64, (end - held[row]) as i64));
                    held[row] = end;
                }
            }
            if parts.is_empty() {
                continue;
            }
            let batch = builder.build(model.limits(), Device::Cpu).unwrap();
            let hidden = model.decode(&batch, Memory::Cache(&mut cache), false).unwrap();
            assert!(difference(&model.logits(&hidden).unwrap(), &Tensor::cat(&parts, 0)) < 1e-5);
        }
    }
}

/// Targets of two sources, the first with two of them.
pub(crate) fn scored(model: &T5, shared: bool) -> Seq2SeqBatch {
    let mut builder = Seq2SeqBatchBuilder::default();
    let replies: [&[u32]; 2] = [&[5, 6, 7, 1], &[9]];
    if shared {
        builder.source(SOURCES[0], &replies);
    } else {
        replies.iter().for_each(|reply| builder.source(SOURCES[0], &[reply]));
    }
    builder.source(SOURCES[2], &[&[3, 3, 1]]);
    builder.build(model).unwrap()
}

#[test]
fn a_shared_source_agrees_with_plain_rows_in_scores_and_gradients() {
    for model in models() {
        let gradients = |shared: bool| {
            model.parameters().set_trainable(true).unwrap();
            let batch = scored(&model, shared);
            assert_eq!((batch.lens(), batch.target_tokens()), ([4, 1, 3].as_slice(), 8));
            let log_probs = batch.log_probs(&model, true).unwrap();
            let sums = batch.sums(&log_probs).unwrap();
            let leaves = model.parameters().leaves();
            let gradients = Tensor::run_backward(&[sums.sum(Kind::Float)], leaves, false, false);
            (log_probs.detach(), gradients)
        };
        let ((plain, plain_gradients), (shared, shared_gradients)) = (gradients(false), gradients(true));
        assert!(difference(&plain, &shared) < 1e-5);
        for (a, b) in plain_gradients.iter().zip(&shared_gradients) {
            assert!(difference(a, b) < 1e-4);
        }
    }
}

#[test]
fn targets_that_continue_a_target_equal_the_whole() {
    let [model, _] = models();
    let source = rows(&model, &SOURCES);
    let batch = |sources: [usize; 3]| {
        let mut builder = BatchBuilder::default();
        let start = builder.row(&[0, 5, 6]);
        builder.continuation(start, &[7, 8]);
        builder.continuation(start, &[9]);
        builder.build(model.limits(), Device::Cpu).unwrap().with_sources(sources.to_vec()).unwrap()
    };
    let found = logits(&model, &source, &batch([2; 3]));
    let whole = rows(&model, &[&[0, 5, 6, 7, 8], &[0, 5, 6, 9]]).with_sources(vec![2, 2]).unwrap();
    let whole = logits(&model, &source, &whole);
    assert!(difference(&found.narrow(0, 0, 5), &whole.narrow(0, 0, 5)) < 1e-5);
    assert!(difference(&found.get(5), &whole.get(8)) < 1e-5);
    let encoded = model.encode(&source, false).unwrap();
    let error = model.decode(&batch([2, 2, 1]), Memory::Encoded(&encoded), false).unwrap_err().to_string();
    assert!(error.contains("target rows 2 and 0"), "{error}");
}

#[test]
fn gradients_of_the_position_bias_are_those_of_differences() {
    let mut model = models().into_iter().next().unwrap();
    model.parameters().set_trainable(true).unwrap();
    let score = |model: &T5| scored(model, true).log_probs(model, false).unwrap().sum(Kind::Float);
    let leaves = model.parameters().leaves();
    let gradients = Tensor::run_backward(&[score(&model)], leaves, false, false);
    model.parameters().set_trainable(false).unwrap();
    let specs = model.parameters().specs().to_vec();
    let tables: Vec<usize> =
        (0..specs.len()).filter(|&at| specs[at].name.ends_with("relative_attention_bias.weight")).collect();
    assert_eq!(tables.len(), 2);
    for at in tables {
        let expected = gradients[at].view(-1);
        let offset = model.parameters().offsets()[at];
        for element in 0..expected.numel() as i64 {
            let mut shifted = |by: f64| {
                let mut value = model.parameters_mut().flat_mut().narrow(0, offset + element, 1);
                let _ = value.f_add_scalar_(by).unwrap();
                score(&model).double_value(&[])
            };
            let slope = (shifted(1e-2) - shifted(-2e-2)) / 2e-2;
            shifted(1e-2);
            let expected = expected.double_value(&[element]);
            assert!((slope - expected).abs() < 5e-3 + 0.02 * expected.abs(), "{element}: {slope} {expected}");
        }
    }
}

#[test]
fn bf16_stays_near_float32() {
    let [mut model, _] = models();
    let exact = scored(&model, true).log_probs(&model, false).unwrap();
    model.set_precision(Precision::Bf16);
    let mixed = scored(&model, true).log_probs(&model, false).unwrap();
    assert_eq!(mixed.kind(), Kind::Float);
    let off = difference(&exact, &mixed);
    assert!(off > 0.0 && off < 0.3, "{off}");
    let held = model.copy(Kind::BFloat16).unwrap();
    let off = difference(&exact, &scored(&held, true).log_probs(&held, false).unwrap());
    assert!(off < 0.3, "{off}");
}

#[test]
fn dropout_is_drawn_in_training_alone() {
    let model = T5::new(T5Config { dropout_rate: 0.3, ..config() }, 3, Device::Cpu, Kind::Float).unwrap();
    assert!(model.has_dropout() && !models()[0].has_dropout());
    let run = |train: bool| {
        tch::manual_seed(4);
        scored(&model, true).log_probs(&model, train).unwrap()
    };
    assert_eq!(difference(&run(true), &run(true)), 0.0);
    assert!(difference(&run(true), &run(false)) > 1e-3);
    assert_eq!(difference(&run(false), &scored(&model, true).log_probs(&model, false).unwrap()), 0.0);
}

#[test]
fn rows_are_computed_with_their_own_adapters() {
    for mut model in models() {
        let mut random = |seed: u64| -> AdapterId {
            let config = LoraConfig { r: 3, lora_alpha: 6.0, ..LoraConfig::default() };
            let id = model.adapters_mut().add(config, seed, Device::Cpu).unwrap();
            for leaf in model.adapters().get(id).unwrap().parameters().leaves() {
                let values = Tensor::arange(leaf.numel() as i64, (Kind::Float, Device::Cpu));
                leaf.view(-1).copy_(&((values + seed as f64).sin() * 0.1));
            }
            id
        };
        let own = [Some(random(1)), None, Some(random(2))];
        let adapted = |batch: Batch| batch.with_adapters(own.to_vec()).unwrap();
        let source = adapted(rows(&model, &SOURCES));
        let together = logits(&model, &source, &adapted(rows(&model, &TARGETS)));
        let lens: Vec<i64> = TARGETS.iter().map(|row| row.len() as i64).collect();
        let together = together.split_with_sizes(lens, 0);
        let _no_grad = tch::no_grad_guard();
        // The first tokens of each row through a cache.
        let mut cache = model.cache(&model.encode(&source, false).unwrap(), &[0, 1, 2], 8).unwrap();
        let mut builder = BatchBuilder::default();
        for (row, target) in TARGETS.iter().enumerate() {
            builder.cached(row, 0, &target[..1]);
        }
        let step = adapted(builder.build(model.limits(), Device::Cpu).unwrap());
        let first = model.decode(&step, Memory::Cache(&mut cache), false).unwrap();
        let first = model.logits(&first).unwrap();
        for (row, together) in together.iter().enumerate() {
            model.adapters_mut().activate(own[row]).unwrap();
            let alone = logits(&model, &rows(&model, &[SOURCES[row]]), &rows(&model, &[TARGETS[row]]));
            assert!(difference(&alone, together) < 1e-5, "row {row}");
            assert!(difference(&alone.get(0), &first.get(row as i64)) < 1e-5, "row {row}, cached");
        }
        let encoded = model.encode(&source, false).unwrap();
        let mixed = rows(&model, &TARGETS).with_adapters(vec![own[0], own[0], own[2]]).unwrap();
        let error = model.decode(&mixed, Memory::Encoded(&encoded), false).unwrap_err().to_string();
        assert!(error.contains("target row 1 and source row 1") && error.contains("adapters"), "{error}");

        // Merged, the first adapter computes the same without being there.
        let id = own[0].unwrap();
        model.adapters_mut().activate(None).unwrap();
        model.merge(id).unwrap();
        let merged = logits(&model, &rows(&model, &[SOURCES[0]]), &rows(&model, &[TARGETS[0]]));
        assert!(difference(&merged, &together[0]) < 1e-4);
    }
}

#[test]
fn adapters_are_saved_as_peft_names_them() {
    let [_, mut model] = models();
    let id = model.adapters_mut().add(LoraConfig::on(&["q", "wi_1"], 2, 4.0), 1, Device::Cpu).unwrap();
    let names: Vec<String> = model.adapters().get(id).unwrap().parameters().specs()[..4]
        .iter()
        .map(|spec| spec.name.clone())
        .collect();
    assert_eq!(names[0], "encoder.block.0.layer.0.SelfAttention.q.lora_A.weight");
    assert_eq!(names[2], "encoder.block.0.layer.1.DenseReluDense.wi_1.lora_A.weight");
    let folder = tempfile::tempdir().unwrap();
    model.adapters().get(id).unwrap().save(folder.path()).unwrap();
    let text = std::fs::read_to_string(folder.path().join("adapter_config.json")).unwrap();
    assert!(text.contains("\"task_type\": \"SEQ_2_SEQ_LM\""), "{text}");
    let (_, report) = model.adapters_mut().load(folder.path(), Device::Cpu).unwrap();
    assert!(report.is_exact(), "{report}");
}
