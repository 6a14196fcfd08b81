//! Documents: how a dialogue reads to the model.
//!
//! A document is what the English prompt for a reply looks like, with the reply: the task, one speaker's persona, and the
//! turns, of which the last is that speaker's. Fine-tuning and chat then begin near to what the model has read.
//!
//! ```text
//! You are person2. Give your next response.
//! Descriptions: 1. I ski. 2. I have a dog.
//! Dialogue:
//! person1: Hi, how are you?
//! person2: Fine, thanks!</s>
//! ```

use std::ops::Range;

use anyhow::{Context, Result, ensure};
use persona_data::{
    Dialogue, EncodedExample, Highlight, PromptSet, Role, Speaker, Task, TextTokenizer, Utterance,
};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

/// A document in tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    /// The dialogue's id, the speaker's number and the part's.
    pub id: String,
    /// Its tokens, EOS at the end.
    pub ids: Vec<u32>,
    /// Where the tokens of each turn's text lie, with the line break or EOS that ends it.
    pub turns: Vec<Range<usize>>,
    /// The turns in the dialogue.
    pub of: Range<usize>,
}

impl Document {
    /// All of it to be trained on but the first token, which every document shares.
    #[must_use]
    pub fn example(&self) -> EncodedExample {
        let (source, target) = self.ids.split_at(1.min(self.ids.len()));
        EncodedExample {
            id: self.id.clone(),
            task: Task::Plain,
            source: source.to_vec(),
            target: target.to_vec(),
        }
    }
}

/// What became of the turns of some dialogues.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DocumentCounts {
    /// Documents.
    pub documents: usize,
    /// Their tokens.
    pub tokens: usize,
    /// Dialogues of one speaker that are too long for one document and go on in another.
    pub cut: usize,
    /// Turns of no document: the partner's after the speaker's last one, those too long for the model, and one that would
    /// stand alone.
    pub turns_left: usize,
}

impl DocumentCounts {
    fn add(&mut self, other: Self) {
        self.documents += other.documents;
        self.tokens += other.tokens;
        self.cut += other.cut;
        self.turns_left += other.turns_left;
    }
}

/// Writes documents with one tokenizer.
#[derive(Debug)]
pub struct DocumentWriter<'a> {
    tokenizer: &'a TextTokenizer,
    prompts: PromptSet,
    positions: usize,
    line_break: u32,
}

impl<'a> DocumentWriter<'a> {
    /// Documents of at most `positions` tokens.
    ///
    /// # Errors
    /// A tokenizer for which a line break is not one token.
    pub fn new(tokenizer: &'a TextTokenizer, positions: usize) -> Result<Self> {
        let ids = tokenizer.encode("\n")?;
        let [line_break] = ids[..] else {
            anyhow::bail!("the tokenizer writes a line break as {} tokens; it must be one", ids.len());
        };
        Ok(Self { tokenizer, prompts: PromptSet::english()?, positions, line_break })
    }

    /// The documents of every dialogue, first those of the first speaker: none of a speaker without a persona where the
    /// other has one.
    ///
    /// # Errors
    /// The tokenizer's; a text that holds a special token.
    pub fn write_all(&self, dialogues: &[Dialogue]) -> Result<(Vec<Document>, DocumentCounts)> {
        let of_one = |dialogue: &Dialogue| -> Result<Vec<(Vec<Document>, DocumentCounts)>> {
            speakers(dialogue).map(|speaker| self.write(dialogue, speaker)).collect()
        };
        let written = dialogues.par_iter().map(of_one).collect::<Result<Vec<_>>>()?;
        let (mut all, mut counts) = (Vec::new(), DocumentCounts::default());
        for (documents, these) in written.into_iter().flatten() {
            all.extend(documents);
            counts.add(these);
        }
        Ok((all, counts))
    }

