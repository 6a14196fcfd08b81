//! How texts become tokens in the reference packages: Python's character classes, and each package's tokenizer.
//!
//! A tokenizer appends to a `String` of the caller, which can be used again for the next text. Tokens are never empty
//! and hold no space; one U+0020 stands between two tokens, and before the first if the string was not empty.

mod han;
#[cfg(feature = "jieba")]
mod jieba;
mod mteval;
mod normalize;
mod porter;
mod python;

#[cfg(test)]
mod fixtures;
#[cfg(test)]
mod properties;

pub(crate) use han::{tokenize_char, tokenize_zh};
#[cfg(feature = "jieba")]
pub use jieba::jieba_words;
pub(crate) use mteval::{tokenize_13a, tokenize_intl};
pub(crate) use normalize::{normalize_answer, py_rouge_tokens, rouge_tokens};
pub(crate) use porter::{Rules, stem};
pub(crate) use python::trim;
