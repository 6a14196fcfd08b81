//! Texts, and how they become tokens: Python's string semantics, which the reference packages are built on.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// One text or several: the references of a hypothesis, or the descriptions of a persona.
///
/// `"one reference"`, `String`, `vec!["a", "b"]`, `["a", "b"]` and slices of these all are [`Texts`].
pub trait Texts {
    /// The texts in order.
    fn texts(&self) -> impl Iterator<Item = &str>;
}

impl Texts for str {
    fn texts(&self) -> impl Iterator<Item = &str> {
        std::iter::once(self)
    }
}

impl Texts for String {
    fn texts(&self) -> impl Iterator<Item = &str> {
        std::iter::once(self.as_str())
    }
}

impl<S: AsRef<str>> Texts for [S] {
    fn texts(&self) -> impl Iterator<Item = &str> {
        self.iter().map(AsRef::as_ref)
    }
}

impl<S: AsRef<str>, const N: usize> Texts for [S; N] {
    fn texts(&self) -> impl Iterator<Item = &str> {
        self.iter().map(AsRef::as_ref)
    }
}

impl<S: AsRef<str>> Texts for Vec<S> {
    fn texts(&self) -> impl Iterator<Item = &str> {
        self.iter().map(AsRef::as_ref)
    }
}

impl<T: Texts + ?Sized> Texts for &T {
    fn texts(&self) -> impl Iterator<Item = &str> {
        (**self).texts()
    }
}

/// What is done to a text before it is split at white space.
///
/// Scores of word overlap depend on it more than on the model: PERSONA-CHAT's gold replies have their punctuation
/// spaced out (`i love florida .`), most generated text has not (`I love Florida.`). It is part of every signature.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum PreTokenization {
    /// The text as it is, which is what pycocoevalcap and DialoGPT's scripts do.
    #[default]
    None,
    /// A space on both sides of each of Python's 32 `string.punctuation` characters, runs of spaces made one, both
    /// ends stripped. Other punctuation (`。`, `…`) stays as it is.
    SpacePunctuation,
    /// A space around each Han or kana character, each CJK punctuation mark and each full-width form, runs of spaces made
    /// one, both ends stripped: for Chinese and Japanese, which have no spaces between words. Words in other letters
    /// stay whole.
    EastAsianCharacters,
    /// Chinese words by jieba (its default mode, with the hidden Markov model), joined by spaces: `" ".join(jieba.cut(text))`
    /// of Python's jieba 0.42, as PAL's code prepares Chinese. Needs the feature `jieba`.
    #[cfg(feature = "jieba")]
    Jieba,
}

/// How a package splits a text, in Python's terms.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Split {
    /// `str.split()`: at runs of white space, no empty tokens.
    Whitespace,
    /// `str.split(" ")`: at each U+0020, empty tokens kept, so that an empty text is one empty token.
    Space,
    /// `list(str)`: every character (code point) is a token, white space included.
    Characters,
}

/// The way from a text to its tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct Preprocessing {
    pub(crate) pre_tokenization: PreTokenization,
    pub(crate) lowercase: bool,
    pub(crate) split: Split,
}

impl Preprocessing {
    pub(crate) const fn new(split: Split) -> Self {
        Self { pre_tokenization: PreTokenization::None, lowercase: false, split }
    }

    /// The text as it is handed to [`Preprocessing::split`].
    pub(crate) fn prepare<'t>(&self, text: &'t str) -> Cow<'t, str> {
        let text = if self.lowercase { Cow::Owned(text.to_lowercase()) } else { Cow::Borrowed(text) };
        match self.pre_tokenization {
            PreTokenization::None => text,
            PreTokenization::SpacePunctuation => match text {
                Cow::Borrowed(text) => space_punctuation(text),
                Cow::Owned(text) => Cow::Owned(space_punctuation(&text).into_owned()),
            },
            PreTokenization::EastAsianCharacters => Cow::Owned(space_east_asian(&text)),
            #[cfg(feature = "jieba")]
            PreTokenization::Jieba => Cow::Owned(crate::jieba_words(&text)),
        }
    }

    /// Tokens of a prepared text.
    pub(crate) fn split<'t>(&self, prepared: &'t str) -> Vec<&'t str> {
        match self.split {
            Split::Whitespace => split_whitespace(prepared).collect(),
            Split::Space => prepared.split(' ').collect(),
            Split::Characters => characters(prepared).collect(),
        }
    }

    /// Hands each token of a text to `token`.
    pub(crate) fn tokens(&self, text: &str, token: &mut dyn FnMut(&str)) {
        if let (PreTokenization::SpacePunctuation, Split::Space, false) =
            (self.pre_tokenization, self.split, self.lowercase)
        {
            return spaced_tokens(text, token);
        }
        let prepared = self.prepare(text);
        match self.split {
            Split::Whitespace if prepared.is_ascii() => {
                let is_space = |byte: u8| matches!(byte, b'\t'..=b'\r' | 0x1c..=b' ');
                between(&prepared, is_space, |found| {
                    if !found.is_empty() {
                        token(found);
                    }
                });
            }
            Split::Whitespace => split_whitespace(&prepared).for_each(token),
            Split::Space => between(&prepared, |byte| byte == b' ', token),
            Split::Characters => characters(&prepared).for_each(token),
        }
    }

    /// The part of a signature that names these settings.
    pub(crate) fn signature(&self) -> String {
        let case = if self.lowercase { "lower" } else { "mixed" };
        let pre = match self.pre_tokenization {
            PreTokenization::None => "none",
            PreTokenization::SpacePunctuation => "space-punctuation",
            PreTokenization::EastAsianCharacters => "east-asian-characters",
            #[cfg(feature = "jieba")]
            PreTokenization::Jieba => "jieba",
        };
        let split = match self.split {
            Split::Whitespace => "whitespace",
            Split::Space => "space",
            Split::Characters => "characters",
        };
        format!("case:{case}|pre:{pre}|split:{split}")
    }
}

