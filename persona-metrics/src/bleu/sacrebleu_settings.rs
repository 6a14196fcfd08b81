//! The tokenizers and the smoothing of sacrebleu's BLEU.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::example::tokenized;
use crate::text::{tokenize_13a, tokenize_char, tokenize_intl, tokenize_zh};
use crate::tokens::split_whitespace;

/// The tokenizers of sacrebleu.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum SacreTokenizer {
    /// `13a`, the default: that of NIST's mteval-v13a.
    #[default]
    #[serde(rename = "13a")]
    V13a,
    /// `intl`: that of NIST's mteval-v14, for all scripts with spaces.
    Intl,
    /// `zh`: each Chinese character is a token.
    Zh,
    /// `char`: each character but white space is a token.
    Char,
    /// `none`: words are what stands between white space already, as in texts that MeCab (`ja-mecab`) has split.
    None,
}

impl SacreTokenizer {
    /// Hands each token of a text to `token`.
    pub(super) fn tokens(self, text: &str, token: &mut dyn FnMut(&str)) {
        match self {
            Self::V13a => tokenized(text, tokenize_13a, token),
            Self::Intl => tokenized(text, tokenize_intl, token),
            Self::Zh => tokenized(text, tokenize_zh, token),
            Self::Char => tokenized(text, tokenize_char, token),
            Self::None => split_whitespace(text).for_each(token),
        }
    }
}

/// As in signatures: `13a`.
impl fmt::Display for SacreTokenizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V13a => "13a",
            Self::Intl => "intl",
            Self::Zh => "zh",
            Self::Char => "char",
            Self::None => "none",
        })
    }
}

/// What sacrebleu does to orders without a match (Chen and Cherry 2014).
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SacreSmoothing {
    /// The i-th order without a match counts `1 / 2^i` matches (NIST's mteval).
    #[default]
    Exp,
    /// So many matches are counted, 0.1 in the package's default.
    Floor(f64),
    /// So much is added to the matches and to the n-grams of orders from 2 on, 1 in the package's default.
    AddK(f64),
    /// Nothing: the score is 0.
    None,
}

impl SacreSmoothing {
    /// The package's `floor`, of value 0.1.
    pub const FLOOR: Self = Self::Floor(0.1);
    /// The package's `add-k`, of value 1.
    pub const ADD_K: Self = Self::AddK(1.0);
}

/// As in signatures: `floor[0.10]`.
impl fmt::Display for SacreSmoothing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, value) = match self {
            Self::Exp => return f.write_str("exp"),
            Self::None => return f.write_str("none"),
            Self::Floor(value) => ("floor", value),
            Self::AddK(value) => ("add-k", value),
        };
        let two_decimals = format!("{value:.2}");
        // The package writes two decimals, which do not tell 0.001 from 0.
        if two_decimals.parse() == Ok(*value) {
            write!(f, "{name}[{two_decimals}]")
        } else {
            write!(f, "{name}[{value:?}]")
        }
    }
}
