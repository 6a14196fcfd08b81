//! ROUGE as the packages compute it.

mod pycocoevalcap;

pub use self::pycocoevalcap::CocoRouge;

/// ROUGE (Lin 2004), by the package whose numbers are to be met.
#[derive(Debug, Clone, Copy)]
pub enum Rouge {}

impl Rouge {
    /// pycocoevalcap's `Rouge()`, a ROUGE-L, which PAL's table uses.
    pub fn pycocoevalcap() -> CocoRouge {
        CocoRouge::default()
    }
}
