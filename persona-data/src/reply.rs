//! Who generates replies: a trait over text, so that pairs and tables need no particular model.

/// Generates replies to prompts: a decoder, a remote model, a file of earlier replies.
pub trait ReplyGenerator {
    /// What can go wrong.
    type Error: std::error::Error + Send + Sync + 'static;

    /// One reply to each prompt, in order, without the prompt and without special tokens.
    ///
    /// # Errors
    /// The generator's own; then no reply is given.
    fn replies(&mut self, prompts: &[String]) -> Result<Vec<String>, Self::Error>;
}
