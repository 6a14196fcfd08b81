//! The settings of decoding.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::error::{Error, Result};

/// How tokens are chosen, and how many.
///
/// Names and meanings are transformers' `GenerationConfig`'s, but for `temperature`, where 0 stands for
/// `do_sample = false`. Settings are applied in transformers' order: repetition penalty, n-grams, minimum lengths, then
/// temperature, top-k, top-p, min-p, typical-p, epsilon cut-off.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DecodeConfig {
    /// New tokens of a reply at most, its end included.
    pub max_new_tokens: usize,
    /// A reply does not end before prompt and reply together have so many tokens.
    pub min_length: usize,
    /// A reply does not end before it has so many tokens.
    pub min_new_tokens: usize,
    /// 0 for greedy decoding and beam search; otherwise logits are divided by this and a token is drawn.
    pub temperature: f64,
    /// Only so many of the likeliest tokens can be drawn.
    pub top_k: Option<usize>,
    /// Only the fewest likeliest tokens whose probabilities sum to this can be drawn (Holtzman et al. 2020).
    pub top_p: Option<f64>,
    /// Only tokens at least this times as likely as the likeliest can be drawn (Nguyen et al. 2025).
    pub min_p: Option<f64>,
    /// Only the tokens of this mass whose surprise is nearest to the entropy can be drawn (Meister et al. 2023).
    pub typical_p: Option<f64>,
    /// Only tokens at least so probable can be drawn, and always the likeliest (Hewitt et al. 2022).
    pub epsilon_cutoff: Option<f64>,
    /// Logits of tokens that stand in the prompt or the reply are divided by this where positive, multiplied where
    /// negative (Keskar et al. 2019); 1 changes nothing.
    pub repetition_penalty: f64,
    /// No n-gram of so many tokens appears twice in prompt and reply; 0 allows all.
    pub no_repeat_ngram_size: usize,
    /// Beams of beam search; 1 is no search.
    pub num_beams: usize,
    /// A finished beam's score is its log-probability over its length to this power: above 0 favours long replies.
    pub length_penalty: f64,
    /// When beam search ends.
    pub early_stopping: EarlyStopping,
    /// Replies to each prompt: draws, or the best of the beams, best first.
    pub num_return_sequences: usize,
    /// What is drawn follows from this, the request's stream, the reply's index and the token's place alone, never from
    /// other prompts. A [`Decoder`](crate::Decoder) or [`TextGenerator`](crate::TextGenerator) sets the prompt's index as
    /// stream; in an [`Engine`](crate::Engine) it is 0 unless set ([`Request::in_stream`](crate::Request::in_stream)).
    pub seed: u64,
    /// Sequences decoded together by a [`Decoder`](crate::Decoder) or [`TextGenerator`](crate::TextGenerator); an
    /// [`Engine`](crate::Engine) has a number of its own.
    pub batch_size: usize,
    /// A text ends at its first line break: for a model that was trained on turns of one line each and goes on with the
    /// next speaker's. A [`TextGenerator`](crate::TextGenerator)'s; requests to an [`Engine`](crate::Engine) have stop
    /// strings.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub one_line: bool,
}

/// When beam search ends for a prompt that has as many finished beams as beams, by transformers' values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum EarlyStopping {
    /// `true`: at once.
    Yes,
    /// `false`: when the best running beam, at its present length, scores no better than the worst finished one.
    #[default]
    No,
    /// `"never"`: when no running beam can get better than the worst finished one at any length.
    Never,
}

impl Serialize for EarlyStopping {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Yes => serializer.serialize_bool(true),
            Self::No => serializer.serialize_bool(false),
            Self::Never => serializer.serialize_str("never"),
        }
    }
}

impl<'de> Deserialize<'de> for EarlyStopping {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Value {
            Bool(bool),
            Word(String),
        }
        match Value::deserialize(deserializer) {
            Ok(Value::Bool(true)) => Ok(Self::Yes),
            Ok(Value::Bool(false)) => Ok(Self::No),
            Ok(Value::Word(word)) if word == "never" => Ok(Self::Never),
            _ => Err(serde::de::Error::custom("early_stopping is true, false or \"never\"")),
        }
    }
}

