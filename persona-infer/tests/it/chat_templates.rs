//! Chats that transformers has rendered.

use persona_data::{ChatOptions, ChatTemplate};

use crate::parity;

#[test]
fn parity_chat_template() {
    parity::for_each("chat_template", |case| {
        let token = |name: &str| case.json[name].as_str().unwrap();
        let special = [("bos_token", token("bos_token")), ("eos_token", token("eos_token"))];
        for row in case.json["rows"].as_array().unwrap() {
            let name = row["template"].as_str().unwrap();
            let template =
                ChatTemplate::new(case.json["templates"][name].as_str().unwrap(), &special).unwrap();
            let add_generation_prompt = row["add_generation_prompt"].as_bool().unwrap();
            let options = ChatOptions { add_generation_prompt, ..ChatOptions::default() };
            let text = template.render(&row["messages"], &options).unwrap();
            assert_eq!(text, row["text"].as_str().unwrap(), "{name} of {}", case.folder.display());
        }
        true
    });
}
