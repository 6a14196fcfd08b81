//! What is measured: one line of an input file.

use serde::{Deserialize, Serialize};

/// A reply of a system with what it is measured against: a line `{"prediction", "references", "personas"?, "history"?,
/// "candidates"?}` of a JSON Lines file.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Record {
    /// The system's reply.
    pub prediction: String,
    /// Gold replies. A string in the place of the list is one.
    #[serde(default, deserialize_with = "one_or_many", skip_serializing_if = "Vec::is_empty")]
    pub references: Vec<String>,
    /// Descriptions of the one who replies.
    #[serde(default, deserialize_with = "some_one_or_many", skip_serializing_if = "Option::is_none")]
    pub personas: Option<Vec<String>>,
    /// The turns before the reply, oldest first. Replies to equal histories answer the same question.
    #[serde(default, deserialize_with = "some_one_or_many", skip_serializing_if = "Option::is_none")]
    pub history: Option<Vec<String>>,
    /// Candidate replies as the system ranks them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub candidates: Option<Candidates>,
}

/// Candidates of one example, in either form that files have.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Candidates {
    /// Texts, the best first.
    Ranked(Vec<String>),
    /// Texts with scores in any order; higher is better.
    Scored(Vec<ScoredCandidate>),
}

/// A candidate and the system's score for it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScoredCandidate {
    /// The candidate reply.
    pub text: String,
    /// Higher is better.
    pub score: f64,
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "a string or a list of strings")]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

fn one_or_many<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    Ok(match OneOrMany::deserialize(deserializer)? {
        OneOrMany::One(text) => vec![text],
        OneOrMany::Many(texts) => texts,
    })
}

fn some_one_or_many<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Vec<String>>, D::Error> {
    one_or_many(deserializer).map(Some)
}

/// The optional parts that records have. All records of a corpus have the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Fields {
    /// At least one reference.
    pub references: bool,
    /// A persona, which may be empty.
    pub personas: bool,
    /// A history, which may be empty.
    pub history: bool,
    /// Candidates.
    pub candidates: bool,
}

impl Record {
    /// Which optional parts this record has.
    pub fn fields(&self) -> Fields {
        Fields {
            references: !self.references.is_empty(),
            personas: self.personas.is_some(),
            history: self.history.is_some(),
            candidates: self.candidates.is_some(),
        }
    }
}

impl std::fmt::Display for Fields {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let parts = [
            (self.references, "references"),
            (self.personas, "personas"),
            (self.history, "history"),
            (self.candidates, "candidates"),
        ];
        let there: Vec<&str> = parts.into_iter().filter_map(|(there, name)| there.then_some(name)).collect();
        if there.is_empty() { f.write_str("a prediction alone") } else { f.write_str(&there.join(", ")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_both_forms() {
        let line =
            r#"{"prediction": "hi", "references": "hello", "candidates": [{"text": "a", "score": 0.5}]}"#;
        let record: Record = serde_json::from_str(line).unwrap();
        assert_eq!(record.references, ["hello"]);
        assert_eq!(record.fields().to_string(), "references, candidates");
        assert_eq!(
            record.candidates,
            Some(Candidates::Scored(vec![ScoredCandidate { text: "a".into(), score: 0.5 }]))
        );
        let line = r#"{"prediction": "", "personas": [], "candidates": ["b", "a"], "history": ["x", "y"]}"#;
        let record: Record = serde_json::from_str(line).unwrap();
        assert!(record.references.is_empty() && record.personas == Some(vec![]));
        assert_eq!(record.candidates, Some(Candidates::Ranked(vec!["b".into(), "a".into()])));
        let json = serde_json::to_string(&record).unwrap();
        assert_eq!(serde_json::from_str::<Record>(&json).unwrap(), record);
    }

    #[test]
    fn missing_predictions_and_wrong_types_are_refused() {
        let error = |line: &str| serde_json::from_str::<Record>(line).unwrap_err().to_string();
        assert!(error(r#"{"references": ["b"]}"#).contains("prediction"));
        assert!(error(r#"{"prediction": "a", "references": 3}"#).contains("a string or a list of strings"));
        // Half a surrogate pair is no text.
        assert!(error(r#"{"prediction": "\ud800"}"#).contains("hex escape"));
    }
}
