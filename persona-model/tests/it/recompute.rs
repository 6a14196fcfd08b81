//! Gradient checkpointing: the gradients of the plain backward pass.

use persona_model::{
    Batch, BatchBuilder, Bert, BertConfig, CausalLm, Encoder, EncoderDecoder, Gpt2, Gpt2Config, LoadOptions,
    LoraConfig, Memory, Model, PromptStart, SoftPromptConfig, T5, load_causal_lm_with, token_log_probs,
};
use tch::{Device, Kind, Tensor};

use crate::{difference, models, seq2seq};

/// Rows that stand alone, one of which two others continue.
fn batch(model: &dyn CausalLm) -> Batch {
    let mut builder = BatchBuilder::default();
    let prompt = builder.row(&[1, 2, 3, 4]);
    builder.continuation(prompt, &[5, 6]);
    builder.continuation(prompt, &[7]);
    builder.row(&[8, 9, 10]);
    builder.build(model.limits(), Device::Cpu).unwrap()
}

fn loss(model: &dyn CausalLm) -> Tensor {
    let hidden = model.hidden(&batch(model), None, true).unwrap();
    let ids = Tensor::from_slice(&[2_i64, 3, 4, 5, 6, 0, 1, 9, 10, 11]);
    token_log_probs(&model.logits(&hidden).unwrap(), &ids).unwrap().sum(Kind::Float)
}

/// The gradients without and with checkpointing, the second from two forward passes at once.
fn both(model: &mut dyn CausalLm) -> [Vec<Option<Tensor>>; 2] {
    model.trainable().set_trainable(true).unwrap();
    let plain = model.gradients(&loss(model)).unwrap();
    model.set_gradient_checkpointing(true).unwrap();
    let halves = loss(model) * 0.25 + loss(model) * 0.75;
    let again = model.gradients(&halves).unwrap();
    model.set_gradient_checkpointing(false).unwrap();
    [plain, again]
}

fn assert_equal([plain, again]: [Vec<Option<Tensor>>; 2]) {
    assert_eq!(plain.len(), again.len());
    let mut largest: f64 = 0.0;
    for (plain, again) in plain.iter().zip(&again) {
        match (plain, again) {
            (Some(plain), Some(again)) => {
                let size = plain.abs().max().double_value(&[]);
                largest = largest.max(size);
                assert!(difference(plain, again) < 1e-5 * size.max(1.0), "{plain} {again}");
            }
            (None, None) => {}
            _ => panic!("a leaf has a gradient in one of the two"),
        }
    }
    assert!(largest > 1e-3, "{largest}");
}

#[test]
fn gradients_of_causal_models_are_those_of_the_plain_backward_pass() {
    for mut model in models() {
        assert_equal(both(&mut model));
        // Nothing was left behind: the same again.
        assert_equal(both(&mut model));
    }
}

#[test]
fn gradients_of_adapters_are_those_of_the_plain_backward_pass() {
    for mut model in models() {
        let lora = model.adapters_mut().add(LoraConfig::default(), 1, Device::Cpu).unwrap();
        model.adapters_mut().train(Some(lora)).unwrap();
        // B starts at zero, and A then has no gradient.
        let parameters = model.trainable_mut();
        let noise = Tensor::ones_like(parameters.flat()) * 0.1;
        let _ = tch::no_grad(|| parameters.flat_mut().f_add_(&noise).unwrap());
        assert_equal(both(&mut model));

        let config = SoftPromptConfig::of(3);
        let prompt = model
            .adapters_mut()
            .add_soft_prompt(config, PromptStart::Tokens(&[1, 2, 3]), Device::Cpu)
            .unwrap();
        model.adapters_mut().train(Some(prompt)).unwrap();
        assert_equal(both(&mut model));
    }
}

#[test]
fn gradients_over_weights_in_nf4_are_those_of_the_plain_backward_pass() {
    let folder = tempfile::tempdir().unwrap();
    for model in models() {
        model.save(folder.path()).unwrap();
        let options = LoadOptions::nf4(Kind::Float);
        let mut model = load_causal_lm_with(folder.path(), Device::Cpu, options).unwrap().0;
        let lora = model.adapters_mut().add(LoraConfig::default(), 1, Device::Cpu).unwrap();
        model.adapters_mut().train(Some(lora)).unwrap();
        assert_equal(both(&mut model));
    }
}

