//! Input that nobody should send: an error or a finite score, never a panic, and in time.

use std::slice::from_ref;
use std::time::{Duration, Instant};

use persona_metrics::stats::Resample;
use persona_metrics::{
    AgentRetention, Bleu, Chrf, CopyRate, Distinct, Entropy, Error, ExactMatch, LengthLimit,
    MeteorWithoutWordNet, NltkSmoothing, PairMetric, Perplexity, PooledDistinct, PreTokenization, Rouge,
    RougeTokenizer, RougeType, SacreSmoothing, SacreTokenizer, TextMetric, UnigramF1,
};

type Run = Box<dyn Fn(&[String], &[Vec<String>]) -> Result<Vec<f64>, Error>>;

/// What a metric does with its references.
#[derive(Clone, Copy, PartialEq)]
enum References {
    Needed,
    /// CopyRate takes an empty persona.
    Optional,
    Unused,
}

struct Case {
    name: String,
    references: References,
    run: Run,
}

fn pair<M: PairMetric + 'static>(metric: M, references: References) -> Case {
    let name = format!("{} {}", M::NAME, metric.settings());
    let run = move |hypotheses: &[String], references: &[Vec<String>]| {
        let scores = metric.corpus(hypotheses, references)?;
        // Sentence by sentence, and drawn again, there is no panic either.
        for (hypothesis, references) in hypotheses.iter().zip(references) {
            let sentence = metric.sentence(hypothesis, references).map(|scores| scores.values());
            assert!(sentence.iter().flatten().all(|value| value.is_finite()), "{sentence:?}");
        }
        let examples = metric.examples(hypotheses, references)?;
        let drawn = examples.scores_of(&vec![0; hypotheses.len()]);
        assert!(drawn.iter().flatten().all(|value| value.is_finite()), "{drawn:?}");
        Ok(scores.values())
    };
    Case { name, references, run: Box::new(run) }
}

fn texts<M: TextMetric + 'static>(metric: M) -> Case {
    let name = format!("{} {}", M::NAME, metric.settings());
    let run = move |texts: &[String], _: &[Vec<String>]| Ok(metric.corpus(texts)?.values());
    Case { name, references: References::Unused, run: Box::new(run) }
}

fn other(name: &str, run: impl Fn(&[String], &[Vec<String>]) -> Result<Vec<f64>, Error> + 'static) -> Case {
    Case { name: name.to_owned(), references: References::Unused, run: Box::new(run) }
}

fn pooled(metric: PooledDistinct) -> Case {
    let name = format!("{metric:?}");
    other(&name, move |texts, _| Ok(metric.corpus(&[texts])?.values()))
}