/// The two setters of what happens to texts before the split, the same for every metric that has them.
macro_rules! preprocessing_setters {
    ($package:literal) => {
        /// What happens to the texts before the split.
        #[doc = $package]
        #[must_use]
        pub fn pre_tokenization(mut self, pre_tokenization: crate::tokens::PreTokenization) -> Self {
            self.preprocessing.pre_tokenization = pre_tokenization;
            self
        }

        /// Whether texts are lower-cased.
        #[doc = $package]
        #[must_use]
        pub fn lowercase(mut self, lowercase: bool) -> Self {
            self.preprocessing.lowercase = lowercase;
            self
        }
    };
}
pub(crate) use preprocessing_setters;

/// Calls `with` on hypothesis and references, or on them in each other's place.
///
/// # Errors
/// No reference; in the swapped order anything but one.
pub(crate) fn in_order<T>(
    metric: &'static str,
    swapped: bool,
    hypothesis: &str,
    references: &[&str],
    with: impl FnOnce(&str, &[&str]) -> T,
) -> Result<T> {
    match (swapped, references) {
        (_, []) => Err(Error::NoReferences { metric }),
        (false, references) => Ok(with(hypothesis, references)),
        (true, [reference]) => Ok(with(reference, &[hypothesis])),
        (true, references) => Err(Error::SwapNeedsOneReference { metric, references: references.len() }),
    }
}

/// Python's `str.isspace` for one character: Unicode's white space and the four separators U+001C to U+001F, which
/// [`char::is_whitespace`] leaves out.
pub(crate) fn is_python_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

/// Python's `str.split()`.
pub(crate) fn split_whitespace(text: &str) -> impl Iterator<Item = &str> {
    text.split(is_python_space).filter(|token| !token.is_empty())
}

/// Whether a character is one of a script without spaces between words.
pub(crate) fn is_east_asian(c: char) -> bool {
    matches!(c,
        '\u{2e80}'..='\u{2fdf}' // radicals
        | '\u{3001}'..='\u{30ff}' // punctuation, hiragana, katakana
        | '\u{3100}'..='\u{312f}' // Bopomofo
        | '\u{31f0}'..='\u{31ff}' // katakana extended
        | '\u{3400}'..='\u{4dbf}'
        | '\u{4e00}'..='\u{9fff}'
        | '\u{f900}'..='\u{faff}'
        | '\u{ff01}'..='\u{ffef}' // full-width and half-width forms
        | '\u{20000}'..='\u{3134f}'
    )
}

fn space_east_asian(text: &str) -> String {
    let mut spaced = String::with_capacity(2 * text.len());
    let mut apart = true;
    for c in text.chars() {
        let (space, alone) = (is_python_space(c), is_east_asian(c));
        if (space || alone) && !apart {
            spaced.push(' ');
            apart = true;
        }
        if !space {
            spaced.push(c);
            apart = false;
        }
        if alone {
            spaced.push(' ');
            apart = true;
        }
    }
    if spaced.ends_with(' ') {
        spaced.pop();
    }
    spaced
}

fn characters(text: &str) -> impl Iterator<Item = &str> {
    text.split_inclusive(|_| true)
}

/// Hands over what stands between the bytes that end a token, which are ASCII. Tokens are short: a search by words of
/// bytes or a decoding of characters would take longer.
pub(crate) fn between<'t>(text: &'t str, is_end: impl Fn(u8) -> bool, mut token: impl FnMut(&'t str)) {
    let mut start = 0;
    for (place, &byte) in text.as_bytes().iter().enumerate() {
        if is_end(byte) {
            text.get(start..place).into_iter().for_each(&mut token);
            start = place + 1;
        }
    }
    text.get(start..).into_iter().for_each(token);
}

/// What a byte is to [`space_punctuation`].
#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    Space,
    Punctuation,
    Other,
}

const CLASSES: [Class; 256] = {
    let mut classes = [Class::Other; 256];
    let mut byte = 0;
    while byte < 128 {
        if (byte as u8).is_ascii_punctuation() {
            classes[byte] = Class::Punctuation;
        }
        byte += 1;
    }
    classes[b' ' as usize] = Class::Space;
    classes
};

