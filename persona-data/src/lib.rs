//! Persona dialogues.
mod dialogue;

pub use dialogue::{Dialogue, Example, ExampleOptions, Responder, Role, Speaker, Turn, Utterance};
