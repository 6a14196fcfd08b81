//! Dialogues as files hold them, and the training examples cut from them.

use serde::{Deserialize, Serialize};

/// One of the two speakers of a dialogue, in the order in which the file lists them.
///
/// In PERSONA-CHAT files "your persona" belongs to [`Speaker::Two`], who answers, and "partner's persona" to
/// [`Speaker::One`], who opens. Written as the number 1 or 2 in JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "u8", into = "u8")]
pub enum Speaker {
    /// The first speaker, who usually opens the dialogue.
    One,
    /// The second speaker, whose turns are the responses of PERSONA-CHAT and of PAL.
    Two,
}

impl Speaker {
    /// The other speaker.
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Self::One => Self::Two,
            Self::Two => Self::One,
        }
    }

    /// 0 for the first speaker, 1 for the second: the index into [`Dialogue::personas`].
    #[must_use]
    pub fn index(self) -> usize {
        match self {
            Self::One => 0,
            Self::Two => 1,
        }
    }
}

impl TryFrom<u8> for Speaker {
    type Error = String;

    fn try_from(number: u8) -> Result<Self, String> {
        match number {
            1 => Ok(Self::One),
            2 => Ok(Self::Two),
            other => Err(format!("speaker {other} is neither 1 nor 2")),
        }
    }
}

impl From<Speaker> for u8 {
    fn from(speaker: Speaker) -> u8 {
        match speaker {
            Speaker::One => 1,
            Speaker::Two => 2,
        }
    }
}

/// One utterance of a dialogue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Turn {
    /// Who says it.
    pub speaker: Speaker,
    /// What is said.
    pub text: String,
    /// Indexes into the speaker's persona of the descriptions that this turn draws on: `None` when nobody labelled the
    /// turn, an empty list when it was labelled and no description applies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub relevant: Option<Vec<usize>>,
    /// Candidate replies for ranking, as PERSONA-CHAT's files list them (the gold reply is the last of 20); empty where
    /// the file has none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub candidates: Vec<String>,
}

impl Turn {
    /// An unlabelled turn without candidates.
    pub fn new(speaker: Speaker, text: impl Into<String>) -> Self {
        Self { speaker, text: text.into(), relevant: None, candidates: Vec::new() }
    }

    /// Whether the text is more than white space.
    fn says_something(&self) -> bool {
        !self.text.trim().is_empty()
    }
}

/// A conversation of two speakers with the persona of each.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dialogue {
    /// Unique within its data set, and stable between runs.
    pub id: String,
    /// The descriptions of the first and of the second speaker; empty where the file does not give them.
    pub personas: [Vec<String>; 2],
    /// The utterances, oldest first. Speakers need not alternate.
    pub turns: Vec<Turn>,
}

impl Dialogue {
    /// The descriptions of one speaker.
    #[must_use]
    pub fn persona(&self, speaker: Speaker) -> &[String] {
        &self.personas[speaker.index()]
    }

    /// The examples of this dialogue: one for each turn with text of the chosen responders, with at most
    /// `options.history_turns` of history. Turns without text are no part of a history; a response before which nothing
    /// was said is an example only under `options.openings`.
    pub fn examples(&self, options: &ExampleOptions) -> Vec<Example> {
        let example = |(at, turn, past): (usize, &Turn, &[Turn])| Example {
            id: format!("{}#{at}", self.id),
            persona: self.persona(turn.speaker).to_vec(),
            history: past
                .iter()
                .filter(|past| past.says_something())
                .map(|past| Utterance {
                    role: if past.speaker == turn.speaker { Role::Agent } else { Role::Partner },
                    text: past.text.clone(),
                })
                .collect(),
            response: turn.text.clone(),
            relevant: turn.relevant.clone(),
            candidates: turn.candidates.clone(),
        };
        self.responses(options).map(example).collect()
    }

    /// How many [`examples`](Self::examples) the dialogue gives.
    #[must_use]
    pub fn example_count(&self, options: &ExampleOptions) -> usize {
        self.responses(options).count()
    }

