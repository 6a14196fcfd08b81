//! Values that the reference packages gave. Each file holds inputs, outputs and its tolerance.
//!
//! Read from this crate's `tests/fixtures` and from every folder in `PERSONA_METRICS_FIXTURES`, a list like `PATH`.

use std::env;
use std::io::Write;
use std::path::{Path, PathBuf};

use persona_metrics::{Bleu, Consistency, Distinct, Entropy, Error, Judgement, Perplexity, RougeL, Scores};
use serde::Deserialize;
use serde_json::Value;

/// Files whose metrics this version does not have; they are listed and passed over.
const NOT_BUILT: [&str; 21] = [
    "bertscore.json",
    "chrf.json",
    "clv_distinct.json",
    "corpus.json",
    "definitions_seed002_003.json",
    "embedding_similarity.json",
    "jieba_tokens.json",
    "meteor_no_wordnet.json",
    "nltk_bleu.json",
    "paired_bootstrap.json",
    "parlai_metrics.json",
    "porter_stems.json",
    "py_rouge.json",
    "rouge_chinese.json",
    "rouge_pltrdy.json",
    "rouge_score.json",
    "sacrebleu_corpus.json",
    "sacrebleu_sentence_a.json",
    "sacrebleu_sentence_b.json",
    "sacrebleu_tokenizers.json",
    "stats.json",
];

#[derive(Deserialize, Clone, Copy)]
struct Tolerance {
    rel: f64,
    #[serde(default)]
    abs: f64,
}

impl Tolerance {
    #[track_caller]
    fn check(&self, what: &str, value: f64, expected: f64) {
        let allowed = self.abs.max(self.rel * expected.abs());
        assert!((value - expected).abs() <= allowed, "{what}: {value:e} is not {expected:e}");
    }

    #[track_caller]
    fn check_all(&self, what: &str, values: &[f64], expected: &[f64]) {
        assert_eq!(values.len(), expected.len(), "{what}");
        for (index, (&value, &expected)) in values.iter().zip(expected).enumerate() {
            self.check(&format!("{what}[{index}]"), value, expected);
        }
    }
}

/// The test harness keeps what `println!` writes in a passing test; these lines are to be seen.
fn report(line: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}").unwrap();
}

fn folders() -> Vec<PathBuf> {
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let others = env::var_os("PERSONA_METRICS_FIXTURES").unwrap_or_default();
    std::iter::once(own)
        .chain(env::split_paths(&others).filter(|path| !path.as_os_str().is_empty()))
        .collect()
}

#[test]
fn fixture_files() {
    for folder in folders() {
        let entries = folder.read_dir().unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
        files.sort();
        let mut checked = 0;
        for path in files.iter().filter(|path| path.extension().is_some_and(|extension| extension == "json"))
        {
            let name = path.file_name().unwrap().to_str().unwrap();
            if NOT_BUILT.contains(&name) {
                report(&format!(
                    "fixture {name}: passed over, not built in this version ({})",
                    folder.display()
                ));
                continue;
            }
            let text = std::fs::read_to_string(path).unwrap();
            let cases = match name {
                "pycocoevalcap.json" => pycocoevalcap(&text),
                "dialogpt_entropy_distinct.json" => dialogpt(&text),
                "cscore.json" => cscore(&text),
                "perplexity.json" => perplexity(&text),
                _ => panic!("{}: a fixture of an unknown name", path.display()),
            };
            assert!(cases > 0, "{}: no cases", path.display());
            checked += cases;
            report(&format!("fixture {name}: {cases} cases from {}", folder.display()));
        }
        assert!(checked > 0, "{}: no fixture that this version can check", folder.display());
    }
}

#[derive(Deserialize)]
struct PycocoevalcapFile {
    tolerance: Tolerance,
    standard: Vec<OverlapCase<Vec<String>>>,
    pal: Vec<PalCase>,
}

