//! The judge's path on a few pairs and steps: trained, stopped and continued, trained on, measured, used for labels; and
//! what is wrong with a recipe, a judge or a text is said.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use persona_data::{
    Dialogue, EntailmentRule, Format, LabelChoice, Speaker, Turn, WordPieceOptions, open, train_wordpiece,
    write_jsonl,
};
use persona_examples::judge::{
    Judge, JudgeRecipe, LabelOptions, SHIPPED, ScorePart, Trained, evaluate, label, match_shares, train,
    write_pairs,
};
use persona_examples::progress::Interrupt;
use persona_examples::workspace::Start;
use persona_metrics::{Consistency, Judgement, PersonaJudge};
use persona_model::{BertClassifier, BertConfig, Model};
use tch::{Device, Kind, Tensor};

const PETS: [&str; 6] = ["dog", "cat", "horse", "parrot", "snake", "turtle"];
const FRESH: &str =
    "kind = 'fresh'\nvocabulary = 120\nhidden = 16\nlayers = 1\nheads = 2\ninner = 32\ndropout = 0.1";

/// Published judgements of 60 dialogues: a reply about the described animal is entailed.
fn scores(folder: &Path) {
    let mut table = String::from(
        "dialog\tpersona_idx\tturn\tlabel\tlogit_contradiction\tlogit_neutral\tlogit_entailment\tpersona\tresponse\n",
    );
    for dialogue in 0..60 {
        for description in 0..2 {
            for turn in 0..2 {
                let (own, said) = (PETS[(dialogue + description) % 6], PETS[(dialogue + turn) % 6]);
                let (label, logits) = match (own == said, dialogue % 7) {
                    (true, 0) => ("contradiction", "2.0\t-1.0\t0.5"),
                    (true, _) => ("entailment", "-2.0\t-1.0\t3.5"),
                    _ => ("neutral", "-2.0\t4.0\t-1.5"),
                };
                writeln!(table, "{dialogue}\t{description}\t{turn}\t{label}\t{logits}\ti have a {own} .\tmy {said} is great .").unwrap();
            }
        }
    }
    std::fs::write(folder.join("scores.tsv"), table).unwrap();
}

fn dialogues(folder: &Path) {
    let dialogues: Vec<Dialogue> = (0..24)
        .map(|at| {
            let pet = |at: usize| PETS[at % 6];
            let persona = vec![format!("i have a {} .", pet(at)), format!("i love my {} .", pet(at + 1))];
            let turns = vec![
                Turn::new(Speaker::One, "any pets ?"),
                Turn::new(Speaker::Two, format!("my {} is great .", pet(at))),
                Turn::new(Speaker::One, "nice"),
                Turn::new(Speaker::Two, " "),
            ];
            Dialogue { id: format!("d{at}"), personas: [Vec::new(), persona], turns }
        })
        .collect();
    write_jsonl(folder.join("dialogues.jsonl"), &dialogues).unwrap();
}

fn prepared() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    scores(folder.path());
    dialogues(folder.path());
    folder
}

fn recipe_text(folder: &Path, out: &str, model: &str) -> String {
    let at = |name: &str| folder.join(name).display().to_string();
    format!(
        "title = 'small'\nout = '{out}'\nseed = 3\ndevice = 'cpu'\nmax_tokens = 16\nclass_weights = [2.0, 1.0, 1.0]\n\
         [model]\n{model}\n\
         [[train_data]]\nkind = 'persona_scores'\npath = '{scores}'\npart = 'valid1-train'\n\
         [[train_data]]\nkind = 'made'\ndialogues = ['{dialogues}']\n\
         [[valid_data]]\nkind = 'persona_scores'\npath = '{scores}'\npart = 'valid1-dev'\n\
         [train]\nsteps = 30\nbatch_size = 16\nmicro_batch_size = 8\nwarmup_steps = 2\nlearning_rate = 5e-3\n\
         checkpoint_every = 4\neval_every = 10\n",
        out = at(out),
        scores = at("scores.tsv"),
        dialogues = at("dialogues.jsonl"),
    )
}

fn load(folder: &Path, out: &str, model: &str) -> (JudgeRecipe, String) {
    let path = folder.join("recipe.toml");
    std::fs::write(&path, recipe_text(folder, out, model)).unwrap();
    JudgeRecipe::load(&path).unwrap()
}

