//! The traits on persona-model's models: a tiny BERT, a tiny GPT-2, and all-MiniLM where it is at hand.

use std::error::Error as _;
use std::path::{Path, PathBuf};

use persona_data::{BpeOptions, EncoderTokenizer, TextTokenizer, train_byte_level_bpe};
use persona_metrics::model::{CausalScorer, ClassifierJudge, LongTexts, TextEncoder};
use persona_metrics::{
    BertScore, Consistency, EmbeddingSimilarity, Error, Judgement, LanguageModel, Perplexity, PersonaJudge,
    SentenceEmbedder, TokenEmbedder,
};
use persona_model::{BertClassifier, CausalLm, Classifier, Encoder, Gpt2, Gpt2Config, Model, load_encoder};
use serde_json::Value;
use tch::{Device, Kind, Tensor};

fn tiny_bert() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tiny_bert")
}

fn encoder() -> TextEncoder {
    TextEncoder::load(tiny_bert(), Device::Cpu, Kind::Float).unwrap()
}

/// A classifier on the tiny BERT. Weights of the head belong to labels, whatever their order.
fn classifier(labels: [&str; 3]) -> BertClassifier {
    let (model, _) = BertClassifier::on_encoder(&tiny_bert(), &labels, 7, Device::Cpu, Kind::Float).unwrap();
    let _no_grad = tch::no_grad_guard();
    let weight = model.parameters().get("classifier.weight").unwrap();
    let width = weight.size()[1];
    for (at, label) in (0..).zip(labels) {
        let first = label.to_ascii_lowercase().as_bytes()[0];
        let values = (Tensor::arange(width, (Kind::Float, Device::Cpu)) * f64::from(first)).sin();
        weight.select(0, at).copy_(&values);
    }
    model
}

fn judge(labels: [&str; 3]) -> ClassifierJudge {
    let tokenizer = EncoderTokenizer::from_folder(tiny_bert()).unwrap();
    ClassifierJudge::new(Box::new(classifier(labels)), tokenizer, "tiny").unwrap()
}

const LABELS: [&str; 3] = ["contradiction", "neutral", "entailment"];

const PAIRS: [(&str, &str); 7] = [
    ("my school is quiet", "what can you do with me"),
    ("two birds", "the lasagna and the nurse since two have been in nairobi"),
    ("my school is quiet", ""),
    ("", ""),
    ("my school is quiet", "what can you do with me"),
    ("they believe in quiet evenings", "no"),
    ("zulu", "we shall go watching birds every wonderful day , ok ?"),
];

#[test]
fn classes_may_stand_in_any_order() {
    let (first, turned) = (judge(LABELS), judge(["ENTAILMENT", "Contradiction", "neutral"]));
    let judgements = first.judge(&PAIRS).unwrap();
    assert_eq!(judgements, turned.judge(&PAIRS).unwrap());
    let (left, right) = (first.probabilities(&PAIRS).unwrap(), turned.probabilities(&PAIRS).unwrap());
    for ((left, right), judgement) in left.iter().zip(&right).zip(judgements) {
        assert!(left.iter().zip(right).all(|(left, right)| (left - right).abs() < 1e-6));
        assert!((left.iter().sum::<f64>() - 1.0).abs() < 1e-12);
        let highest = (0..3).max_by(|&a, &b| left[a].total_cmp(&left[b])).unwrap();
        assert_eq!(Judgement::CONTRADICTION_FIRST[highest], judgement);
    }
}

