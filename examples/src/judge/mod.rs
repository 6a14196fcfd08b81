//! The persona judge: training, measuring and using a classifier of (description, reply).

mod consistency;
mod data;
mod evaluate;
mod label;
mod made;
mod measure;
mod recipe;
mod score;
mod shares;
mod shrink;
mod train;

pub use consistency::ConsistencyEvaluator;
pub use data::{ScorePart, ScoredPairs, Source};
pub use evaluate::{Evaluation, evaluate};
pub use label::{LabelOptions, Labelled, judge_dialogues, label};
pub use made::{MakeOptions, make};
pub use measure::{Bin, Calibration, Figure, Figures, Judged};
pub use recipe::{JudgeRecipe, StartRecipe, Weights};
pub use score::{Judge, SHIPPED};
pub use shares::{Shares, match_shares};
pub use train::{Trained, train, write_pairs};
