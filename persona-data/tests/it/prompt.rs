//! Every prompt that ships, to the letter, and sets of the user's own.

use std::fmt::Write as _;

use persona_data::{ChatFormat, Error, Highlight, MatchedBy, PromptSet, Role, Selection, Utterance};

fn history(texts: &[&str]) -> Vec<Utterance> {
    let role = |at: usize| if (texts.len() - at) % 2 == 1 { Role::Partner } else { Role::Agent };
    texts
        .iter()
        .enumerate()
        .map(|(at, text)| Utterance { role: role(at), text: (*text).to_owned() })
        .collect()
}

fn persona(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

/// A set's persona and dialogue in its own language.
fn material(name: &str) -> (Vec<String>, Vec<Utterance>) {
    match name {
        "english" => (
            persona(&["I have a turtle named Timothy.", "I love to meet new people."]),
            history(&["Hi! How are you?", "Good, just fed my pets.", "Oh, what pets do you have?"]),
        ),
        "chinese" => (
            persona(&["我养了一只乌龟。", "我喜欢认识新朋友。"]),
            history(&["你好！最近怎么样？", "挺好的，刚喂完宠物。", "哦，你养了什么宠物？"]),
        ),
        "japanese" => (
            persona(&["亀を飼っています。", "新しい人に会うのが好きです。"]),
            history(&[
                "こんにちは！元気ですか？",
                "元気です。ペットに餌をあげたところです。",
                "何を飼っているんですか？",
            ]),
        ),
        other => panic!("no material for {other}"),
    }
}

/// All prompts and targets of a set, each under a heading.
fn everything(prompts: &PromptSet) -> String {
    let (persona, history) = material(prompts.name());
    let mut text = String::new();
    let mut add = |heading: &str, prompt: String| writeln!(text, "=== {heading}\n{prompt}|").unwrap();
    add("selection", prompts.selection(&persona, &history).unwrap());
    add("selection, no persona, no history", prompts.selection(&[], &[]).unwrap());
    let highlights = [
        ("absent", Highlight::Absent),
        ("none", Highlight::None),
        ("description", Highlight::Description(1)),
        ("text", Highlight::Text(" free\ntext ")),
    ];
    for (name, highlight) in highlights {
        add(
            &format!("generation, highlight {name}"),
            prompts.generation(&persona, &history, highlight).unwrap(),
        );
        add(
            &format!("generation, highlight {name}, no history"),
            prompts.generation(&persona, &[], highlight).unwrap(),
        );
    }
    add("generation, no persona, no history", prompts.generation(&[], &[], Highlight::None).unwrap());
    add("history_only", prompts.history_only(&history).unwrap());
    add("history_only, no history", prompts.history_only(&[]).unwrap());
    add("selection target", prompts.selection_target(&persona, Some(0)).unwrap());
    add("selection target, none", prompts.selection_target(&persona, None).unwrap());
    add("response target", prompts.response_target(" A turtle. "));
    text
}

#[test]
fn shipped_prompts_are_pinned() {
    for name in PromptSet::BUILTIN {
        let prompts = PromptSet::builtin(name).unwrap();
        assert_eq!(prompts.name(), name);
        insta::assert_snapshot!(name, everything(&prompts));
        let llama = prompts.with_chat(ChatFormat::builtin("llama3").unwrap()).unwrap();
        insta::assert_snapshot!(format!("{name}_llama3"), everything(&llama));
    }
}

#[test]
fn english_prompts_are_short() {
    let prompts = PromptSet::english().unwrap();
    let (persona, history) = material("english");
    let words = |text: &str| text.split_whitespace().count();
    let content: usize = persona.iter().map(|text| words(text)).sum::<usize>()
        + history.iter().map(|turn| words(&turn.text)).sum::<usize>();
    let overhead = |prompt: String| words(&prompt) - content;
    assert!(overhead(prompts.selection(&persona, &history).unwrap()) < 40);
    // The highlighted description stands there twice.
    let highlighted = prompts.generation(&persona, &history, Highlight::Description(1)).unwrap();
    assert!(overhead(highlighted) - words(&persona[1]) < 35);
}

#[test]
fn a_highlight_outside_the_persona_is_an_error() {
    let prompts = PromptSet::english().unwrap();
    let persona = persona(&["I ski."]);
    let error = prompts.generation(&persona, &[], Highlight::Description(1)).unwrap_err();
    assert!(matches!(error, Error::HighlightIndex { index: 1, descriptions: 1 }), "{error}");
    assert!(prompts.selection_target(&persona, Some(1)).is_err());
}

#[test]
fn text_is_never_taken_for_a_template_or_a_turn() {
    let prompts = PromptSet::english().unwrap();
    let prompt = prompts
        .generation(
            &persona(&["I {{ agent }} <b>"]),
            &history(&["a\r\nperson2: b\u{2028}c"]),
            Highlight::Absent,
        )
        .unwrap();
    assert!(prompt.contains("1. I {{ agent }} <b>\n"), "{prompt}");
    assert!(prompt.contains("\nperson1: a person2: b c\nperson2:"), "{prompt}");
}

#[test]
fn every_selection_target_is_matched_back() {
    for name in PromptSet::BUILTIN {
        let prompts = PromptSet::builtin(name).unwrap();
        let (persona, _) = material(name);
        for choice in [None, Some(0), Some(1)] {
            let target = prompts.selection_target(&persona, choice).unwrap();
            let how = if choice.is_some() { MatchedBy::Number } else { MatchedBy::NonePhrase };
            assert_eq!(prompts.match_selection(&target, &persona), Selection { choice, how });
        }
    }
}

#[test]
fn fingerprints_tell_sets_and_chat_formats_apart() {
    let mut seen = std::collections::BTreeSet::new();
    for name in PromptSet::BUILTIN {
        let prompts = PromptSet::builtin(name).unwrap();
        assert_eq!(prompts.fingerprint(), PromptSet::builtin(name).unwrap().fingerprint());
        seen.insert(prompts.fingerprint());
        seen.insert(prompts.with_chat(ChatFormat::builtin("llama3").unwrap()).unwrap().fingerprint());
    }
    assert_eq!(seen.len(), 6);
    assert!(seen.iter().all(|print| print.len() == 64));
}

const OWN: &str = r#"
name = "own"
language = "en"
none_phrase = "Nothing."
number_mark = ") "
target_prefix = " "

[tags]
agent = "B"
partner = "A"

[cues]
selection = "Fact:"
response = "B:"

[templates]
selection = """
{{ none_phrase }} {{ persona | join(" ") }}
{% for turn in history %}
{{ turn.tag }}: {{ turn.text }}
{% endfor %}
"""
generation = """
{{ persona | join(" ") }}
{% for turn in history %}
{{ turn.tag }}: {{ turn.text }}
{% endfor %}
{{ highlight }}
"""
history_only = "{% for turn in history %}{{ turn.tag }}: {{ turn.text }} {% endfor %}"
"#;

/// The message of loading the own set with one piece of it replaced.
fn refused(from: &str, to: &str) -> String {
    assert!(OWN.contains(from), "{from:?} is not in the set");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("own.toml");
    std::fs::write(&path, OWN.replacen(from, to, 1)).unwrap();
    let message = PromptSet::from_file(&path).unwrap_err().to_string();
    assert!(message.contains("own.toml"), "{message}");
    message
}

#[test]
fn a_set_of_the_users_own() {
    let prompts = PromptSet::from_toml(OWN, "own.toml").unwrap();
    let prompt =
        prompts.generation(&persona(&["x", "y"]), &history(&["hi"]), Highlight::Description(1)).unwrap();
    assert_eq!(prompt, "1) x 2) y\nA: hi\n2) y\nB:");
    assert_eq!(prompts.match_selection("2) y", &persona(&["x", "y"])).choice, Some(1));

    let chat = "chat_template = \"<s>[{{ prompt }}] {{ cue }}\"\nname = \"own\"";
    let own_chat = PromptSet::from_toml(&OWN.replacen("name = \"own\"", chat, 1), "own.toml").unwrap();
    assert_eq!(own_chat.history_only(&history(&["hi"])).unwrap(), "<s>[A: hi] B:");
    // White space as transformers has it: a tag leaves no line behind, and the last line break is dropped.
    let blocks = ChatFormat::new("blocks", "{% if cue %}\n<s>{{ prompt }}\n  {% endif %}\n{{ cue }}\n");
    let blocks = prompts.with_chat(blocks).unwrap();
    assert_eq!(blocks.history_only(&history(&["hi"])).unwrap(), "<s>A: hi\nB:");
}

#[test]
fn a_faulty_set_is_refused_with_file_key_and_line() {
    let cases = [
        // broken TOML, an unknown key, a missing key
        ("[tags]", "[tags", "line"),
        ("agent = ", "agnet = ", "agnet"),
        ("number_mark = \") \"", "", "number_mark"),
        // values that cannot work
        ("\"Nothing.\"", "\"...\"", "none_phrase"),
        ("partner = \"A\"", "partner = \"B\"", "tags.partner"),
        ("response = \"B:\"", "response = \"\"", "cues.response"),
        ("target_prefix = \" \"", "target_prefix = \"x\"", "target_prefix"),
        ("name = \"own\"", "name = \"own\"\nchat = \"none\"\nchat_template = \"\"", "chat_template"),
        ("name = \"own\"", "name = \"own\"\nchat_template = \"{{ cue }}\"", "chat"),
        // templates that do not compile, do not render, never end, or hide what they should show
        ("{{ persona | join(\" \") }}\n{%", "{{ persona | join(\" \") }\n{%", "selection, line 1"),
        ("{{ highlight }}", "{{ hilight }}", "generation, line 5"),
        (
            "{{ highlight }}",
            "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
            "fuel",
        ),
        ("{{ highlight }}", "{% if highlight %}{% endif %}", "generation: a trial prompt does not show"),
        ("{{ none_phrase }} {{ persona", "{{ persona", "selection: a trial prompt does not show"),
        ("history_only = \"{% for", "history_only = \"{{ persona }}{% for", "history_only, line 1"),
        ("{{ turn.text }} {% endfor %}\"", "{% endfor %}\"", "history_only: a trial prompt does not show"),
    ];
    for (from, to, expected) in cases {
        let message = refused(from, to);
        assert!(message.contains(expected), "{from:?} -> {to:?}: {message}");
    }
}

#[test]
fn names_and_files_that_do_not_exist() {
    assert!(matches!(PromptSet::builtin("klingon"), Err(Error::UnknownPromptSet { .. })));
    assert!(matches!(PromptSet::from_file("no/such/set.toml"), Err(Error::Open { .. })));
    let bad = ChatFormat::new("bad", "{{ prompt }}{{ cue }}{{ system }}");
    let error = PromptSet::english().unwrap().with_chat(bad).unwrap_err();
    assert!(matches!(error, Error::Template { key: "chat", line: 1, .. }), "{error}");
}
