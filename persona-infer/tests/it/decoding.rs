//! Ids of transformers; batch and alone agree; bad prompts are named.

use persona_infer::{DecodeConfig, Decoder, Engine, EngineConfig, Request};
use persona_model::{CausalLm, Gpt2, Gpt2Config, Model, PromptStart, SoftPromptConfig, load_causal_lm};
use tch::{Device, Kind};

use crate::parity;

pub(crate) fn tiny(positions: usize) -> Gpt2 {
    let config = Gpt2Config {
        vocab_size: 40,
        n_positions: positions,
        n_embd: 16,
        n_layer: 2,
        n_head: 2,
        initializer_range: 0.5,
        ..Gpt2Config::default()
    };
    tch::set_num_threads(1); // models this small gain nothing from threads
    Gpt2::new(config, 11, Device::Cpu, Kind::Float).unwrap()
}

#[test]
fn parity_generate() {
    tch::set_num_threads(1);
    parity::for_each("generate", |case| {
        let (model, _) = load_causal_lm(&case.folder.join("model"), Device::Cpu, Kind::Float).unwrap();
        let prompts = case.rows("input_ids", "attention_mask");
        let width = case.tensor("input_ids").size()[1] as usize;
        for (name, options) in case.json["settings"].as_object().unwrap() {
            let mut options = options.clone();
            options["max_new_tokens"] = case.json["max_new_tokens"].clone();
            let config: DecodeConfig = serde_json::from_value(options).unwrap();
            let expected = Vec::<Vec<i64>>::try_from(case.tensor(&format!("{name}.new_tokens"))).unwrap();
            let expected: Vec<Vec<u32>> = expected
                .iter()
                .map(|row| row.iter().take_while(|&&id| id != 2).map(|&id| id as u32).collect())
                .collect();
            // The reference counts the padding of its batch among the tokens that penalties are about.
            let padded = |prompt: &Vec<u32>| vec![0; width - prompt.len()];
            let request = |prompt: &Vec<u32>| Request::new(prompt.clone(), config).ending_at(&[2]);
            let requests: Vec<Request> =
                prompts.iter().map(|prompt| request(prompt).counting_before(padded(prompt))).collect();
            let plain: Vec<Request> = prompts.iter().map(request).collect();
            let place = format!("{name} of {}", case.folder.display());
            let whole = complete(&model, 64, &plain);
            for sequences in [1, 2, 64] {
                assert_eq!(complete(&model, sequences, &requests), expected, "{place}, {sequences} at once");
                assert_eq!(complete(&model, sequences, &plain), whole, "{place}, {sequences} at once, plain");
            }
            let penalised = config.repetition_penalty != 1.0 || config.no_repeat_ngram_size > 0;
            for (at, prompt) in prompts.iter().enumerate() {
                let alone = complete(&model, 64, &requests[at..=at]);
                assert_eq!(alone[0], expected[at], "{place}, row {at} alone");
                if !penalised || prompt.len() == width {
                    assert_eq!(whole[at], expected[at], "{place}, row {at} without padding");
                }
            }
        }
        true
    });
}

fn complete(model: &dyn CausalLm, sequences: usize, requests: &[Request]) -> Vec<Vec<u32>> {
    let config = EngineConfig { sequences, ..EngineConfig::default() };
    let replies = Engine::new(model, config).unwrap().complete(requests).unwrap();
    replies.into_iter().map(|mut replies| replies.swap_remove(0).tokens).collect()
}

fn prompts() -> Vec<Vec<u32>> {
    (0..13u32).map(|at| (0..=at % 5).map(|token| (at * 7 + token * 3) % 40).collect()).collect()
}

#[test]
fn replies_after_a_soft_prompt_of_tokens_are_those_after_the_tokens() {
    let mut model = tiny(14);
    let tokens = [5, 6, 7, 8];
    let generate = |model: &Gpt2, prompts: &[Vec<u32>]| {
        let config = DecodeConfig { max_new_tokens: 20, batch_size: 4, ..DecodeConfig::default() };
        Decoder::new(model, config, &[2]).unwrap().generate(prompts).unwrap()
    };
    let with: Vec<Vec<u32>> = prompts().iter().map(|prompt| [&tokens[..], prompt].concat()).collect();
    let expected = generate(&model, &with);
    let adapters = model.adapters_mut();
    let id = adapters.add_soft_prompt(SoftPromptConfig::of(4), PromptStart::Tokens(&tokens), Device::Cpu);
    adapters.activate(Some(id.unwrap())).unwrap();
    assert_eq!(generate(&model, &prompts()), expected);
    assert!(expected.iter().any(|reply| reply.len() > 4), "some use up the positions");
}

#[test]
fn what_is_drawn_does_not_depend_on_batch_mates() {
    let model = tiny(64);
    let config = DecodeConfig {
        max_new_tokens: 20,
        temperature: 1.3,
        top_k: Some(20),
        top_p: Some(0.95),
        seed: 4,
        batch_size: 1,
        ..DecodeConfig::default()
    };
    let run = |batch_size, seed| {
        let config = DecodeConfig { batch_size, seed, ..config };
        Decoder::new(&model, config, &[7, 9]).unwrap().generate(&prompts()).unwrap()
    };
    let alone = run(1, 4);
    assert_eq!(alone, run(5, 4));
    assert_eq!(alone, run(64, 4));
    assert_ne!(alone, run(64, 5));
    assert!(
        alone.iter().any(|reply| reply.len() < 20),
        "some replies end early, so that rows leave the batch"
    );
    assert!(alone.iter().flatten().all(|id| *id != 7 && *id != 9));
}

#[test]
fn replies_end_where_the_model_ends() {
    let model = tiny(8);
    let config = DecodeConfig { max_new_tokens: 40, ..DecodeConfig::default() };
    // Long and short prompts together: the long ones end first and have no position left.
    let prompts: Vec<Vec<u32>> = (1..8).map(|len| vec![3; len]).collect();
    let replies = Decoder::new(&model, config, &[]).unwrap().generate(&prompts).unwrap();
    assert_eq!(replies.iter().map(Vec::len).collect::<Vec<_>>(), [7, 6, 5, 4, 3, 2, 1]);
}

#[test]
fn bad_prompts_are_named_and_the_decoder_stays_usable() {
    let model = tiny(8);
    let decoder = Decoder::new(&model, DecodeConfig::default(), &[0]).unwrap();
    let message = |prompts: &[Vec<u32>]| decoder.generate(prompts).unwrap_err().to_string();
    assert!(message(&[vec![1], vec![]]).contains("prompt 1: has no tokens"));
    assert!(message(&[vec![1; 8]]).contains("prompt 0: has 8 tokens, the model has 8 positions"));
    assert!(message(&[vec![40]]).contains("token id 40"));
    assert!(decoder.generate(&[]).unwrap().is_empty());
    assert_eq!(decoder.generate(&[vec![1]]).unwrap().len(), 1);
}

#[test]
fn logits_that_are_not_numbers_are_an_error() {
    let mut model = tiny(8);
    let _ = model.parameters_mut().flat_mut().fill_(f64::NAN);
    let decoder = Decoder::new(&model, DecodeConfig::default(), &[0]).unwrap();
    assert!(decoder.generate(&[vec![1]]).unwrap_err().to_string().contains("NaN as a logit"));
}
