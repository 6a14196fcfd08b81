//! persona-model