fn finish(folder: &Path, out: &str, model: &str) -> PathBuf {
    let (recipe, text) = load(folder, out, model);
    match train(&recipe, &text, Start::Continue, &Interrupt::default()).unwrap() {
        Trained::Judge { folder, evaluation } => {
            assert!(evaluation.iter().any(|(name, value)| name == "eval_loss" && value.is_finite()));
            folder
        }
        Trained::Interrupted => panic!("nobody interrupted it"),
    }
}

#[test]
fn a_judge_is_trained_stopped_continued_and_trained_on() {
    let folder = prepared();
    let whole = finish(folder.path(), "whole", FRESH);
    let (recipe, text) = load(folder.path(), "stopped", FRESH);
    let interrupt = Interrupt::default();
    interrupt.flag().store(true, Ordering::SeqCst);
    assert!(matches!(train(&recipe, &text, Start::Continue, &interrupt).unwrap(), Trained::Interrupted));
    let stopped = finish(folder.path(), "stopped", FRESH);
    for file in ["model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json"] {
        assert_eq!(
            std::fs::read(whole.join(file)).unwrap(),
            std::fs::read(stopped.join(file)).unwrap(),
            "{file}"
        );
    }
    // A judge keeps its head; kept in two bytes a weight it is half as large.
    let model = format!("kind = 'folder'\nfolder = '{}'", whole.display());
    let size = |folder: &Path| std::fs::metadata(folder.join("model.safetensors")).unwrap().len();
    let (_, text) = load(folder.path(), "on", &model);
    std::fs::write(
        folder.path().join("recipe.toml"),
        text.replace("seed = 3", "seed = 4\nweights = 'bfloat16'"),
    )
    .unwrap();
    let (recipe, text) = JudgeRecipe::load(&folder.path().join("recipe.toml")).unwrap();
    let Trained::Judge { folder: on, .. } =
        train(&recipe, &text, Start::Continue, &Interrupt::default()).unwrap()
    else {
        panic!("nobody interrupted it")
    };
    assert!(size(&on) < size(&whole) * 3 / 5, "{} {}", size(&on), size(&whole));
    let other = recipe_text(folder.path(), "on", FRESH);
    let error = train(&recipe, &other, Start::Continue, &Interrupt::default()).unwrap_err().to_string();
    assert!(error.contains("another recipe"), "{error}");
    assert!(write_pairs(&recipe, &folder.path().join("pairs.jsonl")).unwrap() > 100);
}

/// A BERT without a judge's head.
fn checkpoint(folder: &Path, texts: &[String]) {
    let options = WordPieceOptions { vocab_size: 120, min_frequency: 1 };
    let tokenizer = train_wordpiece(texts.iter().cloned(), &options, 32).unwrap();
    let config = BertConfig {
        vocab_size: tokenizer.vocab_size(),
        hidden_size: 16,
        num_hidden_layers: 1,
        num_attention_heads: 2,
        intermediate_size: 32,
        max_position_embeddings: 32,
        initializer_range: 0.2, // it is narrow
        pad_token_id: Some(0),
        ..BertConfig::default()
    };
    BertClassifier::new(config, 1, Device::Cpu, Kind::Float).unwrap().save(folder).unwrap();
    tokenizer.save(folder).unwrap();
}

