//! What the packages `rouge` and `rouge-chinese` share: pieces of a text, sets or lists of n-grams, their F.

use super::measure::{Measure, Overlap, ROUGE, RougeType};
use super::room::{Lines, Numbers, Room};
use crate::error::{Error, Result};
use crate::ngrams::ngrams;
use crate::tokens::split_whitespace;

/// The largest order of n-grams that both packages have.
pub(super) const LARGEST_ORDER: u8 = 5;

/// Whether both packages have this kind.
pub(super) fn has(kind: RougeType) -> bool {
    matches!(kind, RougeType::N(1..=LARGEST_ORDER) | RougeType::L)
}

/// The one reference that both packages take.
pub(super) fn only_reference<'t>(references: &[&'t str]) -> Result<&'t str> {
    match *references {
        [] => Err(Error::NoReferences { metric: ROUGE }),
        [reference] => Ok(reference),
        _ => Err(Error::NeedsOneReference { metric: ROUGE, references: references.len() }),
    }
}

/// Reads hypothesis and reference into the room: a line for each piece that is not empty.
///
/// # Errors
/// No piece is left of one of the two; both packages raise ValueError then.
pub(super) fn read<'h, 'r>(
    room: &mut Room,
    hypothesis: impl Iterator<Item = &'h str>,
    reference: impl Iterator<Item = &'r str>,
) -> Result<()> {
    if !read_pieces(hypothesis, &mut room.numbers, &mut room.hypothesis) {
        return Err(Error::EmptyHypothesis { metric: ROUGE });
    }
    if !read_pieces(reference, &mut room.numbers, &mut room.reference) {
        return Err(Error::EmptyReference { metric: ROUGE });
    }
    Ok(())
}

/// The words of each piece that is not empty; a piece of white space alone is one empty word.
fn read_pieces<'t>(pieces: impl Iterator<Item = &'t str>, numbers: &mut Numbers, into: &mut Lines) -> bool {
    into.clear();
    for piece in pieces.filter(|piece| !piece.is_empty()) {
        for word in split_whitespace(piece) {
            into.push(word, numbers);
        }
        if into.open() == 0 {
            into.push("", numbers);
        }
        into.end_line();
    }
    !into.tokens().is_empty()
}

/// The overlap in n-grams of orders 1 to `orders`; `exclusive` counts each different n-gram once.
pub(super) fn ngram_overlaps(room: &Room, orders: usize, exclusive: bool) -> Vec<Overlap> {
    let (hypothesis, reference) = (room.hypothesis.tokens(), room.reference.tokens());
    if exclusive {
        return (1..=orders).map(|order| set_overlap(hypothesis, reference, order)).collect();
    }
    let overlap = |(order, common)| {
        Overlap::of(common, ngrams(hypothesis.len(), order), ngrams(reference.len(), order))
    };
    (1..).zip(room.matches(orders)).map(overlap).collect()
}

/// The overlap of the sets of n-grams of an order from 1.
fn set_overlap(hypothesis: &[u32], reference: &[u32], order: usize) -> Overlap {
    let set = |tokens: &'_ [u32]| -> Vec<[u32; LARGEST_ORDER as usize]> {
        let gram = |window: &[u32]| {
            let mut gram = [0; LARGEST_ORDER as usize];
            gram.iter_mut().zip(window).for_each(|(to, from)| *to = *from);
            gram
        };
        let mut grams: Vec<_> = tokens.windows(order.max(1)).map(gram).collect();
        grams.sort_unstable();
        grams.dedup();
        grams
    };
    let (hypothesis, reference) = (set(hypothesis), set(reference));
    let common = hypothesis.iter().filter(|gram| reference.binary_search(gram).is_ok()).count();
    Overlap::of(common as u64, hypothesis.len() as u64, reference.len() as u64)
}

/// Both packages' F, `2 P R / (P + R + 1e-8)`: at most 0.999999995.
pub(super) fn measure(overlap: &Overlap) -> Measure {
    let (precision, recall) = (overlap.precision(), overlap.recall());
    Measure { precision, recall, f: 2.0 * ((precision * recall) / (precision + recall + 1e-8)) }
}
