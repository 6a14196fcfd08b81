//! Longest common subsequences: their length in linear memory, and the places of one of them from a table.

use crate::error::{Error, Result};

/// Cells of the largest table, one bit each: 256 MiB. It is the product of the lengths of two lines, each up to
/// about 46,000 tokens when they are equally long.
pub(crate) const MAX_CELLS: u64 = 1 << 31;

/// Which neighbour the way back through the table takes where both have the same value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tie {
    /// One token less of the reference.
    Reference,
    /// One token less of the hypothesis.
    Hypothesis,
}

/// Room to work in, used again from pair to pair. Tokens are numbers, counted from 0 without large gaps.
#[derive(Debug, Default)]
pub(crate) struct Subsequences {
    /// By token: bit i is set where it stands at place i of the 64 columns at hand. All 0 between calls.
    masks: Vec<u64>,
    /// By row: what the addition of the columns before carried over.
    carries: Vec<bool>,
    /// The table: a row for each token of the reference, a bit for each token of the hypothesis.
    bits: Vec<u64>,
    /// Two rows of values and lengths of the weighted form.
    cells: Vec<Cell>,
}

/// A value of the weighted table, and how many matches in a row end there.
#[derive(Debug, Clone, Copy, Default)]
struct Cell {
    value: f64,
    run: u32,
}

impl Subsequences {
    /// Length of the longest common subsequence. Memory is linear in both lengths.
    ///
    /// One bit a token of `a` (Hyyrö 2004), so that 64 tokens of it cost one addition a token of `b`.
    pub(crate) fn length(&mut self, a: &[u32], b: &[u32]) -> usize {
        let mut length = 0;
        self.carries.clear();
        self.carries.resize(if a.len() > 64 { b.len() } else { 0 }, false);
        for columns in a.chunks(64) {
            self.set_masks(columns);
            let mut state = u64::MAX;
            if a.len() > 64 {
                for (token, carry) in b.iter().zip(&mut self.carries) {
                    (state, *carry) = step(state, mask(&self.masks, *token), *carry);
                }
            } else {
                for token in b {
                    (state, _) = step(state, mask(&self.masks, *token), false);
                }
            }
            length += grown(state, columns.len());
            self.clear_masks(columns);
        }
        length
    }

    /// Hands the places in `reference` of one longest common subsequence with `hypothesis` to `place`, last one first:
    /// those on the way back from the end of the table that takes every match it meets, else the larger neighbour.
    ///
    /// # Errors
    /// More than [`MAX_CELLS`] cells.
    pub(crate) fn places(
        &mut self,
        metric: &'static str,
        reference: &[u32],
        hypothesis: &[u32],
        tie: Tie,
        mut place: impl FnMut(usize),
    ) -> Result<()> {
        let words = self.table(metric, reference, hypothesis)?;
        self.carries.clear();
        self.carries.resize(reference.len(), false);
        for (word, columns) in hypothesis.chunks(64).enumerate() {
            self.set_masks(columns);
            let mut state = u64::MAX;
            let rows = self.bits.chunks_exact_mut(words);
            for ((token, carry), row) in reference.iter().zip(&mut self.carries).zip(rows) {
                (state, *carry) = step(state, mask(&self.masks, *token), *carry);
                if let Some(bits) = row.get_mut(word) {
                    *bits = state;
                }
            }
            self.clear_masks(columns);
        }
        // The length for the first `rows` tokens of the reference and `columns` of the hypothesis.
        let length = |rows: usize, columns: usize| -> usize {
            let start = rows.checked_sub(1).map(|row| row * words);
            let row = start.and_then(|start| self.bits.get(start..start + words)).unwrap_or_default();
            let used = |(word, &state): (usize, &u64)| grown(state, (columns - 64 * word).min(64));
            row.iter().enumerate().take(columns.div_ceil(64)).map(used).sum()
        };
        way_back(reference, hypothesis, &mut place, |row, column| {
            let (up, left) = (length(row - 1, column), length(row, column - 1));
            left > up || (left == up && tie == Tie::Hypothesis)
        });
        Ok(())
    }

