//! Select-then-Generate on a model that was taught one persona by heart.

use persona_data::{
    BpeOptions, EncodeOptions, EncodedExample, Example, ExampleEncoder, PromptSet, ReplyGenerator, Role,
    Task, Utterance, train_byte_level_bpe,
};
use persona_infer::{
    DecodeConfig, Decoder, Error, SelectThenGenerate, Strategy, TextGenerator, score_targets,
};
use persona_model::{CausalLm, Gpt2, Gpt2Config, Model, TargetBatchBuilder};
use tch::{Device, Kind, Tensor};

fn example(question: &str, response: &str, relevant: &[usize]) -> Example {
    Example {
        id: question.into(),
        persona: vec!["I have a turtle.".into(), "I work in a bank.".into()],
        history: vec![Utterance { role: Role::Partner, text: question.into() }],
        response: response.into(),
        relevant: Some(relevant.to_vec()),
        candidates: Vec::new(),
    }
}

fn examples() -> Vec<Example> {
    vec![
        example("Any pets?", "A turtle!", &[0]),
        example("Your job?", "At the bank.", &[1]),
        example("Nice day.", "It is.", &[]),
    ]
}

fn encoder() -> ExampleEncoder {
    let prompts = PromptSet::english().unwrap();
    let corpus: Vec<String> = examples()
        .iter()
        .flat_map(|e| [prompts.selection(&e.persona, &e.history).unwrap(), e.response.clone()])
        .collect();
    let options = BpeOptions { vocab_size: 400, ..BpeOptions::default() };
    let tokenizer = train_byte_level_bpe(corpus.into_iter(), &options).unwrap();
    ExampleEncoder::new(&tokenizer, &prompts, EncodeOptions { max_length: 256, ..EncodeOptions::default() })
        .unwrap()
}

/// A model that knows the examples by heart, by plain gradient steps.
fn learned(encoder: &ExampleEncoder) -> Gpt2 {
    let config = Gpt2Config {
        vocab_size: encoder.tokenizer().vocab_size(),
        n_positions: 256,
        n_embd: 32,
        n_layer: 2,
        n_head: 2,
        ..Gpt2Config::default()
    };
    let model = Gpt2::new(config, 1, Device::Cpu, Kind::Float).unwrap();
    model.parameters().set_trainable(true).unwrap();
    let (data, _) =
        encoder.encode_all(&examples(), &[Task::Selection, Task::Generation, Task::HistoryOnly]).unwrap();
    let mut builder = TargetBatchBuilder::default();
    for item in &data {
        builder.prompt(&item.source, &[&item.target]);
    }
    let batch = builder.build(model.limits(), Device::Cpu).unwrap();
    let mut steps = Vec::new();
    for step in 0..300 {
        let loss = batch.log_probs(&model, false).unwrap().neg().mean(Kind::Float);
        steps.push(loss.double_value(&[]) as f32);
        let gradients = Tensor::run_backward(&[loss], model.parameters().leaves(), false, false);
        let _no_grad = tch::no_grad_guard();
        for (leaf, gradient) in model.parameters().leaves().iter().zip(gradients) {
            // The sign alone: enough for learning by heart, without an optimiser.
            let size = 5e-3 * 0.985f64.powi(step);
            let _ = leaf.shallow_clone().f_sub_(&(gradient.sign() * size)).unwrap();
        }
        if steps.last().is_some_and(|loss| *loss < 0.02) {
            break;
        }
    }
    assert!(*steps.last().unwrap() < 0.1, "{steps:?}");
    model.parameters().set_trainable(false).unwrap();
    model
}

#[test]
fn the_strategies_select_what_they_say() {
    let encoder = encoder();
    let model = learned(&encoder);
    let config = DecodeConfig { max_new_tokens: 16, ..DecodeConfig::default() };
    let generator = TextGenerator::new(&model, &encoder, config).unwrap();
    let own = SelectThenGenerate::new(generator);

    let replies = own.replies(&examples()).unwrap();
    let chosen: Vec<Option<usize>> =
        replies.iter().map(|reply| reply.selection.as_ref().unwrap().choice).collect();
    assert_eq!(chosen, [Some(0), Some(1), None]);
    let texts: Vec<&str> = replies.iter().map(|reply| reply.text.as_str()).collect();
    assert_eq!(texts, ["A turtle!", "At the bank.", "It is."]);
    let (answer, _) = replies[1].selection.as_ref().unwrap().answer.as_ref().unwrap();
    assert!(answer.contains("I work in a bank."), "{answer}");

    let alone = own.reply(&examples()[1].persona, &examples()[1].history).unwrap();
    assert_eq!(alone.text, "At the bank.");

    let by = |strategy| own.strategy(strategy).selections(&examples()).unwrap();
    assert!(by(Strategy::NotSelect).iter().all(Option::is_none));
    let oracle: Vec<Option<usize>> =
        by(Strategy::Oracle).iter().map(|s| s.as_ref().unwrap().choice).collect();
    assert_eq!(oracle, [Some(0), Some(1), None]);
    let many: Vec<Example> = (0..40).map(|_| examples()[0].clone()).collect();
    let random = own.strategy(Strategy::Random(3)).selections(&many).unwrap();
    let zeros = random.iter().filter(|s| s.as_ref().unwrap().choice == Some(0)).count();
    assert!((10..30).contains(&zeros), "{zeros} of 40");
    assert_eq!(random, own.strategy(Strategy::Random(3)).selections(&many).unwrap());

    let mut generator = generator;
    let prompt = encoder.prompts().history_only(&examples()[0].history).unwrap();
    assert_eq!(generator.replies(&[prompt]).unwrap(), ["A turtle!"]);

    let (data, _) = encoder.encode_all(&examples(), &[Task::Generation]).unwrap();
    let known = score_targets(&model, &data, 2).unwrap();
    let strange = EncodedExample { target: data[1].target.clone(), ..data[0].clone() };
    let strange = score_targets(&model, &[strange], 2).unwrap()[0];
    assert!(known[0].log_prob / known[0].tokens as f64 > -0.5);
    assert!(strange.log_prob / (strange.tokens as f64) < -1.0, "{strange:?}");
}

#[test]
fn a_tokenizer_of_another_checkpoint_and_prompts_without_room_are_errors() {
    let encoder = encoder();
    let config = Gpt2Config {
        vocab_size: 100,
        n_positions: 256,
        n_embd: 8,
        n_layer: 1,
        n_head: 1,
        ..Gpt2Config::default()
    };
    let small = Gpt2::new(config.clone(), 0, Device::Cpu, Kind::Float).unwrap();
    let error = TextGenerator::new(&small, &encoder, DecodeConfig::default()).unwrap_err();
    assert!(matches!(error, Error::Data(_)) && error.to_string().contains("100"), "{error}");

    let model = Gpt2::new(Gpt2Config { vocab_size: 400, ..config }, 0, Device::Cpu, Kind::Float).unwrap();
    let config = DecodeConfig { max_new_tokens: 250, ..DecodeConfig::default() };
    let generator = TextGenerator::new(&model, &encoder, config).unwrap();
    let error = SelectThenGenerate::new(generator).replies(&examples()[..1]).unwrap_err();
    assert!(error.to_string().contains("Any pets?"), "the example is named: {error}");
    let line = DecodeConfig { one_line: true, ..DecodeConfig::default() };
    let error = Decoder::new(&model, line, &[0]).unwrap_err().to_string();
    assert!(error.contains("one_line") && error.contains("TextGenerator"), "{error}");
}