    /// One dialogue as one speaker's documents: each takes up where the one before ended, and ends with this speaker.
    ///
    /// # Errors
    /// As [`write_all`](Self::write_all).
    pub fn write(&self, dialogue: &Dialogue, speaker: Speaker) -> Result<(Vec<Document>, DocumentCounts)> {
        let head = self.encode(&dialogue.id, &header(&self.prompts, dialogue.persona(speaker))?)?;
        let lines = dialogue
            .turns
            .iter()
            .map(|turn| {
                let tag = self.encode(&dialogue.id, &tag(&self.prompts, role(turn.speaker, speaker)))?;
                let text = self.encode(&dialogue.id, &self.prompts.response_target(&turn.text))?;
                Ok((tag, text))
            })
            .collect::<Result<Vec<_>>>()?;
        let mine = |at: &usize| dialogue.turns.get(*at).is_some_and(|turn| turn.speaker == speaker);
        let mut counts = DocumentCounts::default();
        let mut documents: Vec<Document> = Vec::new();
        let mut start = 0;
        while start < lines.len() {
            let mut length = head.len();
            let fits = |(tag, text): &&(Vec<u32>, Vec<u32>)| {
                length += tag.len() + text.len() + 1;
                length <= self.positions
            };
            let fitting = lines.iter().skip(start).take_while(fits).count();
            let end = (start..start + fitting).rev().find(mine).map_or(start, |last| last + 1);
            if end < start + 2 {
                // Nobody is answered: the turns that do not fit together are left, one at least.
                counts.turns_left += 1;
                start += 1;
                continue;
            }
            let mut ids = head.clone();
            let mut turns = Vec::new();
            for (tag, text) in lines.iter().take(end).skip(start) {
                ids.extend(tag);
                let from = ids.len();
                ids.extend(text);
                ids.push(self.line_break);
                turns.push(from..ids.len());
            }
            if let Some(last) = ids.last_mut() {
                *last = self.tokenizer.eos_id();
            }
            counts.documents += 1;
            counts.tokens += ids.len();
            let id = format!("{}#{}.{}", dialogue.id, u8::from(speaker), documents.len());
            documents.push(Document { id, ids, turns, of: start..end });
            start = end;
        }
        counts.cut = usize::from(documents.len() > 1);
        Ok((documents, counts))
    }

    fn encode(&self, id: &str, text: &str) -> Result<Vec<u32>> {
        let ids = self.tokenizer.encode(text)?;
        let special = [Some(self.tokenizer.eos_id()), self.tokenizer.bos_id(), Some(self.tokenizer.pad_id())];
        ensure!(
            !ids.iter().any(|id| special.contains(&Some(*id))),
            "dialogue {id}: {text:?} holds a special token as text; take it out"
        );
        Ok(ids)
    }
}

/// The speakers whose documents a dialogue gives.
fn speakers(dialogue: &Dialogue) -> impl Iterator<Item = Speaker> {
    let any = dialogue.personas.iter().any(|persona| !persona.is_empty());
    let wanted = |speaker: &Speaker| !any || !dialogue.persona(*speaker).is_empty();
    let speakers: Vec<Speaker> = [Speaker::One, Speaker::Two].into_iter().filter(wanted).collect();
    speakers.into_iter()
}

fn role(speaker: Speaker, agent: Speaker) -> Role {
    if speaker == agent { Role::Agent } else { Role::Partner }
}

fn tag(prompts: &PromptSet, role: Role) -> String {
    format!("{}:", prompts.tag(role))
}

/// What stands before the turns.
fn header(prompts: &PromptSet, persona: &[String]) -> Result<String> {
    let prompt = prompts.generation(persona, &[], Highlight::Absent)?;
    let head = prompt.strip_suffix(&tag(prompts, Role::Agent));
    Ok(head.context("the prompt for a reply does not end in the speaker's tag")?.to_owned())
}

/// The dialogues as text, each once by each speaker, for training a tokenizer.
///
/// # Errors
/// The prompts'.
pub fn texts(dialogues: &[Dialogue]) -> Result<Vec<String>> {
    let prompts = PromptSet::english()?;
    let mut texts = Vec::new();
    for dialogue in dialogues {
        for agent in speakers(dialogue) {
            let line = |turn: &persona_data::Turn| Utterance {
                role: role(turn.speaker, agent),
                text: turn.text.clone(),
            };
            let history: Vec<Utterance> = dialogue.turns.iter().map(line).collect();
            texts.push(prompts.generation(dialogue.persona(agent), &history, Highlight::Absent)?);
        }
    }
    Ok(texts)
}

#[cfg(test)]
mod tests {
    use persona_data::{BpeOptions, Turn, train_byte_level_bpe};

    use super::*;

