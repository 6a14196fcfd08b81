//! Integration tests of persona-data: one binary.

// Helpers of tests may panic as tests do; clippy.toml reaches test functions only.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::PathBuf;

mod bad_input;
mod chat_template;
#[cfg(feature = "encode")]
mod encode;
#[cfg(feature = "encode")]
mod encoder_tokenizer;
mod full_data;
mod label;
mod loaders;
mod nli;
#[cfg(feature = "encode")]
mod pairs;
mod prompt;
mod split;
#[cfg(feature = "encode")]
mod tokenizer;

/// A file of `tests/fixtures`.
fn fixture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}
