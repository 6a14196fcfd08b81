//! From what was measured to the report.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};
use persona_data::{EncodedExample, Example, Role, Task};
use persona_metrics::{PersonaJudge, selection_accuracy};
use serde::{Deserialize, Serialize};

use crate::judge::Judge;
use crate::recipe::Recipe;
use crate::report::{Check, Conversation, Curve, Line, Reply, Report};
use crate::systems::{self, SystemReplies};
use crate::workspace::Workspace;

/// Reward accuracy on one set of pairs.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Control {
    /// What the pairs are.
    pub name: String,
    /// How many.
    pub pairs: usize,
    /// The share whose chosen reply gains more over the reference.
    pub accuracy: f64,
    /// The mean difference of rewards.
    pub margin: f64,
}

/// Everything that a run measured.
#[derive(Debug)]
pub struct Measured<'a> {
    /// The systems' replies.
    pub systems: &'a [SystemReplies],
    /// The examples replied to.
    pub test: &'a [Example],
    /// What a unigram model loses on the validation targets: by task, and over all (`None`), in nats a token.
    pub unigram: BTreeMap<Option<Task>, f64>,
    /// Reward accuracies.
    pub controls: Vec<Control>,
    /// Named facts.
    pub facts: Vec<(String, String)>,
    /// Who judges consistency.
    pub judge: Option<&'a Judge>,
}

/// The loss in nats a token of a unigram model of the training targets (add-one smoothing over the vocabulary) on the
/// validation targets, by task and over all.
#[must_use]
pub fn unigram_losses(
    train: &[EncodedExample],
    valid: &[EncodedExample],
    vocabulary: usize,
) -> BTreeMap<Option<Task>, f64> {
    let keys = |task: Task| [None, Some(task)];
    let mut counts: BTreeMap<Option<Task>, (Vec<f64>, f64)> = BTreeMap::new();
    for example in train {
        for key in keys(example.task) {
            let (count, total) =
                counts.entry(key).or_insert_with(|| (vec![1.0; vocabulary], vocabulary as f64));
            for &id in &example.target {
                count[id as usize] += 1.0;
                *total += 1.0;
            }
        }
    }
    let mut losses: BTreeMap<Option<Task>, (f64, f64)> = BTreeMap::new();
    for example in valid {
        for key in keys(example.task) {
            let Some((count, total)) = counts.get(&key) else { continue };
            let (loss, tokens) = losses.entry(key).or_default();
            *loss -= example.target.iter().map(|&id| (count[id as usize] / total).ln()).sum::<f64>();
            *tokens += example.target.len() as f64;
        }
    }
    losses.into_iter().map(|(key, (loss, tokens))| (key, loss / tokens)).collect()
}

/// The report of a run.
///
/// # Errors
/// The metrics', and when a log of the run cannot be read.
pub fn report(recipe: &Recipe, text: &str, workspace: &Workspace, measured: Measured<'_>) -> Result<Report> {
    let log = |name: &str| Log::read(&workspace.path(name).join("log.jsonl"));
    let (plain, stage1, align) = (log("plain")?, log("stage1")?, log("align")?);
    let mut facts = measured.facts.clone();
    for (name, log) in [("plain", &plain), ("stage 1", &stage1), ("stage 2", &align)] {
        let (seconds, tokens) = (log.sum("seconds"), log.sum("tokens"));
        let text = format!("{seconds:.0} s, {:.0} tokens a second", tokens / seconds.max(1e-9));
        facts.push((format!("training, {name}"), text));
    }
    Ok(Report {
        title: recipe.title.clone(),
        summary: vec![
            "Three systems from one starting model: plain fine-tuning on persona, history and reply; stage 1 of PAL, \
             which learns in one pool to select the relevant description and to reply with it highlighted; and PAL, \
             stage 1 aligned by DPO on pairs of the gold reply and stage 1's own reply made without the persona. Stage 1 \
             and PAL select for themselves."
                .to_owned(),
            match measured.judge {
                Some(judge) => format!(
                    "C.score is by {}: read it beside gold's and the copy rate; a system that inserts its persona into \
                     every reply has a high one.",
                    judge.name()
                ),
                None => "C.score has no value: it needs a judge of persona consistency, `judge` in the recipe.".to_owned(),
            },
        ],
        facts,
        curves: curves(&plain, &stage1, &align, &measured.unigram),
        table: systems::table(
            measured.systems,
            measured.test,
            measured.judge.map(|judge| judge as &dyn PersonaJudge),
        )?,
        checks: checks(&stage1, &align, &measured)?,
        conversations: conversations(measured.systems, measured.test, recipe.report.conversations),
        recipe: text.to_owned(),
    })
}

