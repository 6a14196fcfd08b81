//! A chat with a model of a few parameters that knows nothing: what is said and what is not, whatever comes in.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::io::Write;
use std::path::Path;

use persona_data::{BpeOptions, EncodeOptions, ExampleEncoder, PromptSet, Role, train_byte_level_bpe};
use persona_examples::chat::{Chat, ChatOptions, PERSONAS, Saved, given_persona, load};
use persona_infer::DecodeConfig;
use persona_model::{Gpt2, Gpt2Config, Model};
use tch::{Device, Kind};

fn model(positions: usize) -> (Gpt2, ExampleEncoder) {
    let prompts = PromptSet::english().unwrap();
    let texts = [prompts.selection(&given_persona("1").unwrap(), &[]).unwrap()];
    let options = BpeOptions { vocab_size: 400, min_frequency: 1 };
    let tokenizer = train_byte_level_bpe(texts.into_iter(), &options).unwrap();
    let config = Gpt2Config {
        vocab_size: tokenizer.vocab_size(),
        n_positions: positions,
        n_embd: 16,
        n_layer: 1,
        n_head: 2,
        eos_token_id: Some(tokenizer.eos_id()),
        bos_token_id: tokenizer.bos_id(),
        ..Gpt2Config::default()
    };
    let model = Gpt2::new(config, 3, Device::Cpu, Kind::Float).unwrap();
    let options = EncodeOptions { max_length: positions, ..EncodeOptions::default() };
    (model, ExampleEncoder::new(&tokenizer, &prompts, options).unwrap())
}

fn options(select: bool) -> ChatOptions {
    ChatOptions {
        model: "tiny".into(),
        decode: DecodeConfig { max_new_tokens: 8, ..DecodeConfig::default() },
        select,
        history_turns: None,
        terminal: false,
    }
}

fn talk(input: &str, options: ChatOptions) -> (String, Saved) {
    let (model, encoder) = model(700);
    let mut chat = Chat::new(&model, &encoder, options, given_persona("1").unwrap()).unwrap();
    let mut output = Vec::new();
    chat.run(&mut input.as_bytes(), &mut output).unwrap();
    (String::from_utf8(output).unwrap(), chat.saved())
}

#[test]
fn a_reply_follows_its_selection_and_piped_input_draws_no_prompts() {
    let (text, saved) = talk("hello\n", options(true));
    assert!(text.starts_with('[') && !text.contains("you>"), "{text}");
    assert_eq!(saved.turns[0].text, "hello");
    let reply = &saved.turns[1];
    assert_eq!((reply.role, reply.seed), (Role::Agent, None), "greedy");
    assert!(text.contains(&reply.text) && reply.selection.is_some(), "{text} {reply:?}");
    let (plain, saved) = talk("hello\nwhy?\n", options(false));
    assert!(!plain.contains("[no description]"), "{plain}");
    assert!(saved.turns.iter().all(|turn| turn.selection.is_none()));
    assert_eq!(talk("hello\nwhy?\n", options(false)).0, plain, "greedy replies are the same again");
    let (prompted, _) = talk("hello", ChatOptions { terminal: true, ..options(false) });
    assert!(prompted.contains("you> ") && prompted.contains(PERSONAS[0][0]), "{prompted}");
    assert_eq!(talk("", options(true)).0, "", "the end of the input at once");
}

#[test]
fn draws_follow_from_the_seed_and_differ_from_reply_to_reply() {
    let drawn = |seed| {
        let decode = DecodeConfig { temperature: 1.0, seed, max_new_tokens: 12, ..DecodeConfig::default() };
        talk("a\n/reset\na\n", ChatOptions { decode, ..options(false) }).0
    };
    let text = drawn(1);
    assert_eq!(text, drawn(1));
    assert_ne!(text, drawn(2));
    let (first, second) = text.split_once("the dialogue begins anew\n").unwrap();
    assert_ne!(first, second);

    // The saved seed of a reply makes it again.
    let drawn = |seed, input: &str| {
        let decode = DecodeConfig { temperature: 1.0, seed, max_new_tokens: 12, ..DecodeConfig::default() };
        talk(input, ChatOptions { decode, ..options(false) }).1.turns.pop().unwrap()
    };
    let reply = drawn(1, "a\n/reset\na\n");
    assert_eq!(reply.seed, Some(2));
    assert_eq!(drawn(2, "a\n"), reply);
}