impl Default for DecodeConfig {
    /// Greedy, 40 tokens, as PAL decodes.
    fn default() -> Self {
        Self {
            max_new_tokens: 40,
            min_length: 0,
            min_new_tokens: 0,
            temperature: 0.0,
            top_k: None,
            top_p: None,
            min_p: None,
            typical_p: None,
            epsilon_cutoff: None,
            repetition_penalty: 1.0,
            no_repeat_ngram_size: 0,
            num_beams: 1,
            length_penalty: 1.0,
            early_stopping: EarlyStopping::No,
            num_return_sequences: 1,
            seed: 0,
            batch_size: 64,
            one_line: false,
        }
    }
}

impl DecodeConfig {
    /// Checks every range, and that no setting is without effect.
    ///
    /// # Errors
    /// [`Error::Config`] with the key.
    pub fn validate(&self) -> Result<()> {
        for (key, count) in [
            ("max_new_tokens", self.max_new_tokens),
            ("num_beams", self.num_beams),
            ("num_return_sequences", self.num_return_sequences),
            ("batch_size", self.batch_size),
        ] {
            if count == 0 {
                return fail(key, "is 0; give at least 1");
            }
        }
        if self.min_new_tokens > self.max_new_tokens {
            return fail("min_new_tokens", "is more than max_new_tokens; lower it");
        }
        if self.temperature != 0.0 {
            check_temperature(self.temperature)?;
        }
        self.top_k.map_or(Ok(()), check_top_k)?;
        self.top_p.map_or(Ok(()), check_top_p)?;
        self.min_p.map_or(Ok(()), check_min_p)?;
        self.typical_p.map_or(Ok(()), check_typical_p)?;
        self.epsilon_cutoff.map_or(Ok(()), check_epsilon)?;
        check_repetition_penalty(self.repetition_penalty)?;
        if !self.length_penalty.is_finite() {
            return fail("length_penalty", "must be finite; 1 divides a beam's score by its length");
        }
        self.check_combinations()
    }

    /// Refuses what only text has.
    pub(crate) fn check_tokens(&self) -> Result<()> {
        let reason =
            "is for text, and tokens are asked for; use a TextGenerator, or a request with a stop string";
        check(!self.one_line, "one_line", reason)
    }

    fn check_combinations(&self) -> Result<()> {
        let cuts = [
            ("top_k", self.top_k.is_some()),
            ("top_p", self.top_p.is_some()),
            ("min_p", self.min_p.is_some()),
            ("typical_p", self.typical_p.is_some()),
            ("epsilon_cutoff", self.epsilon_cutoff.is_some()),
        ];
        if self.temperature == 0.0
            && let Some((key, _)) = cuts.into_iter().find(|(_, set)| *set)
        {
            return fail(key, "is for sampling, and temperature is 0; set a temperature, or leave it out");
        }
        if self.num_beams == 1 {
            if self.length_penalty != 1.0 {
                return fail("length_penalty", "is for beam search, and num_beams is 1; leave it out");
            }
            if self.early_stopping != EarlyStopping::No {
                return fail("early_stopping", "is for beam search, and num_beams is 1; leave it out");
            }
            if self.temperature == 0.0 && self.num_return_sequences > 1 {
                let reason = "is above 1, and greedy decoding has one answer; set a temperature or num_beams";
                return fail("num_return_sequences", reason);
            }
            return Ok(());
        }
        if self.temperature != 0.0 {
            return fail("num_beams", "is above 1, and beams are not drawn here; set temperature to 0");
        }
        if self.num_return_sequences > self.num_beams {
            return fail("num_return_sequences", "is more than num_beams; there are no more beams to return");
        }
        Ok(())
    }
}

fn fail(key: &'static str, reason: &str) -> Result<()> {
    Err(Error::Config { key, reason: reason.to_owned() })
}

fn check(holds: bool, key: &'static str, reason: &str) -> Result<()> {
    if holds { Ok(()) } else { fail(key, reason) }
}

pub(super) fn check_temperature(temperature: f64) -> Result<()> {
    let holds = temperature > 0.0 && temperature.is_finite();
    check(holds, "temperature", "must be above 0 and finite; in a config 0 stands for greedy decoding")
}

pub(super) fn check_top_k(count: usize) -> Result<()> {
    check(count > 0, "top_k", "is 0; give at least 1, or leave it out")
}

pub(super) fn check_top_p(p: f64) -> Result<()> {
    check(p > 0.0 && p <= 1.0, "top_p", "lies above 0 and at most at 1; leave it out for no cut")
}

