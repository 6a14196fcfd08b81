//! Tests of persona-infer against transformers' answers and its own contracts.

#[path = "../../../tests/parity/mod.rs"]
mod parity;

mod decoding;
mod selecting;
