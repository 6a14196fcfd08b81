//! Chat templates of models: messages to text, as transformers renders them.

use std::path::Path;
use std::time::SystemTime;

use minijinja::value::{Serde, Value, ValueKind};
use minijinja::{AutoEscape, Environment, ErrorKind, UndefinedBehavior};
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use super::chat::ChatFormat;
use super::python;
use crate::error::{Error, Result};

/// Template instructions per rendering. A chat of a thousand messages takes some hundred thousand.
const FUEL: u64 = 10_000_000;

/// The key under which a tokenizer's configuration has the template.
const KEY: &str = "chat_template";

/// The Jinja template with which a chat model was trained: a list of messages becomes its prompt.
///
/// Rendered byte for byte as by transformers' `apply_chat_template(tokenize=False)`: white space around tags, Python's
/// string and dictionary methods, `tojson` as `json.dumps` writes it, `raise_exception`, `strftime_now`, `break` and
/// `continue`, and `{% generation %}` blocks, which mark the assistant's part and render as what they hold. A name that is
/// not there renders as nothing; asking something of it is an error. Three things differ: `~` writes `true` and
/// `none` where Python writes `True` and `None`, tuples print as lists, and a template that runs on without end is an
/// error.
///
/// ```
/// use persona_data::{ChatMessage, ChatOptions, ChatTemplate};
///
/// let text = "{{ bos_token }}{% for m in messages %}[{{ m.role }}] {{ m['content'].strip() }}\n{% endfor %}";
/// let template = ChatTemplate::new(text, &[("bos_token", "<s>")])?;
/// let messages = [ChatMessage::new("user", " Any pets? ")];
/// assert_eq!(template.render(&messages, &ChatOptions::default())?, "<s>[user] Any pets?\n");
/// # Ok::<(), persona_data::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    special_tokens: Vec<(String, String)>,
    source: String,
    origin: String,
}

/// A message of a chat. Templates that know more than a role and a text take any value that serialises to such objects.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChatMessage {
    /// `system`, `user` or `assistant`, by the names that the template knows.
    pub role: String,
    /// The text.
    pub content: String,
}

impl ChatMessage {
    /// A message.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self { role: role.into(), content: content.into() }
    }
}

/// A value for a template; objects keep the order of their keys, which `tojson` shows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ChatValue(Value);

impl ChatValue {
    /// From JSON text.
    ///
    /// # Errors
    /// [`serde_json::Error`] with line and column.
    pub fn from_json(text: &str) -> Result<Self, serde_json::Error> {
        serde_json::from_str(text).map(Self)
    }

    /// From anything that serialises.
    pub fn new(value: impl Serialize) -> Self {
        Self(Value::from(Serde(value)))
    }
}

/// What a template is given besides the messages.
#[derive(Debug, Clone, Default)]
pub struct ChatOptions {
    /// Ends with what an answer of the assistant begins with.
    pub add_generation_prompt: bool,
    /// Leaves the last message open, for the model to go on with it.
    pub continue_final_message: bool,
    /// JSON schemas of tools; `none` in the template where there are none.
    pub tools: Option<ChatValue>,
    /// Documents with `title` and `text`; `none` in the template where there are none.
    pub documents: Option<ChatValue>,
    /// Further variables, which go before the special tokens of the same name.
    pub variables: Vec<(String, ChatValue)>,
    /// The time that `strftime_now` shows, in the system's time zone; the present where it is not given.
    pub now: Option<SystemTime>,
}

/// Stands where the last message ends, to be cut off there.
const CONTINUE: &str = "CONTINUE_FINAL_MESSAGE_TAG ";

impl ChatTemplate {
    /// A template from its text. Special tokens are variables of the template, `bos_token` for example.
    ///
    /// # Errors
    /// [`Error::Template`] with the line when it does not compile.
    pub fn new(source: &str, special_tokens: &[(&str, &str)]) -> Result<Self> {
        let own = |&(name, token): &(&str, &str)| (name.to_owned(), token.to_owned());
        Self::compile(source, special_tokens.iter().map(own).collect(), "the chat template")
    }