#[test]
fn what_cannot_be_done_is_said_and_the_chat_goes_on() {
    let long = "word ".repeat(900);
    let input = format!(
        "\n/nothing\n/save\n/persona 99\n/persona nowhere.txt\n{long}\n/persona {long}\n/persona I ski. | I read.\n/persona\n\
         /help\n/quit\nnot read\n"
    );
    let (text, saved) = talk(&input, options(true));
    let lines: Vec<&str> = text.lines().filter(|line| line.starts_with('!')).collect();
    assert_eq!(lines.len(), 7, "{text}");
    for (line, part) in
        lines.iter().zip(["nothing was said", "/nothing", "/save", "99", "nowhere.txt", "shorter", "shorter"])
    {
        assert!(line.contains(part), "{line}");
    }
    assert!(
        text.contains("  2. I read.") && text.contains("/persona 6: ") && text.contains("/reset"),
        "{text}"
    );
    assert!(!text.contains("not read"), "nothing is read after /quit");
    assert_eq!(saved.persona, ["I ski.", "I read."]);
    assert!(saved.turns.is_empty(), "what did not fit is forgotten");

    let (model, encoder) = model(700);
    let mut chat = Chat::new(&model, &encoder, options(false), given_persona("2").unwrap()).unwrap();
    let mut output = Vec::new();
    chat.run(&mut b"\xff\xfe\n/help\n".as_slice(), &mut output).unwrap();
    assert!(String::from_utf8(output).unwrap().starts_with("! the line is not UTF-8\n/persona"));
}

#[test]
fn a_persona_that_cannot_be_used_is_not_said_to_be_long() {
    let (model, encoder) = model(700);
    let error = Chat::new(&model, &encoder, options(true), vec!["I ski.</s>".into()]).unwrap_err();
    let error = format!("{error:#}");
    assert!(error.contains("cannot be used") && !error.contains("shorter"), "{error}");
}

#[test]
fn old_turns_that_no_longer_fit_are_said_to_be_cut() {
    let line = format!("{}\n", "a b c d e f g h ".repeat(6));
    let (text, saved) = talk(&line.repeat(12), options(false));
    assert_eq!(text.matches("no longer fit").count(), 1, "{text}");
    assert_eq!(saved.turns.iter().filter(|turn| turn.role == Role::Partner).count(), 12);
    let few = ChatOptions { history_turns: Some(1), ..options(false) };
    assert!(!talk(&line.repeat(12), few).0.contains("no longer fit"));
}

#[test]
fn a_dialogue_is_saved_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a dialogue.json");
    let input = format!(
        "hi\n/save {0}\n/save {0}\n/save {1}\n",
        path.display(),
        folder.path().join("no/where").display()
    );
    let (text, saved) = talk(&input, options(true));
    assert!(text.contains("saved: ") && text.contains("is there already"), "{text}");
    assert_eq!(
        text.lines().filter(|line| line.starts_with('!')).count(),
        2 + usize::from(saved.turns.len() < 2)
    );
    let held: Saved = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    assert_eq!((&held, held.model.as_str()), (&saved, "tiny"));
}

#[test]
fn a_reader_that_goes_away_ends_the_chat() {
    struct Gone;
    impl Write for Gone {
        fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
            Err(std::io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let (model, encoder) = model(700);
    let mut chat = Chat::new(&model, &encoder, options(true), given_persona("1").unwrap()).unwrap();
    let error = chat.run(&mut b"hi\n".as_slice(), &mut Gone).unwrap_err();
    assert!(error.downcast_ref::<std::io::Error>().is_some(), "{error}");
}

#[test]
fn a_folder_is_loaded_or_said_to_be_missing() {
    let prompts = PromptSet::english().unwrap();
    let error = load(Path::new("no/model"), &prompts, Device::Cpu).map(drop).unwrap_err().to_string();
    assert!(
        error.contains("no/model") && error.contains("cargo xtask demo") && error.contains("--model"),
        "{error}"
    );
    let folder = tempfile::tempdir().unwrap();
    let error = format!("{:#}", load(folder.path(), &prompts, Device::Cpu).map(drop).unwrap_err());
    assert!(error.contains("config.json"), "{error}");
    let (small, encoder) = model(700);
    small.save(folder.path()).unwrap();
    encoder.tokenizer().save(folder.path()).unwrap();
    let (loaded, encoder) = load(folder.path(), &prompts, Device::Cpu).unwrap();
    let chat = Chat::new(&*loaded, &encoder, options(true), given_persona("3").unwrap());
    assert!(chat.is_ok());

    // A model too short for its persona.
    let (short, encoder) = model(60);
    let error = Chat::new(&short, &encoder, options(true), given_persona("3").unwrap()).unwrap_err();
    assert!(error.to_string().contains("shorter, or give --max-new-tokens less"), "{error}");
    let none = ChatOptions { history_turns: Some(0), ..options(true) };
    let (model, encoder) = model(700);
    assert!(Chat::new(&model, &encoder, none, given_persona("3").unwrap()).is_err());
}
