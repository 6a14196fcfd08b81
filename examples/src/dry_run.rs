//! What the trainings of a recipe would take, without training.

use std::fmt;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use persona_data::{
    BadExamples, EncodeOptions, EncodedExample, ExampleEncoder, SpecialTokens, Task, TextTokenizer,
};
use persona_model::{Gpt2Config, LlamaConfig, Precision};
use persona_train::TrainConfig;

use tch::Device;

use crate::data;
use crate::judge::Judge;
use crate::recipe::{Lengths, LoraRecipe, ModelRecipe, PublishedShape, Recipe};
use crate::workspace::{Start, Workspace};

/// What a recipe's trainings would take.
#[derive(Debug, Clone, PartialEq)]
pub struct DryRun {
    /// Where the model's sizes and the lengths come from, in words.
    pub sources: [String; 2],
    /// Parameters of the model, and how many of them, or of its adapter, are trained.
    pub parameters: [u64; 2],
    /// Plain fine-tuning, stage 1, stage 2.
    pub trainings: Vec<Training>,
}

/// What one training would take.
#[derive(Debug, Clone, PartialEq)]
pub struct Training {
    /// Its table in the recipe.
    pub name: &'static str,
    /// Examples, or pairs.
    pub examples: usize,
    /// Optimiser steps.
    pub steps: u64,
    /// Examples a step.
    pub batch_size: usize,
    /// How often each example is seen.
    pub epochs: f64,
    /// Tokens of all steps. A pair's prompt counts once.
    pub tokens: f64,
    /// Estimated bytes.
    pub memory: Memory,
}

/// An estimate, in bytes: what is held all the time, and what the longest micro-batch adds.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Memory {
    /// All weights, master weights and the reference's copy where there is one.
    pub weights: f64,
    /// The gradients of what is trained, in float32.
    pub gradients: f64,
    /// AdamW's moments, in float32.
    pub moments: f64,
    /// Activations and logits of the longest micro-batch. Without attention's own, which are small beside them.
    pub activations: f64,
}

impl Memory {
    /// All of it.
    #[must_use]
    pub fn total(self) -> f64 {
        self.weights + self.gradients + self.moments + self.activations
    }
}

/// The sizes of a model that its memory follows from.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Shape {
    vocabulary: u64,
    hidden: u64,
    layers: u64,
    /// Width of keys and of values.
    keys: u64,
    inner: u64,
    parameters: u64,
    /// Whether the MLP has a gate, as Llama's.
    gated: bool,
}

impl Shape {
    fn gpt2(config: &Gpt2Config) -> Self {
        let [v, p, d, layers] =
            [config.vocab_size, config.n_positions, config.n_embd, config.n_layer].map(|size| size as u64);
        let inner = config.n_inner.map_or(4 * d, |inner| inner as u64);
        let block = 4 * d * d + 2 * d * inner + 9 * d + inner;
        let head = if config.tie_word_embeddings { 0 } else { v * d };
        let parameters = (v + p) * d + layers * block + 2 * d + head;
        Self { vocabulary: v, hidden: d, layers, keys: d, inner, parameters, gated: false }
    }

    fn llama(config: &LlamaConfig) -> Self {
        let [v, d, inner, layers, heads] = [
            config.vocab_size,
            config.hidden_size,
            config.intermediate_size,
            config.num_hidden_layers,
            config.num_attention_heads,
        ]
        .map(|size| size as u64);
        let head = config.head_dim.map_or(d / heads.max(1), |size| size as u64);
        let keys = head * config.num_key_value_heads.map_or(heads, |heads| heads as u64);
        let block = 2 * d * head * heads + 2 * d * keys + 3 * d * inner + 2 * d;
        let embeddings = if config.tie_word_embeddings { v * d } else { 2 * v * d };
        let parameters = embeddings + layers * block + d;
        Self { vocabulary: v, hidden: d, layers, keys, inner, parameters, gated: true }
    }

    fn published(which: PublishedShape) -> Self {
        match which {
            PublishedShape::Gpt2 => Self::gpt2(&Gpt2Config::default()),
            PublishedShape::Llama31 => Self::llama(&LlamaConfig {
                vocab_size: 128_256,
                intermediate_size: 14_336,
                num_key_value_heads: Some(8),
                ..LlamaConfig::default()
            }),
        }
    }