fn metrics() -> Vec<Case> {
    use References::{Needed, Optional};
    const GOOGLE: [RougeType; 3] = [RougeType::N(3), RougeType::L, RougeType::Lsum];
    let spaced = PreTokenization::SpacePunctuation;
    let py_rouge = Rouge::py_rouge().types([RougeType::N(3), RougeType::L, RougeType::W]).unwrap();
    let py_rouge = py_rouge.weight_factor(1.2).unwrap();
    let sacrebleu =
        |tokenizer, smoothing| Bleu::sacrebleu().tokenizer(tokenizer).smoothing(smoothing).unwrap();
    let nltk = |number| Bleu::nltk().smoothing(NltkSmoothing::method(number).unwrap()).unwrap();
    let mut nltk: Vec<Case> = (0..8).map(|number| pair(nltk(number), Needed)).collect();
    let mut metrics = vec![
        pair(sacrebleu(SacreTokenizer::V13a, SacreSmoothing::Exp), Needed),
        pair(sacrebleu(SacreTokenizer::Intl, SacreSmoothing::FLOOR).lowercase(true), Needed),
        pair(sacrebleu(SacreTokenizer::Zh, SacreSmoothing::ADD_K).effective_order(true), Needed),
        pair(sacrebleu(SacreTokenizer::Char, SacreSmoothing::None), Needed),
        pair(sacrebleu(SacreTokenizer::None, SacreSmoothing::Exp).max_order(255).unwrap(), Needed),
        pair(Bleu::nltk().characters(true).auto_reweigh(true).mean_of_sentences(), Needed),
        pair(Bleu::parlai(), Needed),
        pair(UnigramF1::default(), Needed),
        pair(ExactMatch::default(), Needed),
        pair(Bleu::pycocoevalcap(), Needed),
        pair(Bleu::pycocoevalcap().swapped(true).lowercase(true).pre_tokenization(spaced), Needed),
        pair(Rouge::pycocoevalcap(), Needed),
        pair(Rouge::pycocoevalcap().swapped(true).lowercase(true), Needed),
        pair(Rouge::google().types(GOOGLE).unwrap(), Needed),
        pair(Rouge::google().types(GOOGLE).unwrap().tokenizer(RougeTokenizer::Characters), Needed),
        pair(Rouge::google().use_stemmer(true), Needed),
        pair(Rouge::py_rouge(), Needed),
        pair(py_rouge.clone().limit(LengthLimit::None), Needed),
        pair(py_rouge.limit(LengthLimit::Words(50_000)).apply_best(true).ensure_compatibility(false), Needed),
        pair(Rouge::pltrdy(), Needed),
        pair(Rouge::pltrdy().exclusive(false), Needed),
        pair(Rouge::chinese(), Needed),
        pair(Rouge::chinese().exclusive(false), Needed),
        pair(Chrf::default(), Needed),
        pair(Chrf::plus_plus().lowercase(true).whitespace(true).eps_smoothing(true), Needed),
        pair(Chrf::default().char_order(0).word_order(3).beta(0.0).unwrap(), Needed),
        pair(MeteorWithoutWordNet::nltk(), Needed),
        pair(CopyRate::default(), Optional),
        texts(Distinct::li()),
        texts(Distinct::pal()),
        texts(Distinct::parlai_inter()),
        texts(Distinct::li().characters(true).orders(5).unwrap()),
        texts(Entropy::dialogpt()),
        texts(Entropy::pal()),
        texts(Entropy::dialogpt().characters(true)),
        pooled(PooledDistinct::parlai_intra()),
        pooled(PooledDistinct::clv()),
        pooled(PooledDistinct::user_specific()),
        other("Distinct with one text left out", |texts, _| {
            let scores = Distinct::pal().leave_one_out(texts)?;
            Ok(scores.into_iter().flat_map(|score| score.without).collect())
        }),
        other("Entropy with one text left out", |texts, _| {
            let scores = Entropy::pal().leave_one_out(texts)?;
            Ok(scores.into_iter().flat_map(|score| score.without).collect())
        }),
        other("Entropy drawn again", |texts, _| Entropy::pal().examples(texts).scores_of(&[0, 0])),
        other("Perplexity", |texts, _| {
            let mut statistics = Perplexity::by_word().statistics();
            for text in texts {
                statistics.update(1.5, 1, text)?;
            }
            Ok(statistics.scores()?.values())
        }),
        other("AgentRetention", |texts, _| {
            let agent = AgentRetention::new("agent", texts, texts, &vec![false; texts.len()])?;
            Ok(agent.words_per_prompt.into_iter().collect())
        }),
    ];
    metrics.append(&mut nltk);
    metrics
}

/// A finite score or an error.
#[track_caller]
fn check(case: &Case, hypotheses: &[String], references: &[Vec<String>]) -> Result<Vec<f64>, Error> {
    let result = (case.run)(hypotheses, references);
    if let Ok(values) = &result {
        let finite = values.iter().all(|value| value.is_finite());
        assert!(finite, "{}: {values:?} for {hypotheses:?}, {references:?}", case.name);
    }
    result
}

fn awkward() -> Vec<String> {
    let texts = [
        "",
        " ",
        "  \t\n\u{1c}\u{85}\u{3000}",
        "a",
        "i have a dog .",
        "?!.,",
        "...",
        "-",
        "-\n",
        "<skipped>",
        "&amp;&lt;&quot;&amp",
        // Combining marks alone, and on a letter.
        "\u{301}",
        "\u{301}\u{302} \u{200d}",
        "e\u{301} İ ß ﬁ ΑΣ",
        // What is left of bytes that are no text.
        "\u{fffd}",
        "\u{fffd}\u{fffd} a",
        "\0",
        "a\0b \0 \0\0",
        "\u{feff}a\u{feff}",
        "\u{ffff}\u{10ffff}\u{e000}",
        "\u{202e}abc\u{202c}",
        "👩\u{200d}👩\u{200d}👧 🇯🇵",
        "今日は。……？！”',",
        "\u{20000}\u{2a6d}",
        "½ ² Ⅷ ٣",
        "1,000.5-2",
    ];
    texts.map(str::to_owned).to_vec()
}

