//! Hashes of tokens, most of which are shorter than 16 bytes.

use xxhash_rust::xxh3::xxh3_128;

/// Tokens of up to 15 bytes are their own keys, beside their length. Longer ones are told apart by 120 bits of a hash:
/// of a billion different ones, two share a key with a chance of about 1e-18.
pub(crate) fn token_key(token: &str) -> u128 {
    const LONG: u128 = 0xff << 120;
    let bytes = token.as_bytes();
    let length = bytes.len();
    // The first and the last bytes overlap, by the shift.
    let content = match (bytes, bytes.first_chunk(), bytes.last_chunk()) {
        _ if length > 15 => return xxh3_128(bytes) | LONG,
        (_, Some(&first), Some(&last)) => {
            let rest = u128::from(u64::from_le_bytes(last)) >> (8 * (16 - length));
            u128::from(u64::from_le_bytes(first)) | rest << 64
        }
        (&[a, b, c, d, ..], ..) => {
            let first = u64::from(u32::from_le_bytes([a, b, c, d]));
            let last = bytes.last_chunk().map_or(0, |&last| u64::from(u32::from_le_bytes(last)));
            u128::from(first | (last >> (8 * (8 - length))) << 32)
        }
        (&[a, b, c], ..) => u128::from(u32::from_le_bytes([a, b, c, 0])),
        (&[a, b], ..) => u128::from(u16::from_le_bytes([a, b])),
        (&[a], ..) => u128::from(a),
        _ => 0,
    };
    content | (length as u128) << 120
}

/// 128 bits of a token's [`token_key`] mixed.
pub(crate) fn token_hash(token: &str) -> (u64, u64) {
    let key = token_key(token);
    let (high, low) = ((key >> 64) as u64, key as u64);
    (
        fold(low ^ 0x2d35_8dcc_aa6c_78a5, high ^ 0x8bb8_4b93_962e_acc9),
        fold(low ^ 0x4b33_a62e_d433_d4a3, high ^ 0x4d5a_2da5_1de1_aa47),
    )
}

/// The product of two words, its upper half folded onto its lower one: each bit depends on all bits of both.
pub(crate) fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    (product >> 64) as u64 ^ product as u64
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn keys_are_equal_where_tokens_are(a in "[ab\0]{0,18}|[aé狗]{0,6}", b in "[ab\0]{0,18}|[aé狗]{0,6}", n in 0..18_usize) {
            prop_assert_eq!(token_key(&a) == token_key(&b), a == b);
            // One byte changed, anywhere.
            let (a, mut b) = ("a".repeat(18), "a".repeat(n) + "b");
            b += &"a".repeat(17 - n);
            for length in n + 1..=18 {
                prop_assert_ne!(token_key(&a[..length]), token_key(&b[..length]));
            }
        }
    }

    #[test]
    fn each_half_of_the_hashes_of_similar_tokens_is_different() {
        let tokens =
            (0..200_000).flat_map(|n: u32| [n.to_string(), format!("a{n:b}"), "x".repeat(n as usize % 900)]);
        let tokens: HashSet<String> = tokens.collect();
        let hashes: Vec<(u64, u64)> = tokens.iter().map(|token| token_hash(token)).collect();
        for half in [
            hashes.iter().map(|hash| hash.0).collect::<HashSet<_>>(),
            hashes.iter().map(|hash| hash.1).collect(),
        ] {
            assert_eq!(half.len(), tokens.len());
            // About as many in each of 16 parts, by the first bits.
            let mut parts = [0; 16];
            half.iter().for_each(|hash| parts[(hash >> 60) as usize] += 1);
            let mean = half.len() / 16;
            assert!(parts.iter().all(|&part: &usize| part.abs_diff(mean) < mean / 20), "{parts:?}");
        }
    }
}
