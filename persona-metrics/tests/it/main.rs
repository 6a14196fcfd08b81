//! Integration tests of persona-metrics.

// clippy.toml allows these in test functions, not in the helpers beside them.
#![allow(clippy::unwrap_used, clippy::panic)]

mod fixtures;
#[cfg(feature = "model")]
mod model;
mod properties;
mod properties_bleu;
mod properties_chrf;
mod properties_diversity;
mod properties_rouge;
mod properties_stats;
mod real_data;
mod robustness;
