//! Counts of all n-grams of a corpus.

use rayon::prelude::*;
use rustc_hash::FxHashMap;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_128;

use crate::error::{Result, same_length};
use crate::metric::Sums;

/// N-grams are told apart by 128-bit hashes: of a billion different ones, two share a hash with a chance of about 1e-21.
pub(crate) type Gram = (u64, u64);

/// Parts of a table, by the first bits of the hash: threads count different parts, without a merge at the end.
const PARTS: usize = 16;
/// Texts that are hashed before they are counted, so that memory does not grow with the length of a list.
const BLOCK: usize = 1 << 16;

/// How often each n-gram of a corpus occurs, for orders 1 to N. N-grams do not reach from one text into the next.
///
/// Memory grows with the number of different n-grams, about 40 bytes each, not with the length of the corpus.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<OrderForm>", into = "Vec<OrderForm>")]
pub struct NgramTable {
    /// Entry n - 1 holds the n-grams.
    orders: Vec<Order>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Order {
    total: u64,
    parts: Vec<FxHashMap<Gram, u64>>,
}

impl Order {
    fn new() -> Self {
        Self { total: 0, parts: vec![FxHashMap::default(); PARTS] }
    }
}

fn part(gram: Gram) -> usize {
    (gram.0 >> 60) as usize
}

impl NgramTable {
    /// An empty table of the n-grams of orders 1 to `orders`.
    pub(crate) fn new(orders: usize) -> Self {
        Self { orders: vec![Order::new(); orders] }
    }

    /// Counts the n-grams of texts, on rayon's threads. `tokens` hands each token of a text to its argument.
    pub(crate) fn count<T: Sync>(&mut self, texts: &[T], tokens: impl Fn(&T, &mut dyn FnMut(&str)) + Sync) {
        if let [text] = texts {
            let mut grams = vec![Vec::new(); self.orders.len()];
            hash_text(text, &tokens, &mut Vec::new(), &mut grams);
            for (order, grams) in self.orders.iter_mut().zip(grams) {
                order.total = order.total.saturating_add(grams.len() as u64);
                for gram in grams {
                    if let Some(counts) = order.parts.get_mut(part(gram)) {
                        add(counts, gram, 1);
                    }
                }
            }
            return;
        }
        for block in texts.chunks(BLOCK) {
            let size = block.len().div_ceil(4 * rayon::current_num_threads()).max(64);
            let chunks: Vec<Vec<Vec<Vec<Gram>>>> =
                block.par_chunks(size).map(|texts| self.hash_chunk(texts, &tokens)).collect();
            for (n, order) in self.orders.iter_mut().enumerate() {
                let lists = || chunks.iter().filter_map(|chunk| chunk.get(n));
                let grams: usize = lists().flatten().map(Vec::len).sum();
                order.total = order.total.saturating_add(grams as u64);
            }
            let parts = self.orders.iter_mut().enumerate().flat_map(|(n, order)| {
                order.parts.iter_mut().enumerate().map(move |(part, counts)| (n, part, counts))
            });
            let parts: Vec<_> = parts.collect();
            parts.into_par_iter().for_each(|(n, part, counts)| {
                let lists = || chunks.iter().filter_map(|chunk| chunk.get(n)?.get(part));
                if counts.is_empty() {
                    // Of a corpus' n-grams half and more are different ones, but for single words.
                    let grams: usize = lists().map(Vec::len).sum();
                    counts.reserve(if n == 0 { grams / 16 } else { grams / 2 });
                }
                for &gram in lists().flatten() {
                    add(counts, gram, 1);
                }
            });
        }
    }

    /// By order and part: the n-grams of a chunk of texts.
    fn hash_chunk<T>(
        &self,
        texts: &[T],
        tokens: &(impl Fn(&T, &mut dyn FnMut(&str)) + Sync),
    ) -> Vec<Vec<Vec<Gram>>> {
        let mut sorted = vec![vec![Vec::new(); PARTS]; self.orders.len()];
        let mut hashes = Vec::new();
        let mut grams = vec![Vec::new(); self.orders.len()];
        for text in texts {
            hash_text(text, tokens, &mut hashes, &mut grams);
            for (parts, grams) in sorted.iter_mut().zip(&mut grams) {
                for gram in grams.drain(..) {
                    if let Some(part) = parts.get_mut(part(gram)) {
                        part.push(gram);
                    }
                }
            }
        }
        sorted
    }

