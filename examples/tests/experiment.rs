//! An experiment on a few dialogues and steps: every system is measured, a stopped one ends in the same report, a changed
//! recipe makes again what the change reaches, and a bad recipe is told so.
#![allow(clippy::unwrap_used, clippy::panic)]

mod tiny_judge;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use persona_data::{Dialogue, Format, RecordList, Speaker, Target, open, write_jsonl};
use persona_examples::experiment::{self, ExperimentRecipe, ExperimentReport, Plan, Run, Sources, Work};
use persona_examples::progress::Interrupt;
use persona_examples::report::Cell;

const SYSTEMS: &str = "'start', 'fine_tuning', 'prompting', 'pal', 'without_mix', 'without_pa', 'only_generation', \
                       'only_selection', 'without_pairs', 'pal_random', 'pal_not_select', 'pal_oracle'";

fn recipe_text(folder: &Path) -> String {
    let train = "batch_size = 4\nmicro_batch_size = 4\nlearning_rate = 1e-3\nwarmup_steps = 1\neval_every = 2\n\
                 checkpoint_every = 1\n";
    format!(
        "title = 'small'\nout = '{out}'\ndevice = 'cpu'\nprompts = 'english'\nprecision = 'fp32'\nseeds = [1, 2]\n\
         systems = [{SYSTEMS}]\nrevised = ['prompting', 'pal']\npredictions = '{predictions}'\n\
         [data]\nfolder = '{data}'\ntrain = 'train.jsonl'\ntrain_labels = 'labels.json'\nvalid = 'valid.jsonl'\n\
         revised = 'revised.jsonl'\nsplit = 'split.json'\nchoose = 0.5\nseed = 1\n\
         [data.examples]\nresponder = 'two'\nhistory_turns = 2\n\
         [sizes]\ntrain = 12\npairs = 6\nchoose = 4\ntest = 5\n\
         [model]\nvocabulary = 400\npositions = 384\nhidden = 16\nlayers = 1\nheads = 2\ndropout = 0.1\n\
         [fine_tuning]\nsteps = 3\n{train}[stage1]\nsteps = 4\n{train}\
         [align]\nbeta = 0.1\ncurve = [4]\n[align.train]\nsteps = 2\nschedule = 'constant'\n{train}\
         [judge]\nfolder = '{judge}'\n[decode]\nmax_new_tokens = 6\nmin_new_tokens = 2\n\
         [report]\nconversations = 2\ntrials = 220\n",
        out = folder.join("out").display(),
        data = folder.join("data").display(),
        judge = folder.join("judge").display(),
        predictions =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("recipes/personachat.predictions.toml").display(),
    )
}

/// Sixteen of the dialogues that ship with the examples, in files as PERSONA-CHAT's: half to train on, half to divide.
fn write_data(folder: &Path) {
    let data = folder.join("data");
    std::fs::create_dir_all(&data).unwrap();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/spc_valid_480.jsonl.gz");
    let mut dialogues: Vec<Dialogue> =
        open(path, Format::Jsonl).unwrap().take(16).collect::<Result<_, _>>().unwrap();
    for (at, dialogue) in dialogues.iter_mut().enumerate() {
        dialogue.id = format!("d-{at:03}");
        dialogue.turns.truncate(8);
        dialogue.turns.iter_mut().for_each(|turn| turn.relevant = None);
    }
    let valid = dialogues.split_off(8);
    write_jsonl(data.join("train.jsonl"), &dialogues).unwrap();
    write_jsonl(data.join("valid.jsonl"), &valid).unwrap();
    // The first reply of every second dialogue is said to follow from the first description.
    let pairs: Vec<[&str; 2]> = dialogues
        .iter()
        .step_by(2)
        .map(|dialogue| {
            let reply = dialogue.turns.iter().find(|turn| turn.speaker == Speaker::Two).unwrap();
            [dialogue.persona(Speaker::Two)[0].as_str(), reply.text.as_str()]
        })
        .collect();
    std::fs::write(data.join("labels.json"), serde_json::to_string(&pairs).unwrap()).unwrap();
    let mut revised = valid.clone();
    for text in revised.iter_mut().flat_map(|dialogue| dialogue.personas.iter_mut().flatten()) {
        *text = format!("it is said that {text}");
    }
    write_jsonl(data.join("revised.jsonl"), &revised).unwrap();
    let options = persona_data::ExampleOptions { history_turns: Some(2), ..Default::default() };
    let parts = [("valid1", Target::Fraction(0.5)), ("valid2", Target::Rest)];
    RecordList::draw(&valid, &parts, &options, 1).unwrap().save(data.join("split.json")).unwrap();
    tiny_judge::write(&folder.join("judge"));
}

