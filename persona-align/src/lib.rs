//! persona-align
