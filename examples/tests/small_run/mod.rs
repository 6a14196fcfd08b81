//! A run of the whole path in seconds: sixteen dialogues, four steps a training.
#![allow(dead_code)] // each test uses its part

use std::path::Path;

use persona_data::{Dialogue, Format, open, write_jsonl};
use persona_examples::pipeline::{self, Run};
use persona_examples::progress::Interrupt;
use persona_examples::recipe::Recipe;
use persona_examples::report::Report;
use persona_examples::workspace::Start;

/// A recipe of a few steps, in a folder that holds everything.
pub(crate) fn recipe_text(folder: &Path, model: &str) -> String {
    let train = "steps = 4\nbatch_size = 8\nmicro_batch_size = 4\nwarmup_steps = 1\ncheckpoint_every = 2\neval_every = 2\n";
    format!(
        "title = 'small'\nout = '{out}'\nseed = 3\ndevice = 'cpu'\nprompts = 'english'\n\
         [data]\ntrain = '{data}'\nparts = [{{ fraction = 0.5 }}, {{ fraction = 0.2 }}, {{ fraction = 0.15 }}, 'rest']\n\
         [data.examples]\nresponder = 'two'\nhistory_turns = 2\n\
         [model]\n{model}\n[plain]\n{train}[stage1]\n{train}[align]\nbeta = 0.1\nexamples = 12\n[align.train]\n{train}\
         [decode]\nmax_new_tokens = 12\n[report]\ntest_examples = 9\nvalid_examples = 10\nconversations = 1\n\
         strategies = ['oracle', {{ random = 1 }}, {{ random = 2 }}]\n",
        out = folder.join("out").display(),
        data = folder.join("dialogues.jsonl").display(),
    )
}

/// A model from scratch.
pub(crate) const FRESH: &str =
    "vocabulary = 400\npositions = 384\nhidden = 16\nlayers = 1\nheads = 2\ndropout = 0.0";

/// Sixteen of the dialogues that ship with the examples, eight turns of each.
pub(crate) fn dialogues(folder: &Path) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/spc_valid_480.jsonl.gz");
    let mut dialogues: Vec<Dialogue> =
        open(path, Format::Jsonl).unwrap().take(16).collect::<Result<_, _>>().unwrap();
    dialogues.iter_mut().for_each(|dialogue| dialogue.turns.truncate(8));
    write_jsonl(folder.join("dialogues.jsonl"), &dialogues).unwrap();
}

/// Writes a recipe and reads it.
pub(crate) fn load(folder: &Path, model: &str) -> (Recipe, String) {
    let path = folder.join("recipe.toml");
    std::fs::write(&path, recipe_text(folder, model)).unwrap();
    Recipe::load(&path).unwrap()
}

/// Runs a recipe, or what is left of it, to its end.
pub(crate) fn finish(folder: &Path, model: &str) -> Report {
    let (recipe, text) = load(folder, model);
    match pipeline::run(&recipe, &text, Start::Continue, &Interrupt::default()).unwrap() {
        Run::Finished(report) => *report,
        Run::Interrupted => panic!("nobody interrupted it"),
    }
}
