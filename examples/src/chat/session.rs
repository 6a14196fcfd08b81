//! The dialogue with one model.

use std::io::{BufRead, Write};
use std::ops::ControlFlow;
use std::path::Path;

use anyhow::{Result, ensure};
use persona_data::{Example, ExampleEncoder, Highlight, PromptKind, Role, Utterance};
use persona_infer::{
    DecodeConfig, Engine, EngineConfig, Request, SelectThenGenerate, Selected, Strategy, TextGenerator,
};
use persona_model::CausalLm;
use serde::{Deserialize, Serialize};

use super::command::{Command, HELP};
use super::line::{self, Input};
use super::persona::{PERSONAS, given_persona};
use crate::report::text::clean;

/// How a chat goes.
#[derive(Debug, Clone, PartialEq)]
pub struct ChatOptions {
    /// What the model is called in a saved dialogue.
    pub model: String,
    /// How replies are decoded.
    pub decode: DecodeConfig,
    /// Whether the model first selects a description: for models that were trained to.
    pub select: bool,
    /// How many turns the model reads; nothing for as many as fit.
    pub history_turns: Option<usize>,
    /// Whether prompts are drawn.
    pub terminal: bool,
}

/// A dialogue with a model, and its persona.
pub struct Chat<'a> {
    model: &'a dyn CausalLm,
    encoder: &'a ExampleEncoder,
    options: ChatOptions,
    persona: Vec<String>,
    turns: Vec<SavedTurn>,
    replies: u64,
    /// Whether it was said that old turns are no longer read.
    said_cut: bool,
}

impl std::fmt::Debug for Chat<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Chat")
            .field("persona", &self.persona)
            .field("turns", &self.turns)
            .finish_non_exhaustive()
    }
}

/// A turn as `/save` writes it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SavedTurn {
    /// Who said it: the agent is the model.
    pub role: Role,
    /// What was said.
    pub text: String,
    /// Of a reply that was drawn: the seed that it follows from, in place of `decode`'s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    /// Of a reply of a model that selects: the index of the selected description, `null` for none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selection: Option<SavedSelection>,
}

/// A selection as `/save` writes it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SavedSelection {
    /// The description's index, from 0; `null` for none.
    pub index: Option<usize>,
    /// What the model answered.
    pub answer: String,
}

/// A dialogue as `/save` writes it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Saved {
    /// The model.
    pub model: String,
    /// How replies were decoded; drawn ones, each from a seed of its own.
    pub decode: DecodeConfig,
    /// The model's persona.
    pub persona: Vec<String>,
    /// The turns, oldest first.
    pub turns: Vec<SavedTurn>,
}

impl<'a> Chat<'a> {
    /// A dialogue that has not begun.
    ///
    /// # Errors
    /// Settings and an encoder that do not go with the model; a persona that does not fit it.
    pub fn new(
        model: &'a dyn CausalLm,
        encoder: &'a ExampleEncoder,
        options: ChatOptions,
        persona: Vec<String>,
    ) -> Result<Self> {
        ensure!(options.history_turns != Some(0), "a reply needs at least one turn to reply to");
        // The generator checks all of these.
        TextGenerator::new(model, encoder, options.decode)?;
        let mut chat = Self {
            model,
            encoder,
            options,
            persona: Vec::new(),
            turns: Vec::new(),
            replies: 0,
            said_cut: false,
        };
        chat.take(persona)?;
        Ok(chat)
    }

    /// Talks until `/quit` or the end of the input. What the user does wrong is said, and the chat goes on.
    ///
    /// # Errors
    /// The reader's and the writer's; the model's.
    pub fn run(&mut self, input: &mut dyn BufRead, output: &mut dyn Write) -> Result<()> {
        if self.options.terminal {
            self.show_persona(output)?;
            writeln!(output, "/persona for another, /help for the rest")?;
        }
        loop {
            if self.options.terminal {
                write!(output, "\nyou> ")?;
                output.flush()?;
            }
            let text = match line::next(input)? {
                Input::Line(text) => text,
                Input::Bad(why) => {
                    writeln!(output, "! {why}")?;
                    continue;
                }
                Input::End => break,
            };
            match Command::of(&text) {
                None if text.is_empty() => writeln!(output, "! nothing was said; /help lists the commands")?,
                None => self.answer(&text, output)?,
                Some(Err(message)) => writeln!(output, "! {message}")?,
                Some(Ok(Command::Quit)) => break,
                Some(Ok(command)) => self.obey(command, output)?,
            }
            output.flush()?;
        }
        Ok(output.flush()?)
    }

