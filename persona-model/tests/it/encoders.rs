//! Kinds `encoder` and `sequence_classification`, and what holds of BERT and RoBERTa: batches, heads, training, files.

use std::path::Path;

use persona_model::{
    AdapterId, Batch, Bert, BertClassifier, BertConfig, BertType, Classifier, Encoder, LoraConfig, Model,
    Pooling, Precision, classifier_on_encoder, load_classifier, load_encoder, read_tensors, write_tensors,
};
use serde_json::Value;
use tch::{Device, Kind, Tensor};

use crate::{difference, parity};

const NLI: [&str; 3] = ["contradiction", "neutral", "entailment"];

/// A tiny configuration without dropout whose outputs differ from token to token.
pub(crate) fn tiny_config(model_type: BertType) -> BertConfig {
    let mut config = BertConfig {
        model_type,
        vocab_size: 40,
        hidden_size: 16,
        num_hidden_layers: 2,
        num_attention_heads: 2,
        intermediate_size: 24,
        max_position_embeddings: 34,
        initializer_range: 0.3,
        hidden_dropout_prob: 0.0,
        attention_probs_dropout_prob: 0.0,
        ..BertConfig::default()
    };
    config.set_labels(&NLI);
    config
}

const TYPES: [BertType; 2] = [BertType::Bert, BertType::Roberta];

pub(crate) fn encoder(model_type: BertType) -> Bert {
    Bert::new(tiny_config(model_type), 3, Device::Cpu, Kind::Float).unwrap()
}

pub(crate) fn classifier(model_type: BertType) -> BertClassifier {
    BertClassifier::new(tiny_config(model_type), 4, Device::Cpu, Kind::Float).unwrap()
}

fn batch(rows: &[Vec<u32>], types: Option<&[Vec<u32>]>, limits: persona_model::Limits) -> Batch {
    let views: Vec<&[u32]> = rows.iter().map(Vec::as_slice).collect();
    let batch = Batch::rows_of(&views, limits, Device::Cpu).unwrap();
    let Some(types) = types else { return batch };
    batch.with_token_types(&types.iter().map(Vec::as_slice).collect::<Vec<_>>()).unwrap()
}

#[test]
fn parity_encoder() {
    parity::for_each("encoder", |case| {
        let folder = case.folder.join(case.json["model"].as_str().unwrap());
        let (model, report) = load_encoder(&folder, Device::Cpu, Kind::Float).unwrap();
        assert!(report.is_exact(), "{report}");
        let batch = batch(&case.rows("input_ids", "attention_mask"), None, model.limits());
        let _no_grad = tch::no_grad_guard();
        let mask = case.tensor("attention_mask").to_kind(Kind::Bool).view(-1);
        let expected = case.tensor("last_hidden_state");
        let expected = expected.view([-1, expected.size()[2]]).index(&[Some(mask)]);
        let hidden = model.hidden(&batch, false).unwrap();
        assert!(difference(&hidden, &expected) < 1e-4, "{}", case.folder.display());
        let embeddings = model.embed(&batch, Pooling::Mean).unwrap();
        assert!(difference(&embeddings, case.tensor("sentence_embedding")) < 1e-4);
        true
    });
}

#[test]
fn parity_sequence_classification() {
    parity::for_each("sequence_classification", |case| {
        let folder = case.folder.join(case.json["model"].as_str().unwrap());
        let (model, report) = load_classifier(&folder, Device::Cpu, Kind::Float).unwrap();
        assert!(report.is_exact(), "{report}");
        assert_eq!(model.labels(), NLI.map(str::to_uppercase));
        let batch = batch(&case.rows("input_ids", "attention_mask"), None, model.limits());
        let _no_grad = tch::no_grad_guard();
        let logits = model.logits(&batch, false).unwrap();
        assert!(difference(&logits, case.tensor("logits")) < 1e-4, "{}", case.folder.display());
        true
    });
}