    /// The sizes, and where they come from.
    fn of(model: &ModelRecipe) -> Result<(Self, String)> {
        let ModelRecipe::Folder { folder, like, .. } = model else {
            let vocabulary = if let ModelRecipe::Fresh { vocabulary, .. } = model { *vocabulary } else { 0 };
            let config = model.config(vocabulary).context("a fresh model has a shape")?;
            return Ok((Self::gpt2(&config), "the recipe".to_owned()));
        };
        if folder.join("config.json").is_file() {
            let source = folder.join("config.json").display().to_string();
            return match Gpt2Config::from_folder(folder) {
                Ok(config) => Ok((Self::gpt2(&config), source)),
                Err(first) => match LlamaConfig::from_folder(folder) {
                    Ok(config) => Ok((Self::llama(&config), source)),
                    Err(_) => Err(first).context("neither a GPT-2 nor a Llama"),
                },
            };
        }
        let Some(like) = like else {
            bail!(
                "`model.folder`: {} has no config.json; say in `model.like` what it is to hold, `gpt2` or \
                 `llama-3.1-8b`",
                folder.display()
            );
        };
        Ok((Self::published(*like), format!("`model.like`; {} is not there", folder.display())))
    }

    /// The parameters of a LoRA.
    fn lora(&self, lora: &LoraRecipe) -> Result<u64> {
        let (d, keys, inner) = (self.hidden, self.keys, self.inner);
        let mut sum = 0;
        for target in &lora.targets {
            let (inputs, outputs) = match (target.as_str(), self.gated) {
                ("q_proj" | "o_proj", true) => (d, d),
                ("k_proj" | "v_proj", true) => (d, keys),
                ("gate_proj" | "up_proj", true) => (d, inner),
                ("down_proj", true) => (inner, d),
                ("c_attn", false) => (d, 3 * d),
                ("c_fc", false) => (d, inner),
                // The attention's and the MLP's are both called so.
                ("c_proj", false) => (d + inner, 2 * d),
                (other, _) => bail!("`model.lora.targets`: this model has no linear layers called `{other}`"),
            };
            sum += lora.r as u64 * (inputs + outputs) * self.layers;
        }
        Ok(sum)
    }

    /// Bytes of what a backward pass needs, a token and a target token. The CPU's kernels round to bfloat16 while they
    /// multiply, and keep float32.
    fn activations(&self, config: &TrainConfig, cuda: bool) -> [f64; 2] {
        let width = if config.precision == Precision::Bf16 && cuda { 2.0 } else { 4.0 };
        let (d, keys, inner) = (self.hidden as f64, self.keys as f64, self.inner as f64);
        // Inputs and outputs of both norms, queries, attention's output and its projection; float32 in the residual.
        let block = 4.0 * 4.0 * d
            + width * (3.0 * d + 2.0 * keys)
            + width * inner * if self.gated { 4.0 } else { 2.0 };
        let layers = self.layers as f64;
        let token = if config.gradient_checkpointing { layers * 4.0 * d + block } else { layers * block };
        // Logits and their gradient.
        [token, 2.0 * 4.0 * self.vocabulary as f64]
    }
}

/// The examples of a training, by tasks or as pairs.
struct Load {
    examples: usize,
    /// Mean tokens of an example.
    tokens: f64,
    /// Tokens of the longest.
    longest: f64,
    /// Mean target tokens.
    targets: f64,
}

impl Load {
    fn of(examples: usize, lengths: Lengths) -> Self {
        let Lengths { prompt, target, longest } = lengths;
        Self { examples, tokens: prompt + target, longest: longest as f64, targets: target }
    }

    /// Of tasks that are trained on together, so many examples each.
    fn mixed(examples: usize, [a, b]: [Lengths; 2]) -> Self {
        let (a, b) = (Self::of(examples, a), Self::of(examples, b));
        Self {
            examples: 2 * examples,
            tokens: (a.tokens + b.tokens) / 2.0,
            longest: a.longest.max(b.longest),
            targets: (a.targets + b.targets) / 2.0,
        }
    }

    /// Of pairs whose rejected reply is as long as the chosen one.
    fn pairs(pairs: usize, generation: Lengths) -> Self {
        let one = Self::of(pairs, generation);
        let tokens = one.tokens + one.targets;
        Self { tokens, longest: one.longest + one.targets, targets: 2.0 * one.targets, ..one }
    }
}

