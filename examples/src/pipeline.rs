//! The PAL path from a recipe to a report: each part is finished in a file of the run's folder before the next begins,
//! so that a run that was stopped goes on where it was.

use std::path::Path;
use std::time::Instant;

use anyhow::{Result, ensure};
use persona_align::{PreferenceLoss, reference_log_probs_of};
use persona_data::{
    BadExamples, EncodeOptions, EncodedExample, Example, ExampleEncoder, Highlight, PromptKind, PromptSet,
    SpecialTokens, Task, TextTokenizer,
};
use persona_infer::Strategy;
use persona_metrics::PersonaJudge;
use persona_model::{CausalLm, Gpt2, Gpt2Config, Model};
use persona_train::{Evaluator, NextToken, Objective, TrainConfig};
use serde::Serialize;
use tch::{Device, Kind};

use crate::data::{self, Data};
use crate::judge::{ConsistencyEvaluator, Judge};
use crate::pairs;
use crate::progress::Interrupt;
use crate::recipe::{ModelRecipe, Recipe};
use crate::report::Report;
use crate::results::{self, Control, Measured};
use crate::systems::{self, SystemReplies};
use crate::training::{TrainingFolder, fresh_model};
use crate::workspace::{Start, Workspace, digest};

/// How a run ended.
#[derive(Debug)]
pub enum Run {
    /// With a report, which also lies in the run's folder.
    Finished(Box<Report>),
    /// Somebody stopped it; the same call continues.
    Interrupted,
}

/// Runs a recipe, or what is left of it. The run's folder is written to, or emptied for a fresh start, once device, data
/// and starting model have been read.
///
/// # Errors
/// The first of any part; what was finished before stays.
pub fn run(recipe: &Recipe, text: &str, start: Start, interrupt: &Interrupt) -> Result<Run> {
    let began = Instant::now();
    if let ModelRecipe::Folder { chat, lora, .. } = &recipe.model {
        ensure!(
            chat.is_none() && lora.is_none(),
            "`model.chat` and `model.lora`: this program trains a GPT-2 whole; such a recipe is for --dry-run, and for \
             programs on persona-train and persona-align, which train adapters"
        );
    }
    Workspace::check(&recipe.out, text, start)?;
    let device = persona_model::device(&recipe.device)?;
    let prompts = prompt_set(&recipe.prompts)?;
    let judge = recipe.judge.as_ref().map(|judge| Judge::load(&judge.folder, device)).transpose()?;
    let mut data = data::load(recipe, judge.as_ref())?;
    let (tokenizer, given, positions, workspace);
    match &recipe.model {
        ModelRecipe::Folder { folder, .. } => {
            tokenizer = TextTokenizer::from_folder(folder, &SpecialTokens::default())?;
            let (model, report) = Gpt2::load(folder, device, Kind::Float)?;
            tokenizer.check_vocabulary(model.limits().vocabulary)?;
            data.facts.push(("starting model".to_owned(), report.to_string()));
            (given, positions) = (Some(model), Gpt2Config::from_folder(folder)?.n_positions);
            workspace = open(recipe, text, start, &data)?;
        }
        ModelRecipe::Fresh { vocabulary, positions: places, .. } => {
            workspace = open(recipe, text, start, &data)?;
            tokenizer = data::tokenizer(&workspace, &prompts, &data.train, *vocabulary)?;
            (given, positions) = (None, *places);
        }
    }
    let options =
        EncodeOptions { max_length: positions, bad_examples: BadExamples::Drop, ..EncodeOptions::default() };
    let encoder = ExampleEncoder::new(&tokenizer, &prompts, options)?;
    let samples = Samples::draw(recipe, &encoder, &mut data)?;
    for (name, fact) in &data.facts {
        println!("{name:>22} {fact}");
    }
    let encoding = format!("{prompts:?} {} {positions}", tokenizer.fingerprint());
    let mut path = PalPath {
        recipe,
        text,
        workspace,
        encoder,
        encoding,
        given,
        data,
        samples,
        judge,
        device,
        interrupt,
        began,
        facts: Vec::new(),
    };
    Ok(path.follow()?.map_or(Run::Interrupted, |report| Run::Finished(Box::new(report))))
}

/// The run's folder, with the parts of the data in it.
fn open(recipe: &Recipe, text: &str, start: Start, data: &Data) -> Result<Workspace> {
    let workspace = Workspace::open(&recipe.out, text, start)?;
    data::keep_split(&workspace, &data.split)?;
    Ok(workspace)
}