/// `encoders.json`, which `encoders.py` beside it wrote.
fn golden(key: &str) -> Value {
    let all: Value = serde_json::from_str(include_str!("encoders.json")).unwrap();
    all[key].clone()
}

fn lists<T: serde::de::DeserializeOwned>(value: &Value) -> Vec<Vec<T>> {
    serde_json::from_value(value.clone()).unwrap()
}

/// A matrix of float32.
fn matrix(value: &Value) -> Tensor {
    let rows: Vec<Tensor> = lists::<f32>(value).iter().map(|row| Tensor::from_slice(row)).collect();
    Tensor::stack(&rows, 0)
}

#[test]
fn a_bert_classifier_of_pairs_agrees_with_transformers() {
    let golden = golden("tiny_classifier");
    let config = BertConfig {
        max_position_embeddings: 32,
        hidden_act: persona_model::Activation::GeluNew,
        ..tiny_config(BertType::Bert)
    };
    let model = BertClassifier::new(config, 0, Device::Cpu, Kind::Float).unwrap();
    let names: Vec<String> = serde_json::from_value(golden["parameters"].clone()).unwrap();
    assert_eq!(names.len(), model.parameters().specs().len());
    let _no_grad = tch::no_grad_guard();
    for (k, name) in names.iter().enumerate() {
        let mut leaf = model.parameters().get(name).unwrap().view(-1);
        let places = Tensor::arange(leaf.numel() as i64, (Kind::Double, Device::Cpu));
        let one = f64::from(u8::from(name.ends_with("LayerNorm.weight")));
        leaf.copy_(&((places * 0.7 + k as f64).sin() * 0.4 + one));
    }
    let batch = batch(&lists(&golden["rows"]), Some(&lists(&golden["token_types"])), model.limits());
    let logits = model.logits(&batch, false).unwrap();
    assert!(difference(&logits, &matrix(&golden["logits"])) < 1e-5);
}

/// all-MiniLM-L6-v2 from the folder that `PERSONA_MINILM_DIR` names: `model.safetensors` and `config.json`.
#[test]
fn minilm_embeds_as_transformers_does() {
    let Some(folder) = std::env::var_os("PERSONA_MINILM_DIR") else {
        println!("passed over: PERSONA_MINILM_DIR is not set");
        return;
    };
    let (model, report) = load_encoder(Path::new(&folder), Device::Cpu, Kind::Float).unwrap();
    assert!(report.ignored.contains(&"pooler.dense.weight".to_owned()), "{report}");
    let golden = golden("minilm");
    let batch = batch(&lists(&golden["ids"]), Some(&lists(&golden["token_types"])), model.limits());
    let embeddings = model.embed(&batch, Pooling::Mean).unwrap();
    let leading = matrix(&golden["leading"]);
    assert!(difference(&embeddings.narrow(1, 0, leading.size()[1]), &leading) < 1e-4);
    let cosines = embeddings.matmul(&embeddings.tr());
    assert!(difference(&cosines, &matrix(&golden["cosines"])) < 1e-4);
}

/// Rows of various lengths, two of them alike in length, with token types.
fn rows() -> (Vec<Vec<u32>>, Vec<Vec<u32>>) {
    let lens = [7, 3, 3, 12, 1, 32];
    let rows = lens.iter().map(|&len| (0..len).map(|at| (len * 5 + at * 3) % 40).collect());
    let types = lens.iter().map(|&len| (0..len).map(|at| u32::from(at > len / 2)).collect());
    (rows.collect(), types.collect())
}

