//! A small pre-training from a few dialogues: it learns, continues to the same bytes, and its folder says what it is.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::fmt::Write as _;
use std::path::Path;
use std::sync::atomic::Ordering;

use persona_data::{Dialogue, Format, SpecialTokens, TextTokenizer, open, write_jsonl};
use persona_examples::pretrain::{Corpus, Measured, PretrainRecipe, Pretrained, plan, pretrain};
use persona_examples::progress::Interrupt;
use persona_examples::workspace::Start;
use persona_model::{CausalLm, load_causal_lm};
use sha2::{Digest, Sha256};
use tch::{Device, Kind};

/// Forty of the dialogues that ship with the examples, and ten in PERSONA-CHAT's form.
fn data(folder: &Path) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/spc_valid_480.jsonl.gz");
    let mut dialogues: Vec<Dialogue> =
        open(path, Format::Jsonl).unwrap().take(40).collect::<Result<_, _>>().unwrap();
    dialogues.iter_mut().for_each(|dialogue| dialogue.turns.truncate(12));
    write_jsonl(folder.join("spc.jsonl"), &dialogues).unwrap();
    let mut lines = String::new();
    for at in 0..10 {
        writeln!(
            lines,
            "{{\"id\": \"pc-{at}\", \"persona\": [\"i like to ski .\"], \"turns\": [[\"hi , how are you ?\", \"i m fine . i \
             ski {at} days .\"], [\"that s great !\", \"it is .\"]]}}"
        )
        .unwrap();
    }
    std::fs::write(folder.join("pc.jsonl"), lines).unwrap();
}

fn recipe_text(out: &Path, data: &Path, steps: usize) -> String {
    let source = |name: &str, more: &str| {
        format!(
            "[[corpus.sources]]\nname = 'the {name}'\npath = '{name}.jsonl'\nlicence = 'CC BY 4.0'\nattribution = 'Some One'\n\
             {more}\n"
        )
    };
    let sha256 = format!("{:x}", Sha256::digest(std::fs::read(data.join("pc.jsonl")).unwrap_or_default()));
    format!(
        "title = 'tiny'\nout = '{}'\nseed = 1\ndevice = 'cpu'\n[corpus]\nfolder = '{}'\nheld_out = 0.1\n{}{}\
         [model]\nvocabulary = 500\npositions = 256\nhidden = 16\nlayers = 1\nheads = 2\ndropout = 0.1\n\
         [train]\nsteps = {steps}\nbatch_size = 8\nmicro_batch_size = 4\nlearning_rate = 1e-2\nwarmup_steps = 2\n\
         schedule = 'cosine'\nprecision = 'bf16'\neval_every = 10\ncheckpoint_every = 5\n[card]\nreplies = 2\n",
        out.display(),
        data.display(),
        source("spc", ""),
        source("pc", &format!("sha256 = '{sha256}'")),
    )
}

fn load(folder: &Path, text: &str) -> (PretrainRecipe, String) {
    let path = folder.join("recipe.toml");
    std::fs::write(&path, text).unwrap();
    PretrainRecipe::load(&path, None).unwrap()
}

fn run(recipe: &(PretrainRecipe, String), interrupt: &Interrupt) -> Pretrained {
    pretrain(&recipe.0, &recipe.1, Start::Continue, "cargo run", interrupt).unwrap()
}

fn finished(recipe: &(PretrainRecipe, String)) -> (std::path::PathBuf, Measured) {
    match run(recipe, &Interrupt::default()) {
        Pretrained::Model { folder, measured } => (folder, *measured),
        Pretrained::Interrupted => panic!("nobody interrupted it"),
    }
}