/// The shipped set of a name, or a set of the user's own.
pub(crate) fn prompt_set(name: &str) -> Result<PromptSet> {
    if Path::new(name).extension().is_some() {
        return Ok(PromptSet::from_file(name)?);
    }
    Ok(PromptSet::builtin(name)?)
}

/// Whether every prompt of an example leaves so many tokens for a reply, and its own reply fits too.
pub(crate) fn fits(encoder: &ExampleEncoder, example: &Example, room: usize) -> bool {
    let prompt = |kind| encoder.prompt(&example.id, &example.persona, &example.history, kind, room).is_ok();
    let highlighted = |index| prompt(PromptKind::Generation(Highlight::Description(index)));
    prompt(PromptKind::Selection)
        && (0..example.persona.len()).all(highlighted)
        && encoder.encode(example, Task::Generation).is_ok()
}

/// The examples on which something is generated, drawn once for the whole run.
struct Samples {
    /// Of Valid#1: made into training pairs.
    pairs: Vec<Example>,
    /// Of Valid#2: validation losses and held-out pairs.
    valid: Vec<Example>,
    /// Of test: what every system replies to.
    test: Vec<Example>,
}

impl Samples {
    fn draw(recipe: &Recipe, encoder: &ExampleEncoder, data: &mut Data) -> Result<Self> {
        let room = recipe.decode.max_new_tokens;
        let mut left_out = 0;
        let mut draw = |examples: &[Example], count: usize| -> Vec<Example> {
            let mut drawn = data::sample(examples, count, recipe.seed);
            let before = drawn.len();
            drawn.retain(|example| fits(encoder, example, room));
            left_out += before - drawn.len();
            drawn
        };
        let samples = Self {
            pairs: draw(&data.valid1, recipe.align.examples),
            valid: draw(&data.valid2, recipe.report.valid_examples),
            test: draw(&data.test, recipe.report.test_examples),
        };
        for (name, part) in [("valid1", &samples.pairs), ("valid2", &samples.valid), ("test", &samples.test)]
        {
            ensure!(
                !part.is_empty(),
                "no example of {name} leaves {room} tokens for a reply; give the model more positions, or \
                 `decode.max_new_tokens` less"
            );
        }
        let text = format!(
            "{} of valid1 for pairs, {} of valid2, {} of test; {left_out} too long for the model",
            samples.pairs.len(),
            samples.valid.len(),
            samples.test.len()
        );
        data.facts.push(("drawn".to_owned(), text));
        Ok(samples)
    }
}

/// A run in progress.
struct PalPath<'a> {
    recipe: &'a Recipe,
    text: &'a str,
    workspace: Workspace,
    encoder: ExampleEncoder,
    /// Everything by which a text becomes tokens, for digests.
    encoding: String,
    /// The recipe's model as loaded, until the first training takes it.
    given: Option<Gpt2>,
    data: Data,
    samples: Samples,
    judge: Option<Judge>,
    device: Device,
    interrupt: &'a Interrupt,
    began: Instant,
    facts: Vec<(String, String)>,
}