#[test]
fn rows_of_a_batch_are_rows_alone_in_any_order() {
    let (rows, types) = rows();
    let _no_grad = tch::no_grad_guard();
    for model_type in TYPES {
        let (encoder, classifier) = (encoder(model_type), classifier(model_type));
        let compute = |order: &[usize]| {
            let rows: Vec<_> = order.iter().map(|&at| rows[at].clone()).collect();
            let types: Vec<_> = order.iter().map(|&at| types[at].clone()).collect();
            let batch = batch(&rows, Some(&types), encoder.limits());
            (encoder.embed(&batch, Pooling::Max).unwrap(), classifier.logits(&batch, false).unwrap())
        };
        let (embeddings, logits) = compute(&[0, 1, 2, 3, 4, 5]);
        let turned = compute(&[5, 3, 1, 4, 2, 0]);
        let place = Tensor::from_slice(&[5i64, 2, 4, 1, 3, 0]);
        assert!(difference(&embeddings, &turned.0.index_select(0, &place)) < 1e-5);
        assert!(difference(&logits, &turned.1.index_select(0, &place)) < 1e-5);
        for row in 0..rows.len() {
            let (embedding, logit) = compute(&[row]);
            assert!(difference(&embedding, &embeddings.narrow(0, row as i64, 1)) < 1e-5, "row {row}");
            assert!(difference(&logit, &logits.narrow(0, row as i64, 1)) < 1e-5, "row {row}");
        }
    }
}

#[test]
fn tokens_see_both_ways_and_types_and_layers_matter() {
    let _no_grad = tch::no_grad_guard();
    for model_type in TYPES {
        let model = encoder(model_type);
        let hidden = |row: &[u32], types: Option<Vec<u32>>, layer: usize| {
            let types = types.map(|types| vec![types]);
            let batch = batch(&[row.to_vec()], types.as_deref(), model.limits());
            model.layer_output(&batch, layer, false).unwrap()
        };
        let (one, other) = (hidden(&[1, 2, 3], None, 2), hidden(&[1, 2, 4], None, 2));
        assert!(difference(&one.get(0), &other.get(0)) > 1e-3, "the first token sees the last");
        let embedded = hidden(&[1, 2, 3], None, 0);
        assert_eq!(difference(&embedded.get(0), &hidden(&[1, 2, 4], None, 0).get(0)), 0.0);
        assert!(difference(&one, &hidden(&[1, 2, 3], None, 1)) > 1e-3);
        assert_eq!(difference(&one, &hidden(&[1, 2, 3], Some(vec![0; 3]), 2)), 0.0);
        assert!(difference(&one, &hidden(&[1, 2, 3], Some(vec![0, 1, 1]), 2)) > 1e-3);
    }
}

#[test]
fn bf16_stays_near_float32() {
    let (rows, types) = rows();
    let folder = tempfile::tempdir().unwrap();
    for model_type in TYPES {
        let mut model = classifier(model_type);
        let batch = batch(&rows, Some(&types), model.limits());
        let exact = model.logits(&batch, false).unwrap();
        model.set_precision(Precision::Bf16);
        let mixed = model.logits(&batch, false).unwrap();
        assert_eq!(mixed.kind(), Kind::Float);
        let off = difference(&exact, &mixed);
        assert!(off > 0.0 && off < 0.1, "{off}");
        model.save(folder.path()).unwrap();
        let (held, _) = load_classifier(folder.path(), Device::Cpu, Kind::BFloat16).unwrap();
        assert!(difference(&exact, &held.logits(&batch, false).unwrap()) < 0.1);
    }
}

#[test]
fn dropout_is_drawn_in_training_only() {
    for model_type in TYPES {
        let config = tiny_config(model_type);
        for config in [
            BertConfig { hidden_dropout_prob: 0.2, ..config.clone() },
            BertConfig { attention_probs_dropout_prob: 0.2, ..config.clone() },
            BertConfig { classifier_dropout: Some(0.2), ..config.clone() },
        ] {
            let model = BertClassifier::new(config, 4, Device::Cpu, Kind::Float).unwrap();
            assert!(model.has_dropout());
            let batch = batch(&rows().0, None, model.limits());
            let draw = |seed: i64| {
                tch::manual_seed(seed);
                model.logits(&batch, true).unwrap()
            };
            assert!(difference(&draw(1), &draw(2)) > 0.0);
            let plain = || model.logits(&batch, false).unwrap();
            assert_eq!(difference(&plain(), &plain()), 0.0);
        }
        assert!(!classifier(model_type).has_dropout());
    }
}

