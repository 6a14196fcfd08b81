//! Chat templates as transformers renders them: `fixtures/chat_templates.json`, made by the script beside it.

use persona_data::{ChatOptions, ChatTemplate, ChatValue};
use serde_json::Value;

#[test]
fn templates_render_as_in_transformers() {
    let text = include_str!("../fixtures/chat_templates.json");
    let fixture: Value = serde_json::from_str(text).unwrap();
    // Keys in the order of the file, as Python has them.
    let ordered = |key: &str| {
        let part = text.split_once(&format!("\n \"{key}\": ")).unwrap().1;
        let mut values = serde_json::Deserializer::from_str(part).into_iter::<ChatValue>();
        values.next().unwrap().unwrap()
    };
    let messages = ordered("messages");
    let options =
        ChatOptions { add_generation_prompt: true, tools: Some(ordered("tools")), ..ChatOptions::default() };
    let mut differ = Vec::new();
    for row in fixture["rows"].as_array().unwrap() {
        let source = row["template"].as_str().unwrap();
        let got = ChatTemplate::new(source, &[("bos_token", "<s>"), ("eos_token", "</s>")])
            .and_then(|template| template.render(&messages, &options));
        if got.as_deref().ok() != row["text"].as_str() {
            differ.push(format!("{source}\n  is {got:?}\n  not {}", row["text"]));
        }
    }
    assert!(differ.is_empty(), "{}", differ.join("\n"));
}