fn curves(plain: &Log, stage1: &Log, align: &Log, unigram: &BTreeMap<Option<Task>, f64>) -> Vec<Curve> {
    let line = |log: &Log, key: &str, name: &str| Line { name: name.to_owned(), points: log.points(key) };
    let level =
        |task: Task| unigram.get(&Some(task)).map(|loss| (format!("unigram, {}", task.name()), *loss));
    let curve = |title: &str, y: &str, lines: Vec<Line>, levels: Vec<(String, f64)>| Curve {
        title: title.to_owned(),
        x: "step".to_owned(),
        y: y.to_owned(),
        lines: lines.into_iter().filter(|line| !line.points.is_empty()).collect(),
        levels,
    };
    vec![
        curve(
            "Stage 1: loss by task",
            "nats a token",
            vec![
                line(stage1, "loss/selection", "selection"),
                line(stage1, "loss/generation", "generation"),
                line(stage1, "eval_loss/selection", "selection, validation"),
                line(stage1, "eval_loss/generation", "generation, validation"),
            ],
            [level(Task::Selection), level(Task::Generation)].into_iter().flatten().collect(),
        ),
        curve(
            "Plain fine-tuning: loss",
            "nats a token",
            vec![line(plain, "loss", "training"), line(plain, "eval_loss", "validation")],
            Vec::new(),
        ),
        curve(
            "Stage 2: reward margin",
            "nats times beta",
            vec![line(align, "rewards/margins", "training"), line(align, "eval_rewards/margins", "held out")],
            vec![("none".to_owned(), 0.0)],
        ),
        curve(
            "Stage 2: reward accuracy",
            "share of pairs",
            vec![
                line(align, "rewards/accuracies", "training"),
                line(align, "eval_rewards/accuracies", "held out"),
            ],
            vec![("chance".to_owned(), 0.5)],
        ),
    ]
}

fn checks(stage1: &Log, align: &Log, measured: &Measured<'_>) -> Result<Vec<Check>> {
    let mut checks = Vec::new();
    for (key, task, what) in [
        ("eval_loss", None, "both tasks"),
        ("eval_loss/selection", Some(Task::Selection), "selection"),
        ("eval_loss/generation", Some(Task::Generation), "generation"),
    ] {
        let (Some(loss), Some(&unigram)) = (stage1.last(key), measured.unigram.get(&task)) else { continue };
        checks.push(Check {
            name: format!("Stage 1, validation loss, {what} (nats a token)"),
            measured: loss,
            against: "unigram model of the targets".to_owned(),
            baseline: unigram,
            holds: loss < unigram,
            note: "lower is better; the unigram model knows how often each token stands in training targets"
                .to_owned(),
        });
    }
    let labels: Vec<&[usize]> =
        measured.test.iter().map(|example| example.relevant.as_deref().unwrap_or(&[])).collect();
    for system in measured.systems {
        let choices: Option<Vec<Option<usize>>> =
            system.replies.iter().map(|reply| reply.highlighted.selection()).collect();
        let Some(choices) = choices else { continue };
        let selection = selection_accuracy(&choices, &labels)?;
        let confusion = selection.confusion;
        let named = confusion.none_as_description + confusion.description_as_description;
        let described = selection
            .accuracy_where_described
            .map_or("none".to_owned(), |score| format!("{:.1} %", score.displayed_value()));
        checks.push(Check {
            name: format!("{}: selection accuracy (%)", system.system),
            measured: selection.accuracy.displayed_value(),
            against: "answering 'none' always".to_owned(),
            baseline: selection.none_base_rate.displayed_value(),
            holds: selection.accuracy.value() > selection.none_base_rate.value(),
            note: format!(
                "named a description for {named} of {} examples; right among those where one applies: {described}",
                choices.len()
            ),
        });
    }
    if let Some(first) = align.points("loss").first() {
        let ln2 = std::f64::consts::LN_2;
        checks.push(Check {
            name: "Stage 2: first loss".to_owned(),
            measured: first.1,
            against: "ln 2, policy and reference being one".to_owned(),
            baseline: ln2,
            holds: (first.1 - ln2).abs() < 1e-2,
            note: "a reference that is not the stage-1 model shows here".to_owned(),
        });
    }
    for control in &measured.controls {
        let error = (control.accuracy * (1.0 - control.accuracy) / control.pairs as f64).sqrt();
        checks.push(Check {
            name: format!("PAL: reward accuracy, {}", control.name),
            measured: control.accuracy,
            against: "chance".to_owned(),
            baseline: 0.5,
            holds: control.accuracy - 2.0 * error > 0.5,
            note: format!(
                "{} pairs, standard error {error:.3}, mean margin {:.3}; holds when two standard errors above chance",
                control.pairs, control.margin
            ),
        });
    }
    Ok(checks)
}

