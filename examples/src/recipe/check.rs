//! What a recipe may say.

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use persona_align::RejectedFrom;
use persona_data::{ChatFormat, Target};

use super::{AlignRecipe, LoraRecipe, ModelRecipe, Recipe, refuse_places};
use crate::judge::ConsistencyEvaluator;
use crate::systems::strategy_name;

/// What a training measures on the validation examples, for `early_stopping.metric`.
pub const EVALUATED: [(&str, &[&str]); 3] = [
    ("plain", &["eval_loss", "eval_loss/plain"]),
    ("stage1", &["eval_loss", "eval_loss/selection", "eval_loss/generation"]),
    (
        "align.train",
        &[
            "eval_loss",
            "eval_rewards/chosen",
            "eval_rewards/rejected",
            "eval_rewards/margins",
            "eval_rewards/accuracies",
            "eval_logps/chosen",
            "eval_logps/rejected",
        ],
    ),
];

impl Recipe {
    /// Checks every range.
    ///
    /// # Errors
    /// Names the key.
    pub fn validate(&self) -> Result<()> {
        ensure!(!self.out.as_os_str().is_empty(), "`out` is empty; name a folder");
        let data = &self.data;
        ensure!(
            data.valid.is_some() == data.test.is_some(),
            "`data.valid` and `data.test` are given together or not at all"
        );
        for part in &data.parts {
            ensure!(*part != Target::Given, "`data.parts`: \"given\" is for lists that a split writes");
            if let Target::Fraction(share) = part {
                ensure!((0.0..=1.0).contains(share), "`data.parts`: the fraction {share} is not in 0 to 1");
            }
        }
        self.model.validate()?;
        if let ModelRecipe::Fresh { positions, .. } = self.model {
            let reply = self.decode.max_new_tokens;
            ensure!(
                reply < positions,
                "`decode.max_new_tokens` is {reply}, and `model.positions` {positions}"
            );
        }
        let configs = [&self.plain, &self.stage1.train, &self.align.train];
        for ((name, measured), config) in EVALUATED.iter().zip(configs) {
            config.validate().with_context(|| format!("`{name}`"))?;
            ensure!(
                config.lora_plus_ratio.is_none() || self.model.lora().is_some(),
                "`{name}.lora_plus_ratio` is for an adapter; say which in `model.lora`, or leave it out"
            );
            if let Some(stopping) = &config.early_stopping {
                let metric = stopping.metric.as_str();
                if ConsistencyEvaluator::NAMES.contains(&metric) {
                    ensure!(
                        self.judge.is_some(),
                        "`{name}.early_stopping.metric`: `{metric}` needs a judge; name its folder in `judge.folder`"
                    );
                    continue;
                }
                ensure!(
                    measured.contains(&metric),
                    "`{name}.early_stopping.metric`: nothing measures `{}`; there is {}",
                    stopping.metric,
                    measured.join(", ")
                );
            }
        }
        if let Some(judge) = &self.judge {
            ensure!(judge.examples > 0, "`judge.examples` is 0; give at least 1");
            let threshold = judge.rule.threshold;
            ensure!(
                (0.0..=1.0).contains(&threshold),
                "`judge.rule.threshold` is {threshold}; it lies in 0 to 1"
            );
        }
        let AlignRecipe { rejected, rejected_temperature, .. } = self.align;
        check_rejected(rejected, rejected_temperature, self.decode.temperature)?;
        if let (RejectedFrom::WorstOf(samples), None) = (rejected, &self.judge) {
            bail!(
                "`align.rejected`: the worst of {samples} needs a judge; name its folder in `judge.folder`"
            );
        }
        let similarity = self.pairs.similarity;
        ensure!((0.0..=1.0).contains(&similarity), "`pairs.similarity` is {similarity}; it lies in 0 to 1");
        self.stage1.validate()?;
        let beta = self.align.beta;
        ensure!(beta > 0.0 && beta.is_finite(), "`align.beta` is {beta}; it must be above 0 and finite");
        self.decode.validate().context("`decode`")?;
        if let Some(expect) = &self.expect {
            let lengths = [("selection", expect.selection), ("generation", expect.generation)];
            for (name, lengths) in lengths {
                let sensible = lengths.prompt > 0.0
                    && lengths.target > 0.0
                    && lengths.prompt + lengths.target <= lengths.longest as f64;
                ensure!(
                    sensible,
                    "`expect.{name}`: prompt and target are above 0, and together at most `longest`"
                );
            }
            ensure!(expect.train > 0 && expect.pairs > 0, "`expect.train` and `expect.pairs` are above 0");
        }
        for (key, count) in [
            ("align.examples", self.align.examples),
            ("report.test_examples", self.report.test_examples),
            ("report.valid_examples", self.report.valid_examples),
        ] {
            ensure!(count > 0, "`{key}` is 0; give at least 1");
        }
        for (at, strategy) in self.report.strategies.iter().enumerate() {
            ensure!(
                !self.report.strategies[..at].contains(strategy),
                "`report.strategies` names one of them twice: {}",
                strategy_name(*strategy)
            );
        }
        Ok(())
    }

