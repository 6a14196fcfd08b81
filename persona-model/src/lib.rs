//! Language models on LibTorch, made for dialogue with a persona.
//!
//! - [`Gpt2`] and [`Llama`] are [`CausalLm`]s: a forward gives hidden states, and the head is applied where somebody asks.
//! - [`Bert`] is an [`Encoder`], whose hidden states a [`Pooling`] makes sentence embeddings of, and
//!   [`BertClassifier`] a [`Classifier`] of texts and pairs; both are BERT and RoBERTa.
//! - [`T5`] is an [`EncoderDecoder`]: sources are encoded once, whatever the number of targets that read them.
//! - A [`Batch`] is one line of tokens without padding, cut into rows that may share a prefix or continue a cache.
//! - A [`TargetBatch`] scores targets after their prompts, token by token, in float32; a [`Seq2SeqBatch`] does so for an encoder-decoder.
//! - [`KvCache`] makes decoding incremental; [`device`] finds CUDA at run time, in the same binary.
//! - [`LoadOptions`] put the linear layers into NF4, 4.13 bits a weight, under adapters that are trained (QLoRA).
//! - Weights are safetensors in the Hugging Face layout, loaded strictly ([`LoadReport`]), saved whole or not at all.
//!
//! ```
//! use persona_model::{CausalLm, Gpt2, Gpt2Config, TargetBatchBuilder};
//! use tch::{Device, Kind};
//!
//! let config = Gpt2Config { vocab_size: 50, n_positions: 16, n_embd: 8, n_layer: 1, n_head: 2, ..Gpt2Config::default() };
//! let model = Gpt2::new(config, 0, Device::Cpu, Kind::Float)?;
//! let mut builder = TargetBatchBuilder::default();
//! builder.prompt(&[5, 6, 7], &[&[8, 9], &[10]]); // two replies to one prompt, which is computed once
//! let batch = builder.build(model.limits(), Device::Cpu)?;
//! let log_probs = batch.log_probs(&model, false)?;
//! assert_eq!(log_probs.size(), [3]);
//! # Ok::<(), persona_model::Error>(())
//! ```

mod adapters;
mod attention;
mod autograd;
mod batch;
mod cache;
mod config;
mod cpu;
mod cross_attention;
mod device;
mod encoder;
mod encoder_decoder;
mod error;
mod gpt2;
#[cfg(feature = "hub")]
mod hub;
mod language_model;
mod layers;
mod llama;
mod memory;
mod model;
mod padded;
mod parameters;
mod position_bias;
mod quantized;
mod recompute;
mod resize;
mod rope;
mod score;
mod seq2seq_score;
mod t5;
mod threads;
mod weights;

pub use adapters::{
    Adapter, AdapterId, Adapters, Layers, Lora, LoraConfig, PromptStart, SoftPrompt, SoftPromptConfig,
    Targets,
};
pub use autograd::libtorch_version;
pub use batch::{Batch, BatchBuilder, Context, Limits, Row};
pub use cache::{CacheShape, KvCache, SharedId};
pub use config::OtherKeys;
pub use device::{Precision, cuda_status, device};
pub use encoder::{
    Bert, BertClassifier, BertConfig, BertType, Classifier, Encoder, Pooling, classifier_on_encoder,
    load_classifier, load_encoder, unit_length,
};
pub use encoder_decoder::{DecoderCache, Encoded, EncoderDecoder, Memory};
pub use error::{Error, Result};
pub use gpt2::{Gpt2, Gpt2Config};
#[cfg(feature = "hub")]
pub use hub::Hub;
pub use language_model::{CausalLm, load_causal_lm, load_causal_lm_with, load_with_adapter};
pub use layers::Activation;
pub use llama::{Llama, LlamaConfig};
pub use memory::keep_freed_memory;
pub use model::{Model, ModelState};
pub use parameters::{Init, ParameterSpec, Parameters};
pub use quantized::{LoadOptions, Nf4, Nf4Weight};
pub use resize::Resize;
pub use rope::{RopeParameters, RopeType};
pub use score::{TargetBatch, TargetBatchBuilder, token_log_probs};
pub use seq2seq_score::{Seq2SeqBatch, Seq2SeqBatchBuilder};
pub use t5::{T5, T5Config};
pub use threads::share_work;
pub use weights::{LoadReport, TensorName, load, read_tensors, write_atomically, write_tensors};