/// The first examples to whose gold reply a description applies; where there are fewer, others after them.
pub(crate) fn conversations(systems: &[SystemReplies], test: &[Example], count: usize) -> Vec<Conversation> {
    let (described, none): (Vec<_>, Vec<_>) =
        test.iter().enumerate().partition(|(_, example)| example.selected().is_some());
    let shown = described.into_iter().chain(none).take(count);
    shown
        .map(|(at, example)| {
            let description = |choice: Option<usize>| {
                choice
                    .and_then(|index| example.persona.get(index))
                    .cloned()
                    .unwrap_or_else(|| "none".to_owned())
            };
            let mut replies: Vec<Reply> = systems
                .iter()
                .map(|system| Reply {
                    system: system.system.clone(),
                    selected: system.replies[at].highlighted.selection().map(description),
                    text: system.replies[at].text.clone(),
                })
                .collect();
            replies.push(Reply {
                system: "gold".to_owned(),
                selected: Some(description(example.selected())),
                text: example.response.clone(),
            });
            let speaker = |role| match role {
                Role::Partner => "partner".to_owned(),
                Role::Agent => "agent".to_owned(),
            };
            let history =
                example.history.iter().map(|turn| (speaker(turn.role), turn.text.clone())).collect();
            Conversation { persona: example.persona.clone(), history, replies }
        })
        .collect()
}

/// The log of a training.
pub(crate) struct Log(Vec<serde_json::Value>);

impl Log {
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
        let lines = text.lines().enumerate().map(|(at, line)| {
            serde_json::from_str(line).with_context(|| format!("{}:{}", path.display(), at + 1))
        });
        Ok(Self(lines.collect::<Result<_>>()?))
    }

    /// A value over the steps.
    pub(crate) fn points(&self, key: &str) -> Vec<(f64, f64)> {
        self.0.iter().filter_map(|line| Some((line["step"].as_f64()?, line.get(key)?.as_f64()?))).collect()
    }

    pub(crate) fn last(&self, key: &str) -> Option<f64> {
        self.points(key).last().map(|(_, value)| *value)
    }

    pub(crate) fn sum(&self, key: &str) -> f64 {
        self.points(key).iter().map(|(_, value)| value).sum()
    }
}

/// The largest amount of memory that this process has held, in MiB, where the system tells.
#[must_use]
pub fn peak_memory_mib() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().trim_end_matches(" kB").trim().parse().ok()?;
    Some(kib / 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unigram_loss_is_the_cross_entropy_of_smoothed_counts() {
        let example = |task, target: &[u32]| EncodedExample {
            id: String::new(),
            task,
            source: vec![0],
            target: target.to_vec(),
        };
        let train = [example(Task::Selection, &[0, 0, 1]), example(Task::Generation, &[2])];
        let losses = unigram_losses(&train, &train, 4);
        // Selection: counts 3, 2, 1, 1 of 7; generation: 1, 1, 2, 1 of 5; all: 3, 2, 2, 1 of 8.
        let expected = -(2.0 * (3.0f64 / 7.0).ln() + (2.0f64 / 7.0).ln()) / 3.0;
        assert!((losses[&Some(Task::Selection)] - expected).abs() < 1e-12);
        assert!((losses[&Some(Task::Generation)] + (2.0f64 / 5.0).ln()).abs() < 1e-12);
        let expected = -(2.0 * (3.0f64 / 8.0).ln() + 2.0 * (2.0f64 / 8.0).ln()) / 4.0;
        assert!((losses[&None] - expected).abs() < 1e-12);
    }
}