#[derive(Deserialize)]
struct OverlapCase<R> {
    hyps: Vec<String>,
    refs: Vec<R>,
    bleu: Vec<f64>,
    bleu_per: Vec<Vec<f64>>,
    rouge_l: f64,
    rouge_l_per: Vec<f64>,
}

#[derive(Deserialize)]
struct PalCase {
    #[serde(flatten)]
    overlap: OverlapCase<String>,
    entropy: Vec<f64>,
    distinct: Vec<f64>,
}

fn pycocoevalcap(text: &str) -> usize {
    let file: PycocoevalcapFile = serde_json::from_str(text).unwrap();
    let near = file.tolerance;
    for case in &file.standard {
        overlap(case, false, near);
    }
    for case in &file.pal {
        overlap(&case.overlap, true, near);
        let replies = &case.overlap.hyps;
        near.check_all("entropy", &Entropy::pal().corpus(replies).unwrap().values(), &case.entropy);
        let distinct = Distinct::pal().corpus(replies).unwrap().values();
        // The third number is the mean of the two.
        near.check_all(
            "distinct",
            &[distinct[0], distinct[1], (distinct[0] + distinct[1]) / 2.0],
            &case.distinct,
        );
    }
    file.standard.len() + file.pal.len()
}

fn overlap<R: persona_metrics::Texts + Sync>(case: &OverlapCase<R>, swapped: bool, near: Tolerance) {
    let bleu = Bleu::pycocoevalcap().swapped(swapped);
    let rouge = RougeL::pycocoevalcap().swapped(swapped);
    near.check_all("bleu", &bleu.corpus(&case.hyps, &case.refs).unwrap().values(), &case.bleu);
    near.check("rouge_l", rouge.corpus(&case.hyps, &case.refs).unwrap().value(), case.rouge_l);
    assert_eq!(case.rouge_l_per.len(), case.hyps.len());
    for (index, (hypothesis, references)) in case.hyps.iter().zip(&case.refs).enumerate() {
        let expected: Vec<f64> = case.bleu_per.iter().map(|order| order[index]).collect();
        let what = format!("pair {index}: {hypothesis:?}");
        near.check_all(&what, &bleu.sentence(hypothesis, references).unwrap().values(), &expected);
        near.check(&what, rouge.sentence(hypothesis, references).unwrap().value(), case.rouge_l_per[index]);
    }
}

#[derive(Deserialize)]
struct DialogptFile {
    tolerance: Tolerance,
    cases: Vec<DialogptCase>,
}

#[derive(Deserialize)]
struct DialogptCase {
    lines: Vec<String>,
    entropy: Vec<f64>,
    entropy_first10: Vec<f64>,
    diversity: Value,
}

fn dialogpt(text: &str) -> usize {
    let file: DialogptFile = serde_json::from_str(text).unwrap();
    let entropy = |lines: &[String]| Entropy::dialogpt().corpus(lines).unwrap().values();
    for case in &file.cases {
        let lines = &case.lines;
        file.tolerance.check_all("entropy", &entropy(lines), &case.entropy);
        file.tolerance.check_all(
            "entropy_first10",
            &entropy(&lines[..lines.len().min(10)]),
            &case.entropy_first10,
        );
        raises_or(&case.diversity, Distinct::li().corpus(lines), file.tolerance);
    }
    file.cases.len()
}

/// `expected` is a list of numbers, or `{"error": ...}` where the package divides by zero.
fn raises_or(expected: &Value, scores: Result<Scores, Error>, near: Tolerance) {
    if expected.get("error").is_some() {
        assert!(matches!(scores, Err(Error::NoNgrams { .. })), "{scores:?}");
    } else {
        let expected: Vec<f64> = serde_json::from_value(expected.clone()).unwrap();
        near.check_all("distinct", &scores.unwrap().values(), &expected);
    }
}