    /// The template of a Hugging Face model folder: `chat_template.jinja`, or `chat_template` in
    /// `tokenizer_config.json` (of several the one called `default`), with the special tokens of that file and of
    /// `special_tokens_map.json`.
    ///
    /// # Errors
    /// [`Error::NoChatTemplate`] for a folder without one; [`Error::Open`], [`Error::SideFile`], [`Error::Template`].
    pub fn from_folder(folder: impl AsRef<Path>) -> Result<Self> {
        let folder = folder.as_ref();
        let mut special_tokens: Vec<(String, String)> = Vec::new();
        let mut source = read(&folder.join("chat_template.jinja"))?;
        for name in ["tokenizer_config.json", "special_tokens_map.json"] {
            let path = folder.join(name);
            let Some(text) = read(&path)? else { continue };
            let config: Json =
                serde_json::from_str(&text).map_err(|source| Error::SideFile { path, source })?;
            let Some(config) = config.as_object() else { continue };
            for (key, value) in config.iter().filter(|(key, _)| key.ends_with("_token")) {
                let token = value.as_str().or_else(|| value.get("content")?.as_str());
                if let Some(token) = token
                    && special_tokens.iter().all(|(held, _)| held != key)
                {
                    special_tokens.push((key.clone(), token.to_owned()));
                }
            }
            source = source.or_else(|| of_config(config.get(KEY)?));
        }
        let origin = folder.display().to_string();
        let source = source.ok_or_else(|| Error::NoChatTemplate { folder: origin.clone() })?;
        Self::compile(&source, special_tokens, &origin)
    }

    fn compile(source: &str, special_tokens: Vec<(String, String)>, origin: &str) -> Result<Self> {
        let source = mark_generation(&source.replace("\r\n", "\n").replace('\r', "\n"));
        let mut environment = Environment::new();
        environment.set_undefined_behavior(UndefinedBehavior::Lenient);
        environment.set_auto_escape_callback(|_| AutoEscape::None);
        environment.set_fuel(Some(FUEL));
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.set_formatter(|out, _, value| {
            let text = if value.is_undefined() { String::new() } else { python::text(value) };
            out.write_str(&text).map_err(minijinja::Error::from)
        });
        minijinja_contrib::add_to_environment(&mut environment);
        environment.add_filter("tojson", python::tojson);
        environment.add_filter("string", |value: Value| python::text(&value));
        environment.add_function("raise_exception", |message: String| -> Result<String, minijinja::Error> {
            Err(minijinja::Error::new(ErrorKind::InvalidOperation, format!("the template says: {message}")))
        });
        let failed = |source| super::file::template_error(source, KEY, origin);
        environment.set_syntax(super::file::syntax().map_err(failed)?);
        environment.add_template_owned(KEY, source.clone()).map_err(failed)?;
        Ok(Self { environment, special_tokens, source, origin: origin.to_owned() })
    }

    /// The prompt of some messages, a list of [`ChatMessage`] or of anything that serialises to objects.
    ///
    /// # Errors
    /// [`Error::Template`] with the line where the template raises an exception, asks something of what is not there, or
    /// runs on without end; [`Error::ContinueFinalMessage`] where the last message cannot be left open.
    pub fn render(&self, messages: impl Serialize, options: &ChatOptions) -> Result<String> {
        let mut messages = Value::from(Serde(messages));
        let left_open = if options.continue_final_message {
            let (open, text) = self.open(&messages)?;
            messages = open;
            Some(text)
        } else {
            None
        };
        let failed = |source| super::file::template_error(source, KEY, &self.origin);
        let given =
            |value: &Option<ChatValue>| value.as_ref().map_or(Value::from(()), |value| value.0.clone());
        let now = options.now;
        let mut variables: Vec<(String, Value)> = vec![
            ("messages".to_owned(), messages),
            ("tools".to_owned(), given(&options.tools)),
            ("documents".to_owned(), given(&options.documents)),
            ("add_generation_prompt".to_owned(), options.add_generation_prompt.into()),
            ("strftime_now".to_owned(), Value::from_function(move |format: String| strftime(&format, now))),
        ];
        variables.extend(options.variables.iter().map(|(name, value)| (name.clone(), value.0.clone())));
        for (name, token) in &self.special_tokens {
            if variables.iter().all(|(held, _)| held != name) {
                variables.push((name.clone(), token.as_str().into()));
            }
        }
        let template = self.environment.get_template(KEY).map_err(failed)?;
        let text = template.render(Value::from_pairs(variables)).map_err(failed)?;
        match left_open {
            Some(last) => cut_open(text, &last),
            None => Ok(text),
        }
    }

