//! How replies are decoded.

mod beams;
mod choice;
mod config;
mod engine;
pub mod processors;
mod request;
mod text_stream;
mod wave;

pub use config::{DecodeConfig, EarlyStopping};
pub use engine::{ContinuationScore, Engine, EngineConfig, Receiver};
pub use request::{Completion, Finish, Piece, Request};
pub use text_stream::TextStream;
