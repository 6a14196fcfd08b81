//! Contract 5 for the engine, and what a request can ask for.

use std::cell::RefCell;
use std::ops::ControlFlow;

use persona_data::{BpeOptions, TextTokenizer, train_byte_level_bpe};
use persona_infer::{
    Completion, DecodeConfig, Decoder, EarlyStopping, Engine, EngineConfig, Finish, Request,
};
use persona_model::{Batch, CausalLm, Gpt2, Gpt2Config, Llama, LlamaConfig, LoraConfig, Model};
use tch::{Device, Kind};

use crate::decoding::tiny;

fn llama() -> Llama {
    let config = LlamaConfig {
        vocab_size: 40,
        hidden_size: 16,
        intermediate_size: 24,
        num_hidden_layers: 2,
        num_attention_heads: 4,
        num_key_value_heads: Some(2),
        max_position_embeddings: 64,
        initializer_range: 0.5,
        ..LlamaConfig::default()
    };
    Llama::new(config, 3, Device::Cpu, Kind::Float).unwrap()
}

fn models() -> [Box<dyn CausalLm>; 2] {
    [Box::new(tiny(64)), Box::new(llama())]
}

fn complete(
    model: &dyn CausalLm,
    sequences: usize,
    prefill_tokens: usize,
    requests: &[Request],
) -> Vec<Vec<Completion>> {
    Engine::new(model, EngineConfig { sequences, prefill_tokens }).unwrap().complete(requests).unwrap()
}

fn tokens(replies: &[Vec<Completion>]) -> Vec<Vec<Vec<u32>>> {
    replies.iter().map(|replies| replies.iter().map(|reply| reply.tokens.clone()).collect()).collect()
}

const DRAWN: DecodeConfig = DecodeConfig {
    max_new_tokens: 16,
    min_length: 0,
    min_new_tokens: 0,
    temperature: 1.2,
    top_k: Some(20),
    top_p: Some(0.95),
    min_p: None,
    typical_p: None,
    epsilon_cutoff: None,
    repetition_penalty: 1.0,
    no_repeat_ngram_size: 0,
    num_beams: 1,
    length_penalty: 1.0,
    early_stopping: EarlyStopping::No,
    num_return_sequences: 1,
    seed: 5,
    batch_size: 1,
    one_line: false,
};

/// Requests of every kind, each with settings, lengths and ends of its own.
fn mixed() -> Vec<Request> {
    let greedy = DecodeConfig { temperature: 0.0, top_k: None, top_p: None, ..DRAWN };
    let configs = [
        greedy,
        DRAWN,
        DecodeConfig { num_return_sequences: 5, seed: 9, ..DRAWN },
        DecodeConfig { num_beams: 3, num_return_sequences: 2, length_penalty: 0.7, ..greedy },
        DecodeConfig { repetition_penalty: 1.4, no_repeat_ngram_size: 2, max_new_tokens: 9, ..greedy },
        DecodeConfig { typical_p: Some(0.8), top_k: None, repetition_penalty: 1.1, ..DRAWN },
        DecodeConfig { min_p: Some(0.05), epsilon_cutoff: Some(0.01), min_new_tokens: 6, ..DRAWN },
    ];
    (0..21usize)
        .map(|at| {
            let prompt = (0..=(at * 5 % 13) as u32).map(|token| (at as u32 * 7 + token * 3) % 40).collect();
            let config = DecodeConfig { seed: at as u64, ..configs[at % configs.len()] };
            Request::new(prompt, config).ending_at(&[7, 9][..1 + at % 2])
        })
        .collect()
}