#[test]
fn pairs_are_judged_as_alone_and_as_the_model_lays_them_out() {
    let judge = judge(LABELS);
    let together = judge.probabilities(&PAIRS).unwrap();
    let model = classifier(LABELS);
    let tokenizer = EncoderTokenizer::from_folder(tiny_bert()).unwrap();
    for (pair, together) in PAIRS.iter().zip(together) {
        let row = tokenizer.encode_pair(*pair).unwrap();
        assert_eq!(row.ids.iter().filter(|&&id| id == 3).count(), 2, "two [SEP] in {row:?}");
        let limits = Classifier::limits(&model);
        let batch = persona_model::Batch::rows_of(&[&row.ids], limits, Device::Cpu).unwrap();
        let batch = batch.with_token_types(&[&row.token_types]).unwrap();
        let alone = model.logits(&batch, false).unwrap().softmax(-1, Kind::Float);
        let alone = Vec::<f64>::try_from(alone.view(-1)).unwrap();
        assert!(alone.iter().zip(together).all(|(alone, together)| (alone - together).abs() < 1e-5));
    }
    let first = judge.reply_first(true);
    assert_eq!(PersonaJudge::name(&first), "tiny, reply first");
    let turned: Vec<(&str, &str)> = PAIRS.iter().map(|&(description, reply)| (reply, description)).collect();
    let same = self::judge(LABELS).probabilities(&turned).unwrap();
    assert_eq!(first.probabilities(&PAIRS).unwrap(), same);
}

#[test]
fn other_classes_are_no_judge() {
    let folder = tempfile::tempdir().unwrap();
    classifier(["positive", "neutral", "negative"]).save(folder.path()).unwrap();
    for file in ["vocab.txt", "tokenizer_config.json"] {
        std::fs::copy(tiny_bert().join(file), folder.path().join(file)).unwrap();
    }
    let error = ClassifierJudge::load(folder.path(), Device::Cpu, Kind::Float).unwrap_err();
    assert!(matches!(&error, Error::JudgeClasses { labels } if labels[0] == "positive"), "{error}");
    classifier(LABELS).save(folder.path()).unwrap();
    let judge = ClassifierJudge::load(folder.path(), Device::Cpu, Kind::Float).unwrap().named("a|b");
    assert_eq!(PersonaJudge::name(&judge), "a/b");
    assert_eq!(judge.judge(&PAIRS).unwrap(), self::judge(LABELS).judge(&PAIRS).unwrap());
}

#[test]
fn nan_from_a_judge_is_an_error_that_names_the_pair() {
    let model = classifier(LABELS);
    let _no_grad = tch::no_grad_guard();
    let _ = model.parameters().get("classifier.bias").unwrap().shallow_clone().fill_(f64::NAN);
    let tokenizer = EncoderTokenizer::from_folder(tiny_bert()).unwrap();
    let judge = ClassifierJudge::new(Box::new(model), tokenizer, "nan").unwrap();
    let error = Consistency::sum().corpus(&judge, &["hello"], &[["quiet"]]).unwrap_err();
    assert!(matches!(error, Error::Judge { first_pair: 0, .. }), "{error}");
    let source = error.source().unwrap();
    assert_eq!(source.to_string(), "description \"quiet\", reply \"hello\"");
    assert!(source.source().unwrap().to_string().contains("NaN"));
}

/// More tokens than the tiny BERT's 64 positions.
fn long() -> String {
    "two birds ".repeat(40)
}

