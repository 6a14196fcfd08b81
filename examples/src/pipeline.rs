//! The PAL path from a recipe to a report: each part is finished in a file of the run's folder before the next begins,
//! so that a run that was stopped goes on where it was.

use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use persona_align::{PreferenceLoss, RejectedFrom, reference_log_probs, reference_log_probs_of};
use persona_data::{
    BadExamples, EncodeOptions, EncodedExample, Example, ExampleEncoder, Highlight, PromptKind, PromptSet,
    SpecialTokens, Task, TextTokenizer,
};
use persona_infer::Strategy;
use persona_metrics::PersonaJudge;
use persona_model::{CausalLm, Model};
use persona_train::{Evaluator, NextToken, Objective, TrainConfig};
use serde::Serialize;
use tch::Device;

use crate::data::{self, Data};
use crate::judge::{ConsistencyEvaluator, Judge};
use crate::models::{Models, System};
use crate::pairs;
use crate::progress::Interrupt;
use crate::recipe::{AlignRecipe, ModelRecipe, Recipe};
use crate::report::Report;
use crate::results::{self, Control, Measured};
use crate::systems::{self, SystemReplies};
use crate::training::{TrainingFolder, keep_chat_format};
use crate::workspace::{Start, Workspace, digest, model_digest};

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
    if let ModelRecipe::Folder { folder, .. } = &recipe.model {
        ensure!(
            folder.is_dir(),
            "`model.folder`: {} is not there; a recipe's paths start where the program does",
            folder.display()
        );
    }
    Workspace::check(&recipe.out, text, start)?;
    let device = persona_model::device(&recipe.device)?;
    let prompts = recipe.prompt_set()?;
    let judge = recipe.judge.as_ref().map(|judge| Judge::load(&judge.folder, device)).transpose()?;
    let mut data = data::load(recipe, judge.as_ref())?;
    let (mut models, loaded) = Models::load(recipe, device)?;
    data.facts.extend(loaded.map(|loaded| ("starting model".to_owned(), loaded)));
    let (tokenizer, positions, workspace);
    match (&recipe.model, models.limits()) {
        (ModelRecipe::Fresh { vocabulary, positions: places, .. }, _) => {
            workspace = open(recipe, text, start, &data)?;
            tokenizer = data::tokenizer(&workspace, &prompts, &data.train, *vocabulary)?;
            positions = *places;
        }
        (ModelRecipe::Folder { folder, .. }, limits) => {
            let limits = limits.context("a model of a folder is loaded")?;
            tokenizer = TextTokenizer::from_folder(folder, &SpecialTokens::default())?;
            tokenizer.check_vocabulary(limits.vocabulary)?;
            positions = limits.positions;
            workspace = open(recipe, text, start, &data)?;
        }
    }
    let options =
        EncodeOptions { max_length: positions, bad_examples: BadExamples::Drop, ..EncodeOptions::default() };
    let encoder = ExampleEncoder::new(&tokenizer, &prompts, options)
        .with_context(|| format!("`prompts` and `model.chat`: the format `{}`", prompts.chat().name()))?;
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
        data,
        samples,
        judge,
        device,
        interrupt,
        began,
        facts: Vec::new(),
    };
    Ok(path.follow(&mut models)?.map_or(Run::Interrupted, |report| Run::Finished(Box::new(report))))
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
    fn follow(&mut self, models: &mut Models<'_>) -> Result<Option<Report>> {
        let recipe = self.recipe;
        let (train, valid) = self.encode("plain", &[Task::Plain])?;
        let mut plain = models.start(self.encoder.tokenizer(), recipe.plain.precision)?;
        let objective = NextToken::new(models.choose(&mut plain)?);
        if !self.train("plain", objective, &recipe.plain, &train, &valid)? {
            return Ok(None);
        }

        let (mut train, valid) = self.encode("stage 1", &Task::MIXED)?;
        if let Some(fact) = recipe.stage1.thinned(&mut train, &self.data.train, recipe.seed)? {
            self.facts.push(("stage 1 answers".to_owned(), fact));
        }
        let unigram = results::unigram_losses(&train, &valid, self.encoder.tokenizer().vocab_size());
        let mut stage1 = models.start(self.encoder.tokenizer(), recipe.stage1.train.precision)?;
        let objective = recipe.stage1.weighted(NextToken::new(models.choose(&mut stage1)?))?;
        if !self.train("stage1", objective, &recipe.stage1.train, &train, &valid)? {
            return Ok(None);
        }

        let model = models.choose(&mut stage1)?;
        let (pairs, fact) = self.pairs("pairs", &self.samples.pairs, model)?;
        let (held_out, held_out_fact) = self.pairs("held_out_pairs", &self.samples.valid, model)?;
        self.facts.extend([fact, held_out_fact]);
        let AlignRecipe { beta, train: config, .. } = &recipe.align;
        // As a reference the model computes like the policy; as a system, as it was trained.
        stage1.set_precision(config.precision);
        let reference = models.choose(&mut stage1)?;
        let score = |name: &str, pairs| {
            let cache = self.workspace.path(&pairs::reference_file(name));
            let tokenizer = self.encoder.tokenizer().fingerprint();
            reference_log_probs_of(&*reference, pairs, config.micro_batch_size, &cache, &tokenizer)
        };
        let referenced = score("pairs", pairs)?;
        let valid = score("held_out_pairs", held_out.clone())?;
        let mut pal = models.go_on_from(&stage1, config.precision)?;
        let objective = PreferenceLoss::sigmoid(*beta).on(models.choose(&mut pal)?);
        if !self.train("align", objective, config, &referenced, &valid)? {
            return Ok(None);
        }

        let controls = self.controls(models, [&mut pal, &mut stage1], held_out)?;
        stage1.set_precision(recipe.stage1.train.precision);
        let mut systems = vec![
            self.replies("plain fine-tuning", models.choose(&mut plain)?, Strategy::NotSelect)?,
            self.replies("stage 1 only", models.choose(&mut stage1)?, Strategy::Select)?,
        ];
        let model = models.choose(&mut pal)?;
        systems.push(self.replies("PAL", model, Strategy::Select)?);
        for &strategy in &recipe.report.strategies {
            let name = format!("PAL, {}", systems::strategy_name(strategy));
            systems.push(self.replies(&name, model, strategy)?);
        }
        let facts = [self.data.facts.clone(), std::mem::take(&mut self.facts), self.machine(model)].concat();
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
    fn inputs(&self, model: &dyn CausalLm, made: impl Serialize) -> Result<String> {
        digest(&(&self.encoding, format!("{:?}", model.precision()), model.fingerprint()?, made))
    }

    /// Trains in a folder of its own, and writes the model with its tokenizer; false when it was interrupted.
    fn train<O: Objective<Model: CausalLm + Sized>>(
        &self,
        name: &str,
        objective: O,
        config: &TrainConfig,
        train: &[O::Item],
        valid: &[O::Item],
    ) -> Result<bool> {
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
        let evaluator = evaluator.as_mut().map(|evaluator| evaluator as &mut dyn Evaluator<O::Model>);
        let tokenizer = self.encoder.tokenizer();
        let place = TrainingFolder { name, folder: &folder, tokenizer, interrupt: self.interrupt };
        let finished = place.train(objective, config, (train, valid), evaluator)?.is_some();
        if finished {
            keep_chat_format(self.encoder.prompts(), &folder.join("model"))?;
        }
        Ok(finished)
    }

    /// Pairs of these examples, encoded, and a fact about them. The files of the run are called by the name.
    fn pairs(
        &self,
        name: &str,
        examples: &[Example],
        model: &dyn CausalLm,
    ) -> Result<(Vec<persona_data::EncodedPair>, (String, String))> {
        let (rejected, mut decode) = (self.recipe.align.rejected, self.recipe.decode);
        decode.temperature = self.recipe.align.rejected_temperature.unwrap_or(decode.temperature);
        let judge = self.judge.as_ref().map(|judge| judge as &dyn PersonaJudge);
        let making = pairs::Making { rejected, judge, decode, options: self.recipe.pairs };
        let made_from = (rejected, decode, making.options, examples);
        let inputs = match (rejected, &self.recipe.judge) {
            (RejectedFrom::WorstOf(_), Some(judge)) => {
                self.inputs(model, (made_from, model_digest(&judge.folder)?))?
            }
            _ => self.inputs(model, made_from)?,
        };
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
        models: &mut Models<'_>,
        [pal, stage1]: [&mut System; 2],
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
        let reference = models.choose(stage1)?.fingerprint()?;
        let mut controls = Vec::new();
        for (name, pairs) in sets {
            if pairs.is_empty() {
                continue;
            }
            let count = pairs.len();
            let name = name.to_owned();
            let tokens: Vec<_> =
                pairs.iter().map(|pair| (&pair.prompt, &pair.chosen, &pair.rejected)).collect();
            let inputs = self.inputs(models.choose(pal)?, (&reference, tokens))?;
            let file = format!("controls/{}.json", name.replace(' ', "_"));
            let control = self.workspace.cached(&file, &inputs, || {
                let AlignRecipe { beta, train: TrainConfig { micro_batch_size: batch, .. }, .. } =
                    self.recipe.align;
                let pairs = reference_log_probs(&*models.choose(stage1)?, pairs, batch, None)?;
                let (accuracy, margin) = pairs::reward_accuracy(models.choose(pal)?, &pairs, beta, batch)?;
                Ok(Control { name, pairs: count, accuracy, margin })
            })?;
            controls.push(control);
        }
        Ok(controls)
    }

    fn replies(&self, system: &str, model: &dyn CausalLm, strategy: Strategy) -> Result<SystemReplies> {
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
    fn machine(&self, model: &dyn CausalLm) -> Vec<(String, String)> {
        let mut parameters = model.parameters().count().to_string();
        if self.recipe.model.lora().is_some() {
            parameters = format!("{parameters}, and {} in each adapter", model.trainable().count());
        }
        let mut facts = vec![
            ("parameters".to_owned(), parameters),
            ("device".to_owned(), format!("{:?}, {} threads", self.device, tch::get_num_threads())),
            ("seconds of this call".to_owned(), format!("{:.0}", self.began.elapsed().as_secs_f64())),
        ];
        if let Some(mib) = results::peak_memory_mib() {
            facts.push(("peak memory of this call".to_owned(), format!("{mib} MiB")));
        }
        facts
    }
}