fn load(folder: &Path, text: &str) -> (ExperimentRecipe, String) {
    let path = folder.join("recipe.toml");
    std::fs::write(&path, text).unwrap();
    ExperimentRecipe::load(&path, None).unwrap()
}

fn finish(folder: &Path, text: &str) -> ExperimentReport {
    let (recipe, text) = load(folder, text);
    match experiment::run(&recipe, &text, None, &Interrupt::default()).unwrap() {
        Run::Finished(report) => *report,
        Run::Stopped => panic!("nobody stopped it"),
    }
}

/// How many finished cells there are of each kind.
fn cells(folder: &Path) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for entry in std::fs::read_dir(folder.join("out/cells")).unwrap() {
        let path = entry.unwrap().path();
        if path.join("cell.json").is_file() {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            *counts.entry(name.rsplit_once('-').unwrap().0.to_owned()).or_default() += 1;
        }
    }
    counts
}

fn reports(folder: &Path) -> [Vec<u8>; 2] {
    ["report.html", "report.json"].map(|name| std::fs::read(folder.join("out").join(name)).unwrap())
}

#[test]
fn every_system_is_measured_and_a_stopped_experiment_ends_in_the_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    write_data(folder);
    let text = recipe_text(folder);
    let (recipe, _) = load(folder, &text);
    let planned = experiment::dry_run(&recipe).unwrap();
    assert!(!folder.join("out").exists(), "a dry run writes nothing");
    assert!(planned.contains("seed 2: alignment of PAL") && !planned.contains("  cached  "), "{planned}");

    let report = finish(folder, &text);
    let names: Vec<&str> = report.tables[0].1.rows.iter().map(|row| row.system.as_str()).collect();
    assert_eq!((names.len(), names[0], names[12]), (13, "starting model", "gold"));
    let revised: Vec<&str> = report.tables[1].1.rows.iter().map(|row| row.system.as_str()).collect();
    assert_eq!(revised, ["fine-tuning, persona in the prompt", "PAL", "gold"]);
    let column = |name: &str| {
        let columns = &report.tables[0].1.columns;
        columns.iter().position(|column| column.name == name).unwrap_or_else(|| panic!("{name}: {columns:?}"))
    };
    for name in [
        "BLEU-1",
        "BLEU-2",
        "ROUGE-L",
        "Entropy-1",
        "Entropy-2",
        "Entropy-3",
        "Entropy-4",
        "Distinct-1",
        "Distinct-2",
        "C.score sum",
        "C.score max",
        "Copy rate",
        "Perplexity",
    ] {
        let at = column(name);
        assert!(!report.tables[0].1.columns[at].signature.is_empty());
        for row in &report.tables[0].1.rows[..12] {
            assert!(
                matches!(row.cells[at], Cell::Spread { .. }),
                "{}, {name}: {:?}",
                row.system,
                row.cells[at]
            );
        }
    }
    let rows = &report.tables[0].1.rows;
    assert_eq!(rows[11].cells[column("Selection")], Cell::Spread { mean: 100.0, deviation: 0.0 });
    assert!(matches!(rows[1].cells[column("Selection")], Cell::Missing(_)));
    assert_eq!(report.curves[0].lines[0].points.iter().map(|p| p.0).collect::<Vec<_>>(), [0.0, 2.0, 4.0]);
    // After 2 steps the curve is PAL's own row, and after 0 that of stage 1 alone.
    let max = column("C.score max");
    let curve = &report.curves[0].lines[0].points;
    assert_eq!(curve[1].1, rows[3].cells[max].number().unwrap());
    assert_eq!(curve[0].1, rows[5].cells[max].number().unwrap());
    assert!(report.outcomes.iter().all(|outcome| outcome.holds.is_some()), "{:?}", report.outcomes);
    assert!(report.orders.iter().any(|order| order.paper[0] == "PAL") && !report.best.is_empty());
    assert!(report.against_pal.iter().all(|test| test.p_holm >= test.p_value && test.p_value > 0.0));
    assert_eq!((report.conversations.len(), report.conversations[0].replies.len()), (2, 13));
    let fact = |name: &str| {
        let found = report.facts.iter().find(|(found, _)| found == name);
        found.unwrap_or_else(|| panic!("{name}: {:?}", report.facts)).1.clone()
    };
    assert!(fact("examples used").contains("train cut to 12 of"));
    assert!(
        fact("training labels").contains("4 dialogues are not in it")
            && fact("labels by the judge").contains("by the judge")
    );
    assert!(fact("made on").starts_with("Cpu, ") && !fact("starting model").contains("device"));
    let whole = reports(folder);
    let page = String::from_utf8(whole[0].clone()).unwrap();
    for part in ["Systems, revised personas", "Predicted before", "order and ours", "<rect", "chance?"] {
        assert!(page.contains(part), "{part}");
    }
    let made = cells(folder);
    // Two fine-tunings and three forms of stage 1 a seed; PAL's alignment and those of three ablations.
    assert_eq!((made["train"], made["align"], made["further"], made["pairs"]), (10, 8, 2, 8), "{made:?}");
    assert!(experiment::dry_run(&recipe).unwrap().contains(" 0 optimiser steps to make"));

    // Called again it reads everything. Begun anew, stopped within a training and between cells, it ends the same.
    finish(folder, &text);
    assert_eq!((cells(folder), reports(folder) == whole), (made.clone(), true));
    std::fs::remove_dir_all(folder.join("out")).unwrap();
    let (recipe, text) = load(folder, &text);
    stop_in_a_training(&recipe, &text);
    let mut calls = 0;
    while matches!(experiment::run(&recipe, &text, Some(9), &Interrupt::default()).unwrap(), Run::Stopped) {
        calls += 1;
        assert!(calls < 100);
    }
    assert!(calls > 3, "{calls}");
    assert_eq!(cells(folder), made);
    assert!(reports(folder) == whole, "another report");

    // How the starting model's replies are decoded reaches what it says, and what is aligned from it.
    let start = "[decode_start]\nmax_new_tokens = 5\nmin_new_tokens = 2\none_line = true\n[decode]";
    let planned = experiment::dry_run(&load(folder, &text.replace("[decode]", start)).0).unwrap();
    let again: Vec<&str> = planned.lines().filter(|line| line.contains("  to make  ")).collect();
    assert!(
        again.iter().all(|line| line.contains("starting model") || line.contains("w/o Mix")),
        "{planned}"
    );
    // A seed's replies and their judgements by either, pairs, and an alignment.
    assert_eq!(again.len(), 2 * (2 + 2 + 1 + 1), "{planned}");

    // Other test examples are others, and reach what is measured on them alone.
    let others = text.replace("test = 5", "test = 4\ntest_skip = 5");
    let planned = experiment::dry_run(&load(folder, &others).0).unwrap();
    let again = planned
        .lines()
        .filter(|line| line.contains("  to make  "))
        .map(|line| line.split_whitespace().nth(1).unwrap_or_default());
    let again: BTreeSet<&str> = again.collect();
    assert_eq!(again.into_iter().collect::<Vec<_>>(), ["judgements", "replies"], "{planned}");

    let all = load(folder, &text.replace("test = 5", "test_skip = 500")).0;
    let error = format!("{:#}", experiment::dry_run(&all).unwrap_err());
    assert!(error.contains("`sizes.test_skip` is 500"), "{error}");

    // What a change does not reach stays.
    finish(folder, &text.replace("beta = 0.1", "beta = 0.2"));
    let changed = cells(folder);
    for kind in ["train", "pairs", "further", "labels", "tokenizer"] {
        assert_eq!(changed[kind], made[kind], "{kind}");
    }
    assert_eq!(changed["align"], 2 * made["align"]);
    finish(
        folder,
        &text.replace("seeds = [1, 2]", "seeds = [2]").replace("conversations = 2", "conversations = 1"),
    );
    assert_eq!(cells(folder)["replies"], changed["replies"]);
}

