//! The whole path on a few dialogues and steps: it ends in a report, continues after being stopped, starts from a folder,
//! and says what is wrong with a recipe.
#![allow(clippy::unwrap_used, clippy::panic)]

mod small_run;
mod tiny_judge;

use std::path::Path;
use std::sync::atomic::Ordering;

use persona_data::{Dialogue, Format, open, write_jsonl};
use persona_examples::pipeline::{self, Run};
use persona_examples::progress::Interrupt;
use persona_examples::recipe::{EVALUATED, Recipe};
use persona_examples::report::Cell;
use persona_examples::workspace::Start;
use small_run::{FRESH, dialogues, finish, load, recipe_text};

#[test]
fn a_judge_labels_scores_and_stops_early() {
    let folder = tempfile::tempdir().unwrap();
    dialogues(folder.path());
    let judge = folder.path().join("judge");
    tiny_judge::write(&judge);
    let path = folder.path().join("recipe.toml");
    let stop = "early_stopping = { metric = 'c_score/max', better = 'higher', patience = 1 }\n";
    let text = recipe_text(folder.path(), FRESH)
        .replacen("[align]", &format!("{stop}[align]"), 1)
        .replacen("steps = 4", "steps = 20", 2)
        .replacen(
            "[plain]",
            &format!("[judge]\nfolder = '{}'\nlabels = true\nexamples = 3\n[plain]", judge.display()),
            1,
        )
        .replacen("[align]\n", "[align]\nrejected = { worst_of = 2 }\nrejected_temperature = 1.0\n", 1);
    std::fs::write(&path, &text).unwrap();
    let (recipe, text) = Recipe::load(&path).unwrap();
    let report = match pipeline::run(&recipe, &text, Start::Continue, &Interrupt::default()).unwrap() {
        Run::Finished(report) => *report,
        Run::Interrupted => panic!("nobody interrupted it"),
    };
    for name in ["C.score sum", "C.score max"] {
        let at = report.table.columns.iter().position(|column| column.name == name).unwrap();
        assert!(report.table.columns[at].signature.contains("judge:"), "{:?}", report.table.columns[at]);
        for row in &report.table.rows {
            let Cell::Value(value) = row.cells[at] else { panic!("{} has no {name}", row.system) };
            assert!(value.abs() <= 5.0);
        }
    }
    let (_, labels) = report.facts.iter().find(|(name, _)| name == "labels").unwrap();
    assert!(labels.contains("judge") && !labels.contains("overlap"), "{labels}");
    let (_, pairs) = report.facts.iter().find(|(name, _)| name == "pairs").unwrap();
    assert!(pairs.contains("rejected the worst of 2 under the judge"), "{pairs}");
    let steps = |name: &str| {
        let log = std::fs::read_to_string(folder.path().join("out").join(name).join("log.jsonl")).unwrap();
        let lines = log.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        let lines: Vec<serde_json::Value> = lines.collect();
        let evaluated = lines.iter().filter(|line| line.get("c_score/max").is_some()).count();
        (lines.last().unwrap()["step"].as_u64().unwrap(), evaluated)
    };
    assert_eq!(steps("plain"), (20, 0), "only what is watched is measured");
    let pairs = || {
        let report = std::fs::read_to_string(folder.path().join("out/pairs.report.json")).unwrap();
        serde_json::from_str::<serde_json::Value>(&report).unwrap()["inputs"].clone()
    };
    let before = pairs();
    assert!(before.is_string());
    // A judge of one layer that knows nothing gives replies of so few steps one value: the first does not improve.
    let (step, evaluated) = steps("stage1");
    assert!(step < 20 && evaluated >= 2, "{step} {evaluated}");

    // By another judge another of several replies may be the worst.
    let config = std::fs::read_to_string(judge.join("config.json")).unwrap();
    std::fs::write(judge.join("config.json"), format!("{config}\n")).unwrap();
    assert!(matches!(
        pipeline::run(&recipe, &text, Start::Continue, &Interrupt::default()).unwrap(),
        Run::Finished(_)
    ));
    assert_ne!(pairs(), before);
}

