//! The whole path with adapters over a base that is read and never written: on a Llama with a chat format, on a GPT-2 that
//! is killed and continued, and what is refused.
#![allow(clippy::unwrap_used, clippy::panic)]

mod small_run;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use persona_align::{read_pairs, reference_log_probs};
use persona_data::{BpeOptions, Example, PromptSet, TextTokenizer, train_byte_level_bpe};
use persona_examples::pipeline::{self, Run};
use persona_examples::progress::Interrupt;
use persona_examples::recipe::Recipe;
use persona_examples::systems::{SystemReplies, reply_to_all};
use persona_examples::workspace::Start;
use persona_examples::{chat, data, pairs};
use persona_infer::Strategy;
use persona_model::{
    Gpt2, Gpt2Config, Llama, LlamaConfig, LoadOptions, Model, load_causal_lm, load_causal_lm_with,
    read_tensors,
};
use serde_json::{Value, json};
use small_run::{dialogues, finish, load, recipe_text};
use tch::{Device, Kind};

/// A tokenizer of the prompts' words.
fn tokenizer() -> TextTokenizer {
    let prompts = PromptSet::english().unwrap();
    let persona = ["I like to ski in the winter.".to_owned(), "I have two dogs.".to_owned()];
    let texts = [prompts.selection(&persona, &[]).unwrap(), "Do you like it? I do, thank you.".to_owned()];
    let options = BpeOptions { vocab_size: 600, min_frequency: 1 };
    train_byte_level_bpe(texts.into_iter(), &options).unwrap()
}

/// A Llama with Llama 3's control tokens.
fn llama(folder: &Path) {
    let tokenizer = tokenizer();
    tokenizer.save(folder).unwrap();
    let mut json: Value =
        serde_json::from_slice(&std::fs::read(folder.join("tokenizer.json")).unwrap()).unwrap();
    let tokens = ["<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"];
    for (at, token) in tokens.iter().enumerate() {
        json["added_tokens"].as_array_mut().unwrap().push(json!({
            "id": tokenizer.vocab_size() + at, "content": token, "special": true, "normalized": false,
            "single_word": false, "lstrip": false, "rstrip": false,
        }));
    }
    std::fs::write(folder.join("tokenizer.json"), json.to_string()).unwrap();
    let config = json!({ "bos_token": tokens[0], "eos_token": tokens[3], "pad_token": tokens[3] });
    std::fs::write(folder.join("tokenizer_config.json"), config.to_string()).unwrap();
    let config = LlamaConfig {
        vocab_size: tokenizer.vocab_size() + tokens.len(),
        max_position_embeddings: 1024,
        hidden_size: 16,
        intermediate_size: 24,
        num_hidden_layers: 2,
        num_attention_heads: 4,
        num_key_value_heads: Some(2),
        initializer_range: 0.1,
        ..LlamaConfig::default()
    };
    Llama::new(config, 3, Device::Cpu, Kind::Float).unwrap().save(folder).unwrap();
}

fn gpt2(folder: &Path) {
    let tokenizer = tokenizer();
    tokenizer.save(folder).unwrap();
    let config = Gpt2Config {
        vocab_size: tokenizer.vocab_size(),
        n_positions: 1024,
        n_embd: 16,
        n_layer: 1,
        n_head: 2,
        ..Gpt2Config::default()
    };
    Gpt2::new(config, 3, Device::Cpu, Kind::Float).unwrap().save(folder).unwrap();
}

/// `[model]` with an adapter on a base.
fn adapted(base: &Path, lora: &str, rest: &str) -> String {
    format!("folder = '{}'\nlora = {{ {lora} }}\n{rest}", base.display())
}

/// A recipe whose trainings have these settings too.
fn recipe(folder: &Path, model: &str, settings: &str) -> (Recipe, String) {
    let path = folder.join("recipe.toml");
    let text = recipe_text(folder, model).replace("steps = 4\n", &format!("steps = 4\n{settings}\n"));
    std::fs::write(&path, text).unwrap();
    Recipe::load(&path).unwrap()
}

fn run(recipe: &(Recipe, String)) -> persona_examples::report::Report {
    match pipeline::run(&recipe.0, &recipe.1, Start::Continue, &Interrupt::default()).unwrap() {
        Run::Finished(report) => *report,
        Run::Interrupted => panic!("nobody interrupted it"),
    }
}

/// The bytes of every file below a folder, by its path in it.
fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let (path, name) = entry.map(|entry| (entry.path(), entry.file_name())).unwrap();
        let name = name.into_string().unwrap();
        if path.is_dir() {
            found.extend(files(&path).into_iter().map(|(inner, bytes)| (format!("{name}/{inner}"), bytes)));
        } else {
            found.insert(name, std::fs::read(&path).unwrap());
        }
    }
    found
}

