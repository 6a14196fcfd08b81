//! Fewer selection examples whose answer is that no description applies.

use std::collections::HashSet;

use sha2::{Digest, Sha256};

use super::{EncodedExample, Task};
use crate::dialogue::Example;
use crate::error::{Error, Result};

/// Leaves out selection examples whose answer is that no description applies, but for a share of them; returns how many.
/// Examples of other tasks stay.
///
/// Where half of all answers are 'none', as in PERSONA-CHAT, a small model learns to answer nothing else. PAL's released
/// code has a data mode for this (`mixture_<r>`), which compares with another text than its targets have and so leaves out
/// nothing.
///
/// Which ones stay follows from `seed` and their ids alone: the same ones in any order and beside any others.
///
/// # Errors
/// [`Error::EncodeOptions`] for a share outside 0 to 1.
pub fn thin_none(
    encoded: &mut Vec<EncodedExample>,
    examples: &[Example],
    share: f64,
    seed: u64,
) -> Result<usize> {
    if !(0.0..=1.0).contains(&share) {
        let problem =
            format!("a share of {share} of the selection examples without a description; it lies in 0 to 1");
        return Err(Error::EncodeOptions { problem });
    }
    let left_out: HashSet<&str> = examples
        .iter()
        .filter(|example| example.selected().is_none() && place(&example.id, seed) >= share)
        .map(|example| example.id.as_str())
        .collect();
    let before = encoded.len();
    encoded.retain(|example| example.task != Task::Selection || !left_out.contains(example.id.as_str()));
    Ok(before - encoded.len())
}

/// A number in 0 to 1, without 1, that an id has under a seed.
fn place(id: &str, seed: u64) -> f64 {
    let digest = Sha256::new().chain_update(seed.to_le_bytes()).chain_update(id).finalize();
    let bits = digest.iter().take(7).fold(0_u64, |bits, &byte| bits << 8 | u64::from(byte));
    // The upper 53 of 56 bits: all of them fit a double.
    (bits >> 3) as f64 / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn examples() -> Vec<Example> {
        (0..2000)
            .map(|at| Example {
                id: format!("{}#{}", at / 10, at % 10),
                persona: vec!["i have a cat .".into()],
                history: Vec::new(),
                response: "hello".into(),
                relevant: Some(if at % 2 == 0 { vec![0] } else { Vec::new() }),
                candidates: Vec::new(),
            })
            .collect()
    }

    fn encoded(examples: &[Example]) -> Vec<EncodedExample> {
        let of = |example: &Example, task| EncodedExample {
            id: example.id.clone(),
            task,
            source: vec![1],
            target: vec![2],
        };
        examples.iter().flat_map(|example| Task::MIXED.map(|task| of(example, task))).collect()
    }

    #[test]
    fn a_share_of_the_answers_none_stays_and_everything_else() {
        let examples = examples();
        let described: HashSet<&str> = examples
            .iter()
            .filter(|example| example.selected().is_some())
            .map(|example| example.id.as_str())
            .collect();
        let thinned = |share, seed| {
            let mut encoded = encoded(&examples);
            let left_out = thin_none(&mut encoded, &examples, share, seed).unwrap();
            assert_eq!(encoded.len() + left_out, 4000);
            assert_eq!(encoded.iter().filter(|example| example.task == Task::Generation).count(), 2000);
            let selection: Vec<String> = encoded
                .into_iter()
                .filter(|example| example.task == Task::Selection)
                .map(|example| example.id)
                .collect();
            assert_eq!(selection.iter().filter(|id| described.contains(id.as_str())).count(), 1000);
            selection
        };
        assert_eq!((thinned(0.0, 1).len(), thinned(1.0, 1).len()), (1000, 2000));
        let quarter = thinned(0.25, 1);
        // Of 1000 draws at a quarter 250 stay, with a deviation of 14.
        assert!((1200..1300).contains(&quarter.len()), "{}", quarter.len());
        let half: HashSet<String> = thinned(0.5, 1).into_iter().collect();
        assert!(quarter.iter().all(|id| half.contains(id)), "a larger share holds a smaller one");
        assert_ne!(quarter, thinned(0.25, 2));
    }

    #[test]
    fn a_share_outside_its_range_is_an_error() {
        for share in [-0.1, 1.1, f64::NAN] {
            assert!(thin_none(&mut Vec::new(), &[], share, 1).unwrap_err().to_string().contains("0 to 1"));
        }
    }
}
