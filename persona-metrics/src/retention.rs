//! Persona retention: how many responses an agent gives before it breaks character.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result, same_length};
use crate::tokens::split_whitespace;

/// One agent of a study of persona retention (Macavei et al., *Understanding the Training Process and Behavioral
/// Dynamics of Large Language Models*), a row of its table.
///
/// ```
/// use persona_metrics::AgentRetention;
///
/// let prompts = ["You are Kaya .", "You run a cafe ."];
/// let responses = ["I love my cafe .", "Come in !", "As an AI language model I have no cafe ."];
/// let kaya = AgentRetention::new("Kaya", &prompts, &responses, &[false, false, true])?;
/// assert_eq!((kaya.retained, kaya.censored), (2, false));
/// assert_eq!((kaya.words_per_prompt, kaya.words_per_response), (Some(4.5), Some(4.0)));
/// # Ok::<(), persona_metrics::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AgentRetention {
    /// Name of the agent.
    pub name: String,
    /// Number of prompts that set the persona up.
    pub prompts: u64,
    /// Mean number of words of a prompt; None without prompts.
    pub words_per_prompt: Option<f64>,
    /// Persona retention: responses before the first one that breaks character.
    pub retained: u64,
    /// No response breaks character: the agent might have lasted longer than it was watched.
    pub censored: bool,
    /// Mean number of words of the retained responses; None where the first response breaks character.
    pub words_per_response: Option<f64>,
}

impl AgentRetention {
    /// `breaks` says of each response whether it breaks character, as a judge finds; what comes after the first break
    /// is not looked at. Words are those of Python's `str.split()`.
    ///
    /// # Errors
    /// Another number of judgements than of responses.
    pub fn new<P: AsRef<str>, R: AsRef<str>>(
        name: impl Into<String>,
        prompts: &[P],
        responses: &[R],
        breaks: &[bool],
    ) -> Result<Self> {
        same_length("responses", responses.len(), "judgements", breaks.len())?;
        let retained = breaks.iter().position(|&breaks| breaks);
        let kept = retained.unwrap_or(responses.len());
        Ok(Self {
            name: name.into(),
            prompts: prompts.len() as u64,
            words_per_prompt: mean_words(prompts.iter()),
            retained: kept as u64,
            censored: retained.is_none(),
            words_per_response: mean_words(responses.iter().take(kept)),
        })
    }
}

fn mean_words<T: AsRef<str>>(texts: impl ExactSizeIterator<Item = T>) -> Option<f64> {
    let number = texts.len();
    let words: usize = texts.map(|text| split_whitespace(text.as_ref()).count()).sum();
    (number > 0).then(|| words as f64 / number as f64)
}

/// The agents of a study, as a table and together. Displayed one agent a line, the median last.
///
/// ```
/// use persona_metrics::{AgentRetention, RetentionTable};
///
/// let agent = |name, responses: usize, breaks: bool| {
///     let judgements: Vec<bool> = (1..=responses).map(|index| breaks && index == responses).collect();
///     AgentRetention::new(name, &["Be Emma ."], &vec!["hello there"; responses], &judgements)
/// };
/// let table = RetentionTable::new(vec![agent("Emma", 21, true)?, agent("Kaya", 25, true)?, agent("Amina", 35, false)?]);
/// assert_eq!(table.median()?, Some(24));
/// println!("{table}");
/// # Ok::<(), persona_metrics::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RetentionTable(Vec<AgentRetention>);

impl RetentionTable {
    /// The table of these agents.
    pub fn new(agents: Vec<AgentRetention>) -> Self {
        Self(agents)
    }

    /// The agents, in the order in which they were given.
    pub fn agents(&self) -> &[AgentRetention] {
        &self.0
    }

    /// Kaplan and Meier's estimate of the share of agents that retain their persona for more than so many responses:
    /// pairs (responses, share) at each number at which an agent breaks character, in ascending order.
    ///
    /// The share is the product of `1 - breaks / watched` over the numbers up to this one, `watched` being the agents
    /// that retained at least so many. A censored agent counts among the watched up to its own number.
    ///
    /// # Errors
    /// No agent.
    pub fn survival(&self) -> Result<Vec<(u64, f64)>> {
        if self.0.is_empty() {
            return Err(Error::EmptyCorpus { metric: "persona retention" });
        }
        let mut agents: Vec<&AgentRetention> = self.0.iter().collect();
        agents.sort_by_key(|agent| agent.retained);
        let mut watched = agents.len();
        let mut share = 1.0;
        let mut curve = Vec::new();
        for together in agents.chunk_by(|a, b| a.retained == b.retained) {
            let breaks = together.iter().filter(|agent| !agent.censored).count();
            if breaks > 0 {
                share *= (watched - breaks) as f64 / watched as f64;
                curve.extend(together.first().map(|agent| (agent.retained, share)));
            }
            watched -= together.len();
        }
        Ok(curve)
    }