#[test]
fn a_llama_is_trained_by_adapters_over_one_base_in_its_chat_format() {
    let folder = tempfile::tempdir().unwrap();
    dialogues(folder.path());
    let base = folder.path().join("base");
    llama(&base);
    let before = files(&base);
    let model = adapted(&base, "r = 4, alpha = 8.0, targets = ['q_proj', 'down_proj']", "chat = 'llama3'");
    let recipe = recipe(folder.path(), &model, "learning_rate = 0.02\nlora_plus_ratio = 4.0");
    let report = run(&recipe);
    assert_eq!(report.table.rows.len(), 7);
    assert_eq!(files(&base), before, "the base is never written");
    let fact = |name: &str| &report.facts.iter().find(|(found, _)| found == name).unwrap().1;
    assert!(fact("starting model").contains("held in Float under adapters"), "{}", fact("starting model"));
    assert!(fact("parameters").contains("576 in each adapter"), "{}", fact("parameters"));

    // What is written is an adapter of PEFT's, and nothing of the base.
    let out = folder.path().join("out");
    let name = |layer: usize, matrix: &str| {
        [format!("model.layers.{layer}.self_attn.q_proj"), format!("model.layers.{layer}.mlp.down_proj")]
            .map(|module| format!("{module}.lora_{matrix}.weight"))
    };
    let mut names: Vec<String> =
        [0, 1].iter().flat_map(|&l| [name(l, "A"), name(l, "B")]).flatten().collect();
    names.sort();
    let tensors = |path: &Path| {
        let (tensors, _) = read_tensors(path).unwrap();
        let mut names: Vec<String> = tensors.into_keys().collect();
        names.sort();
        names
    };
    for training in ["plain", "stage1", "align"] {
        let model = out.join(training).join("model");
        let saved = tensors(&model.join("adapter_model.safetensors"));
        let bare: Vec<&str> =
            saved.iter().map(|name| name.strip_prefix("base_model.model.").unwrap()).collect();
        assert_eq!(bare, names);
        assert!(!model.join("model.safetensors").exists());
        let config: Value =
            serde_json::from_slice(&std::fs::read(model.join("adapter_config.json")).unwrap()).unwrap();
        assert_eq!(config["base_model_name_or_path"], base.display().to_string());
        assert_eq!((&config["r"], &config["lora_alpha"]), (&json!(4), &json!(8.0)));
        assert_eq!((&config["peft_type"], &config["task_type"]), (&json!("LORA"), &json!("CAUSAL_LM")));
        assert_eq!(tensors(&out.join(training).join("checkpoints/step-00000004/weights.safetensors")), names);
    }
    let adapter =
        |training: &str| std::fs::read(out.join(training).join("model/adapter_model.safetensors")).unwrap();
    assert!(adapter("plain") != adapter("stage1") && adapter("stage1") != adapter("align"));

    // The reference is stage 1's adapter: not the base, and not the policy.
    let first = report.checks.iter().find(|check| check.name == "Stage 2: first loss").unwrap();
    assert!(first.holds, "{first:?}");
    let english = PromptSet::english().unwrap();
    let (mut stage1, encoder) = chat::load(&out.join("stage1/model"), &english, Device::Cpu).unwrap();
    let made = read_pairs(&out.join("pairs.jsonl")).unwrap();
    assert!(made.iter().all(|pair| pair.prompt.starts_with("<|begin_of_text|><|start_header_id|>user")));
    let (encoded, _) = pairs::encode(&made, &encoder).unwrap();
    let (held, _) = read_tensors(&out.join("pairs.reference.safetensors")).unwrap();
    let held = Vec::<f32>::try_from(held["sums"].view([-1])).unwrap();
    let chosen = |model: &dyn persona_model::CausalLm| -> Vec<f32> {
        let referenced = reference_log_probs(model, encoded.clone(), 4, None).unwrap();
        referenced.iter().map(|pair| pair.chosen).collect()
    };
    let off = |sums: Vec<f32>| {
        let held = held.iter().step_by(4);
        sums.iter().zip(held).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
    };
    assert!(off(chosen(&stage1)) < 1e-3, "{}", off(chosen(&stage1)));
    stage1.adapters_mut().activate(None).unwrap();
    assert!(off(chosen(&stage1)) > 0.1, "{}", off(chosen(&stage1)));

    // Base and adapter, loaded from the run's folder, reply as the run did.
    let (pal, encoder) = chat::load(&out.join("align/model"), &english, Device::Cpu).unwrap();
    let held: Value = serde_json::from_slice(&std::fs::read(out.join("replies/PAL.json")).unwrap()).unwrap();
    let held: SystemReplies = serde_json::from_value(held["value"].clone()).unwrap();
    let ids: Vec<&str> = held.replies.iter().map(|reply| reply.id.as_str()).collect();
    let examples: Vec<Example> = data::load(&recipe.0, None).unwrap().test;
    let examples: Vec<Example> =
        ids.iter().map(|id| examples.iter().find(|example| example.id == *id).unwrap().clone()).collect();
    let again = reply_to_all("PAL", &*pal, &encoder, recipe.0.decode, Strategy::Select, &examples).unwrap();
    let texts = |replies: &SystemReplies| -> Vec<String> {
        replies.replies.iter().map(|reply| reply.text.clone()).collect()
    };
    assert_eq!(texts(&held), texts(&again));
}

