//! Natural language inference: pairs of texts and what the first says about the second.
//!
//! A judge of personas is trained on such pairs: a description of the speaker is the premise, a reply the hypothesis.

mod files;
mod labeller;
mod neutrals;
mod persona;

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

pub use files::{NliFormat, NliItems, open_nli, read_nli};
pub use labeller::{EntailmentLabeller, EntailmentRule, LabelChoice};
pub use neutrals::{NeutralOptions, sampled_neutrals};
pub use persona::{EntailedPairs, PersonaScore, PersonaScores};

/// What a premise says about a hypothesis. The order is that of PAL's judge and of its published logits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NliLabel {
    /// Both cannot be true.
    Contradiction,
    /// Neither of the others.
    Neutral,
    /// The hypothesis follows from the premise, or restates it.
    Entailment,
}

impl NliLabel {
    /// All three, in order.
    pub const ALL: [Self; 3] = [Self::Contradiction, Self::Neutral, Self::Entailment];

    /// The name that files and models use.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Contradiction => "contradiction",
            Self::Neutral => "neutral",
            Self::Entailment => "entailment",
        }
    }

    /// The place in [`NliLabel::ALL`].
    #[must_use]
    pub fn index(self) -> usize {
        self as usize
    }

    /// The classes of a model, which may have any order and case: which label each logit is for.
    ///
    /// # Errors
    /// [`Error::JudgeClasses`] unless they are exactly the three.
    pub fn order_of(classes: &[impl AsRef<str>]) -> Result<[Self; 3]> {
        let named =
            |class: &str| Self::ALL.into_iter().find(|label| class.eq_ignore_ascii_case(label.name()));
        let found: Vec<Option<Self>> = classes.iter().map(|class| named(class.as_ref())).collect();
        match *found.as_slice() {
            [Some(a), Some(b), Some(c)] if a != b && b != c && a != c => Ok([a, b, c]),
            _ => {
                let classes = classes.iter().map(|class| class.as_ref().to_owned()).collect();
                Err(Error::JudgeClasses { classes })
            }
        }
    }
}

impl fmt::Display for NliLabel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for NliLabel {
    type Err = String;

    /// The names of [`NliLabel::name`], and DNLI's `negative` and `positive`.
    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            "contradiction" | "negative" => Ok(Self::Contradiction),
            "neutral" => Ok(Self::Neutral),
            "entailment" | "positive" => Ok(Self::Entailment),
            other => Err(format!(
                "the label is {other:?}; expected contradiction, neutral or entailment (DNLI: negative, neutral or \
                 positive)"
            )),
        }
    }
}

/// A labelled pair.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NliItem {
    /// Unique within its file: the file's own id, or the file's name with the number of the line or record.
    pub id: String,
    /// The first text: of a judge's pairs the description.
    pub premise: String,
    /// The second text: of a judge's pairs the reply.
    pub hypothesis: String,
    /// What the premise says about the hypothesis.
    pub label: NliLabel,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_in_any_order_are_told_and_others_are_refused() {
        use NliLabel::{Contradiction, Entailment, Neutral};
        let order = NliLabel::order_of(&["ENTAILMENT", "neutral", "Contradiction"]).unwrap();
        assert_eq!(order, [Entailment, Neutral, Contradiction]);
        for classes in [&["entailment", "neutral"][..], &["LABEL_0", "LABEL_1", "LABEL_2"], &["neutral"; 3]] {
            let message = NliLabel::order_of(classes).unwrap_err().to_string();
            assert!(message.contains(classes[0]) && message.contains("id2label"), "{message}");
        }
    }

    #[test]
    fn names_go_there_and_back() {
        for label in NliLabel::ALL {
            assert_eq!(label.name().parse(), Ok(label));
            assert_eq!(serde_json::to_string(&label).unwrap(), format!("\"{label}\""));
            assert_eq!(NliLabel::ALL[label.index()], label);
        }
        assert_eq!("negative".parse(), Ok(NliLabel::Contradiction));
        assert!("maybe".parse::<NliLabel>().unwrap_err().contains("maybe"));
    }
}
