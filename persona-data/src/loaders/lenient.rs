//! Going past what cannot be read.

use crate::error::Result;

/// How many messages are kept.
const KEPT: usize = 10;

/// An iterator over what could be read; errors are skipped and counted, and the messages of the first few are kept.
///
/// Skipping everything is not reading: check [`Lenient::skipped`] at the end, by way of [`Iterator::by_ref`].
pub struct Lenient<I> {
    items: I,
    skipped: u64,
    messages: Vec<String>,
}

impl<I> Lenient<I> {
    pub(crate) fn new(items: I) -> Self {
        Self { items, skipped: 0, messages: Vec::new() }
    }

    /// How many errors were skipped so far.
    #[must_use]
    pub fn skipped(&self) -> u64 {
        self.skipped
    }

    /// The messages of the first ten errors.
    #[must_use]
    pub fn messages(&self) -> &[String] {
        &self.messages
    }

    /// The strict iterator beneath.
    #[must_use]
    pub fn inner(&self) -> &I {
        &self.items
    }
}

impl<T, I: Iterator<Item = Result<T>>> Iterator for Lenient<I> {
    type Item = T;

    fn next(&mut self) -> Option<T> {
        loop {
            match self.items.next()? {
                Ok(item) => return Some(item),
                Err(error) => {
                    self.skipped += 1;
                    if self.messages.len() < KEPT {
                        self.messages.push(error.to_string());
                    }
                }
            }
        }
    }
}
