//! The ranges of options, checked where they are used.

use crate::error::{Error, Result};

fn check(fits: bool, name: &'static str, value: f64, range: &'static str) -> Result<()> {
    if fits { Ok(()) } else { Err(Error::Option { name, value, range }) }
}

pub(crate) fn positive(name: &'static str, value: f64) -> Result<()> {
    check(value > 0.0 && value.is_finite(), name, value, "it must be above 0 and finite")
}

pub(crate) fn not_negative(name: &'static str, value: f64) -> Result<()> {
    check(value >= 0.0 && value.is_finite(), name, value, "it must not be negative, and finite")
}

pub(crate) fn finite(name: &'static str, value: f64) -> Result<()> {
    check(value.is_finite(), name, value, "it must be finite")
}

pub(crate) fn share(name: &'static str, value: f64) -> Result<()> {
    check((0.0..=1.0).contains(&value), name, value, "it lies in 0 to 1")
}

/// The share of labels taken to be wrong. At one half nothing is preferred.
pub(crate) fn label_smoothing(value: f64) -> Result<()> {
    check((0.0..0.5).contains(&value), "label_smoothing", value, "it lies in 0 to 0.5, without 0.5")
}

/// As [`label_smoothing`], for losses that take its logarithm.
pub(crate) fn label_smoothing_above_zero(value: f64) -> Result<()> {
    let range = "it lies in 0 to 0.5, without both; 0.001 is the paper's";
    check(value > 0.0 && value < 0.5, "label_smoothing", value, range)
}
