//! Loading, labelling and dividing the dialogues of a recipe.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use persona_data::{
    BpeOptions, Dialogue, EntailmentRule, Example, Notes, OverlapLabeller, PalParts, PromptSet, RecordList,
    TextTokenizer, label_dialogues, open, train_byte_level_bpe,
};
use persona_metrics::PersonaJudge;
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use crate::judge::{Judge, judge_dialogues};
use crate::recipe::{DataRecipe, Recipe};
use crate::workspace::Workspace;

/// The four parts as examples, and what is to be said about them.
#[derive(Debug)]
pub struct Data {
    /// Stage 1 and the baseline.
    pub train: Vec<Example>,
    /// Preference pairs.
    pub valid1: Vec<Example>,
    /// Validation losses and held-out pairs.
    pub valid2: Vec<Example>,
    /// What is reported.
    pub test: Vec<Example>,
    /// Which dialogue is in which part.
    pub split: RecordList,
    /// The labeller, fitted on the training dialogues.
    pub labeller: OverlapLabeller,
    /// Named facts for the report.
    pub facts: Vec<(String, String)>,
}

/// Loads the files, labels the turns that have no label (by the judge where the recipe says so), and divides them.
/// Writes nothing.
///
/// # Errors
/// The loaders' and the split's, with the file; when a part has no example.
pub fn load(recipe: &Recipe, judge: Option<&Judge>) -> Result<Data> {
    let mut facts = Vec::new();
    let data = &recipe.data;
    let train = read(&data.train, data, &mut facts)?;
    let (mut parts, split) = match (&data.valid, &data.test) {
        (Some(valid), Some(test)) => {
            let sets = [train, read(valid, data, &mut facts)?, read(test, data, &mut facts)?];
            PalParts::from_sets(sets, [data.parts[1], data.parts[2]], &data.examples, recipe.seed)?
        }
        _ => PalParts::from_one(train, data.parts, &data.examples, recipe.seed)?,
    };

    let labeller = OverlapLabeller::fit(&parts.train)?;
    let wanted = recipe.judge.as_ref().filter(|judge| judge.labels);
    let by_judge = judge.zip(wanted.map(|judge| judge.rule));
    let (mut labelled, mut none) = (0, 0);
    for part in [&mut parts.train, &mut parts.valid1, &mut parts.valid2, &mut parts.test] {
        let report = match by_judge {
            Some((judge, rule)) => judge_dialogues(judge, part, rule).context("labelling by the judge")?.0,
            None => label_dialogues(part, &labeller)?,
        };
        labelled += report.labelled;
        none += report.none;
    }
    if labelled > 0 {
        let share = 100.0 * none as f64 / labelled as f64;
        let by = match by_judge {
            Some((judge, EntailmentRule { choice, threshold })) => {
                format!("{} ({choice:?}, threshold {threshold})", judge.name())
            }
            None => format!("word overlap (threshold {})", OverlapLabeller::THRESHOLD),
        };
        facts.push(("labels".to_owned(), format!("{labelled} turns by {by}, 'none' {share:.1} %")));
    }
    let cut = |dialogues: &[Dialogue]| -> Vec<Example> {
        dialogues.iter().flat_map(|dialogue| dialogue.examples(&data.examples)).collect()
    };
    let data = Data {
        train: cut(&parts.train),
        valid1: cut(&parts.valid1),
        valid2: cut(&parts.valid2),
        test: cut(&parts.test),
        split,
        labeller,
        facts,
    };
    for (name, examples) in PalParts::NAMES.iter().zip([&data.train, &data.valid1, &data.valid2, &data.test])
    {
        ensure!(!examples.is_empty(), "the part {name} has no examples; change `data.parts`");
    }
    let mut data = data;
    let sizes: Vec<String> = PalParts::NAMES
        .iter()
        .zip([
            (&parts.train, &data.train),
            (&parts.valid1, &data.valid1),
            (&parts.valid2, &data.valid2),
            (&parts.test, &data.test),
        ])
        .map(|(name, (dialogues, examples))| {
            format!("{name} {} dialogues, {} examples", dialogues.len(), examples.len())
        })
        .collect();
    data.facts.push(("parts".to_owned(), sizes.join("; ")));
    Ok(data)
}

fn read(path: &Path, data: &DataRecipe, facts: &mut Vec<(String, String)>) -> Result<Vec<Dialogue>> {
    let mut stream = open(path, data.format)
        .context("opening the dialogues; a recipe's paths start where the program does")?;
    if !data.lenient {
        let dialogues = stream.by_ref().collect::<persona_data::Result<_>>()?;
        facts.extend(loader_notes(path, stream.notes()));
        return Ok(dialogues);
    }
    let mut stream = stream.lenient();
    let dialogues: Vec<Dialogue> = stream.by_ref().collect();
    if stream.skipped() > 0 {
        let first = stream.messages().first().cloned().unwrap_or_default();
        facts.push((
            format!("skipped in {}", path.display()),
            format!("{}, the first: {first}", stream.skipped()),
        ));
    }
    facts.extend(loader_notes(path, stream.inner().notes()));
    Ok(dialogues)
}