#[test]
fn equal_requests_are_told_apart_by_their_streams() {
    let model = tiny(64);
    let request = Request::new(vec![1, 2, 3], DRAWN);
    let streams = [None, Some(0), Some(1), Some(2)];
    let requests = streams.map(|stream| match stream {
        None => request.clone(),
        Some(stream) => request.clone().in_stream(stream),
    });
    let replies = tokens(&complete(&model, 4, 64, &requests));
    assert_eq!(replies[0], replies[1]);
    assert!(replies[1] != replies[2] && replies[2] != replies[3], "{replies:?}");
    // A Decoder's prompts are in the streams of their indexes.
    let decoded = Decoder::new(&model, DRAWN, &[]).unwrap().generate(&vec![vec![1, 2, 3]; 3]).unwrap();
    let flat: Vec<Vec<u32>> = replies[1..].iter().map(|replies| replies[0].clone()).collect();
    assert_eq!(decoded, flat);
}

#[test]
fn replies_do_not_depend_on_batch_mates_or_chunks() {
    for model in models() {
        let requests = mixed();
        let whole = tokens(&complete(&model, 64, 2048, &requests));
        for (sequences, prefill) in [(1, 2048), (4, 2048), (64, 3), (7, 1)] {
            let got = tokens(&complete(&model, sequences, prefill, &requests));
            assert_eq!(got, whole, "{sequences} at once, prompts in chunks of {prefill}");
        }
        for (request, whole) in requests.iter().zip(&whole) {
            assert_eq!(tokens(&complete(&model, 64, 2048, std::slice::from_ref(request)))[0], *whole);
        }
        assert!(whole.iter().flatten().any(|reply| reply.len() < 9), "some replies end early");
        assert_eq!(whole[2].len(), 5);
        let mut distinct = whole[2].clone();
        distinct.sort();
        distinct.dedup();
        assert!(distinct.len() > 2, "samples of one prompt differ");
    }
}

#[test]
fn greedy_with_the_cache_equals_the_whole_text_anew() {
    for model in models() {
        let _no_grad = tch::no_grad_guard();
        let prompt = vec![3, 11, 25];
        let config = DecodeConfig { max_new_tokens: 12, ..DecodeConfig::default() };
        let reply = &complete(&model, 4, 2048, &[Request::new(prompt.clone(), config)])[0][0];
        let mut text = prompt;
        for &token in &reply.tokens {
            let batch = Batch::rows_of(&[&text], model.limits(), Device::Cpu).unwrap();
            let logits = model.logits(&model.hidden(&batch, None, false).unwrap()).unwrap();
            assert_eq!(logits.get(-1).argmax(-1, false).int64_value(&[]), i64::from(token));
            text.push(token);
        }
        assert_eq!((reply.tokens.len(), &reply.finish), (12, &Finish::Length));
    }
}

#[test]
fn a_draw_belongs_to_the_seed_and_its_own_index() {
    let model = tiny(64);
    let request = |count, seed| {
        let config = DecodeConfig { num_return_sequences: count, seed, ..DRAWN };
        Request::new(vec![1, 2, 3], config)
    };
    let got = |count, seed| tokens(&complete(&model, 3, 2048, &[request(count, seed)])).swap_remove(0);
    let many = got(11, 5);
    assert_eq!(many[..4], got(4, 5));
    assert_eq!(many[..1], got(1, 5));
    assert_ne!(many, got(11, 6));
}

#[test]
fn more_beams_that_return_are_the_best_ones_first() {
    let model = tiny(64);
    let beams = |returned, early_stopping| {
        let config = DecodeConfig {
            max_new_tokens: 10,
            num_beams: 4,
            num_return_sequences: returned,
            early_stopping,
            ..DecodeConfig::default()
        };
        complete(&model, 2, 2048, &[Request::new(vec![4, 5], config).ending_at(&[7, 9])]).swap_remove(0)
    };
    for early_stopping in [EarlyStopping::Yes, EarlyStopping::No, EarlyStopping::Never] {
        let all = beams(4, early_stopping);
        assert_eq!((all.len(), beams(1, early_stopping)[0].clone()), (4, all[0].clone()));
        assert!(all.windows(2).all(|two| two[0].score >= two[1].score), "{all:?}");
        for reply in &all {
            // The score is the log-probability of the tokens with their end, a token.
            let end = if let Finish::Token(end) = reply.finish { Some(end) } else { None };
            let tokens: Vec<u32> = reply.tokens.iter().copied().chain(end).collect();
            let engine = Engine::new(&model, EngineConfig::default()).unwrap();
            let score = engine.score(&[4, 5], std::slice::from_ref(&tokens)).unwrap()[0].log_prob();
            assert!((score / tokens.len() as f64 - reply.score.unwrap()).abs() < 1e-4, "{reply:?}");
        }
    }
}

