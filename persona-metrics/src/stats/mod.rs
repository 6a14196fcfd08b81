//! Statistics beside the scores: tests of a difference, agreement of judges, correlation of scores, and resampling.
//!
//! | question | function | follows |
//! |---|---|---|
//! | how far may a corpus score lie off? | [`bootstrap`] | Efron's percentile interval |
//! | is system B better than A on the same examples? | [`paired_bootstrap`] | Koehn 2004; sacrebleu |
//! | could the difference be chance? | [`approximate_randomisation`] | Noreen 1989; Riezler and Maxwell 2005 |
//! | the error of a score that repetition biases (Distinct, Entropy) | [`jackknife`] | Quenouille, Tukey |
//! | do two samples of runs differ in their mean? | [`TTest`] | scipy |
//! | several tests at once | [`holm`] | Holm 1979 |
//! | do judges agree? | [`fleiss_kappa`], [`randolph_kappa`], [`cohen_kappa`], [`krippendorff_alpha`] | statsmodels, scikit-learn, krippendorff |
//! | does a metric follow the judges? | [`pearson`], [`spearman`], [`kendall`] | scipy |
//!
//! No function panics, and none gives NaN: what has no value is an [`Error`](crate::Error).
//!
//! ```
//! use persona_metrics::stats::TTest;
//!
//! let test = TTest::default().welch(&[17.05, 17.2, 16.9], &[14.45, 14.6, 14.1])?;
//! assert!(test.p_value < 0.001 && test.low > 2.1);
//! # Ok::<(), persona_metrics::Error>(())
//! ```

mod bootstrap;
mod correlation;
mod distributions;
mod draws;
mod holm;
mod jackknife;
mod kappa;
mod krippendorff;
mod randomisation;
mod sample;
mod t_test;

pub use bootstrap::{BootstrapInterval, PairedBootstrap, ResampledScore, bootstrap, paired_bootstrap};
pub use correlation::{Correlation, PValueMethod, kendall, pearson, spearman};
pub(crate) use distributions::outside;
pub use draws::{Draws, Resample, Swaps, joined};
pub use holm::holm;
pub use jackknife::{Jackknife, jackknife};
pub use kappa::{
    Kappa, KappaWeights, category_counts, cohen_kappa, cohen_kappa_on_scale, fleiss_kappa, randolph_kappa,
};
pub use krippendorff::{Alpha, AlphaScale, krippendorff_alpha};
pub use randomisation::{ApproximateRandomisation, approximate_randomisation};
pub use sample::Summary;
pub use t_test::{Alternative, TTest, TTestResult};
