//! Tests of persona-align against TRL's numbers, and of training on pairs.
#![allow(clippy::unwrap_used, clippy::panic)]

#[allow(dead_code)] // each crate uses its part
#[path = "../../../tests/parity/mod.rs"]
mod parity;

mod dpo;
mod encoding;
mod golden;
mod losses;
mod references;
mod training;