#[test]
fn a_fresh_head_is_reported_seeded_and_learns() {
    for model_type in TYPES {
        let folder = tempfile::tempdir().unwrap();
        encoder(model_type).save(folder.path()).unwrap();
        assert!(
            load_classifier(folder.path(), Device::Cpu, Kind::Float).is_err(),
            "a missing head is an error"
        );
        let labels = ["no", "maybe", "yes", "?"];
        let make = |seed: u64| {
            classifier_on_encoder(folder.path(), &labels, seed, Device::Cpu, Kind::Float).unwrap()
        };
        let (model, report) = make(7);
        let head = if model_type == BertType::Bert {
            ["bert.pooler.dense.weight", "bert.pooler.dense.bias", "classifier.weight", "classifier.bias"]
        } else {
            [
                "classifier.dense.weight",
                "classifier.dense.bias",
                "classifier.out_proj.weight",
                "classifier.out_proj.bias",
            ]
        };
        assert_eq!(report.initialised, head);
        assert!(report.is_exact() && report.to_string().contains("4 initialised"), "{report}");
        let same = |other: &dyn Classifier, name: &str| {
            difference(model.parameters().get(name).unwrap(), other.parameters().get(name).unwrap()) == 0.0
        };
        let (again, other) = (make(7).0, make(8).0);
        let word = format!("{}.embeddings.word_embeddings.weight", ["bert", "roberta"][model_type as usize]);
        assert!(same(&again, head[2]) && !same(&other, head[2]) && same(&other, &word));

        // Plain gradient descent on four rows with four labels.
        model.parameters().set_trainable(true).unwrap();
        let rows: Vec<Vec<u32>> = (0..4).map(|row| vec![1, 10 + row, 20, 2]).collect();
        let batch = batch(&rows, None, model.limits());
        let targets = Tensor::from_slice(&[0i64, 1, 2, 3]);
        let mut losses = Vec::new();
        for _ in 0..60 {
            let loss = model.logits(&batch, true).unwrap().cross_entropy_for_logits(&targets);
            losses.push(loss.double_value(&[]));
            let gradients = Tensor::run_backward(&[loss], model.parameters().leaves(), false, false);
            let _no_grad = tch::no_grad_guard();
            for (leaf, gradient) in model.parameters().leaves().iter().zip(gradients) {
                let _ = leaf.shallow_clone().g_sub_(&(gradient * 0.1));
            }
        }
        assert!(losses[59] < 0.3 * losses[0], "{losses:?}");

        // What was trained is saved with its labels, and its head can be replaced by a fresh one.
        model.save(folder.path()).unwrap();
        let (saved, report) = load_classifier(folder.path(), Device::Cpu, Kind::Float).unwrap();
        assert_eq!((saved.labels(), report.is_exact()), (labels.map(str::to_owned).as_slice(), true));
        assert!(same(&saved, head[2]));
        let (three, report) =
            classifier_on_encoder(folder.path(), &NLI, 1, Device::Cpu, Kind::Float).unwrap();
        assert_eq!(three.logits(&batch, false).unwrap().size(), [4, 3]);
        let ignored = if model_type == BertType::Bert { 2 } else { 4 };
        assert_eq!(
            (report.ignored.len(), report.initialised.len()),
            (ignored, ignored),
            "BERT keeps its pooler"
        );
        // The encoder of a classifier.
        let (body, report) = Bert::load(folder.path(), Device::Cpu, Kind::Float).unwrap();
        assert_eq!(report.ignored.len(), 4);
        let name = word.split_once('.').unwrap().1;
        assert_eq!(
            difference(body.parameters().get(name).unwrap(), saved.parameters().get(&word).unwrap()),
            0.0
        );
    }
}