    /// The number of n-grams of an order, counted from 1.
    pub(crate) fn total(&self, order: usize) -> u64 {
        self.order(order).map_or(0, |order| order.total)
    }

    /// The number of different n-grams of an order.
    pub(crate) fn different(&self, order: usize) -> u64 {
        self.order(order).map_or(0, |order| order.parts.iter().map(|part| part.len() as u64).sum())
    }

    /// How many different n-grams occur so often: pairs (occurrences, n-grams) in ascending order.
    pub(crate) fn occurrences(&self, order: usize) -> Vec<(u64, u64)> {
        // Most n-grams occur a few times.
        const FEW: usize = 256;
        let of_part = |counts: &FxHashMap<Gram, u64>| {
            let mut few = vec![0_u64; FEW];
            let mut many: FxHashMap<u64, u64> = FxHashMap::default();
            for &count in counts.values() {
                match usize::try_from(count).ok().and_then(|count| few.get_mut(count)) {
                    Some(ngrams) => *ngrams += 1,
                    None => *many.entry(count).or_default() += 1,
                }
            }
            (few, many)
        };
        let add = |(mut few, mut many): (Vec<u64>, FxHashMap<u64, u64>),
                   (more, others): (Vec<u64>, FxHashMap<u64, u64>)| {
            few.iter_mut().zip(more).for_each(|(into, from)| *into += from);
            others.into_iter().for_each(|(count, ngrams)| *many.entry(count).or_default() += ngrams);
            (few, many)
        };
        let parts = self.order(order).map_or(&[][..], |order| order.parts.as_slice());
        let empty = || (vec![0; FEW], FxHashMap::default());
        let (few, many) = parts.par_iter().map(of_part).reduce(empty, add);
        let few = (0..).zip(few).filter(|&(_, ngrams)| ngrams > 0);
        let mut occurrences: Vec<(u64, u64)> = few.chain(many).collect();
        occurrences.sort_unstable();
        occurrences
    }

    fn order(&self, order: usize) -> Option<&Order> {
        self.orders.get(order.checked_sub(1)?)
    }
}

/// The hashes of a text's n-grams by order; `grams` is empty lists before, one an order. `hashes` is room to work in.
pub(crate) fn hash_text<T: ?Sized>(
    text: &T,
    tokens: &impl Fn(&T, &mut dyn FnMut(&str)),
    hashes: &mut Vec<Gram>,
    grams: &mut [Vec<Gram>],
) {
    hashes.clear();
    tokens(text, &mut |token| hashes.push(split(xxh3_128(token.as_bytes()))));
    let mut before: &[Gram] = &[];
    for (n, grams) in grams.iter_mut().enumerate() {
        if n == 0 {
            grams.extend_from_slice(hashes);
        } else {
            let pairs = before.iter().zip(hashes.iter().skip(n));
            grams.extend(pairs.map(|(&gram, &last)| longer(gram, last)));
        }
        before = grams;
    }
}

/// The hash of an n-gram and one more token: two 64-bit halves, each the folded product of its parts, as in wyhash.
fn longer(gram: Gram, last: Gram) -> Gram {
    let high = fold(gram.0 ^ 0xa076_1d64_78bd_642f, last.0 ^ 0xe703_7ed1_a0b4_28db);
    let low = fold(gram.1 ^ 0x8ebc_6af0_9c88_c6e3, last.1 ^ 0x5899_65cc_7537_4cc3);
    (high, low)
}

/// The product of two words, its upper half folded onto its lower one.
fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    (product >> 64) as u64 ^ product as u64
}

fn split(hash: u128) -> Gram {
    ((hash >> 64) as u64, hash as u64)
}

fn add(counts: &mut FxHashMap<Gram, u64>, gram: Gram, times: u64) {
    let count = counts.entry(gram).or_default();
    *count = count.saturating_add(times);
}

