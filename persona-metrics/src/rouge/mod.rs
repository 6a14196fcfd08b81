//! ROUGE as the packages compute it.

mod chinese;
mod google;
mod lcs;
mod measure;
mod pltrdy;
mod py_rouge;
mod pycocoevalcap;
mod room;
mod words;

pub use self::chinese::ChineseRouge;
pub use self::google::{GoogleRouge, RougeTokenizer};
pub use self::measure::RougeType;
pub use self::pltrdy::PltrdyRouge;
pub use self::py_rouge::{LengthLimit, PyRouge};
pub use self::pycocoevalcap::CocoRouge;

/// ROUGE (Lin 2004), by the package whose numbers are to be met.
///
/// The packages differ in tokens, in what repeated words count and in F, so that their numbers for the same texts can
/// lie ten points apart.
#[derive(Debug, Clone, Copy)]
pub enum Rouge {}

impl Rouge {
    /// pycocoevalcap's `Rouge()`, a ROUGE-L, which PAL's table uses.
    pub fn pycocoevalcap() -> CocoRouge {
        CocoRouge::default()
    }

    /// Google's `rouge_score` 0.1.2, which `evaluate` wraps: ROUGE-1 to ROUGE-9, ROUGE-L, ROUGE-Lsum.
    pub fn google() -> GoogleRouge {
        GoogleRouge::default()
    }

    /// `py-rouge` 1.1, after the Perl script of ROUGE 1.5.5: ROUGE-N, ROUGE-L, ROUGE-W. Without its stemming.
    pub fn py_rouge() -> PyRouge {
        PyRouge::default()
    }

    /// `rouge` 1.0.1 by pltrdy, which SPT and CLV use: ROUGE-1 to ROUGE-5, ROUGE-L.
    pub fn pltrdy() -> PltrdyRouge {
        PltrdyRouge::default()
    }

    /// `rouge-chinese` 1.0.3: ROUGE-1 to ROUGE-5, ROUGE-L of texts with spaces between words or characters.
    pub fn chinese() -> ChineseRouge {
        ChineseRouge::default()
    }
}