    /// Nothing that the run reads may lie where it writes, and where `--fresh` removes.
    pub(super) fn check_places(&self, path: &Path) -> Result<()> {
        let data = &self.data;
        let mut read = vec![("data.train", data.train.as_path()), ("prompts", Path::new(&self.prompts))];
        read.extend(data.valid.iter().map(|path| ("data.valid", path.as_path())));
        read.extend(data.test.iter().map(|path| ("data.test", path.as_path())));
        if let Some(judge) = &self.judge {
            read.push(("judge.folder", &judge.folder));
        }
        if let ModelRecipe::Folder { folder, .. } = &self.model {
            read.push(("model.folder", folder));
        }
        refuse_places(&self.out, path, read)
    }
}

impl ModelRecipe {
    /// Checks a fresh model's sizes, or the adapter on a folder's.
    ///
    /// # Errors
    /// Names the key.
    pub fn validate(&self) -> Result<()> {
        if let Some(chat) = self.chat() {
            ChatFormat::builtin(chat).context("`model.chat`")?;
        }
        if let Some(LoraRecipe { r, alpha, dropout, targets }) = self.lora() {
            ensure!((1..=1 << 16).contains(r), "`model.lora.r` is {r}; a rank is 1 to {}", 1 << 16);
            ensure!(alpha.is_finite(), "`model.lora.alpha` is {alpha}; it must be a number");
            let within = (0.0..1.0).contains(dropout);
            ensure!(within, "`model.lora.dropout` is {dropout}; it lies in 0 to 1, without 1");
            ensure!(!targets.is_empty(), "`model.lora.targets` is empty; name linear layers of the model");
        }
        let Self::Fresh { vocabulary, positions, hidden, layers, heads, dropout } = *self else {
            return Ok(());
        };
        for (key, size) in
            [("positions", positions), ("hidden", hidden), ("layers", layers), ("heads", heads)]
        {
            ensure!(size > 0, "`model.{key}` is 0; give at least 1");
        }
        ensure!(
            vocabulary >= 259,
            "`model.vocabulary` is {vocabulary}; 256 bytes and 3 special tokens are the least"
        );
        ensure!(
            hidden.is_multiple_of(heads),
            "`model.heads` is {heads}, which does not divide `model.hidden`"
        );
        ensure!((0.0..1.0).contains(&dropout), "`model.dropout` is {dropout}; it lies in 0 to 1, without 1");
        Ok(())
    }
}

