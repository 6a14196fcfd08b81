//! One training loop for every objective.
//!
//! An [`Objective`] turns a batch into a numerator, a count and what to log; [`Trainer`] does the rest: the order of
//! examples, gradient accumulation, [`AdamW`] over one flat buffer, the schedule, evaluations, early stopping, the log,
//! and checkpoints from which a killed run continues to the same bytes. [`NextToken`] is stage 1 of PAL (Li et al. 2025):
//! the two tasks in one shuffled pool; [`Seq2Seq`] is the same for encoder-decoders, and [`Classify`] trains judges.
//!
//! ```
//! use persona_data::{EncodedExample, Task};
//! use persona_model::{Gpt2, Gpt2Config};
//! use persona_train::{NextToken, TrainConfig, Trainer};
//! use tch::{Device, Kind};
//!
//! let config = Gpt2Config { vocab_size: 50, n_positions: 16, n_embd: 8, n_layer: 1, n_head: 2, ..Gpt2Config::default() };
//! let model = Gpt2::new(config, 0, Device::Cpu, Kind::Float)?;
//! let example = EncodedExample { id: "a".into(), task: Task::Generation, source: vec![5, 6], target: vec![7, 8] };
//! let config = TrainConfig { steps: 3, warmup_steps: 1, learning_rate: 1e-2, ..TrainConfig::default() };
//! let mut trainer = Trainer::new(NextToken::new(model), config)?;
//! let outcome = trainer.fit(std::slice::from_ref(&example), std::slice::from_ref(&example))?;
//! assert_eq!(outcome.steps, 3);
//! let model = trainer.into_objective().into_model();
//! # Ok::<(), persona_train::Error>(())
//! ```

mod adamw;
mod checkpoint;
mod classify;
mod config;
mod data;
mod error;
mod evaluation;
mod groups;
mod next_token;
mod objective;
mod order;
mod outcome;
mod progress;
mod run_files;
mod seq2seq;
mod tasks;
mod trainer;

pub use adamw::{AdamW, gradient_norm};
pub use checkpoint::Best;
pub use classify::{Classify, text_batch};
pub use config::{AdamWConfig, Better, Decay, EarlyStopping, ParameterGroup, Schedule, TrainConfig};
pub use error::{Error, Result};
pub use evaluation::evaluate;
pub use next_token::NextToken;
pub use objective::{Contribution, Evaluator, Mean, Objective, Observer, StepRecord};
pub use order::Order;
pub use outcome::{End, Outcome};
pub use progress::ProgressLines;
pub use seq2seq::Seq2Seq;
pub use trainer::Trainer;
