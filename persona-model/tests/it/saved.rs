//! What is saved here is loaded by transformers and PEFT: these tests write the folders, `tests/parity/load_back.py` loads them.

use std::path::{Path, PathBuf};

use persona_model::{
    Batch, BertClassifier, BertConfig, BertType, CausalLm, Classifier, EncoderDecoder, LoraConfig, Memory,
    Model, PromptStart, Resize, SoftPromptConfig, write_tensors,
};
use tch::{Device, Kind, Tensor};

use crate::{models, seq2seq};

const ROWS: [&[u32]; 2] = [&[1, 2, 3, 4, 5, 6], &[9, 8, 7, 6, 5, 4]];

/// Where the folders go; None, said aloud, where the environment names no place.
fn place(name: &str) -> Option<PathBuf> {
    let Some(folder) = std::env::var_os("PERSONA_SAVE_DIR") else {
        println!("saved models: passed over, PERSONA_SAVE_DIR names no folder");
        return None;
    };
    let folder = Path::new(&folder).join(name);
    std::fs::create_dir_all(&folder).unwrap();
    Some(folder)
}

/// The logits beside the folder of the model or the adapter that gives them.
fn write(folder: &Path, logits: &Tensor) {
    let ids = Tensor::from_slice(&ROWS.concat().into_iter().map(i64::from).collect::<Vec<_>>()).view([2, 6]);
    let tensors = [("input_ids".to_owned(), ids), ("logits".to_owned(), logits.detach())];
    write_tensors(&folder.join("expected.safetensors"), &tensors, &[]).unwrap();
}

fn causal_logits(model: &dyn CausalLm) -> Tensor {
    let batch = Batch::rows_of(&ROWS, model.limits(), Device::Cpu).unwrap();
    let _no_grad = tch::no_grad_guard();
    model.logits(&model.hidden(&batch, None, false).unwrap()).unwrap().view([2, 6, -1])
}

/// Noise in place of a fresh adapter's zeros.
fn disturb(model: &mut dyn CausalLm) {
    let flat = model.trainable_mut().flat_mut();
    let noise = Tensor::arange(flat.numel() as i64, (Kind::Float, Device::Cpu)).sin() * 0.1;
    let _ = tch::no_grad(|| flat.f_add_(&noise).unwrap());
}

#[test]
fn causal_models_and_their_adapters() {
    for (name, mut model) in ["gpt2", "llama"].into_iter().zip(models()) {
        let Some(folder) = place(name) else { return };
        model.resize_embeddings(43, Resize::Mean { seed: 1 }).unwrap();
        model.save(&folder).unwrap();
        write(&folder, &causal_logits(&model));
        let lora = model.adapters_mut().add(LoraConfig::default(), 1, Device::Cpu).unwrap();
        let config = SoftPromptConfig::of(3);
        let start = PromptStart::Tokens(&[1, 2, 3]);
        let prompt = model.adapters_mut().add_soft_prompt(config, start, Device::Cpu).unwrap();
        for (kind, adapter) in [("lora", lora), ("prompt", prompt)] {
            let folder = place(&format!("{name}-{kind}")).unwrap();
            model.adapters_mut().train(Some(adapter)).unwrap();
            disturb(&mut model);
            model.adapters().get(adapter).unwrap().save(&folder).unwrap();
            write(&folder, &causal_logits(&model));
        }
    }
}

#[test]
fn encoders_with_heads() {
    for (name, model_type) in [("bert", BertType::Bert), ("roberta", BertType::Roberta)] {
        let Some(folder) = place(name) else { return };
        let mut config = BertConfig {
            model_type,
            vocab_size: 40,
            hidden_size: 16,
            num_hidden_layers: 2,
            num_attention_heads: 2,
            intermediate_size: 24,
            max_position_embeddings: 16,
            pad_token_id: Some(0),
            initializer_range: 0.3,
            ..BertConfig::default()
        };
        config.set_labels(&["contradiction", "neutral", "entailment"]);
        let model = BertClassifier::new(config, 1, Device::Cpu, Kind::Float).unwrap();
        model.save(&folder).unwrap();
        let batch = Batch::rows_of(&ROWS, Classifier::limits(&model), Device::Cpu).unwrap();
        write(&folder, &model.logits(&batch, false).unwrap());
    }
}

#[test]
fn encoder_decoders() {
    for (name, model) in ["t5", "t5-v1_1"].into_iter().zip(seq2seq::models()) {
        let Some(folder) = place(name) else { return };
        model.save(&folder).unwrap();
        let rows = seq2seq::rows(&model, &ROWS);
        let encoded = model.encode(&rows, false).unwrap();
        let hidden = model.decode(&rows, Memory::Encoded(&encoded), false).unwrap();
        write(&folder, &model.logits(&hidden).unwrap().view([2, 6, -1]));
    }
}
