//! persona-train