/// What the loader left out or put together without an error.
pub(crate) fn loader_notes(path: &Path, notes: Notes) -> Option<(String, String)> {
    let counts = [
        (notes.silences, "`__SILENCE__` turns left out"),
        (notes.stray_lines, "lines without a speaker left out"),
        (notes.fragments, "records that go on from none, each a dialogue of its own"),
    ];
    let found: Vec<String> = counts
        .iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, what)| format!("{count} {what}"))
        .collect();
    (!found.is_empty()).then(|| (format!("changed in {}", path.display()), found.join("; ")))
}

/// Writes the parts as `split.json`, or compares them with what an earlier call wrote.
///
/// # Errors
/// When the file holds other parts, which then stay; when it cannot be read or written.
pub fn keep_split(workspace: &Workspace, split: &RecordList) -> Result<()> {
    let path = workspace.path("split.json");
    if !path.exists() {
        return Ok(split.save(path)?);
    }
    ensure!(
        RecordList::load(&path)? == *split,
        "{} holds other parts than the data give now: what is finished was made from other data; put the files of \
         `data` back, give another `out`, or start over with --fresh",
        path.display()
    );
    Ok(())
}

/// Up to `count` examples drawn from a seed, in an order of their own.
#[must_use]
pub fn sample(examples: &[Example], count: usize, seed: u64) -> Vec<Example> {
    let mut order: Vec<usize> = (0..examples.len()).collect();
    order.shuffle(&mut ChaCha8Rng::seed_from_u64(seed));
    order.truncate(count);
    order.iter().map(|&at| examples[at].clone()).collect()
}

/// The tokenizer of a fresh model, trained on the prompts and responses of the training part, or read from the run.
///
/// # Errors
/// The tokenizer's.
pub fn tokenizer(
    workspace: &Workspace,
    prompts: &PromptSet,
    train: &[Example],
    vocabulary: usize,
) -> Result<TextTokenizer> {
    let folder = workspace.path("tokenizer");
    if !folder.join("tokenizer_config.json").exists() {
        bpe_of(prompts, train, vocabulary)?.save(&folder)?;
    }
    Ok(TextTokenizer::from_folder(&folder, &persona_data::SpecialTokens::default())?)
}

/// A byte-level BPE of the prompts and responses of some examples.
///
/// # Errors
/// The prompts' and the tokenizer's.
pub(crate) fn bpe_of(prompts: &PromptSet, train: &[Example], vocabulary: usize) -> Result<TextTokenizer> {
    // Persona, history and response each once a dialogue would do; prompts teach the templates' words as well.
    let texts = train
        .iter()
        .map(|example| {
            let prompt = prompts.selection(&example.persona, &example.history)?;
            Ok(format!("{prompt}{}", prompts.response_target(&example.response)))
        })
        .collect::<persona_data::Result<Vec<String>>>()?;
    let options = BpeOptions { vocab_size: vocabulary, ..BpeOptions::default() };
    Ok(train_byte_level_bpe(texts.into_iter(), &options)?)
}

#[cfg(test)]
mod tests {
    use persona_data::ExampleOptions;

    use super::*;
    use crate::workspace::Start;

    #[test]
    fn a_split_is_kept_and_another_one_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let workspace = Workspace::open(folder.path(), "a = 1", Start::Continue).unwrap();
        let split = |seed| RecordList { seed, options: ExampleOptions::default(), parts: Vec::new() };
        keep_split(&workspace, &split(1)).unwrap();
        keep_split(&workspace, &split(1)).unwrap();
        let error = keep_split(&workspace, &split(2)).unwrap_err().to_string();
        assert!(error.contains("split.json") && error.contains("--fresh"), "{error}");
        assert_eq!(RecordList::load(workspace.path("split.json")).unwrap(), split(1));
    }

    #[test]
    fn silences_are_a_fact() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.txt");
        std::fs::write(&path, "1 your persona: i ski.\n2 __SILENCE__\thello.\n3 hi.\tdo you ski?\n").unwrap();
        for lenient in [false, true] {
            let recipe = DataRecipe {
                train: path.clone(),
                valid: None,
                test: None,
                format: None,
                parts: [persona_data::Target::Rest; 4],
                examples: ExampleOptions::default(),
                lenient,
            };
            let mut facts = Vec::new();
            read(&path, &recipe, &mut facts).unwrap();
            assert_eq!(facts.len(), 1);
            assert!(facts[0].0.contains("a.txt") && facts[0].1.starts_with("1 `__SILENCE__`"), "{facts:?}");
        }
    }
}