#[test]
fn the_path_ends_in_a_report_and_continues_after_being_stopped() {
    let whole = tempfile::tempdir().unwrap();
    dialogues(whole.path());
    let report = finish(whole.path(), FRESH);
    let systems: Vec<&str> = report.table.rows.iter().map(|row| row.system.as_str()).collect();
    let expected = [
        "plain fine-tuning",
        "stage 1 only",
        "PAL",
        "PAL, oracle selection",
        "PAL, random selection 1",
        "PAL, random selection 2",
        "gold",
    ];
    assert_eq!(systems, expected);
    let column = |name: &str| report.table.columns.iter().position(|column| column.name == name).unwrap();
    assert_eq!(report.table.rows[3].cells[column("Selection")], Cell::Value(100.0));
    let Cell::Value(bleu) = report.table.rows[6].cells[column("BLEU-1")] else { panic!("gold has BLEU") };
    assert!((bleu - 100.0).abs() < 1e-6, "{bleu}");
    assert_eq!(report.table.rows[2].cells[column("C.score")], Cell::Missing("no judge".into()));
    let first = report.checks.iter().find(|check| check.name == "Stage 2: first loss").unwrap();
    assert!(first.holds && (first.measured - std::f64::consts::LN_2).abs() < 1e-5, "{first:?}");
    for file in ["report.html", "report.json", "pairs.jsonl", "align/model/model.safetensors", "split.json"] {
        assert!(whole.path().join("out").join(file).is_file(), "{file}");
    }

    // Stopped at once: the first training makes no step, and the next call does the rest.
    let stopped = tempfile::tempdir().unwrap();
    dialogues(stopped.path());
    let (recipe, text) = load(stopped.path(), FRESH);
    let interrupt = Interrupt::default();
    interrupt.flag().store(true, Ordering::SeqCst);
    assert!(matches!(pipeline::run(&recipe, &text, Start::Continue, &interrupt).unwrap(), Run::Interrupted));
    let again = finish(stopped.path(), FRESH);
    assert_eq!((&report.table, &report.conversations), (&again.table, &again.conversations));
    // Finished: everything is read, and says the same. A stop asked for after the last step is one.
    assert_eq!(finish(stopped.path(), FRESH).table, again.table);
    assert!(matches!(pipeline::run(&recipe, &text, Start::Continue, &interrupt).unwrap(), Run::Interrupted));

    // Other seeds draw other selections, and lie in files of their own.
    let selections = |seed: u32| {
        let path = format!("out/replies/PAL__random_selection_{seed}.json");
        let text = std::fs::read_to_string(whole.path().join(path)).unwrap();
        let replies = serde_json::from_str::<serde_json::Value>(&text).unwrap();
        let replies = replies["value"]["replies"].as_array().unwrap().clone();
        replies.iter().map(|reply| reply["highlighted"].clone()).collect::<Vec<_>>()
    };
    assert_ne!(selections(1), selections(2));

    // What a recipe may name for early stopping is what the logs hold.
    for ((_, names), folder) in EVALUATED.iter().zip(["plain", "stage1", "align"]) {
        let log = std::fs::read_to_string(whole.path().join("out").join(folder).join("log.jsonl")).unwrap();
        let last: serde_json::Value = serde_json::from_str(log.lines().last().unwrap()).unwrap();
        let held: Vec<&String> =
            last.as_object().unwrap().keys().filter(|key| key.starts_with("eval_")).collect();
        let mut names = names.to_vec();
        names.sort_unstable();
        assert_eq!(held, names, "{folder}");
    }
    let facts: Vec<&str> = report.facts.iter().map(|(name, _)| name.as_str()).collect();
    assert!(facts.contains(&"plain validation examples") && facts.contains(&"swapped personas"), "{facts:?}");

    // From a folder in the Hugging Face layout.
    let folder = tempfile::tempdir().unwrap();
    dialogues(folder.path());
    let model = format!("folder = '{}'", whole.path().join("out/stage1/model").display());
    let from_folder = finish(folder.path(), &model);
    assert_eq!(from_folder.table.rows.len(), 7);
    let (_, loaded) = from_folder.facts.iter().find(|(name, _)| name == "starting model").unwrap();
    assert!(loaded.contains("loaded"), "{loaded}");

    // The same folder with another recipe.
    let (recipe, text) = load(whole.path(), &FRESH.replace("hidden = 16", "hidden = 32"));
    let error =
        pipeline::run(&recipe, &text, Start::Continue, &Interrupt::default()).unwrap_err().to_string();
    assert!(error.contains("another recipe"), "{error}");

    // A fresh start that fails before it begins removes nothing; one that begins removes what a run made.
    let out = whole.path().join("out");
    std::fs::write(out.join("notes.txt"), "mine").unwrap();
    let count = || std::fs::read_dir(&out).unwrap().count();
    let before = count();
    std::fs::rename(whole.path().join("dialogues.jsonl"), whole.path().join("away")).unwrap();
    assert!(pipeline::run(&recipe, &text, Start::Fresh, &interrupt).is_err());
    assert_eq!(count(), before);
    std::fs::rename(whole.path().join("away"), whole.path().join("dialogues.jsonl")).unwrap();
    assert!(matches!(pipeline::run(&recipe, &text, Start::Fresh, &interrupt).unwrap(), Run::Interrupted));
    let mut names: Vec<_> = std::fs::read_dir(&out)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort_unstable();
    assert_eq!(names, [".persona-run", "notes.txt", "plain", "recipe.toml", "split.json", "tokenizer"]);
}