#[derive(Deserialize)]
struct CscoreFile {
    tolerance: Tolerance,
    paml: Vec<PamlCase>,
    pal: Vec<PalJudgeCase>,
}

#[derive(Deserialize)]
struct PamlCase {
    probs_entail_contra_neutral: Vec<[f64; 3]>,
    score: f64,
}

#[derive(Deserialize)]
struct PalJudgeCase {
    personas_per_response: Vec<usize>,
    logits_contra_neutral_entail: Vec<[f64; 3]>,
    c_score: f64,
}

fn cscore(text: &str) -> usize {
    use Judgement::{Contradiction, Entailment, Neutral};
    let file: CscoreFile = serde_json::from_str(text).unwrap();
    let judge = |scores: &[[f64; 3]], classes| -> Vec<Judgement> {
        scores.iter().map(|&scores| Judgement::from_scores(scores, classes).unwrap()).collect()
    };
    for case in &file.paml {
        let mut statistics = Consistency::sum().statistics("fixture");
        let judgements = judge(&case.probs_entail_contra_neutral, [Entailment, Contradiction, Neutral]);
        statistics.update(&judgements).unwrap();
        file.tolerance.check("paml", statistics.score().unwrap().value(), case.score);
    }
    for case in &file.pal {
        let judgements = judge(&case.logits_contra_neutral_entail, Judgement::CONTRADICTION_FIRST);
        let mut rest = judgements.as_slice();
        let mut statistics = Consistency::max().statistics("fixture");
        for &personas in &case.personas_per_response {
            let (own, others) = rest.split_at(personas);
            statistics.update(own).unwrap();
            rest = others;
        }
        assert!(rest.is_empty());
        // PAL's code takes the mean in float32.
        let value = f64::from(statistics.score().unwrap().value() as f32);
        file.tolerance.check("pal", value, case.c_score);
    }
    file.paml.len() + file.pal.len()
}

#[derive(Deserialize)]
struct PerplexityFile {
    tolerance: PerplexityTolerance,
    cases: Vec<PerplexityCase>,
}

#[derive(Deserialize)]
struct PerplexityTolerance {
    rel: f64,
    rel_f32: f64,
}

/// The logits that the losses come from are read when this crate has a model to put them through; `token_nll` holds a 0
/// for each position that is no target. The mean of the examples' perplexities is no metric of this version.
#[derive(Deserialize)]
struct PerplexityCase {
    f64: Losses,
    pal_cal_ppl: f64,
    parlai_ppl: f64,
}

#[derive(Deserialize)]
struct Losses {
    token_nll: Vec<Vec<f64>>,
    n_tokens: Vec<u64>,
    mean_loss: f64,
    ppl_token_level: f64,
    ppl_exp_mean_of_example_means: f64,
}

fn perplexity(text: &str) -> usize {
    let file: PerplexityFile = serde_json::from_str(text).unwrap();
    let near = Tolerance { rel: file.tolerance.rel, abs: 0.0 };
    let near_f32 = Tolerance { rel: file.tolerance.rel_f32, abs: 0.0 };
    for case in &file.cases {
        let mut statistics = Perplexity::default().statistics();
        assert_eq!(case.f64.token_nll.len(), case.f64.n_tokens.len());
        for (nll, &tokens) in case.f64.token_nll.iter().zip(&case.f64.n_tokens) {
            statistics.update(nll.iter().sum(), tokens, None).unwrap();
        }
        near.check("mean_loss", statistics.mean_nll().unwrap(), case.f64.mean_loss);
        let token = statistics.token_level().unwrap().value();
        near.check("token level", token, case.f64.ppl_token_level);
        near_f32.check("ParlAI", token, case.parlai_ppl);
        let example = statistics.example_mean().unwrap().value();
        near.check("example mean", example, case.f64.ppl_exp_mean_of_example_means);
        near_f32.check("PAL", example, case.pal_cal_ppl);
    }
    file.cases.len()
}