/// General pairs, then pairs of a persona, each in a published file's format.
#[test]
fn a_judge_goes_through_two_stages_in_english_and_in_chinese() {
    const CLASSES: [&str; 3] = ["contradiction", "neutral", "entailment"];
    let english = (["snli", "dnli"], ["no {} here .", "maybe a {} .", "the {} is mine ."], PETS);
    let chinese = (
        ["cmnli", "ocnli"],
        ["\u{6211}\u{6ca1}\u{6709}{}", "\u{4e5f}\u{8bb8}\u{662f}{}", "\u{6211}\u{6709}{}"],
        ["\u{72d7}", "\u{732b}", "\u{9a6c}", "\u{9e1f}", "\u{86c7}", "\u{9f9f}"],
    );
    for (formats, sentences, animals) in [english, chinese] {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name).display().to_string();
        let pairs: Vec<(String, String, usize)> = (0..90)
            .map(|at| {
                let said = |class: usize, animal: usize| sentences[class].replace("{}", animals[animal % 6]);
                (said(2, at), said(at % 3, at / 3), at % 3)
            })
            .collect();
        let texts: Vec<String> = pairs.iter().flat_map(|(a, b, _)| [a.clone(), b.clone()]).collect();
        checkpoint(&folder.path().join("checkpoint"), &texts);
        for format in formats {
            let lines = pairs.iter().map(|(premise, hypothesis, class)| {
                let (key, label) = match (format, CLASSES[*class]) {
                    ("snli", label) => ("gold_label", label),
                    ("dnli", "contradiction") => ("label", "negative"),
                    ("dnli", "entailment") => ("label", "positive"),
                    (_, label) => ("label", label),
                };
                serde_json::json!({key: label, "sentence1": premise, "sentence2": hypothesis}).to_string()
            });
            let lines: Vec<String> = lines.collect();
            let text = if format == "dnli" { format!("[{}]", lines.join(", ")) } else { lines.join("\n") };
            std::fs::write(folder.path().join(format), text).unwrap();
        }
        let stage = |out: &str, model: &str, format: &str, settings: &str| {
            let (out, model, path) = (at(out), at(model), at(format));
            let data = format!("kind = 'nli'\nformat = '{format}'\npath = '{path}'\n");
            let text = format!(
                "title = 'stage'\nout = '{out}'\nseed = 3\ndevice = 'cpu'\nmax_tokens = 32\n\
                 [model]\nkind = 'folder'\nfolder = '{model}'\n[[train_data]]\n{data}[[valid_data]]\n{data}\
                 [train]\nbatch_size = 30\nmicro_batch_size = 30\nlearning_rate = 1e-2\n{settings}\n"
            );
            let path = folder.path().join("recipe.toml");
            std::fs::write(&path, text).unwrap();
            let (recipe, text) = JudgeRecipe::load(&path).unwrap();
            match train(&recipe, &text, Start::Continue, &Interrupt::default()).unwrap() {
                Trained::Judge { folder, .. } => folder,
                Trained::Interrupted => panic!("nobody interrupted it"),
            }
        };
        let general = stage("general", "checkpoint", formats[0], "steps = 60\nwarmup_steps = 5");
        let model = general.strip_prefix(folder.path()).unwrap().to_str().unwrap().to_owned();
        // A step of a learning rate of zero: the second stage begins with the first one's judge, head and all.
        let begun = stage("begun", &model, formats[1], "steps = 1\nwarmup_steps = 1\nschedule = 'constant'");
        let weights = |folder: &Path| std::fs::read(folder.join("model.safetensors")).unwrap();
        assert_eq!(weights(&general), weights(&begun));
        let personal = stage("personal", &model, formats[1], "steps = 20\nwarmup_steps = 2");
        assert_ne!(weights(&general), weights(&personal));
        let judge = Judge::load(&personal, Device::Cpu).unwrap();
        let asked: Vec<(&str, &str)> = pairs.iter().map(|(a, b, _)| (a.as_str(), b.as_str())).collect();
        let expected = [Judgement::Contradiction, Judgement::Neutral, Judgement::Entailment];
        let judged = judge.judge(&asked).unwrap();
        let right = judged.iter().zip(&pairs).filter(|(judged, (.., class))| **judged == expected[*class]);
        assert!(right.count() >= 80, "{formats:?}: {judged:?}");
    }
}

