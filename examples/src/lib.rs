//! persona-examples