    fn dialogue() -> Dialogue {
        let turn = |(speaker, text): (Speaker, &str)| Turn::new(speaker, text);
        let turns = [
            (Speaker::One, "Hi, how are you?"),
            (Speaker::Two, "Fine, I just skied."),
            (Speaker::One, "\"Skied\"? Where?"),
            (Speaker::Two, "In the hills."),
            (Speaker::Two, "You should come!"),
            (Speaker::One, "I will."),
        ];
        let persona = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        Dialogue {
            id: "d".into(),
            personas: [persona(&["I read."]), persona(&["I ski.", "I have a dog."])],
            turns: turns.into_iter().map(turn).collect(),
        }
    }

    fn tokenizer() -> TextTokenizer {
        let options = BpeOptions { vocab_size: 300, ..BpeOptions::default() };
        train_byte_level_bpe(texts(&[dialogue()]).unwrap().into_iter(), &options).unwrap()
    }

    #[test]
    fn a_document_is_the_english_prompt_with_its_reply() {
        let (dialogue, tokenizer, prompts) = (dialogue(), tokenizer(), PromptSet::english().unwrap());
        let writer = DocumentWriter::new(&tokenizer, 1000).unwrap();
        for (speaker, last, left) in [(Speaker::One, 5, 0), (Speaker::Two, 4, 1)] {
            let (documents, counts) = writer.write(&dialogue, speaker).unwrap();
            let [document] = &documents[..] else { panic!("{documents:?}") };
            let line = |turn: &Turn| Utterance { role: role(turn.speaker, speaker), text: turn.text.clone() };
            let history: Vec<Utterance> = dialogue.turns[..last].iter().map(line).collect();
            let prompt = prompts.generation(dialogue.persona(speaker), &history, Highlight::Absent).unwrap();
            let text = format!("{prompt}{}", prompts.response_target(&dialogue.turns[last].text));
            assert_eq!(tokenizer.decode(&document.ids, true).unwrap(), text);
            let mut ids = tokenizer.encode(&text).unwrap();
            ids.push(tokenizer.eos_id());
            assert_eq!(document.ids, ids, "tokenised in parts or whole");
            assert_eq!((counts.documents, counts.cut, counts.turns_left), (1, 0, left));
            for (turn, range) in dialogue.turns.iter().zip(&document.turns) {
                let text = tokenizer.decode(&document.ids[range.clone()], true).unwrap();
                assert_eq!(text.trim(), turn.text);
            }
            let example = document.example();
            assert_eq!([example.source, example.target].concat(), ids);
        }
    }

    #[test]
    fn long_dialogues_are_cut_at_whole_turns() {
        let (dialogue, tokenizer) = (dialogue(), tokenizer());
        let whole = DocumentWriter::new(&tokenizer, 1000).unwrap().write(&dialogue, Speaker::Two).unwrap();
        let positions = whole.0[0].ids.len() - 1;
        let (documents, counts) =
            DocumentWriter::new(&tokenizer, positions).unwrap().write(&dialogue, Speaker::Two).unwrap();
        assert!(documents.iter().all(|document| document.ids.len() <= positions));
        let covered: Vec<_> = documents.iter().map(|document| (document.of.start, document.of.end)).collect();
        assert_eq!(covered, [(0, 4)], "the second part would be one turn alone");
        assert_eq!((counts.cut, counts.turns_left), (0, 2));
        let (documents, counts) =
            DocumentWriter::new(&tokenizer, 12).unwrap().write(&dialogue, Speaker::Two).unwrap();
        assert_eq!((documents.len(), counts.turns_left), (0, 6));
    }

    #[test]
    fn a_special_token_as_text_is_refused_and_a_speaker_without_persona_has_no_document() {
        let mut dialogue = dialogue();
        dialogue.personas[0].clear();
        assert_eq!(speakers(&dialogue).collect::<Vec<_>>(), [Speaker::Two]);
        dialogue.personas[1].clear();
        assert_eq!(speakers(&dialogue).count(), 2);
        dialogue.turns[1].text = "so </s> what".into();
        let tokenizer = tokenizer();
        let error = DocumentWriter::new(&tokenizer, 1000).unwrap().write_all(&[dialogue]).unwrap_err();
        assert!(error.to_string().contains("</s>"), "{error}");
    }
}