    /// Each response with its index and the turns of its history.
    fn responses(&self, options: &ExampleOptions) -> impl Iterator<Item = (usize, &Turn, &[Turn])> {
        let window = options.history_turns.unwrap_or(usize::MAX);
        let responder = options.responder;
        let wanted = move |turn: &Turn| match responder {
            Responder::One => turn.speaker == Speaker::One,
            Responder::Two => turn.speaker == Speaker::Two,
            Responder::Both => true,
        };
        let responses = self.turns.iter().enumerate().skip(usize::from(!options.openings));
        let responses = responses.filter(move |(_, turn)| wanted(turn) && turn.says_something());
        responses.filter_map(move |(at, turn)| {
            let past = self.turns.get(at.saturating_sub(window)..at).unwrap_or_default();
            (options.openings || window == 0 || past.iter().any(Turn::says_something))
                .then_some((at, turn, past))
        })
    }
}

/// Whose turns become responses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Responder {
    /// The first speaker's.
    One,
    /// The second speaker's, as in PERSONA-CHAT "self" files and in PAL.
    #[default]
    Two,
    /// Every turn after the first, each with its own speaker's persona.
    Both,
}

/// How dialogues are cut into examples.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ExampleOptions {
    /// Whose turns become responses.
    pub responder: Responder,
    /// How many turns before the response are kept, `None` for all; a number or `"all"` in files. PAL's English data has 3.
    #[serde(with = "turns")]
    pub history_turns: Option<usize>,
    /// Whether a response with an empty history is an example: one that opens the dialogue, such as the reply to
    /// ConvAI2's `__SILENCE__`.
    pub openings: bool,
}

impl Default for ExampleOptions {
    fn default() -> Self {
        Self { responder: Responder::Two, history_turns: Some(3), openings: false }
    }
}

/// A number of turns, or all of them: TOML has no null to say so.
mod turns {
    use std::fmt;

    use serde::de::{Error, Visitor};
    use serde::{Deserializer, Serializer};

    const ALL: &str = "all";

    #[allow(clippy::ref_option, reason = "serde gives the field by reference")]
    pub(super) fn serialize<S: Serializer>(turns: &Option<usize>, to: S) -> Result<S::Ok, S::Error> {
        match turns {
            Some(turns) => to.serialize_u64(*turns as u64),
            None => to.serialize_str(ALL),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<usize>, D::Error> {
        from.deserialize_any(Turns)
    }

    struct Turns;

    impl Visitor<'_> for Turns {
        type Value = Option<usize>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "a number of turns, or {ALL:?}")
        }

        fn visit_u64<E: Error>(self, turns: u64) -> Result<Self::Value, E> {
            // More turns than can be counted are all turns.
            Ok(usize::try_from(turns).ok())
        }

        fn visit_i64<E: Error>(self, turns: i64) -> Result<Self::Value, E> {
            match u64::try_from(turns) {
                Ok(turns) => self.visit_u64(turns),
                Err(_) => Err(E::invalid_value(serde::de::Unexpected::Signed(turns), &self)),
            }
        }

        fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
            match text {
                ALL => Ok(None),
                other => Err(E::invalid_value(serde::de::Unexpected::Str(other), &self)),
            }
        }

        fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
            Ok(None)
        }

        fn visit_none<E: Error>(self) -> Result<Self::Value, E> {
            Ok(None)
        }
    }
}

/// A speaker as seen by the one who answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// The one whose persona is given and whose response is wanted.
    Agent,
    /// The other one.
    Partner,
}

/// One utterance of an example's history.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Utterance {
    /// Who said it, seen from the agent.
    pub role: Role,
    /// What was said.
    pub text: String,
}

/// What a model is trained and measured on: a persona, the history, the gold response, and which descriptions it uses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Example {
    /// `DIALOGUE#TURN`, or the record's number where the file has no dialogues.
    pub id: String,
    /// The agent's descriptions.
    pub persona: Vec<String>,
    /// The turns before the response, oldest first.
    pub history: Vec<Utterance>,
    /// The gold response.
    pub response: String,
    /// As [`Turn::relevant`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub relevant: Option<Vec<usize>>,
    /// As [`Turn::candidates`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub candidates: Vec<String>,
}

impl Example {
    /// The first relevant description's index, which is the one PAL highlights; `None` when none applies or nobody
    /// labelled the example.
    #[must_use]
    pub fn selected(&self) -> Option<usize> {
        self.relevant.as_ref().and_then(|list| list.first().copied())
    }
}
