//! Counts of all n-grams of a corpus.

use hashbrown::HashTable;
use hashbrown::hash_table::Entry;
use rayon::prelude::*;
use rustc_hash::FxHashMap;
use serde::{Deserialize, Serialize};

use crate::error::{Result, same_length};
use crate::metric::Sums;
use crate::token_hash::{fold, token_hash};

/// The hash of an n-gram.
pub(crate) type Gram = (u64, u64);

/// Parts of a table, by the first bits of the hash: threads count different parts, without a merge at the end.
const PARTS: usize = 16;
/// Texts that a thread hashes before they are counted, at first. The room is used again, which a fresh page costs more
/// than.
const CHUNK: usize = 64;
/// Chunks a thread, so that threads end together.
const CHUNKS: usize = 4;
/// A block of texts is at least this share of those before it: a part of a large table is out of the caches when its
/// turn comes, and has to be worth being brought back.
const GROWTH: usize = 16;
/// No room is made in advance for more texts.
const FORESEEN: usize = 1 << 16;

/// How often each n-gram of a corpus occurs, for orders 1 to N. N-grams do not reach from one text into the next.
///
/// N-grams are told apart by 88 bits of a hash: of a billion different ones, two share them with a chance of about 2e-9.
/// A count stops at 2^40 - 1. Memory grows with the number of different n-grams, about 25 bytes each, not with the
/// length of the corpus.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<OrderForm>", into = "Vec<OrderForm>")]
pub struct NgramTable {
    /// Entry n - 1 holds the n-grams.
    orders: Vec<Order>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Order {
    total: u64,
    parts: Vec<Counts>,
}

impl Order {
    fn new() -> Self {
        Self { total: 0, parts: vec![Counts::default(); PARTS] }
    }
}

fn part(gram: Gram) -> usize {
    (gram.0 >> 60) as usize
}

/// N-grams and how often they occur.
#[derive(Debug, Clone, Default)]
struct Counts(HashTable<Counted>);

/// 64 bits of an n-gram's hash; 24 more bits, and the count below them.
#[derive(Debug, Clone, Copy)]
struct Counted(u64, u64);

impl Counted {
    const COUNT_BITS: u32 = 40;
    const MOST: u64 = (1 << Self::COUNT_BITS) - 1;

    fn new((high, low): Gram, count: u64) -> Self {
        Self(high, low & !Self::MOST | count.min(Self::MOST))
    }

    fn count(self) -> u64 {
        self.1 & Self::MOST
    }

    fn gram(self) -> Gram {
        (self.0, self.1 & !Self::MOST)
    }

    /// The first bits are one for a whole part, and the table looks at the first and the last.
    fn place(self) -> u64 {
        self.0.rotate_right(8)
    }
}

impl Counts {
    fn add(&mut self, gram: Gram, times: u64) {
        let new = Counted::new(gram, times);
        match self.0.entry(new.place(), |held| held.gram() == new.gram(), |held| held.place()) {
            Entry::Occupied(mut held) => {
                let held = held.get_mut();
                *held = Counted::new(gram, held.count() + new.count());
            }
            Entry::Vacant(free) => drop(free.insert(new)),
        }
    }

    fn count(&self, gram: Gram) -> Option<u64> {
        let wanted = Counted::new(gram, 0);
        self.0.find(wanted.place(), |held| held.gram() == wanted.gram()).map(|held| held.count())
    }

    fn reserve(&mut self, ngrams: usize) {
        self.0.reserve(ngrams, |held| held.place());
    }
}

impl PartialEq for Counts {
    fn eq(&self, other: &Self) -> bool {
        let same = |held: &Counted| other.count(held.gram()) == Some(held.count());
        self.0.len() == other.0.len() && self.0.iter().all(same)
    }
}

impl Eq for Counts {}

/// The n-grams of a chunk of texts.
#[derive(Debug)]
struct Chunk {
    hasher: GramHasher,
    /// By order and part.
    grams: Vec<[Vec<Gram>; PARTS]>,
}

impl Chunk {
    fn new(orders: usize) -> Self {
        Self { hasher: GramHasher::default(), grams: vec![Default::default(); orders] }
    }

    fn hash<T>(&mut self, texts: &[T], tokens: &impl Fn(&T, &mut dyn FnMut(&str))) {
        let Self { hasher, grams } = self;
        grams.iter_mut().flatten().for_each(Vec::clear);
        for text in texts {
            hasher.hash(
                grams.len(),
                |token| tokens(text, token),
                |order, gram| {
                    if let Some(grams) = grams.get_mut(order).and_then(|parts| parts.get_mut(part(gram))) {
                        grams.push(gram);
                    }
                },
            );
        }
    }
}

impl NgramTable {
    /// An empty table of the n-grams of orders 1 to `orders`.
    pub(crate) fn new(orders: usize) -> Self {
        Self { orders: vec![Order::new(); orders] }
    }

    /// Counts the n-grams of texts, on rayon's threads. `tokens` hands each token of a text to its argument.
    pub(crate) fn count<T: Sync>(&mut self, texts: &[T], tokens: impl Fn(&T, &mut dyn FnMut(&str)) + Sync) {
        if let [text] = texts {
            let orders = &mut self.orders;
            GramHasher::default().hash(
                orders.len(),
                |token| tokens(text, token),
                |order, gram| {
                    if let Some(order) = orders.get_mut(order) {
                        order.total = order.total.saturating_add(1);
                        order.parts.get_mut(part(gram)).into_iter().for_each(|counts| counts.add(gram, 1));
                    }
                },
            );
            return;
        }
        // In one piece: every way into rayon from a thread outside costs a sleep and two wakings.
        rayon::scope(|_| self.count_blocks(texts, &tokens));
    }