    /// The messages with a mark at the end of the last one, and what that one says.
    fn open(&self, messages: &Value) -> Result<(Value, String)> {
        let fail = |problem| Err(Error::ContinueFinalMessage { problem });
        let mut all: Vec<Value> = messages.try_iter().into_iter().flatten().collect();
        let Some(last) = all.pop() else { return fail("there is no message") };
        let content = last.get_attr("content").ok().and_then(|content| content.as_str().map(str::to_owned));
        let Some(content) = content else { return fail("its `content` is no text") };
        let keys = last.try_iter().into_iter().flatten();
        let marked = keys.filter_map(|key| {
            let value = last.get_item(&key).ok()?;
            let is_content = key.as_str() == Some("content");
            Some((key, if is_content { format!("{content}{CONTINUE}").into() } else { value }))
        });
        all.push(Value::from_pairs(marked.collect::<Vec<(Value, Value)>>()));
        Ok((Value::from(all), content))
    }

    /// The template's text, with `{% generation %}` written as a block that every Jinja knows.
    #[must_use]
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The format that puts a single prompt into this template: the prompt as the user's only message, and the cue as the
    /// beginning of the answer.
    ///
    /// # Errors
    /// As [`render`](Self::render), for a template that takes no message of a user alone.
    pub fn single_prompt(&self, name: impl Into<String>) -> Result<ChatFormat> {
        const PROMPT: &str = "persona-prompt-goes-here";
        let options = ChatOptions { add_generation_prompt: true, ..ChatOptions::default() };
        let text = self.render([ChatMessage::new("user", PROMPT)], &options)?;
        // What stands around the prompt is text: braces in it are no tags.
        let quoted = |text: &str| {
            if text.contains('{') { format!("{{% raw %}}{text}{{% endraw %}}") } else { text.to_owned() }
        };
        let parts: Vec<String> = text.split(PROMPT).map(quoted).collect();
        Ok(ChatFormat::new(name, parts.join("{{ prompt }}") + "{{ cue }}"))
    }
}

/// Cuts a text at the mark. Where the template trims messages the mark's own space is gone, and so is white space before.
fn cut_open(mut text: String, last: &str) -> Result<String> {
    let place = text.rfind(CONTINUE.trim_end()).filter(|_| text.contains(last.trim()));
    let Some(place) = place else {
        let problem = "the template does not show it as it is; it may leave out or change parts of it";
        return Err(Error::ContinueFinalMessage { problem });
    };
    let whole = text[place..].starts_with(CONTINUE);
    text.truncate(place);
    if !whole {
        text.truncate(text.trim_end().len());
    }
    Ok(text)
}

/// A file that may be missing.
fn read(path: &Path) -> Result<Option<String>> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(Error::Open { path: path.to_owned(), source }),
    }
}

/// The template in a tokenizer's configuration: a text, or a list of named ones.
fn of_config(value: &Json) -> Option<String> {
    let named = |name: &str| {
        let templates = value.as_array()?;
        let found =
            templates.iter().find(|template| template.get("name").and_then(Json::as_str) == Some(name));
        found?.get("template")?.as_str()
    };
    value.as_str().or_else(|| named("default")).map(str::to_owned)
}