#[test]
fn long_texts_are_refused_or_cut() {
    let long = long();
    let texts = [long.as_str()];
    let refused = |error: Error| {
        let source = error.source().unwrap().to_string();
        assert!(source.contains("reads 64 tokens") && source.contains("two birds two"), "{source}");
        assert!(source.contains("or let long texts be cut") && source.len() < 250, "{source}");
        source
    };
    refused(BertScore::default().corpus(&encoder(), &texts, &["two"]).unwrap_err());
    refused(BertScore::default().idf(true).corpus(&encoder(), &["two"], &texts).unwrap_err());
    refused(EmbeddingSimilarity::default().corpus(&encoder(), &texts, &["two"]).unwrap_err());
    for (replies, personas) in [(texts, [["two"]]), (["two"], [texts])] {
        let refused = refused(Consistency::sum().corpus(&judge(LABELS), &replies, &personas).unwrap_err());
        assert!(refused.contains("description and reply together have more"), "{refused}");
    }

    let cut = encoder().long_texts(LongTexts::Cut);
    let line = BertScore::default().corpus(&cut, &texts, &["two"]).unwrap().to_string();
    assert!(line.contains("model:tiny_bert fd97aa98 (texts cut to 64 tokens)|layer:4|"), "{line}");
    let vectors = TokenEmbedder::embed(&cut, &texts).unwrap();
    assert_eq!((vectors[0].vectors.dim(), vectors[0].ids[0], vectors[0].ids[63]), ((64, 32), 2, 3));
    let judge = judge(LABELS).long_texts(LongTexts::Cut).max_tokens(12).unwrap();
    let scores = Consistency::sum().corpus(&judge, &texts, &[["two"]]).unwrap();
    assert!(scores.to_string().contains("judge:tiny (texts cut to 12 tokens)|"), "{scores}");
    assert!(judge.max_tokens(65).is_err());
}

#[test]
fn empty_texts_have_a_value() {
    let encoder = encoder();
    assert_eq!(BertScore::default().corpus(&encoder, &[""], &["quiet"]).unwrap().values(), [0.0; 3]);
    // The special tokens alone have an embedding.
    let empty = EmbeddingSimilarity::default().corpus(&encoder, &[""], &["quiet"]).unwrap().values()[0];
    assert!(empty.abs() < 1.0);
    assert_eq!(SentenceEmbedder::embed(&encoder, &[]).unwrap().nrows(), 0);
    assert!(judge(LABELS).judge(&[]).unwrap().is_empty());
}

#[test]
fn folders_that_do_not_serve_say_why() {
    let chain = |error: Error| format!("{error}: {}", error.source().unwrap());
    let missing = TextEncoder::load("no/such/folder", Device::Cpu, Kind::Float).unwrap_err();
    assert!(chain(missing).contains("no/such/folder"));
    let folder = tempfile::tempdir().unwrap();
    for file in ["config.json", "model.safetensors"] {
        std::fs::copy(tiny_bert().join(file), folder.path().join(file)).unwrap();
    }
    let load = || TextEncoder::load(folder.path(), Device::Cpu, Kind::Float);
    assert!(chain(load().unwrap_err()).contains("tokenizer.json"));
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    write("vocab.txt", "[PAD]\n[UNK]\n[CLS]\na\n");
    assert!(chain(load().unwrap_err()).contains("[SEP]"));
    let many: String = (0..400).map(|id| format!("word{id}\n")).collect();
    write("vocab.txt", &format!("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n{many}"));
    assert!(chain(load().unwrap_err()).contains("its largest id is 404 and the model embeds 375"));
    std::fs::copy(tiny_bert().join("vocab.txt"), folder.path().join("vocab.txt")).unwrap();
    std::fs::create_dir(folder.path().join("1_Pooling")).unwrap();
    let pooling = |mode: &str| write("1_Pooling/config.json", &format!("{{\"pooling_mode_{mode}\": true}}"));
    pooling("weightedmean_tokens");
    assert!(chain(load().unwrap_err()).contains("weightedmean_tokens"));
    pooling("cls_token");
    write("sentence_bert_config.json", "{\"max_seq_length\": 16}");
    let loaded = load().unwrap().named("it").long_texts(LongTexts::Cut);
    assert_eq!(SentenceEmbedder::name(&loaded), "it (texts cut to 16 tokens), pooling Cls");
    assert_eq!(TokenEmbedder::name(&loaded), "it (texts cut to 64 tokens)");
    write("sentence_bert_config.json", "{\"do_lower_case\": true}");
    let lower = load().unwrap().named("it");
    assert_eq!(SentenceEmbedder::name(&lower), "it, pooling Cls, lower case");
    write("modules.json", "[{\"path\": \"2_Dense\", \"type\": \"sentence_transformers.models.Dense\"}]");
    assert!(chain(load().unwrap_err()).contains("models.Dense"));
    let error = loaded.layer(5).unwrap_err().to_string();
    assert!(error.contains("layer 5 of it, which has 4 layers"), "{error}");
}