/// The worst of several replies needs replies that differ. `temperature` is that of all other decoding.
pub(crate) fn check_rejected(
    rejected: RejectedFrom,
    rejected_temperature: Option<f64>,
    temperature: f64,
) -> Result<()> {
    if let Some(temperature) = rejected_temperature {
        ensure!(
            temperature.is_finite() && temperature >= 0.0,
            "`align.rejected_temperature` is {temperature}; it is 0 (greedy) or above"
        );
    }
    let RejectedFrom::WorstOf(samples) = rejected else { return Ok(()) };
    ensure!(samples > 1, "`align.rejected`: the worst of {samples}; give at least 2");
    ensure!(
        rejected_temperature.unwrap_or(temperature) > 0.0,
        "`align.rejected`: {samples} replies to one prompt differ when they are drawn; give \
         `align.rejected_temperature`, 1.0 for the model's own probabilities"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recipe::TaskWeights;

    const SCRATCH: &str = include_str!("../../recipes/scratch.toml");

    fn message(from: &str, to: &str) -> String {
        assert!(SCRATCH.contains(from), "{from}");
        format!("{:#}", Recipe::parse(&SCRATCH.replacen(from, to, 1)).unwrap_err())
    }

    #[test]
    fn the_demo_is_good() {
        let recipe = Recipe::parse(SCRATCH).unwrap();
        assert_eq!((recipe.stage1.train.steps, recipe.stage1.task_weights), (550, None));
        let text = toml::to_string(&recipe).unwrap();
        assert!(text.contains("[stage1"), "{text}");
    }

    #[test]
    fn what_is_out_of_range_is_named() {
        for (from, to, key) in [
            ("beta = 0.1", "beta = 0.0", "`align.beta`"),
            ("beta = 0.1", "beta = nan", "`align.beta`"),
            ("similarity = 0.8", "similarity = 1.5", "`pairs.similarity`"),
            ("examples = 800", "examples = 0", "`align.examples`"),
            ("\nvalid_examples = 250", "\nvalid_examples = 0", "`report.valid_examples`"),
            ("test_examples = 250", "test_examples = 0", "`report.test_examples`"),
            ("fraction = 0.72", "fraction = 1.72", "`data.parts`"),
            ("heads = 3", "heads = 5", "`model.heads`"),
            ("vocabulary = 2048", "vocabulary = 12", "`model.vocabulary`"),
            ("dropout = 0.0", "dropout = 1.0", "`model.dropout`"),
            ("max_new_tokens = 40", "max_new_tokens = 256", "`decode.max_new_tokens`"),
            ("steps = 550", "steps = 0", "`stage1`: training setting `steps`"),
            ("out = \"target/scratch\"", "out = \"\"", "`out`"),
            ("strategies = []", "strategies = [\"oracle\", \"oracle\"]", "`report.strategies`"),
            ("[pairs]", "task_weights = {}\n[pairs]", "selection"),
            ("[pairs]", "none_kept = 1.5\n[pairs]", "`stage1.none_kept`"),
            ("[pairs]", "none_kept = 'few'\n[pairs]", "few"),
            (
                "[pairs]",
                "task_weights = { selection = 0.0, generation = 1.0 }\n[pairs]",
                "`stage1.task_weights.selection`",
            ),
        ] {
            let message = message(from, to);
            assert!(message.contains(key), "{to}: {message}");
        }
    }

    #[test]
    fn an_adapter_sits_on_a_folder_and_has_sensible_sizes() {
        let (before, rest) = SCRATCH.split_once("[model]").unwrap();
        let (_, after) = rest.split_once("[plain]").unwrap();
        let parse = |model: &str, plain: &str| {
            Recipe::parse(&format!("{before}[model]\n{model}\n[plain]\n{plain}\n{after}"))
        };
        let lora = "lora = { r = 4, alpha = 8.0, targets = ['c_attn'] }";
        let recipe = parse(&format!("folder = 'x'\n{lora}"), "lora_plus_ratio = 16.0").unwrap();
        assert_eq!(recipe.model.lora().unwrap().dropout, 0.0);
        for (model, key) in [
            (lora.to_owned(), "`model.lora` belongs to `model.folder`"),
            (format!("folder = 'x'\n{}", lora.replace("r = 4", "r = 0")), "`model.lora.r`"),
            (format!("folder = 'x'\n{}", lora.replace("8.0", "inf")), "`model.lora.alpha`"),
            (format!("folder = 'x'\n{}", lora.replace("['c_attn']", "[]")), "`model.lora.targets`"),
            (
                format!("folder = 'x'\n{}", lora.replace("r = 4", "r = 4, dropout = 1.0")),
                "`model.lora.dropout`",
            ),
            (format!("folder = 'x'\n{}", lora.replace("r = 4", "rank = 4")), "rank"),
            ("folder = 'x'\nchat = 'llama9'".to_owned(), "`model.chat`"),
        ] {
            let error = format!("{:#}", parse(&model, "").unwrap_err());
            assert!(error.contains(key), "{model}: {error}");
        }
        let error = format!("{:#}", parse("folder = 'x'", "lora_plus_ratio = 16.0").unwrap_err());
        assert!(error.contains("`plain.lora_plus_ratio`"), "{error}");
    }

    #[test]
    fn rejected_replies_come_from_where_the_recipe_says() {
        let with = |lines: &str| SCRATCH.replacen("[align]\n", &format!("[align]\n{lines}\n"), 1);
        let rejected = |lines: &str| Recipe::parse(&with(lines)).map(|recipe| recipe.align.rejected);
        assert_eq!(rejected("").unwrap(), RejectedFrom::HistoryOnly);
        assert_eq!(rejected("rejected = 'swapped_persona'").unwrap(), RejectedFrom::SwappedPersona);
        let drawn = "rejected = { worst_of = 4 }\nrejected_temperature = 1.0";
        assert_eq!(rejected(drawn).unwrap(), RejectedFrom::WorstOf(4));
        for (lines, key) in [
            ("rejected = { worst_of = 4 }", "`align.rejected_temperature`"),
            ("rejected = { worst_of = 1 }\nrejected_temperature = 1.0", "at least 2"),
            ("rejected_temperature = -1.0", "`align.rejected_temperature`"),
            ("rejected = 'random'", "random"),
        ] {
            let error = format!("{:#}", rejected(lines).unwrap_err());
            assert!(error.contains(key), "{lines}: {error}");
        }
    }

    #[test]
    fn early_stopping_watches_what_is_measured() {
        let stop = |metric: &str| {
            format!("early_stopping = {{ metric = '{metric}', better = 'lower', patience = 1 }}\n[pairs]")
        };
        assert!(message("[pairs]", &stop("eval_los")).contains("`stage1.early_stopping.metric`"));
        assert!(Recipe::parse(&SCRATCH.replacen("[pairs]", &stop("eval_loss/selection"), 1)).is_ok());
        let score = stop("c_score/max").replace("lower", "higher");
        let judged = SCRATCH.replacen("[pairs]", &score, 1);
        assert!(Recipe::parse(&judged).is_ok());
        let (before, table) = judged.split_once("[judge]").unwrap();
        let (_, after) = table.split_once("\n\n").unwrap();
        let error = Recipe::parse(&format!("{before}{after}")).unwrap_err().to_string();
        assert!(error.contains("`judge.folder`"), "{error}");
        assert!(message("labels = false", "examples = 0").contains("`judge.examples`"));
        assert!(message("labels = false", "rule = { threshold = 1.5 }").contains("`judge.rule.threshold`"));
    }

    #[test]
    fn a_seed_of_a_part_is_refused() {
        for (table, key) in [
            ("[plain]", "`plain.seed`"),
            ("[stage1]", "`stage1.seed`"),
            ("[align.train]", "`align.train.seed`"),
            ("[decode]", "`decode.seed`"),
        ] {
            let found = message(&format!("\n{table}"), &format!("\n{table}\nseed = 7 #"));
            assert!(found.contains(key), "{found}");
        }
    }

    #[test]
    fn a_misspelled_key_is_named() {
        assert!(message("layers = 4", "layer = 4").contains("`layer`"));
        assert!(message("layers = 4\n", "").contains("`model.layers` is missing"));
        assert!(message("layers = 4", "layers = 4\nfolder = 'x'").contains("`model.vocabulary`"));
        assert!(message("steps = 550", "stepz = 550").contains("`stepz`"));
    }

    #[test]
    fn task_weights_stand_beside_the_settings_of_the_loop() {
        let weights = "task_weights = { selection = 2.0, generation = 0.5 }\nnone_kept = 0.25\n[pairs]";
        let recipe = Recipe::parse(&SCRATCH.replacen("[pairs]", weights, 1)).unwrap();
        assert_eq!(recipe.stage1.task_weights, Some(TaskWeights { selection: 2.0, generation: 0.5 }));
        assert_eq!(recipe.stage1.none_kept, Some(0.25));
        let text = toml::to_string(&recipe).unwrap();
        assert!(text.contains("[stage1.task_weights]"), "{text}");
    }

    #[test]
    fn a_recipe_in_the_folder_of_its_run_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("my.toml");
        let out = |out: &Path| {
            std::fs::write(&path, SCRATCH.replace("target/scratch", &out.display().to_string())).unwrap();
            Recipe::load(&path).map(drop).map_err(|error| format!("{error:#}"))
        };
        assert!(out(folder.path()).unwrap_err().contains("lies in `out`"));
        assert!(out(&folder.path().join("sub/..")).is_ok(), "a folder that is not there yet");
        std::fs::create_dir(folder.path().join("sub")).unwrap();
        assert!(out(&folder.path().join("sub/..")).unwrap_err().contains("lies in `out`"));
        assert!(out(&folder.path().join("sub")).is_ok());
        let data = folder.path().join("sub/plain/data.jsonl");
        std::fs::create_dir(folder.path().join("sub/plain")).unwrap();
        std::fs::write(&data, "").unwrap();
        let text = SCRATCH.replace("target/scratch", &folder.path().join("sub").display().to_string());
        let train = format!("train = \"{}\"", data.display());
        std::fs::write(&path, text.replace("train = \"examples/data/spc_valid_480.jsonl.gz\"", &train))
            .unwrap();
        let message = format!("{:#}", Recipe::load(&path).unwrap_err());
        assert!(message.contains("`data.train`") && message.contains("plain"), "{message}");
    }
}
