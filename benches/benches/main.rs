//! Every bench of the workspace; README.md says what each measures.
#![allow(clippy::unwrap_used, missing_docs)] // a bench that cannot be set up has nothing to measure

mod model;
mod text;

use criterion::criterion_main;

criterion_main!(text::benches, model::benches);
