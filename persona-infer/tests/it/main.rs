//! Tests of persona-infer against transformers' answers and its own contracts.
#![allow(clippy::unwrap_used, clippy::panic)]

#[allow(dead_code)] // each crate uses its part
#[path = "../../../tests/parity/mod.rs"]
mod parity;

mod chat_templates;
mod decoding;
mod engine;
mod processors;
mod selecting;
mod seq2seq;
