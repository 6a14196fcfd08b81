//! Dialogues whose speakers have a persona: read them, label them, split them, make prompts of them.
//!
//! A [`Dialogue`] is two personas (each a list of descriptions) and the turns. [`open`] reads the published files as a
//! stream whose items are a dialogue or an error that names file and line: PERSONA-CHAT and ConvAI2 text,
//! Synthetic-Persona-Chat, XPersona, PAL's records, and one JSON dialogue a line ([`Format`] lists them all).
//! [`Dialogue::examples`] cuts dialogues into what models are trained on: persona, history, response and which
//! descriptions the response draws on. Where the file does not say that, a [`Labeller`] does. [`PalParts`] and
//! [`RecordList`] divide a set by whole dialogues and write down how.
//!
//! ```
//! use persona_data::{ExampleOptions, Format, OverlapLabeller, label_dialogues, read};
//!
//! let text = "1 your persona: i have two dogs.\n\
//!             2 your persona: i only eat kosher.\n\
//!             3 hi ! how are you ?\tjust relaxing with my dogs .\n\
//!             4 that sounds nice .\tit is .\n";
//! // From a file: open("valid.txt", Format::Parlai)?, or open("valid.txt.gz", None)? to find the format out.
//! let dialogues = read(text.as_bytes(), "valid.txt", Format::Parlai)?;
//! let mut dialogues = dialogues.collect::<Result<Vec<_>, _>>()?;
//!
//! let labeller = OverlapLabeller::fit(&dialogues)?;
//! let report = label_dialogues(&mut dialogues, &labeller)?;
//! assert_eq!((report.labelled, report.none), (2, 1));
//!
//! let examples = dialogues[0].examples(&ExampleOptions::default());
//! assert_eq!(examples[0].response, "just relaxing with my dogs .");
//! assert_eq!(examples[0].selected(), Some(0));
//! assert_eq!(examples[1].history.len(), 3);
//! # Ok::<(), persona_data::Error>(())
//! ```
//!
//! # What to know
//!
//! - In PERSONA-CHAT "your persona" is the second speaker's, who answers; see [`Speaker`].
//! - `__SILENCE__` is no utterance: the turn is left out and counted in [`Notes`], and the response to it, now the first
//!   turn, makes an example only where [`ExampleOptions::openings`] is set.
//! - A label says which descriptions a response draws on; an empty list says that none applies, and [`None`] that nobody
//!   has looked. Prompts and measures treat the two differently.
//! - Broken files are errors with file and line; [`Dialogues::lenient`] skips and counts them.
//! - Nothing here needs libtorch. The feature `encode` (on by default) adds tokenised examples.

mod dialogue;
#[cfg(feature = "encode")]
mod encode;
mod error;
mod label;
mod loaders;
mod nli;
mod persona_chat;
mod prompt;
mod reply;
mod split;

pub use dialogue::{Dialogue, Example, ExampleOptions, Responder, Role, Speaker, Turn, Utterance};
#[cfg(feature = "encode")]
pub use encode::{
    BadExamples, BpeOptions, EncodeOptions, EncodeReport, EncodedExample, EncodedPair, EncodedPrompt,
    EncodedText, EncoderTokenizer, ExampleEncoder, LabelledText, Lengths, PairReport, SpecialTokens, Task,
    TaskReport, TextTokenizer, WordPieceOptions, thin_none, train_byte_level_bpe, train_wordpiece,
};
pub use error::{Error, Place, Result};
pub use label::{LabelReport, Labeller, OverlapLabeller, label_dialogues};
pub use loaders::{Dialogues, Format, Lenient, Notes, PalRecords, open, read, write_jsonl};
pub use nli::{
    EntailedPairs, EntailmentLabeller, EntailmentRule, LabelChoice, NeutralOptions, NliFormat, NliItem,
    NliItems, NliLabel, PersonaScore, PersonaScores, open_nli, read_nli, sampled_neutrals,
};
pub use prompt::{
    ChatFormat, ChatMessage, ChatOptions, ChatTemplate, ChatValue, Highlight, MatchedBy, OVERLAP_BOUND,
    PromptKind, PromptSet, Selection,
};
pub use reply::ReplyGenerator;
pub use split::{PalParts, Part, RecordList, Target};
