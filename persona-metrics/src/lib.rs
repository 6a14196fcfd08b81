//! persona-metrics
