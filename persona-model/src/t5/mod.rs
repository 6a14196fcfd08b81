//! T5 1.0 and 1.1, Flan-T5 and ByT5 (Raffel et al. 2020; Shazeer 2020; Chung et al. 2022; Xue et al. 2022).
//!
//! Follows transformers' `T5ForConditionalGeneration`: same configuration keys, tensor names and numbers.

mod config;
mod model;

pub use self::config::T5Config;
pub use self::model::T5;
