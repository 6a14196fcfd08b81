//! Pre-training: a small dialogue language model from scratch, with its own vocabulary and its card.

mod card;
mod corpus;
mod documents;
mod english;
mod finish;
mod measure;
mod ngram;
mod recipe;

use std::fmt;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use persona_data::{BpeOptions, EncodedExample, SpecialTokens, TextTokenizer, train_byte_level_bpe};
use persona_model::{Gpt2, Gpt2Config, Model};
use persona_train::{End, NextToken, Trainer};
use tch::{Device, Kind};

pub use card::{Measured, ShownReply, card};
pub use corpus::{Corpus, SourceCounts};
pub use documents::{Document, DocumentCounts, DocumentWriter, texts};
pub use english::tidy;
pub use measure::{Perplexities, Perplexity, perplexities};
pub use ngram::{NgramModel, ORDER, TurnScore, words};
pub use recipe::{CardRecipe, CorpusRecipe, PretrainRecipe, SourceRecipe};

use crate::progress::{Interrupt, TrainingBar};
use crate::recipe::ModelRecipe;
use crate::workspace::{Start, Workspace};

/// The folder of the training in the run's.
const TRAINING: &str = "pretrain";

/// How a run ended.
#[derive(Debug)]
pub enum Pretrained {
    /// With a model in this folder.
    Model {
        /// The model with its tokenizer, card, log and curves.
        folder: PathBuf,
        /// What the card says.
        measured: Box<Measured>,
    },
    /// Somebody stopped it; the same call continues.
    Interrupted,
}

/// What a run would read and take.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// What became of each source.
    pub sources: Vec<SourceCounts>,
    /// The training documents.
    pub train: DocumentCounts,
    /// The held-out documents.
    pub held_out: DocumentCounts,
    /// Entries of the vocabulary.
    pub vocabulary: usize,
    /// Parameters of the model.
    pub parameters: usize,
    /// Steps of the run.
    pub steps: u64,
    /// How often a document is read.
    pub epochs: f64,
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for source in &self.sources {
            writeln!(f, "{source}")?;
        }
        for (name, counts) in [("training", self.train), ("held out", self.held_out)] {
            let DocumentCounts { documents, tokens, cut, turns_left } = counts;
            writeln!(
                f,
                "{name}: {documents} documents, {tokens} tokens; {cut} go on in another document, \
                 {turns_left} turns in none"
            )?;
        }
        write!(
            f,
            "vocabulary {}, parameters {}, weights {:.1} MB in bfloat16\n{} steps, {:.2} epochs, {:.1} M tokens in all",
            self.vocabulary,
            self.parameters,
            2.0 * self.parameters as f64 / 1e6,
            self.steps,
            self.epochs,
            self.epochs * self.train.tokens as f64 / 1e6
        )
    }
}

/// Everything before the training.
struct Prepared {
    corpus: Corpus,
    tokenizer: TextTokenizer,
    train: (Vec<Document>, DocumentCounts),
    held_out: (Vec<Document>, DocumentCounts),
}

impl Prepared {
    fn of(recipe: &PretrainRecipe, corpus: Corpus, tokenizer: TextTokenizer) -> Result<Self> {
        let ModelRecipe::Fresh { positions, .. } = recipe.model else {
            anyhow::bail!("`model.folder`: this program trains from scratch");
        };
        let writer = DocumentWriter::new(&tokenizer, positions)?;
        let (train, held_out) = (writer.write_all(&corpus.train)?, writer.write_all(&corpus.held_out)?);
        for (name, documents) in [("training", &train.0), ("held-out", &held_out.0)] {
            ensure!(!documents.is_empty(), "no {name} document fits the model; give it more positions");
        }
        Ok(Self { corpus, tokenizer, train, held_out })
    }

    fn config(&self, recipe: &PretrainRecipe) -> Result<Gpt2Config> {
        let config = recipe.model.config(self.tokenizer.vocab_size()).context("a fresh model has a shape")?;
        Ok(Gpt2Config {
            eos_token_id: Some(self.tokenizer.eos_id()),
            bos_token_id: self.tokenizer.bos_id(),
            pad_token_id: Some(self.tokenizer.pad_id()),
            ..config
        })
    }
}