impl Sums for NgramTable {
    fn add(&mut self, other: &Self) -> Result<()> {
        same_length("orders", self.orders.len(), "orders", other.orders.len())?;
        for (into, from) in self.orders.iter_mut().zip(&other.orders) {
            into.total = into.total.saturating_add(from.total);
            for (into, from) in into.parts.iter_mut().zip(&from.parts) {
                into.reserve(from.len().saturating_sub(into.len()));
                for (&gram, &count) in from {
                    add(into, gram, count);
                }
            }
        }
        Ok(())
    }
}

/// One order as it is written: rows (hash, hash, count), sorted.
type OrderForm = Vec<(u64, u64, u64)>;

impl From<NgramTable> for Vec<OrderForm> {
    fn from(table: NgramTable) -> Self {
        let rows = |order: Order| {
            let parts = order.parts.into_iter().flatten();
            let mut rows: OrderForm = parts.map(|((high, low), count)| (high, low, count)).collect();
            rows.sort_unstable();
            rows
        };
        table.orders.into_iter().map(rows).collect()
    }
}

impl TryFrom<Vec<OrderForm>> for NgramTable {
    type Error = &'static str;

    fn try_from(orders: Vec<OrderForm>) -> Result<Self, Self::Error> {
        let order = |rows: OrderForm| {
            let mut order = Order::new();
            for (high, low, count) in rows {
                order.total = order.total.checked_add(count).ok_or("n-gram counts add up to too much")?;
                let known = order.parts.get_mut(part((high, low))).and_then(|c| c.insert((high, low), count));
                if known.is_some() || count == 0 {
                    return Err("an n-gram is listed twice, or with a count of 0");
                }
            }
            Ok(order)
        };
        Ok(Self { orders: orders.into_iter().map(order).collect::<Result<_, _>>()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    fn split_spaces(text: &&str, token: &mut dyn FnMut(&str)) {
        text.split_whitespace().for_each(token);
    }

    #[test]
    fn counts_are_those_of_joined_strings() {
        let texts = ["a b a b", "b a", "", "c", "a b a"];
        let mut table = NgramTable::new(3);
        table.count(&texts, split_spaces);
        for order in 1..=3 {
            let mut counts: HashMap<String, u64> = HashMap::new();
            for text in texts {
                let tokens: Vec<_> = text.split_whitespace().collect();
                tokens.windows(order).for_each(|gram| *counts.entry(gram.join(" ")).or_default() += 1);
            }
            assert_eq!(table.total(order), counts.values().sum::<u64>());
            assert_eq!(table.different(order), counts.len() as u64);
            let mut expected: HashMap<u64, u64> = HashMap::new();
            counts.values().for_each(|&count| *expected.entry(count).or_default() += 1);
            assert_eq!(table.occurrences(order).into_iter().collect::<HashMap<_, _>>(), expected);
        }
        assert_eq!(table.total(4), 0);
    }

    #[test]
    fn one_by_one_in_a_list_and_merged_are_equal() {
        let texts: Vec<String> =
            (0..500).map(|n| format!("t{} u{} v{} t{}", n % 7, n % 11, n, n % 5)).collect();
        let tokens = |text: &String, token: &mut dyn FnMut(&str)| text.split(' ').for_each(token);
        let mut list = NgramTable::new(4);
        list.count(&texts, tokens);
        let mut single = NgramTable::new(4);
        texts.chunks(1).for_each(|text| single.count(text, tokens));
        assert_eq!(list, single);
        let mut merged = NgramTable::new(4);
        for texts in [&texts[300..], &texts[..300]] {
            let mut shard = NgramTable::new(4);
            shard.count(texts, tokens);
            merged.add(&shard).unwrap();
        }
        assert_eq!(list, merged);
        let json = serde_json::to_string(&list).unwrap();
        assert_eq!(serde_json::from_str::<NgramTable>(&json).unwrap(), list);
        assert!(serde_json::from_str::<NgramTable>("[[[1,2,1],[1,2,1]]]").is_err());
        assert!(list.add(&NgramTable::new(2)).is_err());
    }
}