#[test]
fn a_judge_is_measured_and_labels_dialogues() {
    let folder = prepared();
    let judge = finish(folder.path(), "out", FRESH);
    let table = folder.path().join("scores.tsv");
    let out = folder.path().join("figures");
    for part in [ScorePart::Valid1, ScorePart::Valid2, ScorePart::Valid1Dev] {
        let evaluation = evaluate(&judge, &table, part, Device::Cpu, Some(&out)).unwrap();
        let total: u64 = evaluation.judged.confusion.iter().flatten().sum();
        assert_eq!(total as usize, evaluation.judged.pairs);
        assert!(evaluation.to_string().contains("labels by shared words"));
        let written = std::fs::read(out.join("evaluation.json")).unwrap();
        let read: serde_json::Value = serde_json::from_slice(&written).unwrap();
        assert_eq!(read["judged"]["pairs"], evaluation.judged.pairs);
    }
    assert!(std::fs::read_to_string(out.join("calibration.svg")).unwrap().starts_with("<svg"));

    // With shifted logits it finds each class as often as the labels of the part have it, and its C.score is theirs.
    let matched = folder.path().join("matched");
    let shares = match_shares(&judge, &table, ScorePart::Valid1Dev, Device::Cpu, &matched).unwrap();
    assert_eq!(shares.counts[2], shares.counts[0]);
    let evaluation = evaluate(&matched, &table, ScorePart::Valid1Dev, Device::Cpu, None).unwrap();
    let found = [0, 1, 2].map(|class| evaluation.judged.confusion.iter().map(|row| row[class]).sum::<u64>());
    assert_eq!(found, shares.counts[0].map(|count| count as u64));
    assert!(evaluation.judged.value("C.score sum, difference").unwrap().abs() < 1e-12);
    for held in [&judge, &matched, &folder.path().join("matched/../out/judge/model")] {
        let error = match_shares(&judge, &table, ScorePart::Valid1Dev, Device::Cpu, held).unwrap_err();
        assert!(error.to_string().contains("a model lies there"), "{error}");
    }

    // Two judges have two names, however their folders are called or spelled.
    let moved = edit(&matched, &folder.path().join("model"), |_| {});
    let name = |folder: &Path| Judge::load(folder, Device::Cpu).unwrap().name();
    assert_ne!(name(&judge), name(&moved));
    assert_eq!(name(&moved), name(&matched.join("../model")));
    assert!(name(&moved).starts_with("model ") && name(&moved).ends_with("empty texts neutral"));

    let output = folder.path().join("labelled.jsonl");
    let input = folder.path().join("dialogues.jsonl");
    let rule = EntailmentRule { choice: LabelChoice::LowestIndex, threshold: 0.0 };
    let options = LabelOptions { rule, ..LabelOptions::default() };
    let report = label(&judge, &input, &output, Device::Cpu, &options).unwrap();
    assert_eq!((report.dialogues, report.judge.labelled, report.judge.without_persona), (24, 48, 48));
    assert!(report.to_string().contains("by the shared words"), "{report}");
    let dialogues: Vec<Dialogue> = open(&output, Format::Jsonl).unwrap().collect::<Result<_, _>>().unwrap();
    let empty = dialogues.iter().map(|dialogue| dialogue.turns[3].relevant.clone().unwrap());
    assert!(empty.into_iter().all(|relevant| relevant.is_empty()));
    // Labels that are there stay, unless they are to be made anew.
    let again = label(&judge, &output, &output, Device::Cpu, &options).unwrap();
    assert_eq!((again.judge.kept, again.judge.labelled), (48, 0));
    let options = LabelOptions { relabel: true, rule: EntailmentRule { threshold: 1.0, ..rule }, ..options };
    let strict = label(&judge, &output, &output, Device::Cpu, &options).unwrap();
    assert_eq!((strict.judge.labelled, strict.judge.none), (48, 48));
}

fn edit(judge: &Path, to: &Path, change: impl Fn(&mut serde_json::Value)) -> PathBuf {
    std::fs::create_dir(to).unwrap();
    for file in ["model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json"] {
        std::fs::copy(judge.join(file), to.join(file)).unwrap();
    }
    let text = std::fs::read(to.join("config.json")).unwrap();
    let mut config: serde_json::Value = serde_json::from_slice(&text).unwrap();
    change(&mut config);
    std::fs::write(to.join("config.json"), config.to_string()).unwrap();
    to.to_owned()
}

#[test]
fn classes_in_another_order_are_known_by_name_and_others_refused() {
    let folder = prepared();
    let folder_path = folder.path();
    let trained = finish(folder_path, "out", FRESH);
    let pairs = [
        ("i have a dog .", "my dog is great ."),
        ("i have a cat .", "my dog is great ."),
        ("i have a dog .", "my dog is great ."),
    ];
    let (straight, report) = Judge::load(&trained, Device::Cpu).unwrap().probabilities(&pairs).unwrap();
    assert_eq!((report.pairs, straight[0]), (2, straight[2]), "each distinct pair once");
    assert!(straight.iter().all(|values| (values.iter().sum::<f64>() - 1.0).abs() < 1e-6));
    let labels = |names: [&'static str; 3]| {
        move |config: &mut serde_json::Value| {
            config["id2label"] = serde_json::json!({ "0": names[0], "1": names[1], "2": names[2] });
            config.as_object_mut().unwrap().remove("label2id");
        }
    };
    let turned =
        edit(&trained, &folder_path.join("turned"), labels(["ENTAILMENT", "Neutral", "contradiction"]));
    let (turned, _) = Judge::load(&turned, Device::Cpu).unwrap().probabilities(&pairs).unwrap();
    for (a, b) in straight.iter().zip(turned) {
        assert_eq!([a[2], a[1], a[0]], b);
    }
    let others = edit(&trained, &folder_path.join("others"), labels(["yes", "no", "maybe"]));
    let error = format!("{:#}", Judge::load(&others, Device::Cpu).err().unwrap());
    assert!(error.contains("others") && error.contains("yes") && error.contains("id2label"), "{error}");
}

