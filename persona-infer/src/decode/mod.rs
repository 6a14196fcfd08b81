//! How replies are decoded.

mod choice;
mod config;
pub mod processors;

pub(crate) use choice::{Draws, Next};
pub use config::{DecodeConfig, EarlyStopping};