/// A text that is so already is not copied.
fn space_punctuation(text: &str) -> Cow<'_, str> {
    let text = text.trim_matches(is_python_space);
    let mut spaced = String::new();
    let mut copied = 0;
    let mut before = Class::Space;
    for (place, &byte) in text.as_bytes().iter().enumerate() {
        let class = CLASSES.get(usize::from(byte)).copied().unwrap_or(Class::Other);
        let run = match (before, class) {
            // Dropped.
            (Class::Space, Class::Space) => Some((place, place + 1)),
            (Class::Punctuation, Class::Punctuation | Class::Other) | (Class::Other, Class::Punctuation) => {
                Some((place, place))
            }
            _ => None,
        };
        if let Some((end, next)) = run {
            spaced.push_str(text.get(copied..end).unwrap_or_default());
            if class != Class::Space {
                spaced.push(' ');
            }
            copied = next;
        }
        before = class;
    }
    if copied == 0 {
        return Cow::Borrowed(text);
    }
    spaced.push_str(text.get(copied..).unwrap_or_default());
    Cow::Owned(spaced)
}

/// The tokens of a [`space_punctuation`] text split at each space, without that text: every punctuation character is one,
/// and whatever stands between punctuation and spaces. None is empty, but that of an empty text.
fn spaced_tokens(text: &str, token: &mut dyn FnMut(&str)) {
    let text = text.trim_matches(is_python_space);
    if text.is_empty() {
        return token(text);
    }
    let mut hand_over =
        |start, end| text.get(start..end).filter(|found| !found.is_empty()).into_iter().for_each(&mut *token);
    let mut start = 0;
    for (place, &byte) in text.as_bytes().iter().enumerate() {
        let class = CLASSES.get(usize::from(byte)).copied().unwrap_or(Class::Other);
        if class == Class::Other {
            continue;
        }
        hand_over(start, place);
        if class == Class::Punctuation {
            hand_over(place, place + 1);
        }
        start = place + 1;
    }
    hand_over(start, text.len());
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn tokens_of_spaced_texts_are_those_of_the_split_text(text in r"[ab.,\t 好\u{a0}]{0,12}") {
            let spaced = Preprocessing {
                pre_tokenization: PreTokenization::SpacePunctuation,
                ..Preprocessing::new(Split::Space)
            };
            let mut tokens = Vec::new();
            spaced.tokens(&text, &mut |token| tokens.push(token.to_owned()));
            let prepared = spaced.prepare(&text);
            proptest::prop_assert_eq!(tokens, spaced.split(&prepared));
        }
    }

    /// `[c for c in map(chr, range(0x110000)) if c.isspace()]` in Python 3.11.
    const PYTHON_SPACES: [u32; 29] = [
        0x9, 0xa, 0xb, 0xc, 0xd, 0x1c, 0x1d, 0x1e, 0x1f, 0x20, 0x85, 0xa0, 0x1680, 0x2000, 0x2001, 0x2002,
        0x2003, 0x2004, 0x2005, 0x2006, 0x2007, 0x2008, 0x2009, 0x200a, 0x2028, 0x2029, 0x202f, 0x205f,
        0x3000,
    ];

    #[test]
    fn white_space_is_pythons() {
        let spaces: Vec<u32> = (0..=0x10_ffff)
            .filter_map(char::from_u32)
            .filter(|&c| is_python_space(c))
            .map(u32::from)
            .collect();
        assert_eq!(spaces, PYTHON_SPACES);
    }

    #[test]
    fn punctuation_is_pythons() {
        let punctuation: String = (0..128u8).map(char::from).filter(char::is_ascii_punctuation).collect();
        assert_eq!(punctuation, r##"!"#$%&'()*+,-./:;<=>?@[\]^_`{|}~"##);
    }

    #[test]
    fn the_splits() {
        let tokens = |split, text: &str| {
            let prepared = Preprocessing::new(split);
            prepared.split(&prepared.prepare(text)).into_iter().map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(tokens(Split::Whitespace, ""), Vec::<String>::new());
        assert_eq!(tokens(Split::Whitespace, " a\u{1c}b  c\u{3000}"), ["a", "b", "c"]);
        assert_eq!(tokens(Split::Space, ""), [""]);
        assert_eq!(tokens(Split::Space, "a  b\tc "), ["a", "", "b\tc", ""]);
        assert_eq!(tokens(Split::Characters, "狗e\u{301} "), ["狗", "e", "\u{301}", " "]);
        assert_eq!(tokens(Split::Characters, ""), Vec::<String>::new());
    }

    #[test]
    fn punctuation_is_spaced_out_and_the_ends_stripped() {
        assert_eq!(space_punctuation("I love it, it's  so-so."), "I love it , it ' s so - so .");
        assert_eq!(space_punctuation("\u{1f}?! \n"), "? !");
        assert_eq!(space_punctuation("好。"), "好。");
        assert_eq!(space_punctuation(""), "");
    }

    #[test]
    fn lower_case_is_full_unicode() {
        let prepared = Preprocessing { lowercase: true, ..Preprocessing::new(Split::Whitespace) };
        assert_eq!(prepared.prepare("ΟΔΟΣ İ"), "οδος i\u{307}");
    }
}