#[test]
fn a_bert_is_shrunk_and_trained_on() {
    let folder = prepared();
    let whole = finish(folder.path(), "whole", FRESH);
    let shrunk = |layers: usize, vocabulary: usize| {
        let whole = whole.display();
        format!("kind = 'shrunk'\nfolder = '{whole}'\nlayers = {layers}\nvocabulary = {vocabulary}")
    };
    let small = finish(folder.path(), "small", &shrunk(1, 70));
    let config = |folder: &Path| -> serde_json::Value {
        serde_json::from_slice(&std::fs::read(folder.join("config.json")).unwrap()).unwrap()
    };
    let (before, after) = (config(&whole), config(&small));
    assert!(after["vocab_size"].as_u64().unwrap() <= 70 && before["vocab_size"].as_u64().unwrap() > 70);
    let pairs = [("i have a dog .", "my dog is great ."), ("i have a zebra .", "\u{e9}t\u{e9} 9")];
    let (values, _) = Judge::load(&small, Device::Cpu).unwrap().probabilities(&pairs).unwrap();
    assert!(values.iter().flatten().all(|value| value.is_finite()));
    for (at, (model, want)) in
        [(shrunk(2, 70), "num_hidden_layers"), (shrunk(1, 9), "`model.vocabulary`")].into_iter().enumerate()
    {
        let (recipe, text) = load(folder.path(), &format!("bad{at}"), &model);
        let error = train(&recipe, &text, Start::Continue, &Interrupt::default()).unwrap_err();
        assert!(format!("{error:#}").contains(want), "{error:#}");
    }
}

#[test]
fn sentence_vectors_have_a_say_in_the_labels() {
    let folder = prepared();
    let encoder = finish(folder.path(), "whole", FRESH);
    let lines = |options: &str| {
        let text = recipe_text(folder.path(), "out", FRESH).replacen(
            "dialogues = [",
            &format!("options = {{ {options} }}\ndialogues = ["),
            1,
        );
        let path = folder.path().join("recipe.toml");
        std::fs::write(&path, text).unwrap();
        let (recipe, _) = JudgeRecipe::load(&path).unwrap();
        let output = folder.path().join("pairs.jsonl");
        write_pairs(&recipe, &output).map(|_| std::fs::read_to_string(&output).unwrap())
    };
    let similarity = format!("similarity = '{}'", encoder.display());
    let (words, both) = (lines("turns = 20").unwrap(), lines(&format!("turns = 20, {similarity}")).unwrap());
    assert_ne!(words, both);
    assert_eq!(both, lines(&format!("turns = 20, {similarity}")).unwrap());
    assert!(words.lines().count() < lines("turns = 40").unwrap().lines().count());
    let error = format!("{:#}", lines("similarity = 'no/such/folder'").unwrap_err());
    assert!(error.contains("no/such/folder"), "{error}");
}

#[test]
fn weights_that_are_not_numbers_are_an_error() {
    let folder = prepared();
    let judge = finish(folder.path(), "out", FRESH);
    let path = judge.join("model.safetensors");
    let mut tensors = Tensor::read_safetensors(&path).unwrap();
    let bias = tensors.iter_mut().find(|(name, _)| name == "classifier.bias").unwrap();
    bias.1 = bias.1.full_like(f64::NAN);
    Tensor::write_safetensors(&tensors, &path).unwrap();
    let judge = Judge::load(&judge, Device::Cpu).unwrap();
    let error = format!("{:#}", judge.probabilities(&[("i have a dog .", "my dog is great .")]).unwrap_err());
    assert!(error.contains("NaN") && error.contains("my dog is great ."), "{error}");
    let error = Consistency::sum().corpus(&judge, &["my dog is great ."], &[["i have a dog ."]]).unwrap_err();
    assert!(error.to_string().contains("judge"), "{error}");
}

