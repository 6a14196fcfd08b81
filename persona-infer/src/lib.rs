//! persona-infer