#[test]
fn minimum_lengths_hold_ends_back() {
    let model = tiny(64);
    let free = Request::new(vec![1, 2], DecodeConfig { temperature: 3.0, top_k: None, top_p: None, ..DRAWN });
    let every: Vec<u32> = (20..40).collect();
    let lengths = |config: DecodeConfig| -> Vec<usize> {
        let config = DecodeConfig { num_return_sequences: 20, temperature: 3.0, top_p: None, ..config };
        let replies = complete(&model, 20, 64, &[Request::new(vec![1, 2], config).ending_at(&every)]);
        replies[0].iter().map(|reply| reply.tokens.len()).collect()
    };
    assert!(lengths(DRAWN).iter().any(|&length| length < 3));
    assert!(lengths(DecodeConfig { min_new_tokens: 4, ..DRAWN }).iter().all(|&length| length >= 4));
    assert!(lengths(DecodeConfig { min_length: 5, ..DRAWN }).iter().all(|&length| length >= 3));
    assert_eq!(complete(&model, 1, 64, &[free])[0][0].tokens.len(), 16);
}

#[test]
fn each_request_has_its_own_adapter() {
    let mut model = tiny(64);
    let mut ids = vec![None];
    for seed in 0..3 {
        let id = model.adapters_mut().add(LoraConfig::default(), seed, Device::Cpu).unwrap();
        let _no_grad = tch::no_grad_guard();
        for leaf in model.adapters().get(id).unwrap().parameters().leaves() {
            let noise = (leaf.size().iter().product::<i64>(), (Kind::Float, Device::Cpu));
            let noise = (tch::Tensor::arange(noise.0, noise.1) * (0.7 + seed as f64)).sin() * 0.3;
            leaf.shallow_clone().copy_(&noise.view_as(leaf));
        }
        ids.push(Some(id));
    }
    let config = DecodeConfig { max_new_tokens: 10, ..DecodeConfig::default() };
    let samples = DecodeConfig { num_return_sequences: 2, max_new_tokens: 10, ..DRAWN };
    let request = |at: usize| {
        let config = if at < 6 { config } else { samples };
        Request::new(vec![2, 3, at as u32], config)
    };
    let requests: Vec<Request> = (0..8).map(|at| request(at).with_adapter(ids[at % 4])).collect();
    let together = tokens(&complete(&model, 64, 2048, &requests));
    for (at, together) in together.iter().enumerate() {
        model.adapters_mut().activate(ids[at % 4]).unwrap();
        assert_eq!(tokens(&complete(&model, 64, 2048, &[request(at)]))[0], *together, "request {at}");
    }
    assert_ne!(together[0], together[1]);

    let gone = ids[3];
    model.adapters_mut().activate(None).unwrap();
    model.adapters_mut().remove(gone.unwrap()).unwrap();
    let engine = Engine::new(&model, EngineConfig::default()).unwrap();
    let message = engine.complete(&requests).unwrap_err().to_string();
    assert!(message.contains("prompt 3") && message.contains("does not hold"), "{message}");
    assert_eq!(tokens(&engine.complete(&requests[..3]).unwrap()), together[..3]);
}