#[test]
fn names_with_and_without_the_prefix_old_norms_and_other_heads_load() {
    for (model_type, prefix) in TYPES.into_iter().zip(["bert.", "roberta."]) {
        let model = encoder(model_type);
        let folder = tempfile::tempdir().unwrap();
        model.save(folder.path()).unwrap();
        let (again, report) = Bert::load(folder.path(), Device::Cpu, Kind::Float).unwrap();
        assert!(report.is_exact() && report.ignored.is_empty());
        assert_eq!((again.config().labels().unwrap().len(), again.config().model_type), (3, model_type));
        assert_eq!(difference(model.parameters().flat(), again.parameters().flat()), 0.0);

        let file = folder.path().join("model.safetensors");
        let mut tensors: Vec<(String, Tensor)> = read_tensors(&file)
            .unwrap()
            .0
            .into_iter()
            .map(|(name, tensor)| {
                let old = name.replace("Norm.weight", "Norm.gamma").replace("Norm.bias", "Norm.beta");
                (format!("{prefix}{old}"), tensor)
            })
            .collect();
        let ids = Tensor::arange(34, (Kind::Int64, Device::Cpu));
        tensors.push((format!("{prefix}embeddings.position_ids"), ids.unsqueeze(0)));
        let extra = |name: &str| (name.to_owned(), Tensor::ones([2, 2], (Kind::Float, Device::Cpu)));
        tensors.extend([extra("cls.predictions.bias"), extra("lm_head.bias")]);
        tensors.push(extra(&format!("{prefix}pooler.dense.weight")));
        write_tensors(&file, &tensors, &[]).unwrap();
        let (again, report) = Bert::load(folder.path(), Device::Cpu, Kind::Float).unwrap();
        assert_eq!(report.ignored.len(), 4, "{report}");
        assert_eq!(difference(model.parameters().flat(), again.parameters().flat()), 0.0);
    }
}

#[test]
fn adapters_sit_on_every_linear_layer_and_rows_have_their_own() {
    let (rows, _) = rows();
    for model_type in TYPES {
        let mut model = classifier(model_type);
        let mut add = |seed: u64| -> AdapterId {
            let id = model.adapters_mut().add(LoraConfig::default(), seed, Device::Cpu).unwrap();
            let leaves = model.adapters().get(id).unwrap().parameters().leaves();
            assert_eq!(leaves.len(), 2 * (2 * 6 + 2), "two matrices for 6 layers a block and 2 of the head");
            let _no_grad = tch::no_grad_guard();
            for leaf in leaves {
                let places = Tensor::arange(leaf.numel() as i64, (Kind::Float, Device::Cpu));
                leaf.view(-1).copy_(&((places + seed as f64).sin() * 0.2));
            }
            id
        };
        let ids = [add(1), add(2)];
        // Short rows take one product for all adapters, long ones a product each.
        for rows in [&rows[..3], &rows[3..], &[vec![7; 32], vec![8; 30], vec![9; 31]]] {
            let own = [Some(ids[0]), None, Some(ids[1])];
            let together = batch(rows, None, model.limits()).with_adapters(own.to_vec()).unwrap();
            let together = model.logits(&together, false).unwrap();
            for (at, own) in own.into_iter().enumerate() {
                model.adapters_mut().activate(own).unwrap();
                let alone = batch(&rows[at..=at], None, model.limits());
                let alone = model.logits(&alone, false).unwrap();
                assert!(difference(&alone, &together.narrow(0, at as i64, 1)) < 1e-5, "row {at}");
            }
        }
        model.adapters_mut().activate(Some(ids[0])).unwrap();
        let batch = batch(&rows, None, model.limits());
        let adapted = model.logits(&batch, false).unwrap();
        model.adapters_mut().activate(None).unwrap();
        assert!(difference(&adapted, &model.logits(&batch, false).unwrap()) > 1e-3);
        model.merge(ids[0]).unwrap();
        assert!(difference(&adapted, &model.logits(&batch, false).unwrap()) < 1e-4);
    }
}
