//! Clipped n-gram matches of short texts: one bit a place.

use std::fmt::Debug;
use std::ops::{BitAnd, BitOrAssign, Shl, Shr, Sub};

/// An unsigned integer as a set of places in a text.
pub(crate) trait Bits:
    Copy
    + Debug
    + Default
    + PartialEq
    + From<u8>
    + BitAnd<Output = Self>
    + BitOrAssign
    + Shl<usize, Output = Self>
    + Shr<usize, Output = Self>
    + Sub<Output = Self>
{
    fn count(self) -> u8;
}

impl Bits for u64 {
    fn count(self) -> u8 {
        self.count_ones() as u8
    }
}

impl Bits for u128 {
    fn count(self) -> u8 {
        self.count_ones() as u8
    }
}

/// Room to count matches in texts of up to [`Masks::WIDTH`] tokens.
///
/// The places of an n-gram in a text are the places of its first n - 1 tokens that have its last token n - 1 places
/// further on: one shift and one intersection for each place and order, and no hashing.
#[derive(Debug, Default)]
pub(crate) struct Masks<B> {
    /// By token of the hypothesis: the places where a text has it.
    by_token: Vec<B>,
    /// By place in the hypothesis: where a text has the token.
    tokens: Vec<B>,
    /// By place in the hypothesis: where a text has the n-gram of the order at hand.
    grams: Vec<B>,
    /// By order and place in the hypothesis: how often the reference that has most of the n-gram has it.
    allowed: Vec<u8>,
}

impl<B: Bits> Masks<B> {
    /// Tokens of the longest text.
    pub(crate) const WIDTH: usize = 8 * size_of::<B>();

    /// Entry n - 1 of `matches`, which are all 0, becomes the number of n-grams of order n that are matched. Tokens of
    /// the hypothesis are numbers below `different`.
    pub(crate) fn matches<'t>(
        &mut self,
        hypothesis: &[u32],
        references: impl Iterator<Item = &'t [u32]>,
        different: usize,
        matches: &mut [u64],
    ) {
        if hypothesis.is_empty() {
            return;
        }
        self.allowed.clear();
        self.allowed.resize(hypothesis.len() * matches.len(), 0);
        for reference in references {
            self.place(hypothesis, reference, different);
            for (n, allowed) in self.allowed.chunks_mut(hypothesis.len()).enumerate() {
                if n > 0 {
                    lengthen(&mut self.grams, &self.tokens, n);
                }
                let mut any = false;
                for (allowed, &grams) in allowed.iter_mut().zip(&self.grams) {
                    if grams != B::default() {
                        *allowed = grams.count().max(*allowed);
                        any = true;
                    }
                }
                if !any {
                    break;
                }
            }
        }
        self.place(hypothesis, hypothesis, different);
        let one = B::from(1);
        for ((n, allowed), matched) in self.allowed.chunks(hypothesis.len()).enumerate().zip(matches) {
            if n > 0 {
                lengthen(&mut self.grams, &self.tokens, n);
            }
            for ((place, &allowed), &grams) in allowed.iter().enumerate().zip(&self.grams) {
                // How often the n-gram stands further to the front.
                *matched += u64::from(allowed > 0 && (grams & ((one << place) - one)).count() < allowed);
            }
            if *matched == 0 {
                break;
            }
        }
    }

    /// Finds the places where a text has each token of the hypothesis.
    fn place(&mut self, hypothesis: &[u32], text: &[u32], different: usize) {
        self.by_token.clear();
        self.by_token.resize(different, B::default());
        for (place, &token) in text.iter().enumerate() {
            if let Some(places) = self.by_token.get_mut(token as usize) {
                *places |= B::from(1) << place;
            }
        }
        let places = |&token: &u32| self.by_token.get(token as usize).copied().unwrap_or_default();
        self.tokens.clear();
        self.tokens.extend(hypothesis.iter().map(places));
        self.grams.clone_from(&self.tokens);
    }
}

/// From the places of n-grams of order n to those of the next order.
fn lengthen<B: Bits>(grams: &mut Vec<B>, tokens: &[B], n: usize) {
    grams.truncate(tokens.len().saturating_sub(n));
    for (places, &last) in grams.iter_mut().zip(tokens.iter().skip(n)) {
        *places = *places & (last >> n);
    }
}