impl PalPath<'_> {
    /// All parts in order; nothing when a training was interrupted.
    fn follow(&mut self) -> Result<Option<Report>> {
        let recipe = self.recipe;
        let (train, valid) = self.encode("plain", &[Task::Plain])?;
        let objective = NextToken::new(self.start()?);
        let Some(plain) = self.train("plain", objective, &recipe.plain, &train, &valid)? else {
            return Ok(None);
        };
        let plain = plain.into_model();

        let (train, valid) = self.encode("stage 1", &Task::MIXED)?;
        let unigram = results::unigram_losses(&train, &valid, self.encoder.tokenizer().vocab_size());
        let mut objective = NextToken::new(self.start()?);
        if let Some(weights) = recipe.stage1.task_weights {
            objective = objective.weight(Task::Selection, weights.selection)?;
            objective = objective.weight(Task::Generation, weights.generation)?;
        }
        let Some(stage1) = self.train("stage1", objective, &recipe.stage1.train, &train, &valid)? else {
            return Ok(None);
        };
        let mut stage1 = stage1.into_model();

        let (pairs, fact) = self.pairs("pairs", &self.samples.pairs, &stage1)?;
        let (held_out, held_out_fact) = self.pairs("held_out_pairs", &self.samples.valid, &stage1)?;
        self.facts.extend([fact, held_out_fact]);
        let batch = recipe.align.train.micro_batch_size;
        // As a reference the model computes like the policy; as a system, as it was trained.
        let precision = stage1.precision();
        stage1.set_precision(recipe.align.train.precision);
        let score = |name: &str, pairs| {
            let cache = self.workspace.path(&pairs::reference_file(name));
            let tokenizer = self.encoder.tokenizer().fingerprint();
            reference_log_probs_of(&stage1, pairs, batch, &cache, &tokenizer)
        };
        let referenced = score("pairs", pairs)?;
        let valid = score("held_out_pairs", held_out.clone())?;
        let objective = PreferenceLoss::sigmoid(recipe.align.beta).on(stage1.copy(Kind::Float)?);
        let Some(pal) = self.train("align", objective, &recipe.align.train, &referenced, &valid)? else {
            return Ok(None);
        };
        let pal = pal.into_model();

        let controls = self.controls(&pal, &stage1, held_out)?;
        stage1.set_precision(precision);
        let mut systems = vec![
            self.replies("plain fine-tuning", &plain, Strategy::NotSelect)?,
            self.replies("stage 1 only", &stage1, Strategy::Select)?,
            self.replies("PAL", &pal, Strategy::Select)?,
        ];
        for &strategy in &recipe.report.strategies {
            systems.push(self.replies(
                &format!("PAL, {}", systems::strategy_name(strategy)),
                &pal,
                strategy,
            )?);
        }
        let facts = [self.data.facts.clone(), std::mem::take(&mut self.facts), self.machine(&pal)].concat();
        let measured = Measured {
            systems: &systems,
            test: &self.samples.test,
            unigram,
            controls,
            facts,
            judge: self.judge.as_ref(),
        };
        let report = results::report(self.recipe, self.text, &self.workspace, measured)?;
        report.write(&self.recipe.out)?;
        Ok(Some(report))
    }

    /// A model to start from.
    fn start(&mut self) -> Result<Gpt2> {
        if let Some(model) = self.given.take() {
            return Ok(model);
        }
        if let ModelRecipe::Folder { folder, .. } = &self.recipe.model {
            return Ok(Gpt2::load(folder, self.device, Kind::Float)?.0);
        }
        fresh_model(&self.recipe.model, self.encoder.tokenizer(), self.recipe.seed, self.device)
    }

    /// The training and the validation examples.
    fn encode(&mut self, name: &str, tasks: &[Task]) -> Result<(Vec<EncodedExample>, Vec<EncodedExample>)> {
        let (train, report) = self.encoder.encode_all(&self.data.train, tasks)?;
        ensure!(!train.is_empty(), "no training example fits the model; give it more positions");
        let (valid, valid_report) = self.encoder.encode_all(&self.samples.valid, tasks)?;
        for (what, report) in [("examples", report), ("validation examples", valid_report)] {
            self.facts.push((format!("{name} {what}"), report.to_string().trim().to_owned()));
        }
        Ok((train, valid))
    }

    /// The digest of what is made by a model with these settings from some data.
    fn inputs(&self, model: &Gpt2, made: impl Serialize) -> Result<String> {
        digest(&(&self.encoding, format!("{:?}", model.precision()), model.fingerprint()?, made))
    }

    /// Trains in a folder of its own, and writes the model with its tokenizer; nothing when it was interrupted.
    fn train<O: Objective<Model = Gpt2>>(
        &mut self,
        name: &str,
        objective: O,
        config: &TrainConfig,
        train: &[O::Item],
        valid: &[O::Item],
    ) -> Result<Option<O>> {
        let folder = self.workspace.path(name);
        let recipe = self.recipe;
        let watched = config.early_stopping.as_ref().map_or("", |stopping| stopping.metric.as_str());
        let mut evaluator = match (&self.judge, &recipe.judge) {
            (Some(judge), Some(settings)) if ConsistencyEvaluator::NAMES.contains(&watched) => {
                let examples = self.samples.valid.iter().filter(|example| !example.persona.is_empty());
                let examples: Vec<Example> = examples.take(settings.examples).cloned().collect();
                let strategy = if name == "plain" { Strategy::NotSelect } else { Strategy::Select };
                Some(ConsistencyEvaluator::new(judge, &self.encoder, recipe.decode, strategy, examples)?)
            }
            _ => None,
        };
        let evaluator = evaluator.as_mut().map(|evaluator| evaluator as &mut dyn Evaluator<Gpt2>);
        let tokenizer = self.encoder.tokenizer();
        let place = TrainingFolder { name, folder: &folder, tokenizer, interrupt: self.interrupt };
        place.train(objective, config, (train, valid), evaluator)
    }

    /// Pairs of these examples, encoded, and a fact about them. The files of the run are called by the name.
    fn pairs(
        &self,
        name: &str,
        examples: &[Example],
        model: &Gpt2,
    ) -> Result<(Vec<persona_data::EncodedPair>, (String, String))> {
        let (rejected, mut decode) = (self.recipe.align.rejected, self.recipe.decode);
        decode.temperature = self.recipe.align.rejected_temperature.unwrap_or(decode.temperature);
        let judge = self.judge.as_ref().map(|judge| judge as &dyn PersonaJudge);
        let making = pairs::Making { rejected, judge, decode, options: self.recipe.pairs };
        let inputs = self.inputs(model, (rejected, decode, making.options, examples))?;
        let called = (name, inputs.as_str());
        let (made, report) = pairs::build(&self.workspace, called, model, &self.encoder, making, examples)?;
        println!("{name:>22} {report}");
        let (encoded, too_long) = pairs::encode(&made, &self.encoder)?;
        ensure!(!encoded.is_empty(), "{name}: no pair is left; see its report, and `pairs` in the recipe");
        Ok((encoded, (name.replace('_', " "), format!("{report}; {too_long} too long for the model"))))
    }

    /// Reward accuracy on the held-out pairs and on the controls.
    fn controls(
        &mut self,
        pal: &Gpt2,
        stage1: &Gpt2,
        held_out: Vec<persona_data::EncodedPair>,
    ) -> Result<Vec<Control>> {
        let swapped = pairs::swapped(&self.samples.valid, &self.data.labeller, &self.encoder)?;
        let (swapped, too_long) = pairs::encode(&swapped, &self.encoder)?;
        let fact = format!("{} pairs; {too_long} too long for the model", swapped.len());
        self.facts.push(("swapped personas".to_owned(), fact));
        let sets = [
            ("held-out pairs", held_out.clone()),
            ("held-out pairs of one length", pairs::of_one_length(&held_out)),
            ("gold against gold of a swapped persona", swapped),
        ];
        let mut controls = Vec::new();
        for (name, pairs) in sets {
            if pairs.is_empty() {
                continue;
            }
            let count = pairs.len();
            let name = name.to_owned();
            let tokens: Vec<_> =
                pairs.iter().map(|pair| (&pair.prompt, &pair.chosen, &pair.rejected)).collect();
            let inputs = self.inputs(pal, (stage1.fingerprint()?, tokens))?;
            let file = format!("controls/{}.json", name.replace(' ', "_"));
            let control = self.workspace.cached(&file, &inputs, || {
                let batch = self.recipe.align.train.micro_batch_size;
                let policy = pal.copy(Kind::Float)?;
                let (accuracy, margin) =
                    pairs::reward_accuracy(policy, stage1, pairs, self.recipe.align.beta, batch)?;
                Ok(Control { name, pairs: count, accuracy, margin })
            })?;
            controls.push(control);
        }
        Ok(controls)
    }

    fn replies(&self, system: &str, model: &Gpt2, strategy: Strategy) -> Result<SystemReplies> {
        let inputs = self.inputs(model, (self.recipe.decode, strategy, &self.samples.test))?;
        let file = format!("replies/{}.json", system.replace([' ', ','], "_"));
        self.workspace.cached(&file, &inputs, || {
            systems::reply_to_all(
                system,
                model,
                &self.encoder,
                self.recipe.decode,
                strategy,
                &self.samples.test,
            )
        })
    }

    /// What ran where.
    fn machine(&self, model: &Gpt2) -> Vec<(String, String)> {
        let mut facts = vec![
            ("parameters".to_owned(), model.parameters().count().to_string()),
            ("device".to_owned(), format!("{:?}, {} threads", self.device, tch::get_num_threads())),
            ("seconds of this call".to_owned(), format!("{:.0}", self.began.elapsed().as_secs_f64())),
        ];
        if let Some(mib) = results::peak_memory_mib() {
            facts.push(("peak memory of this call".to_owned(), format!("{mib} MiB")));
        }
        facts
    }
}