#[test]
fn any_text_beside_any_other() {
    let texts = awkward();
    for case in metrics() {
        for hypothesis in &texts {
            for reference in &texts {
                let _ = check(&case, from_ref(hypothesis), &[vec![reference.clone()]]);
            }
            let _ = check(&case, from_ref(hypothesis), from_ref(&texts));
        }
        let references: Vec<Vec<String>> = texts.iter().rev().map(|text| vec![text.clone()]).collect();
        let _ = check(&case, &texts, &references);
        // Texts with themselves have a score, but for the packages that refuse empty ones.
        let own: Vec<Vec<String>> = texts.iter().map(|text| vec![text.clone()]).collect();
        let (texts, own): (Vec<String>, Vec<Vec<String>>) = std::iter::zip(&texts, own)
            .filter(|(text, own)| !refused_as_empty(&check(&case, from_ref(text), from_ref(own))))
            .map(|(text, own)| (text.clone(), own))
            .unzip();
        let scores = check(&case, &texts, &own);
        assert!(scores.is_ok() && texts.len() > 5, "{}: {scores:?} of {texts:?}", case.name);
    }
}

fn refused_as_empty(result: &Result<Vec<f64>, Error>) -> bool {
    let Err(Error::Example { index: 0, source }) = result else { return false };
    matches!(**source, Error::EmptyHypothesis { .. } | Error::EmptyReference { .. })
}

#[test]
fn no_references_no_texts_unequal_lengths() {
    let two = ["a b".to_owned(), "c".to_owned()];
    for case in metrics() {
        let empty = check(&case, &[], &[]);
        assert!(empty.is_err() || empty.as_ref().is_ok_and(Vec::is_empty), "{}: {empty:?}", case.name);
        if case.references != References::Unused {
            let shorter = check(&case, &two, &[vec!["a".to_owned()]]);
            assert!(matches!(shorter, Err(Error::LengthMismatch { .. })), "{}: {shorter:?}", case.name);
        }
        if case.references == References::Needed {
            let without = check(&case, &two, &[vec!["a".to_owned()], vec![]]);
            assert!(matches!(without, Err(Error::Example { index: 1, .. })), "{}: {without:?}", case.name);
        }
    }
}

/// Words that come again and again, words that all differ, and one long word.
fn long_lines(words: usize) -> [(String, String); 3] {
    let line = |word: &dyn Fn(usize) -> String| (0..words).map(word).collect::<Vec<_>>().join(" ");
    [
        (line(&|n| format!("w{}", n * n % 101)), line(&|n| format!("w{}", n * 7 % 97))),
        (line(&|n| format!("w{n}")), line(&|n| format!("w{}", words - n))),
        ("a".repeat(5 * words), "ab".repeat(3 * words)),
    ]
}

#[test]
fn a_line_of_100_000_words() {
    let (long, shorter) = (long_lines(100_000), long_lines(20_000));
    for case in metrics() {
        // Common subsequences take time that grows with the product of both lengths.
        let lines = if case.name.starts_with("ROUGE") { &shorter } else { &long };
        for (hypothesis, reference) in lines {
            let start = Instant::now();
            // Several times through the corpus, the sentence and the draw.
            let _ = check(&case, from_ref(hypothesis), &[vec![reference.clone()]]);
            let took = start.elapsed();
            assert!(took < Duration::from_secs(8), "{}: {took:?}", case.name);
        }
    }
}

/// JSON can name half of a surrogate pair, which is no character: serde_json refuses it where a string is read, so that
/// no metric sees one. Who reads such files as bytes gets U+FFFD from `String::from_utf8_lossy`, a character like others.
#[test]
fn half_a_surrogate_pair_is_no_text() {
    for json in [r#""\ud800""#, r#""a\udc00b""#, r#""\ud800\ud800""#, r#""\udc00\ud800""#] {
        assert!(serde_json::from_str::<String>(json).is_err(), "{json}");
    }
    assert_eq!(serde_json::from_str::<String>(r#""\ud83d\udc96""#).unwrap(), "💖");
    let lossy = String::from_utf8_lossy(b"a \xed\xa0\x80 b").into_owned();
    assert_eq!(lossy, "a \u{fffd}\u{fffd}\u{fffd} b");
    assert_eq!(Distinct::li().corpus(&[lossy]).unwrap().values(), [1.0, 1.0]);
}