    /// The dialogue so far.
    #[must_use]
    pub fn saved(&self) -> Saved {
        Saved {
            model: self.options.model.clone(),
            decode: self.options.decode,
            persona: self.persona.clone(),
            turns: self.turns.clone(),
        }
    }

    fn obey(&mut self, command: Command<'_>, output: &mut dyn Write) -> Result<()> {
        match command {
            Command::Persona("") => {
                self.show_persona(output)?;
                for (at, persona) in PERSONAS.iter().enumerate() {
                    writeln!(output, "/persona {}: {}", at + 1, persona.join(" "))?;
                }
            }
            Command::Persona(given) => match given_persona(given).and_then(|persona| self.take(persona)) {
                Ok(()) => self.show_persona(output)?,
                Err(error) => writeln!(output, "! {error:#}")?,
            },
            Command::Reset => {
                self.begin_anew();
                writeln!(output, "the dialogue begins anew")?;
            }
            Command::Save(path) => match self.save(Path::new(path)) {
                Ok(()) => writeln!(output, "saved: {path}")?,
                Err(error) => writeln!(output, "! {error:#}")?,
            },
            Command::Help => writeln!(output, "{HELP}")?,
            Command::Quit => {}
        }
        Ok(())
    }

    fn show_persona(&self, output: &mut dyn Write) -> Result<()> {
        writeln!(output, "you talk to somebody who says:")?;
        for (at, description) in self.persona.iter().enumerate() {
            writeln!(output, "  {}. {description}", at + 1)?;
        }
        Ok(())
    }

    /// Takes a persona that leaves room for a dialogue, which begins anew.
    fn take(&mut self, persona: Vec<String>) -> Result<()> {
        let hello = [Utterance { role: Role::Partner, text: "Hello!".to_owned() }];
        for kind in self.kinds(&persona) {
            self.encoder
                .prompt("persona", &persona, &hello, kind, self.options.decode.max_new_tokens)
                .map_err(|error| {
                    let why = match error {
                        persona_data::Error::TooLong { .. } => {
                            "this persona leaves no room for a dialogue; make it shorter, or give --max-new-tokens less"
                        }
                        _ => "this persona cannot be used",
                    };
                    anyhow::Error::new(error).context(why)
                })?;
        }
        self.persona = persona;
        self.begin_anew();
        Ok(())
    }

    fn begin_anew(&mut self) {
        self.turns.clear();
        self.said_cut = false;
    }

