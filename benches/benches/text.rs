//! Text: no model, no libtorch; work is shared by all cores.

use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::time::Duration;

use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_group, measurement::WallTime};
use persona_data::{
    BpeOptions, Dialogue, EncodeOptions, Example, ExampleEncoder, ExampleOptions, Format, OverlapLabeller,
    PromptSet, Task, label_dialogues, open, train_byte_level_bpe,
};
use persona_metrics::{Bleu, CopyRate, Distinct, Entropy, Rouge};

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(3));
    targets = data, metrics
}

fn file() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/data/spc_valid_480.jsonl.gz")
}

fn load(path: &Path) -> Vec<Dialogue> {
    open(path, Format::Jsonl).unwrap().collect::<Result<_, _>>().unwrap()
}

fn labelled() -> Vec<Example> {
    let mut dialogues = load(&file());
    let labeller = OverlapLabeller::fit(&dialogues).unwrap();
    label_dialogues(&mut dialogues, &labeller).unwrap();
    let options = ExampleOptions { history_turns: Some(3), ..ExampleOptions::default() };
    dialogues.iter().flat_map(|dialogue| dialogue.examples(&options)).collect()
}

fn elements(group: &mut BenchmarkGroup<'_, WallTime>, count: usize) {
    group.throughput(Throughput::Elements(count as u64));
}

fn data(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("data");
    let path = file();
    elements(&mut group, load(&path).len());
    group.bench_function("load/cpu", |bencher| bencher.iter(|| load(black_box(&path))));

    let examples = labelled();
    let prompts = PromptSet::english().unwrap();
    let corpus: Vec<String> = examples
        .iter()
        .map(|example| {
            let prompt = prompts.selection(&example.persona, &example.history).unwrap();
            prompt + &prompts.response_target(&example.response)
        })
        .collect();
    let tokenizer = train_byte_level_bpe(corpus.into_iter(), &BpeOptions::default()).unwrap();
    let encoder = ExampleEncoder::new(&tokenizer, &prompts, EncodeOptions::default()).unwrap();
    elements(&mut group, examples.len() * Task::MIXED.len());
    group.bench_function("encode/cpu", |bencher| {
        bencher.iter(|| encoder.encode_all(black_box(&examples), &Task::MIXED).unwrap());
    });
    group.finish();
}

/// The replies are scored against the turn before them, which makes the overlap low and the work real.
fn metrics(criterion: &mut Criterion) {
    let examples = labelled();
    let replies: Vec<&str> = examples.iter().map(|example| example.response.as_str()).collect();
    let before: Vec<&str> =
        examples.iter().map(|example| example.history.last().map_or("", |turn| turn.text.as_str())).collect();
    let personas: Vec<&[String]> = examples.iter().map(|example| example.persona.as_slice()).collect();

    let mut group = criterion.benchmark_group("metrics");
    elements(&mut group, replies.len());
    group.bench_function("bleu/cpu", |bencher| {
        bencher.iter(|| Bleu::pycocoevalcap().corpus(black_box(&before), &replies).unwrap());
    });
    group.bench_function("rouge_l/cpu", |bencher| {
        bencher.iter(|| Rouge::pycocoevalcap().corpus(black_box(&before), &replies).unwrap());
    });
    group.bench_function("entropy/cpu", |bencher| {
        bencher.iter(|| Entropy::dialogpt().corpus(black_box(&replies)).unwrap());
    });
    group.bench_function("distinct/cpu", |bencher| {
        bencher.iter(|| Distinct::li().corpus(black_box(&replies)).unwrap());
    });
    group.bench_function("copy_rate/cpu", |bencher| {
        bencher.iter(|| CopyRate::default().corpus(black_box(&replies), &personas).unwrap());
    });
    group.finish();
}
