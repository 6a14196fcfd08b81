//! Neutral pairs for lists that hold entailed ones only.

use std::collections::{HashMap, HashSet};

use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

/// How many neutral pairs are drawn for each entailed one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NeutralOptions {
    /// With descriptions that stand near the pair in the list: most are the same speaker's.
    pub near: usize,
    /// With descriptions from anywhere in the list.
    pub far: usize,
    /// How many entries before and after a pair are near.
    pub window: usize,
}

impl Default for NeutralOptions {
    fn default() -> Self {
        Self { near: 1, far: 1, window: 6 }
    }
}

/// Draws neutral (description, reply) pairs for a list of entailed ones in the order of their dialogues. A description
/// that the list has with the reply anywhere is never drawn for it, and no pair is drawn twice. The same list, options and
/// seed give the same pairs.
///
/// A near description is mostly another one of the reply's speaker, which the judge that made the list did not find
/// entailed: a few of these contradict the reply, and are called neutral here all the same.
#[must_use]
pub fn sampled_neutrals(
    entailed: &[(String, String)],
    options: &NeutralOptions,
    seed: u64,
) -> Vec<(String, String)> {
    let mut own: HashMap<&str, HashSet<&str>> = HashMap::new();
    for (description, reply) in entailed {
        own.entry(reply).or_default().insert(description);
    }
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut drawn: HashMap<&str, HashSet<String>> = HashMap::new();
    let mut neutrals = Vec::new();
    for (at, (_, reply)) in entailed.iter().enumerate() {
        let reply = reply.as_str();
        let own = own.get(reply);
        let mut add = |description: &'_ str| {
            let entailed_too = own.is_some_and(|own| own.contains(description));
            let fresh = !entailed_too && drawn.entry(reply).or_default().insert(description.to_owned());
            if fresh {
                neutrals.push((description.to_owned(), reply.to_owned()));
            }
            fresh
        };
        let around = at.saturating_sub(options.window)..(at + options.window + 1).min(entailed.len());
        let around = entailed.get(around).unwrap_or_default();
        let mut near: Vec<&str> = around.iter().map(|(description, _)| description.as_str()).collect();
        near.sort_unstable();
        near.dedup();
        near.shuffle(&mut rng);
        let _ = near.into_iter().filter(|description| add(description)).take(options.near).count();
        // A draw that hits a description of the reply's is tried again, but not for ever.
        let draws = std::iter::repeat_with(|| rng.random_range(0..entailed.len())).take(8 * options.far);
        let far = draws.filter_map(|at| entailed.get(at)).map(|(description, _)| description.as_str());
        let _ = far.filter(|description| add(description)).take(options.far).count();
    }
    neutrals
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list() -> Vec<(String, String)> {
        (0..60).map(|at| (format!("description {}", at / 3), format!("reply {}", at / 2))).collect()
    }

    #[test]
    fn neutrals_are_new_and_not_entailed() {
        let entailed = list();
        let options = NeutralOptions { near: 2, far: 1, window: 5 };
        let neutrals = sampled_neutrals(&entailed, &options, 3);
        assert_eq!(neutrals, sampled_neutrals(&entailed, &options, 3));
        assert_ne!(neutrals, sampled_neutrals(&entailed, &options, 4));
        let distinct: HashSet<_> = neutrals.iter().collect();
        assert_eq!(distinct.len(), neutrals.len());
        assert!(neutrals.iter().all(|pair| !entailed.contains(pair)));
        assert!(neutrals.len() > 120, "{}", neutrals.len());
    }

    #[test]
    fn near_ones_are_near() {
        let number = |text: &str| text.rsplit(' ').next().unwrap().parse::<usize>().unwrap();
        let near = sampled_neutrals(&list(), &NeutralOptions { near: 1, far: 0, window: 5 }, 1);
        assert!(!near.is_empty());
        for (description, reply) in near {
            assert!(number(&description).abs_diff(2 * number(&reply) / 3) <= 3, "{description}, {reply}");
        }
        assert!(sampled_neutrals(&list()[..1], &NeutralOptions::default(), 1).is_empty(), "nothing to draw");
    }
}