impl DryRun {
    /// Computes what a recipe would take. Reads its model's configuration and its data where they are there; writes
    /// nothing but a tokenizer in a temporary folder.
    ///
    /// # Errors
    /// When neither the data nor `expect`, or neither the model nor `model.like`, is there; the readers'.
    pub fn of(recipe: &Recipe, text: &str) -> Result<Self> {
        let (shape, model_source) = Shape::of(&recipe.model)?;
        let ([plain, mixed, pairs], data_source) = loads(recipe, text)?;
        let adapter = recipe.model.lora().map(|lora| shape.lora(lora)).transpose()?;
        let cuda = match recipe.device.as_str() {
            "auto" => persona_model::cuda_status().is_ok(),
            device => device.starts_with("cuda"),
        };
        let training = |name, config: &TrainConfig, load: &Load, aligned: bool| {
            let trained = adapter.unwrap_or(shape.parameters) as f64;
            let [token, target] = shape.activations(config, cuda);
            let micro = config.micro_batch_size.min(config.batch_size) as f64;
            let base = recipe.base_kind().elt_size_in_bytes() as f64;
            let frozen = if adapter.is_some() { base * shape.parameters as f64 } else { 0.0 };
            let copies = if aligned { 2.0 } else { 1.0 };
            let memory = Memory {
                weights: frozen + copies * 4.0 * trained,
                gradients: 4.0 * trained,
                moments: 8.0 * trained,
                activations: micro * (load.longest * token + load.targets * target),
            };
            let seen = config.steps as f64 * config.batch_size as f64;
            Training {
                name,
                examples: load.examples,
                steps: config.steps,
                batch_size: config.batch_size,
                epochs: seen / load.examples.max(1) as f64,
                tokens: seen * load.tokens,
                memory,
            }
        };
        let trainings = vec![
            training("plain", &recipe.plain, &plain, false),
            training("stage1", &recipe.stage1.train, &mixed, false),
            training("align", &recipe.align.train, &pairs, true),
        ];
        let parameters = [shape.parameters, adapter.unwrap_or(shape.parameters)];
        Ok(Self { sources: [model_source, data_source], parameters, trainings })
    }
}

/// The examples of plain fine-tuning, stage 1 and stage 2, and where their lengths come from.
fn loads(recipe: &Recipe, text: &str) -> Result<([Load; 3], String)> {
    let with_tokenizer = match &recipe.model {
        ModelRecipe::Fresh { .. } => true,
        ModelRecipe::Folder { folder, .. } => folder.join("tokenizer.json").is_file(),
    };
    if recipe.data.train.exists() && with_tokenizer {
        return Ok((measured(recipe, text)?, recipe.data.train.display().to_string()));
    }
    let what = if recipe.data.train.exists() { "the model's tokenizer" } else { "the data" };
    let Some(expect) = &recipe.expect else {
        bail!("{what} cannot be found; put it in its place, or say in `expect` what the data hold");
    };
    let pairs = expect.pairs.min(recipe.align.examples);
    // A plain prompt is a generation prompt without its instructions, so its lengths are a bound.
    let loads = [
        Load::of(expect.train, expect.generation),
        Load::mixed(expect.train, [expect.selection, expect.generation]),
        Load::pairs(pairs, expect.generation),
    ];
    Ok((loads, format!("`expect`; {what} cannot be found")))
}

fn measured(recipe: &Recipe, text: &str) -> Result<[Load; 3]> {
    let prompts = recipe.prompt_set()?;
    // Labels by a judge decide which examples there are.
    let labels = recipe.judge.as_ref().filter(|judge| judge.labels);
    let judge = labels.map(|judge| Judge::load(&judge.folder, Device::Cpu)).transpose()?;
    let data = data::load(recipe, judge.as_ref())?;
    let folder = tempfile::tempdir()?;
    let (tokenizer, positions) = match &recipe.model {
        ModelRecipe::Folder { folder, .. } => {
            let tokenizer = TextTokenizer::from_folder(folder, &SpecialTokens::default())?;
            (tokenizer, positions(folder)?)
        }
        ModelRecipe::Fresh { vocabulary, positions, .. } => {
            let workspace = Workspace::open(&folder.path().join("out"), text, Start::Continue)?;
            (data::tokenizer(&workspace, &prompts, &data.train, *vocabulary)?, *positions)
        }
    };
    let options =
        EncodeOptions { max_length: positions, bad_examples: BadExamples::Drop, ..EncodeOptions::default() };
    let encoder = ExampleEncoder::new(&tokenizer, &prompts, options)?;
    let lengths = |examples: &[persona_data::Example], tasks: &[Task]| -> Result<(usize, Lengths)> {
        let (mut encoded, _) = encoder.encode_all(examples, tasks)?;
        if *tasks == Task::MIXED {
            recipe.stage1.thinned(&mut encoded, examples, recipe.seed)?;
        }
        ensure!(!encoded.is_empty(), "no example fits the model; give it more positions");
        let mean = |length: fn(&EncodedExample) -> usize| {
            encoded.iter().map(|example| length(example) as f64).sum::<f64>() / encoded.len() as f64
        };
        let longest = encoded.iter().map(|example| example.source.len() + example.target.len()).max();
        let lengths = Lengths {
            prompt: mean(|example| example.source.len()),
            target: mean(|example| example.target.len()),
            longest: longest.unwrap_or(0),
        };
        Ok((encoded.len(), lengths))
    };
    let (plain, plain_lengths) = lengths(&data.train, &[Task::Plain])?;
    let (mixed, mixed_lengths) = lengths(&data.train, &Task::MIXED)?;
    let (pairs, pair_lengths) = lengths(&data.valid1, &[Task::Generation])?;
    let described = data.valid1.iter().filter(|example| example.selected().is_some()).count();
    let kept = if recipe.pairs.keep_none { 1.0 } else { described as f64 / data.valid1.len().max(1) as f64 };
    let pairs = (pairs.min(recipe.align.examples) as f64 * kept).round() as usize;
    Ok([Load::of(plain, plain_lengths), Load::of(mixed, mixed_lengths), Load::pairs(pairs, pair_lengths)])
}