/// Asks for a stop once a training has made a step.
fn stop_in_a_training(recipe: &ExperimentRecipe, text: &str) {
    let interrupt = Interrupt::default();
    let (flag, cells) = (interrupt.flag(), recipe.out.join("cells"));
    let watcher = std::thread::spawn(move || {
        let begun = |path: PathBuf| std::fs::metadata(path.join("log.jsonl")).is_ok_and(|log| log.len() > 0);
        loop {
            let entries = std::fs::read_dir(&cells).into_iter().flatten().flatten();
            if entries.into_iter().any(|entry| begun(entry.path())) {
                return flag.store(true, Ordering::SeqCst);
            }
            std::thread::yield_now();
        }
    });
    assert!(matches!(experiment::run(recipe, text, None, &interrupt).unwrap(), Run::Stopped));
    watcher.join().unwrap();
}

#[test]
fn answers_none_are_thinned_and_pairs_made_otherwise() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    write_data(folder);
    let text = recipe_text(folder)
        .replace(SYSTEMS, "'pal', 'only_generation'")
        .replace("revised = ['prompting', 'pal']\n", "")
        .replace("seeds = [1, 2]", "seeds = [1]")
        .replace("test = 5", "test = 4\ntest_skip = 1")
        .replace("[stage1]\n", "[stage1]\nnone_kept = 0.0\n")
        .replace("beta = 0.1\n", "beta = 0.1\nrejected = { worst_of = 2 }\nrejected_temperature = 1.0\n");
    let summary = finish(folder, &text).summary;
    assert!(summary[0].contains("other turns of the same dialogues"), "{summary:?}");
    let entries = std::fs::read_dir(folder.join("out/cells")).unwrap().map(|entry| entry.unwrap().path());
    let told: String =
        entries.map(|path| std::fs::read_to_string(path.join("cell.json")).unwrap_or_default()).collect();
    assert!(told.contains("the worst of 2 under the judge"), "{told}");
    assert!(told.contains("selection examples without a description left out"), "{told}");
    // What the settings reach is made again without them, and nothing else.
    let plain = text.replace("none_kept = 0.0\n", "");
    let planned = experiment::dry_run(&load(folder, &plain).0).unwrap();
    let line = |what: &str| planned.lines().find(|line| line.ends_with(what)).unwrap().to_owned();
    assert!(line("stage 1").contains("to make"), "{planned}");
    assert!(line("stage 1, generation alone").contains("cached"), "{planned}");
    let history = text.replace("rejected = { worst_of = 2 }\n", "");
    let planned = experiment::dry_run(&load(folder, &history).0).unwrap();
    let line = |what: &str| planned.lines().find(|line| line.ends_with(what)).unwrap().to_owned();
    assert!(line("stage 1").contains("cached") && line("pairs by stage 1").contains("to make"), "{planned}");
    // The small judge finds no description in any reply that pairs are made of.
    let (recipe, described) = load(folder, &text.replace("[judge]", "[pairs]\nkeep_none = false\n[judge]"));
    let error = experiment::run(&recipe, &described, None, &Interrupt::default()).unwrap_err();
    let error = format!("{error:#}");
    assert!(
        error.contains("no pair is left") && error.contains("6 to which no description applies"),
        "{error}"
    );
}

