//! persona-benches
