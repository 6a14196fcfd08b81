//! From files of preferences to token ids.

use persona_align::{PreferenceRecord, read_preferences};
use persona_data::{
    BpeOptions, ChatTemplate, EncodeOptions, Error, ExampleEncoder, PromptSet, train_byte_level_bpe,
};

/// Every turn ends in EOS, as a chat model's do.
const TEMPLATE: &str = "{% for m in messages %}<s>{{ m.role }}\n{{ m.content }}</s>{% endfor %}\
                        {% if add_generation_prompt %}<s>assistant\n{% endif %}";

#[test]
fn conversations_and_texts_that_end_in_eos_are_encoded_as_trl_does() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("preferences.jsonl");
    let lines = [
        r#"{"id": 1, "prompt": [{"role": "user", "content": "Sky?"}], "chosen": [{"role": "assistant", "content": "Blue.", "tool_calls": null}], "rejected": [{"role": "assistant", "content": ""}]}"#,
        r#"{"id": 2, "prompt": "Sky?", "chosen": " Blue.</s>", "rejected": " Green."}"#,
    ];
    std::fs::write(&path, lines.join("\n")).unwrap();
    let template = ChatTemplate::new(TEMPLATE, &[]).unwrap();
    let corpus = ["user\nSky?", "assistant\nBlue. Green."].map(String::from);
    let tokenizer = train_byte_level_bpe(corpus.into_iter(), &BpeOptions::default()).unwrap();
    let prompts = PromptSet::english().unwrap();
    let encoder = ExampleEncoder::new(&tokenizer, &prompts, EncodeOptions::default()).unwrap();
    let encoded: Vec<_> = read_preferences(&path)
        .unwrap()
        .into_iter()
        .map(|record| {
            let is_conversation = matches!(record, PreferenceRecord::Conversation(_));
            let pair = record.render(Some(&template)).unwrap();
            if is_conversation {
                encoder.encode_rendered_pair(&pair.id, &pair.prompt, &pair.chosen, &pair.rejected)
            } else {
                encoder.encode_pair(&pair.id, &pair.prompt, &pair.chosen, &pair.rejected)
            }
            .unwrap()
        })
        .collect();
    let ids = |text: &str| tokenizer.encode(text).unwrap();
    assert_eq!((encoded[0].id.as_str(), encoded[1].id.as_str()), ("1", "2"));
    assert_eq!(encoded[0].prompt, ids("<s>user\nSky?</s><s>assistant\n"));
    assert_eq!((&encoded[0].chosen, &encoded[0].rejected), (&ids("Blue.</s>"), &ids("</s>")));
    assert_eq!((&encoded[1].chosen, &encoded[1].rejected), (&ids(" Blue.</s>"), &ids(" Green.</s>")));

    let error = encoder.encode_rendered_pair("p", "a", "b", "").unwrap_err();
    assert!(matches!(error, Error::EmptyTarget { task: "rejected", .. }), "{error}");
    assert!(matches!(encoder.encode_rendered_pair("p", "", "b", "c"), Err(Error::EmptyPrompt { .. })));
    let long = "b ".repeat(600);
    assert!(matches!(encoder.encode_rendered_pair("p", "a", &long, "c"), Err(Error::TooLong { .. })));
}
