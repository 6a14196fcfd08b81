//! Where the words of a text are.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::tokens::is_east_asian;
use crate::{PreTokenization, RougeTokenizer, SacreTokenizer};

/// What the texts of a suite are written in. Most packages know words by the spaces between them; on Chinese or Japanese
/// as it is written they take a whole sentence for one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Language {
    /// English, and others with spaces between words: every package as it is.
    #[default]
    English,
    /// Words by jieba, as PAL's code has them; sacreBLEU's `zh`; ROUGE of rouge_score over characters. Needs the feature
    /// `jieba`.
    #[cfg(feature = "jieba")]
    Chinese,
    /// Characters for words; sacreBLEU's `char`; ROUGE of rouge_score over characters.
    Japanese,
}

impl Language {
    /// All languages.
    pub const ALL: &[Self] = &[
        Self::English,
        #[cfg(feature = "jieba")]
        Self::Chinese,
        Self::Japanese,
    ];

    /// The name on a command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::English => "english",
            #[cfg(feature = "jieba")]
            Self::Chinese => "chinese",
            Self::Japanese => "japanese",
        }
    }

    /// How words come apart for the metrics that split texts at white space; `spaced` where they are apart already.
    #[must_use]
    pub fn words(self, spaced: PreTokenization) -> PreTokenization {
        match self {
            Self::English => spaced,
            #[cfg(feature = "jieba")]
            Self::Chinese => PreTokenization::Jieba,
            Self::Japanese => PreTokenization::EastAsianCharacters,
        }
    }

    /// Whether a text is Chinese or Japanese as it is written: most of its characters are, and no two of its words are
    /// apart.
    pub fn is_unspaced(text: &str) -> bool {
        let mut characters = 0;
        let mut east_asian = 0;
        for c in text.chars() {
            characters += 1;
            east_asian += usize::from(is_east_asian(c));
        }
        // Text cut into words or characters has a space after every few.
        let spaces = text.split_whitespace().count().saturating_sub(1);
        2 * east_asian > characters && 5 * spaces < east_asian
    }

    pub(super) fn sacre(self) -> SacreTokenizer {
        match self {
            Self::English => SacreTokenizer::default(),
            #[cfg(feature = "jieba")]
            Self::Chinese => SacreTokenizer::Zh,
            Self::Japanese => SacreTokenizer::Char,
        }
    }

    pub(super) fn rouge(self, english: RougeTokenizer) -> RougeTokenizer {
        if self == Self::English { english } else { RougeTokenizer::Characters }
    }
}

impl fmt::Display for Language {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Language {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        let found = Self::ALL.iter().find(|language| language.name() == name);
        found.copied().ok_or_else(|| Error::UnknownLanguage { name: name.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::suite::{Preset, Record};

    #[test]
    fn texts_without_spaces_between_words_are_known() {
        for text in ["我喜欢狗。", "私は犬が好きです。", "我很好 。和我的两只狗一起放松。"]
        {
            assert!(Language::is_unspaced(text), "{text}");
        }
        for text in ["", "i like dogs .", "我 喜欢 狗 。", "我 很 好 。", "i said 你好 to her"] {
            assert!(!Language::is_unspaced(text), "{text}");
        }
    }

    #[test]
    fn one_character_of_a_sentence_costs_one_character_or_word() {
        let record = |prediction: &str, reference: &str| Record {
            prediction: prediction.into(),
            references: vec![reference.into()],
            ..Record::default()
        };
        let records = [
            record("私は犬がとても好きです。", "私は猫がとても好きです。"),
            record("はい、そうです。", "はい、そうです。"),
        ];
        let scores = |preset: Preset, language| {
            let mut suite = preset.suite_in(records[0].fields(), language);
            suite.extend(&records).unwrap();
            suite.scores().unwrap().scores
        };
        for preset in [Preset::Standard, Preset::Pal, Preset::Sacrebleu] {
            let (spaced, apart) = (scores(preset, Language::English), scores(preset, Language::Japanese));
            assert!(spaced[0].value() < 0.6, "{}", spaced[0]);
            assert!(apart[0].value() > 0.7, "{}", apart[0]);
            assert!(apart.iter().all(|score| score.value() > 0.0), "{apart:?}");
        }
        #[cfg(feature = "jieba")]
        {
            let records = [record("我非常喜欢这只狗。", "我非常喜欢这只猫。")];
            let mut suite = Preset::Pal.suite_in(records[0].fields(), Language::Chinese);
            suite.extend(&records).unwrap();
            let bleu = suite.scores().unwrap().scores.remove(0);
            // 我 非常 喜欢 这 只 狗 。: six of seven words.
            approx::assert_relative_eq!(bleu.value(), 6.0 / 7.0, epsilon = 1e-9);
            assert!(bleu.signature().to_string().contains("jieba"));
        }
    }
}
