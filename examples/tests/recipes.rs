//! The shipped recipes: each is read, checked, and says what it would take.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::path::{Path, PathBuf};

use persona_examples::dry_run::DryRun;
use persona_examples::pipeline;
use persona_examples::progress::Interrupt;
use persona_examples::recipe::{ModelRecipe, Recipe};
use persona_examples::workspace::Start;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("recipes")
}

#[test]
fn every_shipped_recipe_is_read_and_dry_run() {
    // A recipe's paths start where the program does, which is the root of the workspace.
    std::env::set_current_dir(folder().join("../..")).unwrap();
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder()).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if ["judge", "persona", "experiment"].iter().any(|program| name.starts_with(program)) {
            // Of other programs, whose tests read them.
            continue;
        }
        let (recipe, text) = Recipe::load(&path).unwrap_or_else(|error| panic!("{error:#}"));
        let there = recipe.out.exists();
        let dry = DryRun::of(&recipe, &text).unwrap_or_else(|error| panic!("{}: {error:#}", path.display()));
        let shown = dry.to_string();
        for training in &dry.trainings {
            assert!(training.tokens > 1e4 && training.memory.total() > 1e7, "{shown}");
            assert!(training.epochs > 0.1 && shown.contains(training.name), "{shown}");
        }
        assert_eq!(recipe.out.exists(), there, "nothing is written");
        names.push(path.file_stem().unwrap().to_string_lossy().into_owned());
        match names.last().unwrap().as_str() {
            "gpt2" | "dialogpt" => {
                assert_eq!(dry.parameters, [124_439_808; 2]);
                let [plain, stage1, align] = &dry.trainings[..] else { panic!("three trainings") };
                assert_eq!((plain.steps, stage1.steps, align.steps), (5130, 10_260, 153));
                assert_eq!((stage1.examples, align.examples), (131_438, 6500));
                // 128 rows a step of half the sum of both tasks' means.
                let mean = (203.0 + 6.9 + 231.0 + 13.4) / 2.0;
                assert!((stage1.tokens - 10_260.0 * 128.0 * mean).abs() < 1.0, "{}", stage1.tokens);
                let weights = stage1.memory;
                let held = weights.weights + weights.gradients + weights.moments;
                assert!((held - 16.0 * 124_439_808.0).abs() < 1.0, "weights, gradients, two moments: {held}");
            }
            "llama31_8b_lora" => {
                assert_eq!(dry.parameters, [8_030_261_248, 6_815_744]);
                assert_eq!(recipe.stage1.train.lora_plus_ratio, Some(16.0));
                // The base in bfloat16 and the adapter in float32.
                let expected = 2.0 * 8_030_261_248.0 + 4.0 * 6_815_744.0;
                assert!((dry.trainings[1].memory.weights - expected).abs() < 1.0);
                let ModelRecipe::Folder { lora: Some(lora), .. } = &recipe.model else { panic!("a LoRA") };
                assert_eq!((lora.r, lora.alpha), (16, 32.0));
                // Without the base it is for a dry run: it is refused before anything is written.
                let folder = tempfile::tempdir().unwrap();
                let recipe = Recipe { out: folder.path().join("out"), ..recipe };
                let error =
                    pipeline::run(&recipe, &text, Start::Continue, &Interrupt::default()).unwrap_err();
                assert!(format!("{error:#}").contains("`model.folder`"), "{error:#}");
                assert!(!recipe.out.exists());
            }
            // To 505 of the 1,749 examples of Valid#1 a description applies.
            "demo" => assert_eq!(dry.trainings[2].examples, 505),
            "scratch" => assert_eq!(dry.trainings[2].examples, 800),
            other => panic!("{other} is not looked at; say here what it should take"),
        }
    }
    names.sort();
    assert_eq!(names, ["demo", "dialogpt", "gpt2", "llama31_8b_lora", "scratch"]);
}

#[test]
fn what_a_dry_run_needs_is_named() {
    let text = std::fs::read_to_string(folder().join("gpt2.toml")).unwrap();
    let work = tempfile::tempdir().unwrap();
    let message = |text: &str| {
        let path = work.path().join("recipe.toml");
        std::fs::write(&path, text).unwrap();
        let (recipe, text) = match Recipe::load(&path) {
            Ok(read) => read,
            Err(error) => return format!("{error:#}"),
        };
        format!("{:#}", DryRun::of(&recipe, &text).unwrap_err())
    };
    let without = |what: &str| {
        let kept: Vec<&str> = text.lines().filter(|line| !line.starts_with(what)).collect();
        kept.join("\n")
    };
    assert!(message(&without("like")).contains("`model.like`"));
    let (before, _) = text.split_once("[expect]").unwrap();
    assert!(message(before).contains("`expect`"));
    assert!(message(&text.replace("longest = 269", "longest = 9")).contains("`expect.selection`"));
    assert!(message(&text.replace("like = \"gpt2\"", "like = \"gpt3\"")).contains("gpt3"));
    assert!(message(&without("folder")).contains("`model.like` belongs to `model.folder`"));
}
