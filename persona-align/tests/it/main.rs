//! Tests of persona-align against TRL's numbers, and of training on pairs.

#[path = "../../../tests/parity/mod.rs"]
mod parity;

mod dpo;
mod training;