    /// Median retention: the smallest number of responses that at most half of the agents surpass, by
    /// [`RetentionTable::survival`]. None where too many agents are censored to say.
    ///
    /// # Errors
    /// No agent.
    pub fn median(&self) -> Result<Option<u64>> {
        // Half of the agents is half of them, whatever the quotients were rounded to.
        let half = |share: f64| share <= 0.5 + 1e-12;
        Ok(self.survival()?.into_iter().find(|&(_, share)| half(share)).map(|(responses, _)| responses))
    }
}

impl fmt::Display for RetentionTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.0.iter().map(|agent| agent.name.chars().count());
        let width = names.max().unwrap_or_default().max(6);
        let row = |f: &mut fmt::Formatter<'_>, cells: [&str; 5]| {
            let [name, prompts, words, retained, per_response] = cells;
            writeln!(f, "{name:<width$}  {prompts:>7}  {words:>12}  {retained:>8}  {per_response:>14}")
        };
        row(f, ["agent", "prompts", "words/prompt", "retained", "words/response"])?;
        for agent in &self.0 {
            let mean = |words: Option<f64>| words.map_or("-".to_owned(), |words| format!("{words:.2}"));
            let more = if agent.censored { ">=" } else { "" };
            row(
                f,
                [
                    &agent.name,
                    &agent.prompts.to_string(),
                    &mean(agent.words_per_prompt),
                    &format!("{more}{}", agent.retained),
                    &mean(agent.words_per_response),
                ],
            )?;
        }
        match self.median() {
            Ok(Some(median)) => write!(f, "median retention: {median} responses"),
            Ok(None) => write!(f, "median retention: not reached"),
            Err(error) => write!(f, "{error}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn agent(name: &str, retained: u64, censored: bool) -> AgentRetention {
        AgentRetention {
            name: name.to_owned(),
            prompts: 1,
            words_per_prompt: Some(2.0),
            retained,
            censored,
            words_per_response: None,
        }
    }

    #[test]
    fn responses_after_the_first_break_do_not_count() {
        let breaks = [false, true, false, true];
        let agent =
            AgentRetention::new("a", &["b\u{1c}c", ""], &["x y z", "x", "x x", "x"], &breaks).unwrap();
        assert_eq!((agent.retained, agent.censored, agent.words_per_response), (1, false, Some(3.0)));
        assert_eq!(agent.words_per_prompt, Some(1.0));

        let none: [&str; 0] = [];
        let first = AgentRetention::new("a", &none, &["x"], &[true]).unwrap();
        assert_eq!((first.retained, first.words_per_response, first.words_per_prompt), (0, None, None));
        let unbroken = AgentRetention::new("a", &none, &["x", "y"], &[false, false]).unwrap();
        assert_eq!((unbroken.retained, unbroken.censored), (2, true));
        assert!(matches!(
            AgentRetention::new("a", &none, &["x"], &[]),
            Err(Error::LengthMismatch { left: 1, right: 0, .. })
        ));
    }

    #[test]
    fn survival_with_censored_agents() {
        // Six agents: breaks at 2, 3, 3; watched up to 3, 5, 9 without a break.
        let agents = [(2, false), (3, false), (3, true), (3, false), (5, true), (9, true)];
        let table = |agents: &[(u64, bool)]| {
            RetentionTable::new(
                agents.iter().map(|&(retained, censored)| agent("a", retained, censored)).collect(),
            )
        };
        let curve = table(&agents).survival().unwrap();
        assert_eq!(curve.len(), 2);
        assert_eq!((curve[0].0, curve[1].0), (2, 3));
        assert!((curve[0].1 - 5.0 / 6.0).abs() < 1e-15 && (curve[1].1 - 5.0 / 6.0 * 3.0 / 5.0).abs() < 1e-15);
        // Half of the agents surpass 3.
        assert_eq!(table(&agents).median().unwrap(), Some(3));
        assert_eq!(table(&agents[4..]).median().unwrap(), None);
        let all_break = [(35, false), (13, false), (24, false), (27, false), (20, false)];
        assert_eq!(table(&all_break).median().unwrap(), Some(24));
        assert!(matches!(table(&[]).median(), Err(Error::EmptyCorpus { .. })));
    }

    #[test]
    fn the_table_is_aligned() {
        let table = RetentionTable::new(vec![agent("Amina", 35, false), agent("Theobald", 27, true)]);
        assert_eq!(
            table.to_string(),
            "agent     prompts  words/prompt  retained  words/response\n\
             Amina           1          2.00        35               -\n\
             Theobald        1          2.00      >=27               -\n\
             median retention: 35 responses"
        );
        assert!(RetentionTable::default().to_string().contains("corpus is empty"));
        let json = serde_json::to_string(&table).unwrap();
        assert_eq!(serde_json::from_str::<RetentionTable>(&json).unwrap(), table);
    }
}