#[test]
fn gradients_of_encoders_are_those_of_the_plain_backward_pass() {
    let config = BertConfig {
        vocab_size: 40,
        hidden_size: 16,
        num_hidden_layers: 3,
        num_attention_heads: 2,
        intermediate_size: 24,
        max_position_embeddings: 16,
        initializer_range: 0.3,
        hidden_dropout_prob: 0.0,
        attention_probs_dropout_prob: 0.0,
        ..BertConfig::default()
    };
    let mut model = Bert::new(config, 1, Device::Cpu, Kind::Float).unwrap();
    model.parameters().set_trainable(true).unwrap();
    let batch = Batch::rows_of(&[&[1, 2, 3], &[4, 5]], Encoder::limits(&model), Device::Cpu).unwrap();
    let weights = Tensor::arange(16, (Kind::Float, Device::Cpu)).sin();
    let loss =
        |model: &Bert, layer| (model.layer_output(&batch, layer, true).unwrap() * &weights).sum(Kind::Float);
    for layer in [3, 2] {
        let plain = model.gradients(&loss(&model, layer)).unwrap();
        model.set_gradient_checkpointing(true).unwrap();
        let again = model.gradients(&loss(&model, layer)).unwrap();
        model.set_gradient_checkpointing(false).unwrap();
        assert_equal([plain, again]);
    }
}

#[test]
fn dropout_is_the_same_in_both_passes() {
    let config = Gpt2Config {
        vocab_size: 40,
        n_positions: 32,
        n_embd: 16,
        n_layer: 3,
        n_head: 2,
        initializer_range: 0.3,
        resid_pdrop: 0.3,
        embd_pdrop: 0.3,
        attn_pdrop: 0.3,
        ..Gpt2Config::default()
    };
    let mut model = Gpt2::new(config, 3, Device::Cpu, Kind::Float).unwrap();
    model.parameters().set_trainable(true).unwrap();
    model.set_gradient_checkpointing(true).unwrap();
    // Other tests draw from libtorch's generator at the same time: a disturbed measurement is taken again.
    let agrees = |model: &mut Gpt2| {
        let seeded = |model: &Gpt2| {
            tch::manual_seed(5);
            loss(model)
        };
        let value = seeded(model);
        let gradients = model.gradients(&value).unwrap();
        let direction: Vec<Tensor> = gradients.iter().map(|part| part.as_ref().unwrap().sign()).collect();
        let slope: f64 = gradients
            .iter()
            .map(|part| part.as_ref().unwrap().abs().sum(Kind::Double))
            .map(f64::try_from)
            .map(Result::unwrap)
            .sum();
        let step = 2e-4;
        let moved = |model: &Gpt2, by: f64| {
            let _no_grad = tch::no_grad_guard();
            for (leaf, direction) in model.parameters().leaves().iter().zip(&direction) {
                let _ = leaf.shallow_clone().f_add_(&(direction * by)).unwrap();
            }
        };
        moved(model, step);
        let above = f64::try_from(seeded(model)).unwrap();
        moved(model, -2.0 * step);
        let below = f64::try_from(seeded(model)).unwrap();
        moved(model, step);
        let measured = (above - below) / (2.0 * step);
        (measured - slope).abs() < 0.05 * slope
    };
    assert!((0..5).any(|_| agrees(&mut model)));
}

/// Encoder and decoder, the decoder's gradient going on into the encoder: with both trained whole, with a LoRA, and with one
/// encoding that two passes of the decoder read.
#[test]
fn gradients_of_encoder_decoders_are_those_of_the_plain_backward_pass() {
    for (mut model, lora) in seq2seq::models()
        .into_iter()
        .zip([false, true])
        .chain(seq2seq::models().into_iter().zip([true, false]))
    {
        if lora {
            let id = model
                .adapters_mut()
                .add(LoraConfig { r: 2, ..LoraConfig::default() }, 3, Device::Cpu)
                .unwrap();
            let leaves = model.adapters().get(id).unwrap().parameters().leaves();
            tch::no_grad(|| {
                leaves.iter().for_each(|leaf| drop(leaf.shallow_clone().f_add_scalar_(0.02).unwrap()))
            });
            model.adapters_mut().train(Some(id)).unwrap();
        }
        model.trainable().set_trainable(true).unwrap();
        let gradients = |model: &T5| {
            let limits = EncoderDecoder::limits(model);
            let rows = |rows: &[&[u32]]| Batch::rows_of(rows, limits, Device::Cpu).unwrap();
            let (source, first, second) =
                (rows(&[&[1, 2, 3, 4], &[5, 6]]), rows(&[&[0, 7, 8], &[0, 9]]), rows(&[&[0, 3], &[0, 2, 1]]));
            let encoded = model.encode(&source, true).unwrap();
            let score = |target: &Batch| {
                model.decode(target, Memory::Encoded(&encoded), true).unwrap().sigmoid().sum(Kind::Float)
            };
            let loss = score(&first) + score(&second) * 0.5;
            model.gradients(&loss).unwrap()
        };
        let plain = gradients(&model);
        model.set_gradient_checkpointing(true).unwrap();
        let again = gradients(&model);
        model.set_gradient_checkpointing(false).unwrap();
        model.trainable().set_trainable(false).unwrap();
        assert_equal([plain, again]);
    }
}
