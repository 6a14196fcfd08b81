//! Times the text metrics on the same two files, under the same names, as `benches/peers/metrics.py` times the Python
//! packages, and prints one JSON line each.
//!
//! ```text
//! cargo run --release -p persona-benches --bin metrics -- HYPOTHESES REFERENCES [REPEATS] [NAME ...]
//! ```

use std::error::Error;
use std::time::Instant;

use persona_metrics::{Bleu, Chrf, Distinct, Entropy, PairMetric, Rouge, Scores};

/// What a metric is called in the Python program, and what it computes here.
type Case<'a> = (&'a str, Box<dyn Fn() -> persona_metrics::Result<Scores> + 'a>);

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [hypotheses, references, rest @ ..] = arguments.as_slice() else {
        return Err("give a file of hypotheses and one of references, a text a line".into());
    };
    let (repeats, names) = match rest.split_first() {
        Some((first, names)) if first.parse::<usize>().is_ok() => (first.parse()?, names),
        _ => (7, rest),
    };
    let read = |path: &String| -> Result<String, String> {
        std::fs::read_to_string(path).map_err(|error| format!("{path}: {error}"))
    };
    let (hypotheses, references) = (read(hypotheses)?, read(references)?);
    let hypotheses: Vec<&str> = hypotheses.lines().collect();
    let references: Vec<&str> = references.lines().collect();
    let tokens: usize =
        hypotheses.iter().chain(&references).map(|line| line.split_ascii_whitespace().count()).sum();

    fn pairs<'a, M: PairMetric + 'a>(
        metric: M,
        (hypotheses, references): (&'a [&'a str], &'a [&'a str]),
    ) -> Box<dyn Fn() -> persona_metrics::Result<Scores> + 'a> {
        Box::new(move || metric.corpus(hypotheses, references))
    }
    let both = (hypotheses.as_slice(), references.as_slice());
    let texts = hypotheses.as_slice();
    let cases: Vec<Case<'_>> = vec![
        ("sacrebleu_bleu_13a", pairs(Bleu::sacrebleu(), both)),
        ("sacrebleu_chrf", pairs(Chrf::default(), both)),
        ("sacrebleu_chrf++", pairs(Chrf::plus_plus(), both)),
        ("rouge_score", pairs(Rouge::google(), both)),
        ("rouge_score_stemmed", pairs(Rouge::google().use_stemmer(true), both)),
        ("pycocoevalcap_bleu", pairs(Bleu::pycocoevalcap(), both)),
        ("pycocoevalcap_rouge_l", pairs(Rouge::pycocoevalcap(), both)),
        ("nltk_bleu", pairs(Bleu::nltk().mean_of_sentences(), both)),
        ("nltk_bleu_characters", pairs(Bleu::nltk().characters(true).mean_of_sentences(), both)),
        ("entropy_dialogpt", Box::new(move || Entropy::dialogpt().corpus(texts))),
        ("distinct_dialogpt", Box::new(move || Distinct::li().corpus(texts))),
        ("entropy_pal", Box::new(move || Entropy::pal().corpus(texts))),
        ("distinct_pal", Box::new(move || Distinct::pal().corpus(texts))),
    ];
    for (name, compute) in &cases {
        if !names.is_empty() && !names.iter().any(|wanted| wanted == name) {
            continue;
        }
        let score = compute()?;
        let mut seconds = Vec::with_capacity(repeats);
        for _ in 0..repeats.max(1) {
            let began = Instant::now();
            compute()?;
            seconds.push(began.elapsed().as_secs_f64());
        }
        seconds.sort_by(f64::total_cmp);
        let (best, median) = (seconds.first().copied(), seconds.get(seconds.len() / 2).copied());
        let (best, median) = (best.unwrap_or_default(), median.unwrap_or_default());
        println!(
            "{{\"name\": \"{name}\", \"lines\": {}, \"seconds_best\": {best:.6}, \"seconds_median\": {median:.6}, \
             \"ns_per_token\": {:.1}, \"scores\": {:?}}}",
            hypotheses.len(),
            1e9 * best / tokens.max(1) as f64,
            score.values()
        );
    }
    Ok(())
}