#[test]
fn test_data_that_change_are_replied_to_again() {
    let folder = tempfile::tempdir().unwrap();
    dialogues(folder.path());
    finish(folder.path(), FRESH);
    let gold_tokens = || -> Vec<u64> {
        let text = std::fs::read_to_string(folder.path().join("out/replies/PAL.json")).unwrap();
        let held: serde_json::Value = serde_json::from_str(&text).unwrap();
        let replies = held["value"]["replies"].as_array().unwrap().iter();
        replies.map(|reply| reply["gold_tokens"].as_u64().unwrap()).collect()
    };
    let before = gold_tokens();
    let path = folder.path().join("dialogues.jsonl");
    let split = std::fs::read_to_string(folder.path().join("out/split.json")).unwrap();
    let split: serde_json::Value = serde_json::from_str(&split).unwrap();
    let test = split["parts"][3]["dialogues"].as_array().unwrap();
    let mut dialogues: Vec<Dialogue> = open(&path, Format::Jsonl).unwrap().collect::<Result<_, _>>().unwrap();
    for dialogue in dialogues.iter_mut().filter(|dialogue| test.contains(&dialogue.id.as_str().into())) {
        dialogue.turns.iter_mut().for_each(|turn| turn.text = format!("indeed, {}", turn.text));
    }
    write_jsonl(&path, &dialogues).unwrap();
    finish(folder.path(), FRESH);
    let after = gold_tokens();
    assert!(
        before.len() == after.len() && before.iter().zip(&after).all(|(a, b)| a < b),
        "{before:?} {after:?}"
    );

    // Dialogues that go: other parts than those of the run.
    dialogues.pop();
    write_jsonl(&path, &dialogues).unwrap();
    let (recipe, text) = load(folder.path(), FRESH);
    let error =
        format!("{:#}", pipeline::run(&recipe, &text, Start::Continue, &Interrupt::default()).unwrap_err());
    assert!(error.contains("split.json") && error.contains("--fresh"), "{error}");
}

#[test]
fn a_typo_in_the_data_or_the_model_is_corrected_in_place() {
    let folder = tempfile::tempdir().unwrap();
    let (recipe, text) = load(folder.path(), FRESH);
    assert!(pipeline::run(&recipe, &text, Start::Continue, &Interrupt::default()).is_err());
    assert!(!folder.path().join("out").exists());
    dialogues(folder.path());
    let (recipe, text) = load(folder.path(), "folder = 'nowhere'");
    let error =
        format!("{:#}", pipeline::run(&recipe, &text, Start::Continue, &Interrupt::default()).unwrap_err());
    assert!(error.contains("nowhere"), "{error}");
    assert!(!folder.path().join("out").exists());
    // One that shows only after the set-up: no room for a reply.
    let (recipe, text) = load(folder.path(), &FRESH.replace("positions = 384", "positions = 14"));
    assert!(pipeline::run(&recipe, &text, Start::Continue, &Interrupt::default()).is_err());
    let interrupt = Interrupt::default();
    interrupt.flag().store(true, Ordering::SeqCst);
    let (recipe, text) = load(folder.path(), FRESH);
    assert!(matches!(pipeline::run(&recipe, &text, Start::Continue, &interrupt).unwrap(), Run::Interrupted));
}