#[test]
fn one_file_is_divided_where_there_is_no_validation_file() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    write_data(folder);
    let text = recipe_text(folder);
    let (before, after) = text.split_once("train_labels").unwrap();
    let (_, after) = after.split_once("seed = 1\n").unwrap();
    let parts = "parts = [{ fraction = 0.4 }, { fraction = 0.2 }, { fraction = 0.2 }, 'rest']\nseed = 1\n";
    let text = format!("{before}{parts}{after}")
        .replace(SYSTEMS, "'prompting', 'pal'")
        .replace("revised = ['prompting', 'pal']\n", "")
        .replace("seeds = [1, 2]", "seeds = [3]");
    let report = finish(folder, &text);
    assert_eq!((report.tables.len(), report.tables[0].1.rows.len()), (1, 3));
    assert!(matches!(report.tables[0].1.rows[1].cells[0], Cell::Value(_)), "one seed has no deviation");

    // From a folder: the starting model is one for all seeds, and replies once.
    let entries = std::fs::read_dir(folder.join("out/cells")).unwrap().map(|entry| entry.unwrap().path());
    let trained = entries.filter(|path| path.join("model").is_dir()).min().unwrap();
    std::fs::rename(trained.join("model"), folder.join("start")).unwrap();
    std::fs::remove_dir_all(folder.join("out")).unwrap();
    let (before, after) = text.split_once("[model]\n").unwrap();
    let (_, after) = after.split_once("[fine_tuning]").unwrap();
    let start = folder.join("start");
    let text = format!("{before}[model]\nfolder = '{}'\n[fine_tuning]{after}", start.display())
        .replace("'prompting', 'pal'", "'start', 'without_pa'")
        .replace("seeds = [3]", "seeds = [3, 4]")
        .replace("curve = [4]\n", "");
    let report = finish(folder, &text);
    let made = cells(folder);
    assert_eq!((made["replies"], made["train"], made.get("tokenizer")), (3, 2, None), "{made:?}");
    assert!(
        matches!(report.tables[0].1.rows[0].cells[0], Cell::Spread { deviation, .. } if deviation == 0.0)
    );
    let (_, model) = report.facts.iter().find(|(name, _)| name == "starting model").unwrap();
    assert!(model.contains("loaded"), "{model}");
    std::fs::remove_file(start.join("tokenizer.json")).unwrap();
    let (recipe, text) = load(folder, &text);
    let error = experiment::run(&recipe, &text, None, &Interrupt::default()).unwrap_err();
    assert!(format!("{error:#}").contains("`model.folder`"), "{error:#}");
}

