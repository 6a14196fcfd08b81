//! Times the metrics that need a model on the same files, under the same names, as `benches/peers/model_metrics.py` times
//! bert-score and loops over transformers, and prints one JSON line each.
//!
//! ```text
//! cargo run --release -p persona-benches --bin model_metrics -- FOLDER [REPEATS] [bf16] [NAME ...]
//! ```
//!
//! With `bf16` the models hold their weights, and compute, in bfloat16.
//!
//! `FOLDER` is what `model_metrics.py prepare` writes: an encoder, a judge, and the texts.

use std::error::Error;
use std::path::Path;
use std::time::Instant;

use persona_metrics::model::{ClassifierJudge, TextEncoder};
use persona_metrics::{BertScore, EmbeddingSimilarity, PersonaJudge};
use tch::{Device, Kind};

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// What a metric is called in the Python program, the length of what it reads, and what it computes here.
type Case<'a> = (&'a str, usize, Box<dyn Fn() -> Result<Vec<f64>> + 'a>);

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [folder, rest @ ..] = arguments.as_slice() else {
        return Err("give the folder that `model_metrics.py prepare` wrote".into());
    };
    let (repeats, names) = match rest.split_first() {
        Some((first, names)) if first.parse::<usize>().is_ok() => (first.parse()?, names),
        _ => (3, rest),
    };
    let (kind, names) = match names.split_first() {
        Some((first, names)) if first == "bf16" => (Kind::BFloat16, names),
        _ => (Kind::Float, names),
    };
    let folder = Path::new(folder);
    let read = |name: &str| {
        let path = folder.join(name);
        std::fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))
    };
    let (hypotheses, references, pairs) =
        (read("hypotheses.txt")?, read("references.txt")?, read("pairs.tsv")?);
    let hypotheses: Vec<&str> = hypotheses.lines().collect();
    let references: Vec<&str> = references.lines().collect();
    let pairs: Vec<(&str, &str)> = pairs.lines().filter_map(|line| line.split_once('\t')).collect();
    let encoder = TextEncoder::load(folder.join("encoder"), Device::Cpu, kind)?;
    let judge = ClassifierJudge::load(folder.join("judge"), Device::Cpu, kind)?;

    let score = BertScore::default();
    let (weighted, similarity) = (score.clone().idf(true), EmbeddingSimilarity::default());
    let share = |pairs: &[(&str, &str)]| -> Result<Vec<f64>> {
        let judgements = judge.judge(pairs)?;
        let sum: i64 = judgements.iter().map(|judgement| judgement.value()).sum();
        Ok(vec![sum as f64 / pairs.len() as f64])
    };
    let lines = hypotheses.len();
    let cases: Vec<Case<'_>> = vec![
        ("bertscore", lines, Box::new(|| Ok(score.corpus(&encoder, &hypotheses, &references)?.values()))),
        (
            "bertscore_idf",
            lines,
            Box::new(|| Ok(weighted.corpus(&encoder, &hypotheses, &references)?.values())),
        ),
        (
            "similarity",
            lines,
            Box::new(|| Ok(similarity.corpus(&encoder, &hypotheses, &references)?.values())),
        ),
        ("judge", pairs.len(), Box::new(|| share(&pairs))),
    ];
    for (name, length, compute) in &cases {
        if !names.is_empty() && !names.iter().any(|wanted| wanted == name) {
            continue;
        }
        let values = compute()?;
        let (mut seconds, mut processor) = (Vec::with_capacity(repeats), f64::INFINITY);
        for _ in 0..repeats.max(1) {
            let (began, before) = (Instant::now(), processor_seconds()?);
            compute()?;
            seconds.push(began.elapsed().as_secs_f64());
            processor = processor.min(processor_seconds()? - before);
        }
        seconds.sort_by(f64::total_cmp);
        let (best, median) = (seconds.first().copied(), seconds.get(seconds.len() / 2).copied());
        println!(
            "{{\"name\": \"{name}\", \"lines\": {length}, \"seconds_best\": {:.3}, \"seconds_median\": {:.3}, \
             \"cpu_seconds_best\": {processor:.2}, \"scores\": {values:?}}}",
            best.unwrap_or_default(),
            median.unwrap_or_default(),
        );
    }
    Ok(())
}

/// Processor time of this process and its threads, by the kernel's clock of 100 ticks a second.
fn processor_seconds() -> Result<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    // Behind the name of the program, which may hold anything, utime and stime are the 12th and 13th.
    let rest = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let ticks: Vec<u64> =
        rest.split_whitespace().skip(11).take(2).map(str::parse).collect::<std::result::Result<_, _>>()?;
    Ok(ticks.iter().sum::<u64>() as f64 / 100.0)
}