    fn count_blocks<T: Sync>(&mut self, texts: &[T], tokens: &(impl Fn(&T, &mut dyn FnMut(&str)) + Sync)) {
        let mut room = Vec::new();
        room.resize_with(CHUNKS * rayon::current_num_threads(), || Chunk::new(self.orders.len()));
        let mut done = 0;
        while done < texts.len() {
            let chunk = CHUNK.max(done.min(FORESEEN * GROWTH) / (GROWTH * room.len()));
            let left = texts.get(done..).unwrap_or_default();
            let block = left.get(..chunk * room.len()).unwrap_or(left);
            done += block.len();
            let used = room.get_mut(..block.len().div_ceil(chunk)).unwrap_or_default();
            let work = used.par_iter_mut().zip(block.par_chunks(chunk));
            work.for_each(|(chunk, texts)| chunk.hash(texts, tokens));
            // Of a corpus' n-grams half and more are different ones, but for single words.
            let blocks = texts.len().min(FORESEEN) as f64 / block.len().min(FORESEEN) as f64;
            let different =
                |n, grams: usize| (blocks * grams as f64 / if n == 0 { 16.0 } else { 2.0 }) as usize;
            let lists =
                |n: usize, part: usize| used.iter().filter_map(move |chunk| chunk.grams.get(n)?.get(part));
            for (n, order) in self.orders.iter_mut().enumerate() {
                let grams: usize = (0..PARTS).flat_map(|part| lists(n, part)).map(Vec::len).sum();
                order.total = order.total.saturating_add(grams as u64);
            }
            let parts = self.orders.iter_mut().enumerate().flat_map(|(n, order)| {
                order.parts.iter_mut().enumerate().map(move |(part, counts)| (n, part, counts))
            });
            let parts: Vec<_> = parts.collect();
            parts.into_par_iter().for_each(|(n, part, counts)| {
                if counts.0.is_empty() {
                    counts.reserve(different(n, lists(n, part).map(Vec::len).sum()));
                }
                lists(n, part).flatten().for_each(|&gram| counts.add(gram, 1));
            });
        }
    }

    /// The number of n-grams of an order, counted from 1.
    pub(crate) fn total(&self, order: usize) -> u64 {
        self.order(order).map_or(0, |order| order.total)
    }

    /// The number of different n-grams of an order.
    pub(crate) fn different(&self, order: usize) -> u64 {
        self.order(order).map_or(0, |order| order.parts.iter().map(|part| part.0.len() as u64).sum())
    }

    /// How many different n-grams occur so often: pairs (occurrences, n-grams) in ascending order.
    pub(crate) fn occurrences(&self, order: usize) -> Vec<(u64, u64)> {
        // Most n-grams occur a few times.
        const FEW: usize = 256;
        let of_part = |counts: &Counts| {
            let mut few = vec![0_u64; FEW];
            let mut many: FxHashMap<u64, u64> = FxHashMap::default();
            for count in counts.0.iter().map(|counted| counted.count()) {
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

/// Hashes the n-grams of one text after the other, in room that is used again.
#[derive(Debug, Default)]
pub(crate) struct GramHasher {
    /// The text's tokens.
    tokens: Vec<Gram>,
    /// Its n-grams of one order.
    grams: Vec<Gram>,
}

impl GramHasher {
    /// Hands each n-gram of a text to `gram`, with its order, counted from 0. `tokens` hands over each token.
    pub(crate) fn hash(
        &mut self,
        orders: usize,
        tokens: impl FnOnce(&mut dyn FnMut(&str)),
        mut gram: impl FnMut(usize, Gram),
    ) {
        self.tokens.clear();
        tokens(&mut |token| self.tokens.push(token_hash(token)));
        self.grams.clone_from(&self.tokens);
        for order in 0..orders {
            if order > 0 {
                self.grams.pop();
                let last = self.tokens.iter().skip(order);
                self.grams.iter_mut().zip(last).for_each(|(gram, &last)| *gram = longer(*gram, last));
            }
            self.grams.iter().for_each(|&hash| gram(order, hash));
        }
    }
}

/// The hash of an n-gram and one more token: two 64-bit halves, each the folded product of its parts, as in wyhash.
fn longer(gram: Gram, last: Gram) -> Gram {
    let high = fold(gram.0 ^ 0xa076_1d64_78bd_642f, last.0 ^ 0xe703_7ed1_a0b4_28db);
    let low = fold(gram.1 ^ 0x8ebc_6af0_9c88_c6e3, last.1 ^ 0x5899_65cc_7537_4cc3);
    (high, low)
}

impl Sums for NgramTable {
    fn add(&mut self, other: &Self) -> Result<()> {
        same_length("orders", self.orders.len(), "orders", other.orders.len())?;
        for (into, from) in self.orders.iter_mut().zip(&other.orders) {
            into.total = into.total.saturating_add(from.total);
            for (into, from) in into.parts.iter_mut().zip(&from.parts) {
                into.reserve(from.0.len().saturating_sub(into.0.len()));
                from.0.iter().for_each(|counted| into.add(counted.gram(), counted.count()));
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
            let counted = order.parts.iter().flat_map(|part| &part.0);
            let row = |counted: &Counted| (counted.gram().0, counted.gram().1, counted.count());
            let mut rows: OrderForm = counted.map(row).collect();
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
                let Some(counts) = order.parts.get_mut(part((high, low))) else { continue };
                if count == 0 || count > Counted::MOST || counts.count((high, low)).is_some() {
                    return Err("an n-gram is listed twice, or with a count of 0 or of 2^40 and more");
                }
                counts.add((high, low), count);
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
            (0..CHUNK * (CHUNKS + 2)).map(|n| format!("t{} u{} v{} t{}", n % 7, n % 11, n, n % 5)).collect();
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