    /// The prompts that a reply of this model may take, the longest ones among them.
    fn kinds(&self, persona: &[String]) -> Vec<PromptKind<'static>> {
        if !self.options.select {
            return vec![PromptKind::Generation(Highlight::Absent)];
        }
        let highlights = (0..persona.len()).map(Highlight::Description).chain([Highlight::None]);
        highlights.map(PromptKind::Generation).chain([PromptKind::Selection]).collect()
    }

    fn save(&self, path: &Path) -> Result<()> {
        ensure!(!path.exists(), "{} is there already; give another name", path.display());
        let mut json = serde_json::to_vec_pretty(&self.saved())?;
        json.push(b'\n');
        Ok(persona_model::write_atomically(path, &json)?)
    }

    /// Selects, replies, and shows both as they come. What does not fit the model is said and forgotten.
    fn answer(&mut self, text: &str, output: &mut dyn Write) -> Result<()> {
        self.turns.push(SavedTurn {
            role: Role::Partner,
            text: text.to_owned(),
            seed: None,
            selection: None,
        });
        let window = self.options.history_turns.unwrap_or(self.turns.len()).min(self.turns.len());
        let said = self.turns.iter().skip(self.turns.len() - window);
        let history: Vec<Utterance> =
            said.map(|turn| Utterance { role: turn.role, text: turn.text.clone() }).collect();
        let decode =
            DecodeConfig { seed: self.options.decode.seed.wrapping_add(self.replies), ..self.options.decode };
        let prompt =
            |kind| self.encoder.prompt("the dialogue", &self.persona, &history, kind, decode.max_new_tokens);
        for kind in self.kinds(&self.persona) {
            if let Err(error) = prompt(kind) {
                self.turns.pop();
                return Ok(writeln!(output, "! {error}; say it shorter, or in other words")?);
            }
        }
        let selected = self.select(&history, decode)?;
        let highlight = match &selected {
            None => Highlight::Absent,
            Some(Selected { choice: None, .. }) => Highlight::None,
            Some(Selected { choice: Some(index), .. }) => Highlight::Description(*index),
        };
        if let Some(selected) = &selected {
            let description = selected.choice.and_then(|index| Some((index, self.persona.get(index)?)));
            match description {
                Some((index, description)) => writeln!(output, "[{}. {description}]", index + 1)?,
                None => writeln!(output, "[no description]")?,
            }
        }
        let prompt = prompt(PromptKind::Generation(highlight))?;
        let reply = self.stream(prompt.ids, decode, output)?;
        if prompt.cut_turns > 0 && !self.said_cut {
            self.said_cut = true;
            writeln!(
                output,
                "! the oldest turns no longer fit the model; from now on it does not read them"
            )?;
        }
        self.replies += 1;
        if reply.is_empty() {
            return Ok(writeln!(output, "! the model says nothing")?);
        }
        let selection = selected.map(|selected| SavedSelection {
            index: selected.choice,
            answer: selected.answer.map_or_else(String::new, |(answer, _)| answer),
        });
        let seed = (decode.temperature > 0.0).then_some(decode.seed);
        self.turns.push(SavedTurn { role: Role::Agent, text: reply, seed, selection });
        Ok(())
    }

    /// The model's own selection, where it is to select.
    fn select(&self, history: &[Utterance], decode: DecodeConfig) -> Result<Option<Selected>> {
        if !self.options.select {
            return Ok(None);
        }
        let example = Example {
            id: "the dialogue".to_owned(),
            persona: self.persona.clone(),
            history: history.to_vec(),
            response: String::new(),
            relevant: None,
            candidates: Vec::new(),
        };
        // A selection is no place for chance.
        let greedy = DecodeConfig { max_new_tokens: decode.max_new_tokens, ..DecodeConfig::default() };
        let generator = TextGenerator::new(self.model, self.encoder, greedy)?;
        let strategy = SelectThenGenerate::new(generator).strategy(Strategy::Select);
        Ok(strategy.selections(std::slice::from_ref(&example))?.pop().flatten())
    }

    /// Writes a reply as it comes, and returns it. It ends at EOS or, as turns are one line each, at a line break.
    fn stream(&self, prompt: Vec<u32>, decode: DecodeConfig, output: &mut dyn Write) -> Result<String> {
        let tokenizer = self.encoder.tokenizer();
        let engine = Engine::new(self.model, EngineConfig::default())?.with_tokenizer(tokenizer)?;
        let request = Request::new(prompt, decode).ending_at(&[tokenizer.eos_id()]).stopping_at(["\n"]);
        let (mut reply, mut written) = (String::new(), Ok(()));
        engine.stream(std::slice::from_ref(&request), &mut |piece| {
            let text = if reply.is_empty() { piece.text.trim_start() } else { piece.text };
            reply.push_str(text);
            written = output.write_all(clean(text).as_bytes()).and_then(|()| output.flush());
            if written.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })?;
        written?;
        if !reply.is_empty() {
            writeln!(output)?;
        }
        Ok(reply.trim_end().to_owned())
    }
}