/// Reads the data, trains the vocabulary and counts, and trains no model. Writes nothing.
///
/// # Errors
/// Those of data, vocabulary and model.
pub fn plan(recipe: &PretrainRecipe) -> Result<Plan> {
    let corpus = Corpus::load(recipe)?;
    let tokenizer = vocabulary(recipe, &corpus)?;
    let prepared = Prepared::of(recipe, corpus, tokenizer)?;
    let model = Gpt2::new(prepared.config(recipe)?, recipe.seed, Device::Cpu, Kind::Float)?;
    Ok(Plan {
        sources: prepared.corpus.sources,
        train: prepared.train.1,
        held_out: prepared.held_out.1,
        vocabulary: prepared.tokenizer.vocab_size(),
        parameters: model.parameters().count(),
        steps: recipe.train.steps,
        epochs: recipe.epochs(recipe.train.steps, prepared.train.1.documents),
    })
}

/// Pre-trains the model of a recipe, or what is left of it, in the recipe's folder. `command` is the call, for the card.
///
/// # Errors
/// Those of data, vocabulary, model and loop; the workspace's for a folder of another recipe.
pub fn pretrain(
    recipe: &PretrainRecipe,
    text: &str,
    start: Start,
    command: &str,
    interrupt: &Interrupt,
) -> Result<Pretrained> {
    Workspace::check(&recipe.out, text, start)?;
    let device = persona_model::device(&recipe.device)?;
    let corpus = Corpus::load(recipe)?;
    for source in &corpus.sources {
        println!("{:>22} {source}", "source");
    }
    let workspace = Workspace::open(&recipe.out, text, start)?;
    let folder = workspace.path("tokenizer");
    if !folder.join("tokenizer_config.json").exists() {
        vocabulary(recipe, &corpus)?.save(&folder)?;
    }
    let tokenizer = TextTokenizer::from_folder(&folder, &SpecialTokens::default())?;
    let prepared = Prepared::of(recipe, corpus, tokenizer)?;
    for (name, counts) in [("training", prepared.train.1), ("held out", prepared.held_out.1)] {
        println!("{name:>22} {} documents, {} tokens", counts.documents, counts.tokens);
    }

    let model = Gpt2::new(prepared.config(recipe)?, recipe.seed, device, Kind::Float)?;
    let examples = |documents: &[Document]| documents.iter().map(Document::example).collect::<Vec<_>>();
    let (train, valid): (Vec<EncodedExample>, _) =
        (examples(&prepared.train.0), examples(&prepared.held_out.0));
    let folder = workspace.path(TRAINING);
    let mut bar = TrainingBar::new(TRAINING);
    let mut trainer = Trainer::new(NextToken::new(model), recipe.train.clone())?
        .in_folder(&folder)
        .made_with("tokenizer", prepared.tokenizer.fingerprint())
        .interrupted_by(interrupt.flag())
        .observed_by(&mut bar);
    let outcome = interrupt.while_training(|| trainer.fit(&train, &valid))?;
    if outcome.end == End::Interrupted || interrupt.asked() {
        return Ok(Pretrained::Interrupted);
    }
    let model = trainer.into_objective().into_model();
    drop(bar);
    let measured = finish::finish(recipe, (text, command), &prepared, (&train, &valid), &model, &folder)?;
    Ok(Pretrained::Model { folder: folder.join(finish::MODEL), measured: Box::new(measured) })
}

/// The vocabulary of the training documents.
fn vocabulary(recipe: &PretrainRecipe, corpus: &Corpus) -> Result<TextTokenizer> {
    let ModelRecipe::Fresh { vocabulary, .. } = recipe.model else {
        anyhow::bail!("`model.folder`: this program trains from scratch");
    };
    let options = BpeOptions { vocab_size: vocabulary, ..BpeOptions::default() };
    Ok(train_byte_level_bpe(texts(&corpus.train)?.into_iter(), &options)?)
}