#[test]
fn what_is_drawn_comes_from_the_seeds() {
    let folder = tempfile::tempdir().unwrap();
    let key = || "x".to_owned();
    let sources = Sources {
        parts: [(); 5].map(|()| key()),
        encoding: key(),
        start: key(),
        judge: key(),
        labels: None,
        tokenizer: None,
    };
    let good = recipe_text(folder.path());
    // The seeds of replies, and those of pairs.
    let seeds = |from: &str, to: &str| {
        let (recipe, _) = load(folder.path(), &good.replace(from, to));
        let mut seeds = [BTreeSet::new(), BTreeSet::new()];
        for cell in Plan::of(&recipe, &sources).unwrap().cells {
            match cell.work {
                Work::Replies { decode, .. } => seeds[0].insert(decode.seed),
                Work::Pairs { decode, .. } => seeds[1].insert(decode.seed),
                _ => false,
            };
        }
        seeds.map(|seeds| seeds.into_iter().collect::<Vec<u64>>())
    };
    assert_eq!(seeds("", ""), [[0], [0]], "greedy");
    assert_eq!(seeds("[decode]\n", "[decode]\nnum_beams = 2\nearly_stopping = true\n"), [[0], [0]]);
    assert_eq!(seeds("[decode]\n", "[decode]\ntemperature = 0.7\n"), [[1, 2], [1, 2]]);
    let rejected = seeds("beta = 0.1\n", "beta = 0.1\nrejected_temperature = 0.7\n");
    assert_eq!(rejected, [vec![0], vec![1, 2]]);
}

#[test]
fn what_is_too_long_is_left_out_and_what_stays_is_part_of_the_keys() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    write_data(folder);
    let text = recipe_text(folder)
        .replace(SYSTEMS, "'prompting'")
        .replace("revised = ['prompting', 'pal']\n", "")
        .replace("seeds = [1, 2]", "seeds = [1]")
        .replace("curve = [4]\n", "");
    finish(folder, &text);
    // After the longest prompts a longer reply has no room: training is then evaluated on fewer examples.
    let with_room = |room: usize| text.replace("max_new_tokens = 6", &format!("max_new_tokens = {room}"));
    let trains = |planned: &str| {
        let mut open = planned.lines().filter(|line| line.contains("  to make  "));
        open.any(|line| line.split_whitespace().nth(1) == Some("train"))
    };
    let planned = |room| experiment::dry_run(&load(folder, &with_room(room)).0);
    let mut rooms = (100..380).step_by(10);
    let room = rooms.find(|&room| planned(room).is_ok_and(|planned| trains(&planned))).unwrap();
    assert!(room > 100);
    let report = finish(folder, &with_room(room));
    let (_, left_out) = report.facts.iter().find(|(name, _)| name == "too long for the model").unwrap();
    assert!(!left_out.starts_with("0 of"), "{left_out}");
    let planned = planned(room).unwrap();
    assert!(!planned.contains("  to make  "), "{planned}");
}