#[test]
fn nan_in_embeddings_is_an_error() {
    let (model, _) = load_encoder(&tiny_bert(), Device::Cpu, Kind::Float).unwrap();
    let _no_grad = tch::no_grad_guard();
    let name = "embeddings.word_embeddings.weight";
    let _ = model.parameters().get(name).unwrap().select(0, 10).fill_(f64::NAN);
    assert_eq!(Encoder::limits(&model).vocabulary, 375);
    let encoder =
        TextEncoder::new(model, EncoderTokenizer::from_folder(tiny_bert()).unwrap(), "nan").unwrap();
    let score = BertScore::default().corpus(&encoder, &["my zulu"], &["my school"]).unwrap_err();
    assert!(matches!(score, Error::Embedding { text, .. } if text == "my zulu"));
    let score = EmbeddingSimilarity::default().corpus(&encoder, &["my zulu"], &["my school"]).unwrap_err();
    assert!(matches!(score, Error::Embedding { text, .. } if text == "my zulu"));
}

fn language_model() -> (Gpt2, TextTokenizer) {
    let texts = ["i have a dog .", "do you like the cello ?", "no , i like birds ."].map(str::to_owned);
    let options = BpeOptions { vocab_size: 300, min_frequency: 1 };
    let tokenizer = train_byte_level_bpe(texts.into_iter(), &options).unwrap();
    let vocab_size = tokenizer.vocab_size();
    let config = Gpt2Config {
        vocab_size,
        n_positions: 48,
        n_embd: 16,
        n_layer: 2,
        n_head: 2,
        ..Gpt2Config::default()
    };
    (Gpt2::new(config, 3, Device::Cpu, Kind::Float).unwrap(), tokenizer)
}

/// By the definition, from the logits of the whole row.
fn nll(model: &Gpt2, prompt: &[u32], target: &[u32]) -> f64 {
    let row = [prompt, target].concat();
    let batch = persona_model::Batch::rows_of(&[&row], model.limits(), Device::Cpu).unwrap();
    let logits = model.logits(&model.hidden(&batch, None, false).unwrap()).unwrap();
    let log_probs = logits.to_kind(Kind::Double).log_softmax(-1, Kind::Double);
    let at = |token: usize| -log_probs.double_value(&[token as i64 - 1, i64::from(row[token])]);
    (prompt.len()..row.len()).map(at).sum()
}