/// Where the child process of the test below finds its recipe.
const RECIPE: &str = "PERSONA_TEST_RECIPE";

/// The child: runs the path that the parent names. Alone, it has nothing to do.
#[test]
fn child_that_is_killed() {
    let Some(path) = std::env::var_os(RECIPE) else { return };
    let (recipe, text) = Recipe::load(Path::new(&path)).unwrap();
    pipeline::run(&recipe, &text, Start::Continue, &Interrupt::default()).unwrap();
}

#[test]
fn a_killed_run_of_adapters_on_a_gpt2_ends_in_the_same_bytes() {
    let base = tempfile::tempdir().unwrap();
    gpt2(base.path());
    let before = files(base.path());
    let model = adapted(base.path(), "r = 2, alpha = 4.0, dropout = 0.2, targets = ['c_attn']", "");
    let (whole, killed) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let settings = "learning_rate = 0.02\nprecision = 'bf16'\ngradient_checkpointing = true";
    let [left_alone, continued] = [whole.path(), killed.path()].map(|folder| {
        dialogues(folder);
        recipe(folder, &model, settings)
    });
    let report = run(&left_alone);
    let (_, started) = report.facts.iter().find(|(name, _)| name == "starting model").unwrap();
    assert!(started.contains("held in BFloat16"), "{started}");

    for training in ["plain", "stage1", "align"] {
        let mut child = std::process::Command::new(std::env::current_exe().unwrap());
        child.args(["--exact", "child_that_is_killed"]).env(RECIPE, killed.path().join("recipe.toml"));
        let mut child = child.stdout(std::process::Stdio::null()).spawn().unwrap();
        let half = killed.path().join(format!("out/{training}/checkpoints/step-00000002"));
        while !half.exists() {
            assert!(child.try_wait().unwrap().is_none(), "the child ended before {training} was half done");
            std::thread::sleep(Duration::from_millis(1));
        }
        child.kill().unwrap();
        assert!(!child.wait().unwrap().success());
    }
    assert_eq!(run(&continued).table, report.table);
    assert_eq!(files(base.path()), before, "the base is never written");
    let kept = |folder: &Path| {
        let mut files = files(&folder.join("out"));
        // Seconds are measured, and the recipe names its folder.
        files.retain(|name, _| {
            !name.starts_with("report.") && !name.ends_with("log.jsonl") && name != "recipe.toml"
        });
        files
    };
    let (one, other) = (kept(whole.path()), kept(killed.path()));
    assert_eq!(one.keys().collect::<Vec<_>>(), other.keys().collect::<Vec<_>>());
    assert!(one.contains_key("align/checkpoints/step-00000004/optimizer.safetensors"));
    for (name, bytes) in &one {
        if name.ends_with(".reference.safetensors") {
            // What they were made of stands in the header, in any order.
            let [one, other] = [whole.path(), killed.path()].map(|folder| {
                let (tensors, made_of) = read_tensors(&folder.join("out").join(name)).unwrap();
                (Vec::<f32>::try_from(tensors["sums"].view([-1])).unwrap(), made_of)
            });
            assert_eq!(one, other, "{name}");
        } else {
            assert!(*bytes == other[name], "{name} differs");
        }
    }
}