/// Writes `{% generation %}` and its end, with their white space marks, as blocks with a scope of their own.
fn mark_generation(source: &str) -> String {
    let mut text = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find("{%") {
        let (before, tag) = rest.split_at(start);
        text.push_str(before);
        let Some(end) = tag.find("%}") else { break };
        let (tag, after) = tag.split_at(end);
        let inner = tag[2..].trim_start_matches(['-', '+']).trim_end_matches(['-', '+']).trim();
        match inner {
            "generation" => text.push_str(&tag.replace("generation", "with")),
            "endgeneration" => text.push_str(&tag.replace("endgeneration", "endwith")),
            _ => text.push_str(tag),
        }
        rest = after;
    }
    text + rest
}

fn strftime(format: &str, now: Option<SystemTime>) -> Result<String, minijinja::Error> {
    let zone = jiff::tz::TimeZone::system();
    let time = match now {
        Some(now) => jiff::Timestamp::try_from(now).map(|time| time.to_zoned(zone)),
        None => Ok(jiff::Timestamp::now().to_zoned(zone)),
    };
    time.and_then(|time| jiff::fmt::strtime::format(format, &time)).map_err(|error| {
        minijinja::Error::new(ErrorKind::InvalidOperation, format!("strftime_now({format:?}): {error}"))
    })
}

