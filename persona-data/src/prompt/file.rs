//! The TOML file behind a prompt set: its keys, its compiled templates, and the checks made when it is loaded.

use minijinja::syntax::SyntaxConfig;
use minijinja::{AutoEscape, Environment, UndefinedBehavior};
use serde::Deserialize;

use super::{ChatFormat, Highlight, PromptKind, PromptSet};
use crate::dialogue::{Role, Utterance};
use crate::error::{Error, Result};

/// Template instructions per rendering. A history of a thousand turns takes some ten thousand.
const FUEL: u64 = 1_000_000;

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SetFile {
    pub(super) name: String,
    pub(super) language: String,
    pub(super) none_phrase: String,
    pub(super) number_mark: String,
    pub(super) target_prefix: String,
    chat: Option<String>,
    chat_template: Option<String>,
    pub(super) tags: Tags,
    pub(super) cues: Cues,
    pub(super) templates: Templates,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Tags {
    pub(super) agent: String,
    pub(super) partner: String,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Cues {
    pub(super) selection: String,
    pub(super) response: String,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Templates {
    pub(super) selection: String,
    pub(super) generation: String,
    pub(super) history_only: String,
}

impl SetFile {
    pub(super) fn parse(text: &str, origin: &str) -> Result<Self> {
        let file: Self = toml::from_str(text)
            .map_err(|source| Error::PromptSetSyntax { file: origin.to_owned(), source: Box::new(source) })?;
        let bad = |key, problem: &str| Err(key_error(origin, key, problem.to_owned()));
        if !file.none_phrase.chars().any(char::is_alphanumeric) {
            return bad("none_phrase", "there is no letter in it, so no answer could be told from it");
        }
        let singles = [
            ("none_phrase", &file.none_phrase),
            ("number_mark", &file.number_mark),
            ("tags.agent", &file.tags.agent),
            ("tags.partner", &file.tags.partner),
            ("cues.selection", &file.cues.selection),
            ("cues.response", &file.cues.response),
        ];
        for (key, value) in singles {
            if value.is_empty() || value.contains(['\n', '\r']) {
                return bad(key, "it must hold text, on one line");
            }
        }
        if file.tags.agent == file.tags.partner {
            return bad("tags.partner", "both speakers have the same tag");
        }
        if !file.target_prefix.trim().is_empty() {
            return bad("target_prefix", "it may hold white space only");
        }
        Ok(file)
    }

    pub(super) fn chat_format(&self, origin: &str) -> Result<ChatFormat> {
        match (&self.chat, &self.chat_template) {
            (Some(_), Some(_)) => {
                let problem = "`chat` names a built-in format already; keep one of the two".to_owned();
                Err(key_error(origin, "chat_template", problem))
            }
            (_, Some(template)) => Ok(ChatFormat::new(self.name.as_str(), template.as_str())),
            (name, None) => ChatFormat::builtin(name.as_deref().unwrap_or("none")),
        }
    }
}

/// The templates of a set and its chat format, each under its key.
pub(super) fn compile(file: &SetFile, chat: &ChatFormat, origin: &str) -> Result<Environment<'static>> {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    environment.set_fuel(Some(FUEL));
    let sources = [
        ("selection", file.templates.selection.as_str()),
        ("generation", &file.templates.generation),
        ("history_only", &file.templates.history_only),
        ("chat", chat.template()),
    ];
    let syntax = syntax().map_err(|source| template_error(source, "templates", origin))?;
    environment.set_syntax(syntax);
    for (key, source) in sources {
        environment
            .add_template_owned(key, source.to_owned())
            .map_err(|source| template_error(source, key, origin))?;
    }
    Ok(environment)
}

/// As transformers renders chat templates; that a template's last line break is dropped is the engine's default.
pub(super) fn syntax() -> Result<SyntaxConfig, minijinja::Error> {
    SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()
}

pub(super) fn template_error(source: minijinja::Error, key: &'static str, origin: &str) -> Error {
    let line = source.line().unwrap_or(1);
    Error::Template { file: origin.to_owned(), key, line, source: Box::new(source) }
}

fn key_error(origin: &str, key: &'static str, problem: String) -> Error {
    Error::PromptSetKey { file: origin.to_owned(), key, problem }
}

impl PromptSet {
    /// Renders every template with made-up dialogues, and looks for everything that has to be in the result.
    pub(super) fn check(&self) -> Result<()> {
        let persona = ["qd one".to_owned(), "qd two".to_owned()];
        let turn = |role, text: &str| Utterance { role, text: text.to_owned() };
        let history =
            [turn(Role::Partner, "qt one"), turn(Role::Agent, "qt two"), turn(Role::Partner, "qt three")];
        let turns = ["qt one", "qt two", "qt three"];
        let highlight = "qh text";

        let must_show = |key: &'static str, text: &str, wanted: &[&str]| {
            for piece in wanted {
                if !text.contains(piece) {
                    let problem =
                        format!("a trial prompt does not show {piece:?}, which it must; it reads {text:?}");
                    return Err(key_error(&self.origin, key, problem));
                }
            }
            Ok(())
        };
        let wrapped = self.wrap("qp prompt", "qp cue")?;
        if wrapped.matches("qp prompt").count() != 1 || wrapped.matches("qp cue").count() != 1 {
            let problem =
                format!("the chat format must show `prompt` and `cue` once each; a trial reads {wrapped:?}");
            return Err(key_error(&self.origin, "chat", problem));
        }
        let numbered = [self.numbered(0, "qd one"), self.numbered(1, "qd two")];
        let descriptions = numbered.each_ref().map(String::as_str);
        let selection = self.selection(&persona, &history)?;
        must_show("selection", &selection, &turns)?;
        must_show("selection", &selection, &descriptions)?;
        must_show("selection", &selection, &[self.none_phrase(), &self.file.cues.selection])?;

        let generation = self.generation(&persona, &history, Highlight::Text(highlight))?;
        must_show("generation", &generation, &turns)?;
        must_show("generation", &generation, &descriptions)?;
        must_show("generation", &generation, &[highlight, &self.file.cues.response])?;
        must_show("history_only", &self.history_only(&history)?, &turns)?;

        // What branches are there on empty lists and on the highlight must render as well.
        let kinds = [
            PromptKind::Selection,
            PromptKind::Generation(Highlight::Absent),
            PromptKind::Generation(Highlight::None),
            PromptKind::HistoryOnly,
        ];
        for kind in kinds {
            self.render(kind, &[], &[])?;
            self.render(kind, &persona, &[])?;
            self.render(kind, &[], &history)?;
            self.render(kind, &persona, &history)?;
        }
        Ok(())
    }
}
