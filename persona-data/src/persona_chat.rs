//! The one division of PERSONA-CHAT's validation set into Valid#1 and Valid#2 that everything here uses.

use crate::dialogue::Dialogue;
use crate::error::{Error, Result};
use crate::split::{Part, RecordList, count};

impl RecordList {
    /// Valid#1 and Valid#2 of PERSONA-CHAT's 1,000 validation dialogues: 6,500 and 1,301 replies, PAL's sizes
    /// ([`PalParts::PAPER`](crate::PalParts::PAPER)), drawn once by whole dialogues with seed 1 and saved with this crate.
    /// Whatever is chosen or trained on one part is held out from the other.
    ///
    /// Dialogues are told by their place in the published files, which all have the same order: `valid-00001` is the
    /// first. [`divide_in_order`](Self::divide_in_order) applies the list to dialogues with other ids. The parts share no
    /// dialogue, but they share descriptions: the set has some hundred personas, each in several dialogues.
    ///
    /// # Errors
    /// None of the file that ships.
    pub fn persona_chat_valid() -> Result<Self> {
        Self::read(include_bytes!("persona_chat_valid.json").as_slice(), "persona_chat_valid.json")
    }

    /// Divides dialogues by their places, whatever their ids: the first one is that of the list's lowest id, and so on.
    ///
    /// # Errors
    /// [`Error::RecordList`] when there are more or fewer dialogues than the list names, when it names one twice, or when
    /// a part's dialogues do not give the number of examples noted.
    pub fn divide_in_order(&self, dialogues: Vec<Dialogue>) -> Result<Vec<Vec<Dialogue>>> {
        let fail = |problem: String| Error::RecordList { problem };
        let part_of = self.parts_in_order()?;
        if part_of.len() != dialogues.len() {
            let (named, given) = (part_of.len(), dialogues.len());
            return Err(fail(format!("it names {named} dialogues, and the data have {given}")));
        }
        let mut divided: Vec<Vec<Dialogue>> = self.parts.iter().map(|_| Vec::new()).collect();
        for (dialogue, at) in dialogues.into_iter().zip(part_of) {
            if let Some(part) = divided.get_mut(at) {
                part.push(dialogue);
            }
        }
        for (Part { name, examples: noted, .. }, members) in self.parts.iter().zip(&divided) {
            let examples = count(members, &self.options);
            if examples != *noted {
                return Err(fail(format!(
                    "part {name:?} has {examples} examples where {noted} are noted; is it the published file, in its order?"
                )));
            }
        }
        Ok(divided)
    }

    /// The part of each dialogue in the order of their ids, as an index into [`parts`](Self::parts).
    ///
    /// # Errors
    /// [`Error::RecordList`] when the list names a dialogue twice.
    pub fn parts_in_order(&self) -> Result<Vec<usize>> {
        let parts = self.parts.iter().enumerate();
        let mut named: Vec<(&str, usize)> =
            parts.flat_map(|(at, part)| part.dialogues.iter().map(move |id| (id.as_str(), at))).collect();
        named.sort_unstable();
        if let Some(twice) = named.windows(2).find(|pair| matches!(pair, [(a, _), (b, _)] if a == b)) {
            let id = twice.first().map_or("", |(id, _)| id);
            return Err(Error::RecordList { problem: format!("it names dialogue {id:?} twice") });
        }
        Ok(named.into_iter().map(|(_, at)| at).collect())
    }
}