    /// As [`Subsequences::places`] for the weighted form (Lin 2004, ROUGE-W): `k` matches in a row are worth
    /// `powers[k]`, and ties take one token less of the reference.
    ///
    /// # Errors
    /// More than [`MAX_CELLS`] cells.
    pub(crate) fn weighted_places(
        &mut self,
        metric: &'static str,
        reference: &[u32],
        hypothesis: &[u32],
        powers: &[f64],
        mut place: impl FnMut(usize),
    ) -> Result<()> {
        let words = self.table(metric, reference, hypothesis)?;
        self.cells.clear();
        self.cells.resize(hypothesis.len(), Cell::default());
        let power = |run: u32| powers.get(run as usize).copied().unwrap_or(f64::INFINITY);
        for (token, row) in reference.iter().zip(self.bits.chunks_exact_mut(words)) {
            let (mut diagonal, mut left) = (Cell::default(), Cell::default());
            for (column, (other, cell)) in hypothesis.iter().zip(&mut self.cells).enumerate() {
                let up = *cell;
                *cell = if token == other {
                    let run = diagonal.run + 1;
                    Cell { value: diagonal.value + power(run) - power(diagonal.run), run }
                } else if up.value >= left.value {
                    Cell { value: up.value, run: 0 }
                } else {
                    if let Some(bits) = row.get_mut(column / 64) {
                        *bits |= 1 << (column % 64);
                    }
                    Cell { value: left.value, run: 0 }
                };
                (diagonal, left) = (up, *cell);
            }
        }
        way_back(reference, hypothesis, &mut place, |row, column| {
            let bits = self.bits.get((row - 1) * words + (column - 1) / 64);
            bits.is_some_and(|bits| bits >> ((column - 1) % 64) & 1 == 1)
        });
        Ok(())
    }

    /// Makes an empty table, and says how many words of bits a row has.
    fn table(&mut self, metric: &'static str, reference: &[u32], hypothesis: &[u32]) -> Result<usize> {
        let words = hypothesis.len().div_ceil(64).max(1);
        let cells = (words as u64 * 64).saturating_mul(reference.len() as u64);
        if cells > MAX_CELLS {
            let (reference, hypothesis) = (reference.len(), hypothesis.len());
            return Err(Error::TableTooLarge { metric, reference, hypothesis, limit: MAX_CELLS });
        }
        self.bits.clear();
        self.bits.resize(reference.len() * words, 0);
        Ok(words)
    }

    fn set_masks(&mut self, columns: &[u32]) {
        for (place, &token) in columns.iter().enumerate() {
            let token = token as usize;
            if token >= self.masks.len() {
                self.masks.resize(token + 1, 0);
            }
            if let Some(mask) = self.masks.get_mut(token) {
                *mask |= 1 << place;
            }
        }
    }

    fn clear_masks(&mut self, columns: &[u32]) {
        for &token in columns {
            if let Some(mask) = self.masks.get_mut(token as usize) {
                *mask = 0;
            }
        }
    }
}

fn mask(masks: &[u64], token: u32) -> u64 {
    masks.get(token as usize).copied().unwrap_or_default()
}

/// One row of 64 columns. A zero bit of the state stands for a column at which the length grows by one.
fn step(state: u64, mask: u64, carry: bool) -> (u64, bool) {
    let common = state & mask;
    let (sum, over) = state.overflowing_add(common);
    let (sum, over_carry) = sum.overflowing_add(carry.into());
    (sum | (state & !mask), over || over_carry)
}

/// By how much the length grows over the first `columns` bits.
fn grown(state: u64, columns: usize) -> usize {
    let unused = if columns >= 64 { 0 } else { u64::MAX << columns };
    (state | unused).count_zeros() as usize
}