#[test]
fn targets_are_scored_after_their_prompts() {
    let (model, tokenizer) = language_model();
    let scorer = CausalScorer::new(Box::new(language_model().0), tokenizer.clone(), "tiny").unwrap();
    let examples =
        [("i have a dog .", " no"), ("", "do you like"), ("do you like birds ?", " i like the cello .")];
    let scored = scorer.nll(&examples).unwrap();
    let ids = |text: &str| tokenizer.encode(text).unwrap();
    for ((prompt, target), scored) in examples.into_iter().zip(&scored) {
        let prompt = if prompt.is_empty() { vec![tokenizer.bos_id().unwrap()] } else { ids(prompt) };
        let target = [ids(target), vec![tokenizer.eos_id()]].concat();
        assert_eq!(scored.tokens, target.len() as u64);
        assert!((scored.nll - nll(&model, &prompt, &target)).abs() < 1e-4);
    }
    let (prompts, targets): (Vec<&str>, Vec<&str>) = examples.into_iter().unzip();
    let scores = Perplexity::by_word().corpus(&scorer, &prompts, &targets).unwrap();
    let line = scores.get(Perplexity::TOKEN).unwrap().to_string();
    assert!(line.contains("| model:tiny, with end of text|words:case:mixed|"), "{line}");
    let expected = (scored.iter().map(|one| one.nll).sum::<f64>()
        / scored.iter().map(|one| one.tokens).sum::<u64>() as f64)
        .exp();
    assert!((scores.get(Perplexity::TOKEN).unwrap().value() - expected).abs() < 1e-9);

    let without = scorer.end_of_text(false);
    assert_eq!(without.nll(&[("i", " have")]).unwrap()[0].tokens, ids(" have").len() as u64);
    let empty = Perplexity::default().corpus(&without, &["i have"], &[""]).unwrap_err();
    assert!(matches!(empty, Error::Example { index: 0, source } if matches!(*source, Error::NoTargetTokens)));
    let long = "dog ".repeat(60);
    for (prompt, target) in [("i", long.as_str()), (&long, "i")] {
        let error = Perplexity::default().corpus(&without, &[prompt], &[target]).unwrap_err();
        let error = error.source().unwrap().to_string();
        assert!(error.contains("reads 48 tokens, prompt and target together have more"), "{error}");
        assert!(error.contains("dog dog") && !error.contains("cut"), "{error}");
    }

    // As transformers' loss of the text alone.
    let alone = without.start_of_text(false);
    assert_eq!(LanguageModel::name(&alone), "tiny, without end of text, without start of text");
    let text = ids("do you like birds ?");
    let scored = alone.nll(&[("", "do you like birds ?"), ("i", " have")]).unwrap();
    assert_eq!([scored[0].tokens, scored[1].tokens], [text.len() as u64 - 1, ids(" have").len() as u64]);
    assert!((scored[0].nll - nll(&model, &text[..1], &text[1..])).abs() < 1e-4);
}

/// all-MiniLM-L6-v2 from the folder that `PERSONA_MINILM_DIR` names, beside what `minilm.py` wrote into minilm.json: the
/// scores of bert-score 0.3.13.
#[test]
fn minilm_scores_as_bert_score_does() {
    let Some(folder) = std::env::var_os("PERSONA_MINILM_DIR") else {
        println!("passed over: PERSONA_MINILM_DIR is not set");
        return;
    };
    let golden: Value = serde_json::from_str(include_str!("minilm.json")).unwrap();
    let pairs: Vec<(String, Vec<String>)> = serde_json::from_value(golden["pairs"].clone()).unwrap();
    let (hypotheses, references): (Vec<String>, Vec<Vec<String>>) = pairs.into_iter().unzip();
    let load = || TextEncoder::load(&folder, Device::Cpu, Kind::Float).unwrap().named("all-MiniLM-L6-v2");
    for setting in golden["scores"].as_array().unwrap() {
        let layer = setting["layer"].as_u64().unwrap() as usize;
        let encoder = load().layer(layer).unwrap();
        let score = BertScore::default().idf(setting["idf"].as_bool().unwrap());
        println!("{}", score.corpus(&encoder, &hypotheses, &references).unwrap());
        let examples = score.examples(&encoder, &hypotheses, &references).unwrap();
        let expected: Vec<[f64; 3]> = serde_json::from_value(setting["values"].clone()).unwrap();
        for (at, (values, expected)) in examples.sentence_values().zip(expected).enumerate() {
            for (value, expected) in values.unwrap().into_iter().zip(expected) {
                assert!(
                    (value - expected).abs() < 5e-6,
                    "layer {layer}, pair {at}: {value} is not {expected}"
                );
            }
        }
    }
    let first: Vec<&str> = references.iter().map(|references| references[0].as_str()).collect();
    let similarity = EmbeddingSimilarity::default();
    println!("{}", similarity.corpus(&load(), &hypotheses, &first).unwrap());
    let examples = similarity.examples(&load(), &hypotheses, &first).unwrap();
    let expected: Vec<f64> = serde_json::from_value(golden["similarities"].clone()).unwrap();
    for (values, expected) in examples.sentence_values().zip(expected) {
        assert!((values.unwrap()[0] - expected).abs() < 5e-6);
    }
}