/// Whether a value is a list or what a loop can run over.
pub(super) fn is_list(value: &Value) -> bool {
    matches!(value.kind(), ValueKind::Seq | ValueKind::Iterable)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn render(template: &str, options: &ChatOptions) -> Result<String> {
        let messages = [ChatMessage::new("user", " Hi! "), ChatMessage::new("assistant", "Hello\n")];
        ChatTemplate::new(template, &[("bos_token", "<s>")])?.render(&messages, options)
    }

    fn plain(template: &str) -> String {
        render(template, &ChatOptions::default()).unwrap()
    }

    #[test]
    fn python_shows_through() {
        for (template, text) in [
            ("{{ messages[0].content.strip() ~ messages[-1]['role'].upper() }}", "Hi!ASSISTANT"),
            (
                "{{ [true, none, 1, 1.0, 'it\\'s', {'a': \"b\"}] }}",
                "[True, None, 1, 1.0, \"it's\", {'a': 'b'}]",
            ),
            (
                "{{ true }} {{ none }} {{ 1e16 }} {{ 0.00001 }} {{ tools is none }}",
                "True None 1e+16 1e-05 True",
            ),
            ("{{ {'b': [1, 'é<'], 'a': none} | tojson }}", "{\"b\": [1, \"é<\"], \"a\": null}"),
            ("{{ {'b': 1, 'a': []} | tojson(indent=2, sort_keys=true) }}", "{\n  \"a\": [],\n  \"b\": 1\n}"),
            ("{{ 'é😀' | tojson(ensure_ascii=true) }}", "\"\\u00e9\\ud83d\\ude00\""),
            (
                "{% for m in messages %}{% if loop.first %}{% continue %}{% endif %}{{ m.role }}{% endfor %}",
                "assistant",
            ),
            ("{% for k, v in messages[0].items() %}{{ k }}={{ v }};{% endfor %}", "role=user;content= Hi! ;"),
            ("{{ messages[0].get('name', 'nobody') }}{{ nowhere }}", "nobody"),
            ("  {%- generation -%}\n  x {% endgeneration %}\ny\n", "x y"),
            ("a\r\nb", "a\nb"),
            (
                "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}",
                "2",
            ),
            (
                "{{ messages | map(attribute='role') | join('+') }}{{ messages[1:] | length }}",
                "user+assistant1",
            ),
        ] {
            assert_eq!(plain(template), text, "{template}");
        }
    }

    #[test]
    fn time_is_the_time_that_is_given() {
        let now = Some(SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000 - 1_700_000_000 % 86_400));
        let options = ChatOptions { now, ..ChatOptions::default() };
        let shown = render("{{ strftime_now('%Y-%m') }}", &options).unwrap();
        assert_eq!(shown, "2023-11");
        assert!(
            render("{{ strftime_now('%!') }}", &options).unwrap_err().to_string().contains("strftime_now")
        );
        assert_eq!(plain("{{ strftime_now('%Y') | length }}"), "4");
    }

    #[test]
    fn a_last_message_is_left_open() {
        let open = |template: &str| {
            render(template, &ChatOptions { continue_final_message: true, ..ChatOptions::default() })
        };
        let each = |content: &str| format!("{{% for m in messages %}}<{{{{ {content} }}}}>{{% endfor %}}");
        assert_eq!(open(&each("m.content")).unwrap(), "< Hi! ><Hello\n");
        assert_eq!(open(&each("m.content | trim")).unwrap(), "<Hi!><Hello");
        let message = open("{{ messages[0].content }}").unwrap_err().to_string();
        assert!(message.contains("last message"), "{message}");
        let template = ChatTemplate::new("", &[]).unwrap();
        let options = ChatOptions { continue_final_message: true, ..ChatOptions::default() };
        let none: [ChatMessage; 0] = [];
        assert!(template.render(none, &options).unwrap_err().to_string().contains("no message"));
    }

    #[test]
    fn templates_that_raise_run_on_or_ask_for_what_is_not_there_are_errors() {
        for (template, expected) in [
            (
                "{% if true %}\n{{ raise_exception('roles must alternate') }}{% endif %}",
                "roles must alternate",
            ),
            ("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}", "fuel"),
            ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "recursion"),
            ("{{ messages[9].content }}", "undefined"),
            ("{{ nowhere.content }}", "undefined"),
            ("{{ messages[0].content.shout() }}", "shout"),
            ("{{ 'x' | nofilter }}", "nofilter"),
            ("{% for m in messages %}", "line 1"),
            ("{{ undefined_function() }}", "undefined_function"),
            ("{{ nowhere | tojson }}", "JSON"),
        ] {
            let message = render(template, &ChatOptions::default()).unwrap_err().to_string();
            assert!(message.contains(expected) && message.contains("chat_template"), "{template}: {message}");
        }
        let message =
            render("\n{{ raise_exception('no') }}", &ChatOptions::default()).unwrap_err().to_string();
        assert!(message.contains("line 2"), "{message}");
    }

    #[test]
    fn folders_hold_templates_in_several_places() {
        let folder = tempfile::tempdir().unwrap();
        let load = || ChatTemplate::from_folder(folder.path());
        let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
        assert!(matches!(load(), Err(Error::NoChatTemplate { .. })));
        let shown =
            || load().unwrap().render([ChatMessage::new("user", "x")], &ChatOptions::default()).unwrap();
        write("special_tokens_map.json", r#"{"bos_token": "<b>", "eos_token": {"content": "<e>"}}"#);
        write(
            "tokenizer_config.json",
            r#"{"bos_token": "<s>", "chat_template": [{"name": "tool_use", "template": "t"},
                {"name": "default", "template": "{{ bos_token }}{{ eos_token }}"}]}"#,
        );
        assert_eq!(shown(), "<s><e>");
        write("chat_template.jinja", "{{ messages[0].content }}{{ eos_token }}");
        assert_eq!(shown(), "x<e>");
        write("tokenizer_config.json", "{");
        assert!(load().unwrap_err().to_string().contains("tokenizer_config.json"));
    }

    #[test]
    fn a_template_becomes_the_format_of_a_prompt_set() {
        let text = "{{ bos_token }}{% for m in messages %}{user: {{ m.content | trim }}}\n{% endfor %}\
                    {% if add_generation_prompt %}assistant: {% endif %}";
        let format = ChatTemplate::new(text, &[("bos_token", "<s>")]).unwrap().single_prompt("own").unwrap();
        let prompts = crate::PromptSet::english().unwrap().with_chat(format).unwrap();
        let prompt = prompts.history_only(&[]).unwrap();
        assert!(prompt.starts_with("<s>{user: ") && prompt.ends_with("}\nassistant: person2:"), "{prompt}");
    }
}