/// The shipped recipe's own settings, with smaller numbers: bfloat16, gradient checkpointing, LoRA+, given parts.
#[test]
fn the_shipped_recipe_for_llama_trains_a_small_one() {
    let folder = tempfile::tempdir().unwrap();
    dialogues(folder.path());
    let base = folder.path().join("base");
    llama(&base);
    let place = |name: &str| folder.path().join(name).display().to_string();
    let dialogues = std::fs::read_to_string(place("dialogues.jsonl")).unwrap();
    let lines: Vec<&str> = dialogues.lines().collect();
    for (name, lines) in [("train", &lines[..8]), ("valid", &lines[8..13]), ("test", &lines[13..])] {
        std::fs::write(place(name), lines.join("\n") + "\n").unwrap();
    }
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("recipes/llama31_8b_lora.toml");
    let mut text = std::fs::read_to_string(shipped).unwrap();
    for (from, to) in [
        ("target/pal-llama31-8b", place("out").as_str()),
        ("data/personachat/train_self_original.txt", &place("train")),
        ("data/personachat/valid_self_original.txt", &place("valid")),
        ("data/personachat/test_self_original.txt", &place("test")),
        ("models/llama-3.1-8b-instruct", &base.display().to_string()),
        ("device = \"auto\"", "device = \"cpu\""),
        ("{ examples = 6500 }", "{ examples = 10 }"),
        ("steps = 768 ", "steps = 2 "),
        ("steps = 1539 ", "steps = 2 "),
        ("steps = 153 ", "steps = 2 "),
        ("batch_size = 256", "batch_size = 16"),
        ("\nbatch_size = 128", "\nbatch_size = 16"),
        ("warmup_steps = 100", "warmup_steps = 0"),
        ("max_new_tokens = 40", "max_new_tokens = 6"),
    ] {
        assert!(text.contains(from), "{from}");
        text = text.replace(from, to);
    }
    let path = folder.path().join("recipe.toml");
    std::fs::write(&path, text).unwrap();
    let report = run(&Recipe::load(&path).unwrap());
    let (_, started) = report.facts.iter().find(|(name, _)| name == "starting model").unwrap();
    assert!(started.contains("held in BFloat16"), "{started}");
    let first = report.checks.iter().find(|check| check.name == "Stage 2: first loss").unwrap();
    assert!(first.holds, "{first:?}");
}

#[test]
fn a_llama_is_trained_whole_and_a_base_in_four_bits_is_read_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    dialogues(folder.path());
    let base = folder.path().join("base");
    llama(&base);
    let whole = format!("folder = '{}'\nchat = 'llama3'", base.display());
    let report = run(&recipe(folder.path(), &whole, "learning_rate = 1e-3"));
    let first = report.checks.iter().find(|check| check.name == "Stage 2: first loss").unwrap();
    assert!(first.holds, "{first:?}");
    let (model, _) =
        load_causal_lm(&folder.path().join("out/align/model"), Device::Cpu, Kind::Float).unwrap();
    let (start, _) = load_causal_lm(&base, Device::Cpu, Kind::Float).unwrap();
    assert_ne!(model.fingerprint().unwrap(), start.fingerprint().unwrap());

    let (quantized, _) = load_causal_lm_with(&base, Device::Cpu, LoadOptions::nf4(Kind::Float)).unwrap();
    quantized.save(&base).unwrap();
    std::fs::remove_dir_all(folder.path().join("out")).unwrap();
    let adapter = adapted(&base, "r = 4, alpha = 8.0, targets = ['q_proj']", "chat = 'llama3'");
    let report = run(&recipe(folder.path(), &adapter, "learning_rate = 0.02"));
    let (_, started) = report.facts.iter().find(|(name, _)| name == "starting model").unwrap();
    assert!(started.contains("in NF4"), "{started}");
    assert_eq!(report.table.rows.len(), 7);
}

#[test]
fn what_an_adapter_cannot_be_is_named_before_anything_is_written() {
    let folder = tempfile::tempdir().unwrap();
    dialogues(folder.path());
    let base = folder.path().join("base");
    gpt2(&base);
    let message = |model: &str| {
        let (recipe, text) = load(folder.path(), model);
        let ended = pipeline::run(&recipe, &text, Start::Continue, &Interrupt::default());
        format!("{:#}", ended.unwrap_err())
    };
    let lora = "r = 2, alpha = 4.0, targets = ['c_attn', 'q_proj']";
    let error = message(&adapted(&base, lora, ""));
    assert!(error.contains("`model.lora.targets`") && error.contains("`q_proj`"), "{error}");
    assert!(error.contains("c_attn, c_fc, c_proj"), "{error}");
    let error = message(&adapted(&folder.path().join("nowhere"), lora, ""));
    assert!(error.contains("`model.folder`") && error.contains("nowhere"), "{error}");
    let adapter = folder.path().join("adapter");
    std::fs::create_dir(&adapter).unwrap();
    std::fs::write(adapter.join("adapter_config.json"), "{}").unwrap();
    let error = message(&adapted(&adapter, lora, ""));
    assert!(error.contains("`model.folder`") && error.contains("holds an adapter"), "{error}");
    assert!(!folder.path().join("out").exists());
    // A chat format whose control tokens the tokenizer does not have.
    let good = "r = 2, alpha = 4.0, targets = ['c_attn']";
    let error = message(&adapted(&base, good, "chat = 'llama3'"));
    assert!(error.contains("`model.chat`") && error.contains("<|begin_of_text|>"), "{error}");
    assert_eq!(finish(folder.path(), &adapted(&base, good, "")).table.rows.len(), 7);
}
