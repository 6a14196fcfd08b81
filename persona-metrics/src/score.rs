//! A score and the signature that says how it was computed.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// How a score is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Unit {
    /// A share of one, written times 100 as tables of BLEU and the like are.
    Share,
    /// A number written as it is.
    Plain,
}

/// Everything that a score depends on beside the texts: variant, tokenisation, case, number of references, version.
/// Two scores may be compared when their signatures are equal.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Signature(String);

impl Signature {
    /// `settings` are `key:value` pairs joined by `|`; the crate's version is appended.
    pub(crate) fn new(settings: impl fmt::Display) -> Self {
        Self(format!("{settings}|version:{}-{}", env!("CARGO_PKG_NAME"), env!("CARGO_PKG_VERSION")))
    }

    /// The signature as text: `key:value` pairs joined by `|`.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A finite number, its name, and its [`Signature`].
///
/// Displayed as `BLEU-2 = 7.80 | variant:pycocoevalcap|...`; a share is displayed times 100, [`Score::value`] is not.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Score {
    name: String,
    value: f64,
    unit: Unit,
    signature: Signature,
}

impl Score {
    /// `metric` names the metric in the error for a value that is NaN or infinite.
    pub(crate) fn new(
        metric: &'static str,
        name: impl Into<String>,
        value: f64,
        unit: Unit,
        signature: Signature,
    ) -> Result<Self> {
        if !value.is_finite() {
            return Err(Error::OutOfRange { metric, value });
        }
        Ok(Self { name: name.into(), value, unit, signature })
    }

    /// Name of the score as tables head it, `BLEU-2`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The value on the package's own scale: shares lie in 0 to 1.
    pub fn value(&self) -> f64 {
        self.value
    }

    /// How the value is written.
    pub fn unit(&self) -> Unit {
        self.unit
    }

    /// The value as tables print it: a share times 100, anything else as it is.
    pub fn displayed_value(&self) -> f64 {
        match self.unit {
            Unit::Share => 100.0 * self.value,
            Unit::Plain => self.value,
        }
    }

    /// How the value was computed.
    pub fn signature(&self) -> &Signature {
        &self.signature
    }
}

impl fmt::Display for Score {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} = {:.2} | {}", self.name, self.displayed_value(), self.signature)
    }
}

/// The scores of one metric that come out of the same pass, such as BLEU-1 to BLEU-4. Displayed one a line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Scores(Vec<Score>);

impl Scores {
    pub(crate) fn new(scores: Vec<Score>) -> Self {
        Self(scores)
    }

    /// The score of that name.
    pub fn get(&self, name: &str) -> Option<&Score> {
        self.0.iter().find(|score| score.name() == name)
    }

    /// The scores, lowest order first.
    pub fn iter(&self) -> std::slice::Iter<'_, Score> {
        self.0.iter()
    }

    /// The values alone, lowest order first.
    pub fn values(&self) -> Vec<f64> {
        self.iter().map(Score::value).collect()
    }
}

impl IntoIterator for Scores {
    type Item = Score;
    type IntoIter = std::vec::IntoIter<Score>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl<'s> IntoIterator for &'s Scores {
    type Item = &'s Score;
    type IntoIter = std::slice::Iter<'s, Score>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl fmt::Display for Scores {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (line, score) in self.0.iter().enumerate() {
            if line > 0 {
                writeln!(f)?;
            }
            write!(f, "{score}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn score(value: f64, unit: Unit) -> Result<Score> {
        Score::new("BLEU", "BLEU-2", value, unit, Signature::new("order:2"))
    }

    #[test]
    fn a_share_is_displayed_times_100() {
        let version = env!("CARGO_PKG_VERSION");
        let share = score(0.078, Unit::Share).unwrap();
        assert_eq!(share.to_string(), format!("BLEU-2 = 7.80 | order:2|version:persona-metrics-{version}"));
        assert_eq!(share.value(), 0.078);
        assert_eq!(score(5.0, Unit::Plain).unwrap().displayed_value(), 5.0);
    }

    #[test]
    fn nan_and_infinity_are_no_scores() {
        for value in [f64::NAN, f64::INFINITY] {
            assert!(matches!(score(value, Unit::Share), Err(Error::OutOfRange { metric: "BLEU", .. })));
        }
    }

    #[test]
    fn scores_round_trip_through_json() {
        let scores = Scores::new(vec![score(0.25, Unit::Share).unwrap(), score(2.5, Unit::Plain).unwrap()]);
        let json = serde_json::to_string(&scores).unwrap();
        assert!(json.contains(r#""unit":"share","signature":"order:2|"#), "{json}");
        assert_eq!(serde_json::from_str::<Scores>(&json).unwrap(), scores);
    }
}
