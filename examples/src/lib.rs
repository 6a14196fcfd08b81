//! The programs' shared parts: recipes, the PAL path, its progress and its report.

pub mod chat;
pub mod data;
pub mod dry_run;
pub mod evaluate;
pub mod experiment;
pub mod judge;
pub mod models;
pub mod pairs;
pub mod pipeline;
pub mod pretrain;
pub mod process;
pub mod progress;
pub mod recipe;
pub mod report;
pub mod results;
pub mod systems;
pub mod training;
pub mod workspace;