pub(super) fn check_min_p(p: f64) -> Result<()> {
    check((0.0..=1.0).contains(&p), "min_p", "lies from 0 to 1; leave it out for no cut")
}

pub(super) fn check_typical_p(p: f64) -> Result<()> {
    check(p > 0.0 && p < 1.0, "typical_p", "lies between 0 and 1; leave it out for no cut")
}

pub(super) fn check_epsilon(epsilon: f64) -> Result<()> {
    let holds = epsilon > 0.0 && epsilon < 1.0;
    check(holds, "epsilon_cutoff", "lies between 0 and 1; leave it out for no cut")
}

pub(super) fn check_repetition_penalty(penalty: f64) -> Result<()> {
    let holds = penalty > 0.0 && penalty.is_finite();
    check(holds, "repetition_penalty", "must be above 0 and finite; 1 changes nothing")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn impossible_settings_are_named() {
        let base = DecodeConfig::default();
        let drawn = DecodeConfig { temperature: 1.0, ..base };
        let beams = DecodeConfig { num_beams: 3, ..base };
        for (config, key) in [
            (DecodeConfig { max_new_tokens: 0, ..base }, "max_new_tokens"),
            (DecodeConfig { min_new_tokens: 41, ..base }, "min_new_tokens"),
            (DecodeConfig { temperature: -1.0, ..base }, "temperature"),
            (DecodeConfig { temperature: f64::NAN, ..base }, "temperature"),
            (DecodeConfig { top_k: Some(0), ..drawn }, "top_k"),
            (DecodeConfig { top_k: Some(3), ..base }, "top_k"),
            (DecodeConfig { top_p: Some(0.0), ..drawn }, "top_p"),
            (DecodeConfig { top_p: Some(1.5), ..drawn }, "top_p"),
            (DecodeConfig { top_p: Some(f64::NAN), ..drawn }, "top_p"),
            (DecodeConfig { min_p: Some(-0.1), ..drawn }, "min_p"),
            (DecodeConfig { typical_p: Some(1.0), ..drawn }, "typical_p"),
            (DecodeConfig { epsilon_cutoff: Some(0.0), ..drawn }, "epsilon_cutoff"),
            (DecodeConfig { repetition_penalty: 0.0, ..base }, "repetition_penalty"),
            (DecodeConfig { num_beams: 0, ..base }, "num_beams"),
            (DecodeConfig { temperature: 0.7, ..beams }, "num_beams"),
            (DecodeConfig { length_penalty: f64::INFINITY, ..beams }, "length_penalty"),
            (DecodeConfig { length_penalty: 2.0, ..base }, "length_penalty"),
            (DecodeConfig { early_stopping: EarlyStopping::Yes, ..base }, "early_stopping"),
            (DecodeConfig { num_return_sequences: 0, ..base }, "num_return_sequences"),
            (DecodeConfig { num_return_sequences: 2, ..base }, "num_return_sequences"),
            (DecodeConfig { num_return_sequences: 4, ..beams }, "num_return_sequences"),
            (DecodeConfig { batch_size: 0, ..base }, "batch_size"),
        ] {
            let message = config.validate().unwrap_err().to_string();
            assert!(message.contains(&format!("`{key}`")), "{message}");
        }
        let fine = DecodeConfig { num_return_sequences: 3, length_penalty: -1.0, ..beams };
        assert!(fine.validate().is_ok() && drawn.validate().is_ok());
    }

    #[test]
    fn early_stopping_is_read_and_written_as_in_transformers() {
        let read = |text: &str| serde_json::from_str::<DecodeConfig>(text);
        for (value, word) in
            [("true", EarlyStopping::Yes), ("false", EarlyStopping::No), ("\"never\"", EarlyStopping::Never)]
        {
            let config = read(&format!("{{\"early_stopping\": {value}}}")).unwrap();
            assert_eq!(config.early_stopping, word);
            assert_eq!(serde_json::to_value(config).unwrap()["early_stopping"].to_string(), value);
        }
        assert!(read("{\"early_stopping\": \"soon\"}").unwrap_err().to_string().contains("never"));
        assert!(read("{\"max_new_tokens\": -3}").is_err(), "lengths are not negative");
        assert!(read("{\"topk\": 3}").unwrap_err().to_string().contains("topk"));
    }
}