#[test]
fn the_shipped_recipes_are_good() {
    let recipes = Path::new(env!("CARGO_MANIFEST_DIR")).join("recipes");
    let (recipe, _) = ExperimentRecipe::load(&recipes.join("personachat.toml"), None).unwrap();
    assert_eq!((recipe.systems.len(), recipe.seeds.len(), recipe.align.kept().len()), (12, 3, 4));
    let described = recipes.join("personachat_described.toml");
    let (described, _) = ExperimentRecipe::load(&described, None).unwrap();
    assert_eq!((described.stage1.none_kept, described.pairs.keep_none), (Some(0.2), false));
    let (small, text) = ExperimentRecipe::load(&recipes.join("experiment_small.toml"), None).unwrap();
    assert!(small.data.valid.is_none() && text.contains("[sizes]"));
    // Its data ship too; with them it can be listed. Paths start at the root of the workspace.
    let data = recipes.join("../data");
    let (small, _) = ExperimentRecipe::load(&recipes.join("experiment_small.toml"), Some(&data)).unwrap();
    let listed = experiment::dry_run(&small).unwrap();
    assert!(listed.contains("labels by the judge") && listed.contains("PAL after 10 steps"), "{listed}");
}

#[test]
fn a_bad_recipe_names_what_is_wrong() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let good = recipe_text(folder);
    let path = folder.join("recipe.toml");
    let message = |from: &str, to: &str| {
        assert!(good.contains(from), "{from}");
        std::fs::write(&path, good.replacen(from, to, 1)).unwrap();
        format!("{:#}", ExperimentRecipe::load(&path, None).unwrap_err())
    };
    for (from, to, found) in [
        ("title", "titel", "titel"),
        ("'without_mix'", "'without_mixing'", "without_mixing"),
        ("'without_mix'", "'pal'", "`systems`"),
        ("seeds = [1, 2]", "seeds = []", "`seeds`"),
        ("revised = ['prompting', 'pal']", "revised = ['gold']", "gold"),
        ("curve = [4]", "curve = [3, 8]", "`align.curve`"),
        ("schedule = 'constant'", "schedule = 'linear'", "`align.curve`"),
        ("[stage1]\n", "[stage1]\nseed = 2\n", "`stage1.seed`"),
        ("[align.train]\n", "[align.train]\nprecision = 'bf16'\n", "`align.train.precision`"),
        ("beta = 0.1", "beta = 0.0", "`align.beta`"),
        ("test = 5", "test = 0", "`sizes.test`"),
        ("[stage1]\n", "[stage1]\nnone_kept = -0.5\n", "`stage1.none_kept`"),
        ("beta = 0.1", "beta = 0.1\nrejected = { worst_of = 3 }", "`align.rejected`"),
        ("choose = 0.5", "choose = 1.0", "`data.choose`"),
        ("valid = 'valid.jsonl'\n", "", "`data`"),
        ("heads = 2", "heads = 3", "`model.heads`"),
        ("trials = 220", "trials = 0", "`report.trials`"),
        ("trials = 220", "trials = 219", "give at least 220"),
        ("[stage1]\n", "[stage1]\nearly_stopping = true\n", "early_stopping"),
        ("[decode]\n", "[decode]\nseed = 2\n", "`decode.seed`"),
        ("steps = 4\n", "steps = 1\n", "`stage1`"),
    ] {
        let message = message(from, to);
        assert!(message.contains(found), "{to}: {message}");
    }

    // Files that are not there, wherever the recipe says they are.
    let run = |text: &str, data: Option<&Path>| {
        std::fs::write(&path, text).unwrap();
        let (recipe, text) = ExperimentRecipe::load(&path, data).unwrap();
        format!("{:#}", experiment::run(&recipe, &text, None, &Interrupt::default()).unwrap_err())
    };
    let missing = run(&good, None);
    assert!(missing.contains("`data.train`") && missing.contains("--data"), "{missing}");
    write_data(folder);
    std::fs::remove_file(folder.join("data/labels.json")).unwrap();
    assert!(run(&good, None).contains("`data.train_labels`"));
    assert!(run(&good, Some(Path::new("elsewhere"))).contains("elsewhere"));
    write_data(folder);
    assert!(run(&good.replace("predictions.toml", "nothing.toml"), None).contains("`predictions`"));
    let revised = folder.join("data/revised.jsonl");
    let lines = std::fs::read_to_string(&revised).unwrap();
    let (_, fewer) = lines.split_once('\n').unwrap();
    std::fs::write(&revised, fewer).unwrap();
    assert!(run(&good, None).contains("`data.revised`"));
    write_data(folder);
    std::fs::create_dir(folder.join("out")).unwrap();
    std::fs::write(folder.join("out/thesis.txt"), "mine").unwrap();
    assert!(run(&good, None).contains("not the folder of an experiment"));
}