fn text_model() -> (Gpt2, TextTokenizer) {
    let corpus = ["the cat sat on the mat, naïve as ever 🐈", "日本語"].map(str::to_owned);
    let options = BpeOptions { vocab_size: 300, ..BpeOptions::default() };
    let tokenizer = train_byte_level_bpe(corpus.into_iter().cycle().take(40), &options).unwrap();
    let config = Gpt2Config {
        vocab_size: tokenizer.vocab_size(),
        n_positions: 64,
        n_embd: 16,
        n_layer: 1,
        n_head: 2,
        initializer_range: 0.5,
        ..Gpt2Config::default()
    };
    (Gpt2::new(config, 2, Device::Cpu, Kind::Float).unwrap(), tokenizer)
}

#[test]
fn streams_give_the_text_in_whole_characters() {
    let (model, tokenizer) = text_model();
    let engine = Engine::new(&model, EngineConfig { sequences: 3, ..EngineConfig::default() }).unwrap();
    let engine = engine.with_tokenizer(&tokenizer).unwrap();
    let samples = DecodeConfig { num_return_sequences: 4, max_new_tokens: 24, ..DRAWN };
    let requests = [
        Request::new(tokenizer.encode("the cat").unwrap(), samples).ending_at(&[tokenizer.eos_id()]),
        Request::new(tokenizer.encode("naïve").unwrap(), DecodeConfig { num_return_sequences: 1, ..samples }),
    ];
    let mut texts = vec![vec![String::new(); 4], vec![String::new()]];
    let mut finished = 0;
    let replies = engine
        .stream(&requests, &mut |piece| {
            texts[piece.request][piece.sequence].push_str(piece.text);
            finished += usize::from(piece.finished);
            ControlFlow::Continue(())
        })
        .unwrap();
    assert_eq!(finished, 5);
    for (replies, texts) in replies.iter().zip(&texts) {
        for (reply, text) in replies.iter().zip(texts) {
            assert_eq!(reply.text.as_deref(), Some(text.as_str()));
            assert_eq!(*text, tokenizer.decode(&reply.tokens, true).unwrap());
        }
    }
    assert_eq!(tokens(&engine.complete(&requests).unwrap()), tokens(&replies));

    // Where a reply stops is told by its text, not by its tokens.
    let whole = replies[1][0].text.clone().unwrap();
    let stop: String = whole.chars().skip(4).take(3).collect();
    let stopped =
        Request::new(tokenizer.encode("naïve").unwrap(), DecodeConfig { num_return_sequences: 1, ..samples })
            .stopping_at([stop.clone(), "never to be seen".to_owned()]);
    let reply = engine.complete(&[stopped]).unwrap().swap_remove(0).swap_remove(0);
    assert_eq!(reply.finish, Finish::Text(stop.clone()));
    assert_eq!(reply.text.as_deref(), whole.split(stop.as_str()).next());

    // A receiver that has had enough ends everything.
    let mut pieces = 0;
    let replies = engine
        .stream(&requests, &mut |_| {
            pieces += 1;
            if pieces == 3 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })
        .unwrap();
    assert_eq!(pieces, 3);
    assert!(replies.iter().flatten().any(|reply| reply.finish == Finish::Cancelled));
}

#[test]
fn given_continuations_are_scored() {
    let model = tiny(64);
    let engine = Engine::new(&model, EngineConfig { sequences: 2, ..EngineConfig::default() }).unwrap();
    let continuations = vec![vec![1, 2, 3], vec![4], vec![5, 6]];
    let scores = engine.score(&[7, 8], &continuations).unwrap();
    for (continuation, score) in continuations.iter().zip(&scores) {
        let text = [&[7, 8], continuation.as_slice()].concat();
        let batch = Batch::rows_of(&[&text], model.limits(), Device::Cpu).unwrap();
        let _no_grad = tch::no_grad_guard();
        let logits = model.logits(&model.hidden(&batch, None, false).unwrap()).unwrap();
        let log_probs = logits.log_softmax(-1, Kind::Float);
        for (at, (&token, got)) in continuation.iter().zip(&score.log_probs).enumerate() {
            let expected = log_probs.double_value(&[at as i64 + 1, i64::from(token)]);
            assert!((expected - f64::from(*got)).abs() < 1e-5);
        }
        let perplexity = (-score.log_prob() / continuation.len() as f64).exp();
        assert!((score.perplexity() - perplexity).abs() < 1e-9);
    }
    assert!(engine.score(&[7], &[vec![1], vec![]]).unwrap_err().to_string().contains("prompt 1"));
    assert!(engine.score(&[], &[vec![1]]).unwrap_err().to_string().contains("no tokens"));
    assert!(engine.score(&[7], &[vec![40]]).unwrap_err().to_string().contains("token id 40"));
    assert!(engine.score(&[7], &[vec![1; 80]]).unwrap_err().to_string().contains("64"));
}