#[test]
fn the_reference_computes_like_the_policy_and_weights_reach_the_loss() {
    let folder = tempfile::tempdir().unwrap();
    dialogues(folder.path());
    let path = folder.path().join("recipe.toml");
    let text = recipe_text(folder.path(), FRESH)
        .replace("[align.train]\n", "[align.train]\nprecision = 'bf16'\n")
        .replace("[stage1]\n", "[stage1]\ntask_weights = { selection = 2.0, generation = 0.5 }\n");
    std::fs::write(&path, text).unwrap();
    let (recipe, text) = Recipe::load(&path).unwrap();
    let Run::Finished(report) =
        pipeline::run(&recipe, &text, Start::Continue, &Interrupt::default()).unwrap()
    else {
        panic!("nobody interrupted it")
    };
    let first = report.checks.iter().find(|check| check.name == "Stage 2: first loss").unwrap();
    // The policy's sums over tokens are float32's, of which one unit in the last place is 1.5e-5 here; beta makes it less.
    assert!((first.measured - std::f64::consts::LN_2).abs() < 5e-6, "{first:?}");
    let checkpoint = std::fs::read_dir(folder.path().join("out/stage1/checkpoints")).unwrap();
    let states: Vec<String> = checkpoint
        .filter_map(|entry| std::fs::read_to_string(entry.unwrap().path().join("state.json")).ok())
        .collect();
    assert!(!states.is_empty() && states.iter().all(|state| state.contains("selection=2")), "{states:?}");
}

#[test]
fn a_bad_recipe_names_what_is_wrong() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("recipe.toml");
    let good = recipe_text(folder.path(), FRESH);
    let message = |text: &str| {
        std::fs::write(&path, text).unwrap();
        format!("{:#}", Recipe::load(&path).unwrap_err())
    };
    assert!(message(&good.replace("\nseed = 3", "\nsed = 3")).contains("sed"));
    assert!(message(&good.replace("beta = 0.1", "beta = 'x'")).contains("beta"));
    assert!(message(&good.replacen("steps = 4", "steps = 0", 1)).contains("`steps`"));
    assert!(message(&good.replace("max_new_tokens = 12", "max_new_tokens = 0")).contains("max_new_tokens"));
    let (recipe, text) = load(folder.path(), FRESH);
    let error =
        format!("{:#}", pipeline::run(&recipe, &text, Start::Continue, &Interrupt::default()).unwrap_err());
    assert!(error.contains("dialogues.jsonl"), "{error}");
}

/// Where the child process of the test below finds its recipe.
const RECIPE: &str = "PERSONA_TEST_RECIPE";

/// The child: runs the path that the parent names. Alone, it has nothing to do.
#[test]
fn child_with_a_full_disk() {
    let Some(path) = std::env::var_os(RECIPE) else { return };
    let (recipe, text) = Recipe::load(Path::new(&path)).unwrap();
    pipeline::run(&recipe, &text, Start::Continue, &Interrupt::default()).unwrap();
}

/// Writes that end in the middle, as on a full disk: a shell limits the size of files for the process that it becomes.
#[test]
fn a_full_disk_stops_with_the_file_named_and_the_next_call_continues() {
    let folder = tempfile::tempdir().unwrap();
    dialogues(folder.path());
    load(folder.path(), FRESH);
    let run = |limit: &str| {
        let script =
            format!("ulimit -f {limit} && trap '' XFSZ && exec \"$0\" --exact child_with_a_full_disk");
        let mut shell = std::process::Command::new("sh");
        shell.arg("-c").arg(script).arg(std::env::current_exe().unwrap());
        let output = shell.env(RECIPE, folder.path().join("recipe.toml")).output().unwrap();
        (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    // In blocks of 512 bytes or 1 KiB, by the shell: enough for the tokenizer, not for a checkpoint's optimiser.
    let (ok, message) = run("60");
    assert!(!ok && message.contains("checkpoint") && message.contains("File too large"), "{message}");
    let weights = folder.path().join("out/plain/model/model.safetensors");
    assert!(!weights.exists());
    assert!(run("unlimited").0);
    assert_eq!(finish(folder.path(), FRESH).table.rows.len(), 7);
}