/// From the last cell to the first row or column. `left` decides where the tokens differ; cells count from 1.
fn way_back(
    reference: &[u32],
    hypothesis: &[u32],
    place: &mut impl FnMut(usize),
    left: impl Fn(usize, usize) -> bool,
) {
    let (mut row, mut column) = (reference.len(), hypothesis.len());
    while let (Some(token), Some(other)) = (
        row.checked_sub(1).and_then(|row| reference.get(row)),
        column.checked_sub(1).and_then(|c| hypothesis.get(c)),
    ) {
        if token == other {
            (row, column) = (row - 1, column - 1);
            place(row);
        } else if left(row, column) {
            column -= 1;
        } else {
            row -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use proptest::collection::vec;
    use proptest::prelude::*;

    fn table(reference: &[u32], hypothesis: &[u32]) -> Vec<Vec<usize>> {
        let mut table = vec![vec![0; hypothesis.len() + 1]; reference.len() + 1];
        for (i, x) in reference.iter().enumerate() {
            for (j, y) in hypothesis.iter().enumerate() {
                table[i + 1][j + 1] =
                    if x == y { table[i][j] + 1 } else { table[i][j + 1].max(table[i + 1][j]) };
            }
        }
        table
    }

    fn slow_places(reference: &[u32], hypothesis: &[u32], tie: Tie) -> Vec<usize> {
        let table = table(reference, hypothesis);
        let (mut i, mut j) = (reference.len(), hypothesis.len());
        let mut places = Vec::new();
        while i > 0 && j > 0 {
            let (up, left) = (table[i - 1][j], table[i][j - 1]);
            if reference[i - 1] == hypothesis[j - 1] {
                (i, j) = (i - 1, j - 1);
                places.push(i);
            } else if left > up || left == up && tie == Tie::Hypothesis {
                j -= 1;
            } else {
                i -= 1;
            }
        }
        places
    }

    fn places(room: &mut Subsequences, reference: &[u32], hypothesis: &[u32], tie: Tie) -> Vec<usize> {
        let mut places = Vec::new();
        room.places("test", reference, hypothesis, tie, |place| places.push(place)).unwrap();
        places
    }

    fn weighted(room: &mut Subsequences, reference: &[u32], hypothesis: &[u32], weight: f64) -> Vec<usize> {
        let longest = reference.len().min(hypothesis.len());
        let powers: Vec<f64> = (0..=longest).map(|run| (run as f64).powf(weight)).collect();
        let mut places = Vec::new();
        room.weighted_places("test", reference, hypothesis, &powers, |place| places.push(place)).unwrap();
        places
    }

    #[test]
    fn lengths_of_common_subsequences() {
        let mut room = Subsequences::default();
        assert_eq!(room.length(&[0, 1, 2, 3], &[0, 2, 3]), 3);
        assert_eq!(room.length(&[0, 1, 0, 1], &[1, 0, 1, 0]), 3);
        assert_eq!(room.length(&[0], &[1]), 0);
        assert_eq!(room.length(&[], &[0]), 0);
        assert_eq!(room.length(&[0], &[]), 0);
    }

    #[test]
    fn ties_go_the_way_that_is_asked_for() {
        let mut room = Subsequences::default();
        let (reference, hypothesis) = ([0, 1], [1, 0]);
        assert_eq!(places(&mut room, &reference, &hypothesis, Tie::Reference), [0]);
        assert_eq!(places(&mut room, &reference, &hypothesis, Tie::Hypothesis), [1]);
    }

    #[test]
    fn weights_prefer_matches_in_a_row() {
        // Of the two places of 0 1 in the reference, the plain form takes whatever the ties lead to; the weighted form
        // takes the pair that stands together.
        let (reference, hypothesis) = ([0, 1, 0, 2, 1], [0, 1]);
        let mut room = Subsequences::default();
        assert_eq!(weighted(&mut room, &reference, &hypothesis, 1.0), [4, 2]);
        assert_eq!(weighted(&mut room, &[0, 1, 2, 0], &[0, 1, 0], 2.0), [3, 1, 0]);
        // x y z against x y a z: runs of two and one.
        assert_eq!(weighted(&mut room, &[5, 6, 7], &[5, 6, 9, 7], 1.2), [2, 1, 0]);
    }

    #[test]
    fn a_long_line_needs_no_table_for_its_length_and_an_error_names_the_size_of_one() {
        let long: Vec<u32> = (0..100_000).collect();
        let mut room = Subsequences::default();
        assert_eq!(room.length(&long, &long[50_000..50_100]), 100);
        let error = room.places("test", &long, &long, Tie::Reference, |_| ()).unwrap_err();
        assert!(matches!(error, Error::TableTooLarge { reference: 100_000, hypothesis: 100_000, .. }));
        assert!(error.to_string().contains("100000 and 100000 tokens"), "{error}");
        assert!(room.weighted_places("test", &long, &long, &[], |_| ()).is_err());
        assert_eq!(places(&mut room, &long[..2], &long[..2], Tie::Reference), [1, 0]);
    }

    proptest! {
        #[test]
        fn as_by_the_definition(
            pairs in vec((vec(0..5_u32, 0..150), vec(0..5_u32, 0..150)), 1..4),
        ) {
            let mut room = Subsequences::default();
            for (a, b) in &pairs {
                prop_assert_eq!(room.length(a, b), table(a, b)[a.len()][b.len()]);
                for tie in [Tie::Reference, Tie::Hypothesis] {
                    prop_assert_eq!(places(&mut room, a, b, tie), slow_places(a, b, tie));
                }
                // A weight of one counts matches alone.
                prop_assert_eq!(weighted(&mut room, a, b, 1.0), slow_places(a, b, Tie::Reference));
            }
        }
    }
}