#[test]
fn impossible_requests_are_named_and_the_engine_stays_usable() {
    let model = tiny(16);
    let engine = Engine::new(&model, EngineConfig::default()).unwrap();
    let fine = Request::new(vec![1, 2], DecodeConfig { max_new_tokens: 4, ..DecodeConfig::default() });
    let expected = engine.complete(std::slice::from_ref(&fine)).unwrap();
    let config = |config: DecodeConfig| Request::new(vec![1], config);
    let base = DecodeConfig::default();
    let bad = [
        (Request::new(vec![], base), "prompt 1: has no tokens"),
        (Request::new(vec![1; 16], base), "prompt 1: has 16 tokens, the model has 16 positions"),
        (Request::new(vec![1, 40], base), "prompt 1: has token id 40"),
        (Request::new(vec![1], base).ending_at(&[41]), "`ends`"),
        (Request::new(vec![1], base).stopping_at(["x"]), "`stop_strings`"),
        (config(DecodeConfig { top_p: Some(0.0), temperature: 1.0, ..base }), "`top_p`"),
        (config(DecodeConfig { num_beams: 21, ..base }), "`num_beams`"),
        (config(DecodeConfig { max_new_tokens: 0, ..base }), "`max_new_tokens`"),
        (config(DecodeConfig { num_return_sequences: 2, ..base }), "`num_return_sequences`"),
    ];
    for (request, expected_message) in bad {
        let message = engine.complete(&[fine.clone(), request]).unwrap_err().to_string();
        assert!(message.contains(expected_message), "{message}");
        assert_eq!(engine.complete(std::slice::from_ref(&fine)).unwrap(), expected);
    }
    // Every token ruled out: a text that may not repeat any token runs out of them.
    let endless = DecodeConfig { no_repeat_ngram_size: 1, max_new_tokens: 50, ..base };
    let wide = tiny(64);
    let message = Engine::new(&wide, EngineConfig::default()).unwrap();
    let message = message.complete(&[Request::new(vec![1], endless)]).unwrap_err().to_string();
    assert!(message.contains("no token is left after 39 new tokens"), "{message}");
    assert!(
        engine
            .stream(&[fine], &mut |_| ControlFlow::Continue(()))
            .unwrap_err()
            .to_string()
            .contains("tokenizer")
    );
    assert!(engine.complete(&[]).unwrap().is_empty());
    for config in [
        EngineConfig { sequences: 0, ..EngineConfig::default() },
        EngineConfig { prefill_tokens: 0, ..EngineConfig::default() },
    ] {
        assert!(Engine::new(&model, config).unwrap_err().to_string().contains("is 0"));
    }
}

#[test]
fn progress_counts_answered_requests() {
    let model = tiny(64);
    let seen = RefCell::new(Vec::new());
    let progress = |done| seen.borrow_mut().push(done);
    let engine = Engine::new(&model, EngineConfig { sequences: 3, ..EngineConfig::default() }).unwrap();
    engine.watched_by(&progress).complete(&mixed()).unwrap();
    let seen = seen.into_inner();
    assert!(seen.windows(2).all(|two| two[0] < two[1]) && seen.last() == Some(&21), "{seen:?}");
}