#[test]
fn empty_and_long_texts() {
    let folder = prepared();
    let judge = Judge::load(&finish(folder.path(), "out", FRESH), Device::Cpu).unwrap();
    let error = judge.probabilities(&[("i have a dog .", " ")]).unwrap_err().to_string();
    assert!(error.contains("is empty"), "{error}");
    // C.score asks the model only where both say something.
    let pairs = [("i have a dog .", " "), ("", "x"), ("i have a dog .", "my dog is great .")];
    let judged = judge.judge(&pairs).unwrap();
    assert_eq!(judged[..2], [Judgement::Neutral; 2]);
    assert_eq!(judged[2..], judge.judge(&pairs[2..]).unwrap());
    let long = "my dog is great . ".repeat(20);
    let (values, report) = judge.probabilities(&[("i have a dog .", &long)]).unwrap();
    assert_eq!((report.cut, report.lengths.max), (1, 16));
    assert!(values[0].iter().all(|value| value.is_finite()));
}

#[test]
fn the_shipped_judge_is_small_and_knows_a_restated_description() {
    let folder = Path::new(SHIPPED);
    let size = |name: &str| std::fs::metadata(folder.join(name)).unwrap().len();
    assert!(size("model.safetensors") + size("tokenizer.json") < 12_000_000);
    let card = std::fs::read_to_string(folder.join("README.md")).unwrap();
    assert!(card.contains("CC BY 4.0") && card.contains("Apache License 2.0"));
    let judge = Judge::load(folder, Device::Cpu).unwrap();
    let pairs = [
        ("I have two dogs.", "My two dogs love the park, and I love my dogs."),
        ("I have two dogs.", "What do you do for a living?"),
        ("i work as a nurse .", "i am a nurse at the hospital ."),
    ];
    assert!(judge.name().starts_with("persona-examples small judge 1"), "{}", judge.name());
    let judged = judge.judge(&pairs).unwrap();
    assert_eq!(judged, [Judgement::Entailment, Judgement::Neutral, Judgement::Entailment]);
    // However its folder is spelled.
    assert_eq!(Judge::load(&folder.join("../judge"), Device::Cpu).unwrap().name(), judge.name());
}

#[test]
fn what_is_wrong_with_a_recipe_is_named() {
    let folder = prepared();
    let path = folder.path().join("recipe.toml");
    for (from, to, want) in [
        ("max_tokens = 16", "max_tokens = 7", "`max_tokens`"),
        ("class_weights = [2.0", "class_weights = [0.0", "`class_weights`"),
        ("heads = 2", "heads = 3", "`model.heads`"),
        ("dropout = 0.1", "dropout = 1.0", "`model.dropout`"),
        ("heads = 2", "head = 2", "head"),
        ("steps = 30", "steps = 0", "`train`: training setting `steps`"),
        ("steps = 30", "steps = 30\nseed = 1", "`train.seed`"),
        ("'valid1-dev'", "'valid3'", "valid3"),
        ("dialogues = [", "options = { restated = 2.0 }\ndialogues = [", "`restated`"),
        ("kind = 'made'", "kind = 'make'", "make"),
    ] {
        let text = recipe_text(folder.path(), "out", FRESH);
        assert!(text.contains(from), "{from}");
        std::fs::write(&path, text.replacen(from, to, 1)).unwrap();
        let error = format!("{:#}", JudgeRecipe::load(&path).unwrap_err());
        assert!(error.contains(want) && error.contains("recipe.toml"), "{to}: {error}");
    }
    let (recipe, text) = load(folder.path(), "out", "kind = 'folder'\nfolder = 'no/such/folder'");
    let error = format!("{:#}", train(&recipe, &text, Start::Continue, &Interrupt::default()).unwrap_err());
    assert!(error.contains("`model.folder`, no/such/folder"), "{error}");
    assert!(!folder.path().join("out").exists(), "nothing is written before everything is read");
    let names = ["judge", "judge_again", "judge_scratch", "judge_small", "judge_general", "judge_persona"];
    for name in names.map(|name| format!("{name}.toml")) {
        JudgeRecipe::load(&Path::new(env!("CARGO_MANIFEST_DIR")).join("recipes").join(name)).unwrap();
    }
}
