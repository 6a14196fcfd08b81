//! Decoding for persona dialogue models.
//!
//! - [`Engine`] answers [`Request`]s: greedy, beam search, or drawn with a seed of the request's own; several replies
//!   after one prompt, adapters, stop strings, streams, scores of given replies. [`DecodeConfig`] has the settings.
//! - [`processors`] are the changes to logits that settings stand for, as pure functions.
//! - [`Decoder`] is the engine for prompts of one kind, in tokens.
//! - [`TextGenerator`] does the same for text; as a `ReplyGenerator` it makes the rejected replies of preference pairs.
//! - [`SelectThenGenerate`] is PAL's inference: the model says which description matters, its answer is matched back to
//!   the persona, and the reply is generated with that description highlighted. [`Strategy`] has the paper's others.
//! - [`greedy`] decodes with an encoder-decoder, whose sources are encoded once.
//! - [`score_targets`] gives log-probabilities of given replies, for perplexity.
//!
//! ```
//! use persona_data::{BpeOptions, EncodeOptions, ExampleEncoder, PromptSet, Role, Utterance, train_byte_level_bpe};
//! use persona_infer::{DecodeConfig, SelectThenGenerate, TextGenerator};
//! use persona_model::{Gpt2, Gpt2Config};
//! use tch::{Device, Kind};
//!
//! let prompts = PromptSet::english()?;
//! let tokenizer = train_byte_level_bpe(["Do you have pets?".to_owned()].into_iter(), &BpeOptions::default())?;
//! let encoder = ExampleEncoder::new(&tokenizer, &prompts, EncodeOptions::default())?;
//! let config = Gpt2Config {
//!     vocab_size: tokenizer.vocab_size(), n_positions: 512, n_embd: 16, n_layer: 1, n_head: 2, ..Gpt2Config::default()
//! };
//! let model = Gpt2::new(config, 0, Device::Cpu, Kind::Float)?; // untrained: it will say nothing sensible
//!
//! let generator = TextGenerator::new(&model, &encoder, DecodeConfig { max_new_tokens: 8, ..DecodeConfig::default() })?;
//! let history = [Utterance { role: Role::Partner, text: "Do you have pets?".into() }];
//! let reply = SelectThenGenerate::new(generator).reply(&["I have a turtle.".into()], &history)?;
//! println!("{:?} {}", reply.selection, reply.text);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod decode;
mod decoder;
mod error;
mod select;
mod seq2seq;
mod text;

pub use decode::{
    Completion, ContinuationScore, DecodeConfig, EarlyStopping, Engine, EngineConfig, Finish, Piece,
    Receiver, Request, TextStream, processors,
};
pub use decoder::Decoder;
pub use error::{Error, Result};
pub use select::{Reply, SelectThenGenerate, Selected, Strategy};
pub use seq2seq::greedy;
pub use text::{TargetScore, TextGenerator, score_targets};