#[test]
fn it_learns_continues_to_the_same_bytes_and_writes_its_card() {
    let folder = tempfile::tempdir().unwrap();
    data(folder.path());
    let recipe = load(folder.path(), &recipe_text(&folder.path().join("whole"), folder.path(), 20));
    let counted = plan(&recipe.0).unwrap();
    assert!(!folder.path().join("whole").exists(), "nothing is written");
    let (model, measured) = finished(&recipe);
    assert_eq!((counted.train, counted.held_out), (measured.train, measured.held_out));
    assert_eq!((counted.parameters, counted.vocabulary), (measured.parameters, measured.vocabulary));
    let found = &measured.perplexities.all;
    assert!(found.model.is_finite() && found.ngram < found.unigram, "{found:?}");
    assert!(found.turns > measured.perplexities.new.turns && found.tokens >= found.events, "{found:?}");
    let log = std::fs::read_to_string(model.join("log.jsonl")).unwrap();
    let losses: Vec<f64> = log
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap().get("loss")?.as_f64())
        .collect();
    assert!(losses.len() == 20 && losses[19] < losses[0] - 0.5, "{losses:?}");
    assert!((losses[0] - (measured.vocabulary as f64).ln()).abs() < 0.2, "a fresh model knows nothing");

    let card = std::fs::read_to_string(model.join("README.md")).unwrap();
    let sha256 = &measured.sources[1].sha256;
    for part in [
        "# tiny",
        "CC BY 4.0",
        "- the pc: Some One. CC BY 4.0.\n",
        "$ cargo run\n",
        sha256,
        "Kneser-Ney",
        "What it is not",
        "model: ",
    ] {
        assert!(card.contains(part), "{part}: {card}");
    }
    assert!(card.contains(&format!("| this model | {:.2} |", found.model)), "{card}");
    assert!(std::fs::read_to_string(model.join("curves.svg")).unwrap().starts_with("<svg"));
    let (loaded, report) = load_causal_lm(&model, Device::Cpu, Kind::BFloat16).unwrap();
    assert!(report.is_exact() && report.cast.is_empty(), "the weights are kept in bfloat16: {report}");
    assert_eq!(loaded.limits().positions, 256);
    assert!(TextTokenizer::from_folder(&model, &SpecialTokens::default()).is_ok());

    // Stopped at once, then taken back to an earlier checkpoint: each call does what is left.
    let stopped = load(folder.path(), &recipe_text(&folder.path().join("stopped"), folder.path(), 20));
    let interrupt = Interrupt::default();
    interrupt.flag().store(true, Ordering::SeqCst);
    assert!(matches!(run(&stopped, &interrupt), Pretrained::Interrupted));
    let (again, _) = finished(&stopped);
    let checkpoints = folder.path().join("stopped/pretrain/checkpoints");
    let mut held: Vec<_> =
        std::fs::read_dir(checkpoints).unwrap().map(|entry| entry.unwrap().path()).collect();
    held.sort_unstable();
    assert_eq!(held.len(), 2, "{held:?}");
    std::fs::remove_dir_all(held.pop().unwrap()).unwrap();
    std::fs::remove_dir_all(&again).unwrap();
    let (again, _) = finished(&stopped);
    let bytes = |folder: &Path| std::fs::read(folder.join("model.safetensors")).unwrap();
    assert!(bytes(&model) == bytes(&again), "the same bytes");

    // Another recipe in the folder of a run.
    let text = recipe_text(&folder.path().join("whole"), folder.path(), 21);
    let other = load(folder.path(), &text);
    let error = pretrain(&other.0, &other.1, Start::Continue, "", &Interrupt::default()).unwrap_err();
    assert!(error.to_string().contains("another recipe"), "{error}");
}

#[test]
fn data_that_are_not_there_or_others_are_named() {
    let folder = tempfile::tempdir().unwrap();
    data(folder.path());
    let (recipe, text) = load(folder.path(), &recipe_text(&folder.path().join("out"), folder.path(), 20));
    let corpus = Corpus::load(&recipe).unwrap();
    let held = corpus.sources.iter().map(|source| source.held_out).sum::<usize>();
    assert_eq!(held, 5, "a tenth of fifty");
    let id = |dialogue: &Dialogue| dialogue.id.clone();
    assert!(corpus.held_out.iter().all(|held| !corpus.train.iter().any(|other| id(other) == id(held))));
    assert_eq!(corpus.held_out, Corpus::load(&recipe).unwrap().held_out, "drawn from the seed");
    assert!(corpus.train.iter().any(|d| d.turns.iter().any(|turn| turn.text == "That's great!")));

    let message = |recipe: &PretrainRecipe| format!("{:#}", Corpus::load(recipe).unwrap_err());
    let (twice, _) = load(folder.path(), &text.replace("'spc.jsonl'", "'pc.jsonl'"));
    assert!(message(&twice).contains("more than one dialogue"), "{}", message(&twice));
    std::fs::write(folder.path().join("pc.jsonl"), "{}\n").unwrap();
    assert!(message(&recipe).contains("SHA-256"));
    let unpinned = text.lines().filter(|line| !line.starts_with("sha256")).collect::<Vec<_>>().join("\n");
    let (unpinned, _) = load(folder.path(), &unpinned);
    assert!(message(&unpinned).contains("pc.jsonl"), "{}", message(&unpinned));
    std::fs::remove_file(folder.path().join("pc.jsonl")).unwrap();
    assert!(message(&recipe).contains("--data"));
    let error = pretrain(&recipe, &text, Start::Continue, "", &Interrupt::default()).unwrap_err().to_string();
    assert!(error.contains("pc.jsonl") && !folder.path().join("out").exists(), "{error}");

    // Data in the folder that the run fills.
    let inside = text.replace(
        &format!("folder = '{}'", folder.path().display()),
        &format!("folder = '{}'", folder.path().join("out/pretrain").display()),
    );
    std::fs::create_dir_all(folder.path().join("out/pretrain")).unwrap();
    data(&folder.path().join("out/pretrain"));
    let path = folder.path().join("inside.toml");
    std::fs::write(&path, inside).unwrap();
    let error = format!("{:#}", PretrainRecipe::load(&path, None).unwrap_err());
    assert!(error.contains("pretrain of `out`"), "{error}");
    assert!(PretrainRecipe::load(&path, Some(folder.path())).is_ok(), "another folder by --data");
}