/// The positions of the model in a folder; more than any example has where there is only its tokenizer.
fn positions(folder: &Path) -> Result<usize> {
    if !folder.join("config.json").is_file() {
        return Ok(1 << 17);
    }
    match Gpt2Config::from_folder(folder) {
        Ok(config) => Ok(config.n_positions),
        Err(_) => Ok(LlamaConfig::from_folder(folder)?.max_position_embeddings),
    }
}

impl fmt::Display for DryRun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const GIB: f64 = (1u64 << 30) as f64;
        let [parameters, trained] = self.parameters;
        writeln!(f, "model    {parameters} parameters, {trained} trained; by {}", self.sources[0])?;
        writeln!(f, "lengths  by {}\n", self.sources[1])?;
        writeln!(
            f,
            "{:<8}{:>9}{:>8}{:>7}{:>8}{:>12}{:>9}{:>9}{:>9}{:>9}{:>9}",
            "",
            "examples",
            "steps",
            "batch",
            "epochs",
            "tokens",
            "weights",
            "grads",
            "moments",
            "activ.",
            "GiB"
        )?;
        for training in &self.trainings {
            let Training { name, examples, steps, batch_size, epochs, tokens, memory } = training;
            let [weights, gradients, moments, activations, total] =
                [memory.weights, memory.gradients, memory.moments, memory.activations, memory.total()]
                    .map(|bytes| bytes / GIB);
            writeln!(
                f,
                "{name:<8}{examples:>9}{steps:>8}{batch_size:>7}{epochs:>8.2}{:>10.2} M{weights:>9.2}{gradients:>9.2}\
                 {moments:>9.2}{activations:>9.2}{total:>9.2}",
                tokens / 1e6
            )?;
        }
        write!(
            f,
            "\nmemory is an estimate in GiB: of the longest micro-batch, without the allocator and libtorch itself"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_those_of_the_published_models() {
        assert_eq!(Shape::published(PublishedShape::Gpt2).parameters, 124_439_808);
        assert_eq!(Shape::published(PublishedShape::Llama31).parameters, 8_030_261_248);
        let lora = |targets: &[&str]| LoraRecipe {
            r: 16,
            alpha: 32.0,
            dropout: 0.0,
            targets: targets.iter().map(ToString::to_string).collect(),
        };
        let llama = Shape::published(PublishedShape::Llama31);
        assert_eq!(llama.lora(&lora(&["q_proj", "v_proj"])).unwrap(), 6_815_744);
        let all = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"];
        assert_eq!(llama.lora(&lora(&all)).unwrap(), 41_943_040);
        let error = llama.lora(&lora(&["c_attn"])).unwrap_err().to_string();
        assert!(error.contains("`c_attn`"), "{error}");
        assert_eq!(Shape::published(PublishedShape::Gpt2).lora(&lora(&["c_attn"])).unwrap(), 589_824);
    }

    #[test]
    fn parameters_of_a_fresh_model_are_counted_as_the_model_does() {
        let model = ModelRecipe::Fresh {
            vocabulary: 300,
            positions: 40,
            hidden: 16,
            layers: 2,
            heads: 2,
            dropout: 0.0,
        };
        let (shape, _) = Shape::of(&model).unwrap();
        let model =
            persona_model::Gpt2::new(model.config(300).unwrap(), 1, tch::Device::Cpu, tch::Kind::Float)
                .unwrap();
        assert_eq!(shape.parameters, persona_model::Model::parameters(&model).count() as u64);
    }
}
