//! The loss without training.

use crate::error::{Error, Result};
use crate::objective::{Means, Objective};

/// The loss of an objective over any number of examples without training, as `loss`, and what else it measures.
///
/// # Errors
/// The objective's; [`Error::NonFiniteEvaluation`] with the rows.
pub fn evaluate<O: Objective>(
    objective: &O,
    items: &[O::Item],
    micro_batch_size: usize,
) -> Result<Vec<(String, f64)>> {
    evaluate_at("evaluation", objective, items, micro_batch_size)
}

/// As [`evaluate`], called `place` in errors.
pub(crate) fn evaluate_at<O: Objective>(
    place: &str,
    objective: &O,
    items: &[O::Item],
    micro_batch_size: usize,
) -> Result<Vec<(String, f64)>> {
    let _no_grad = tch::no_grad_guard();
    let all: Vec<&O::Item> = items.iter().collect();
    let mut means = Means::default();
    let mut sum = 0.0;
    objective.begin(&all, micro_batch_size.max(1)).map_err(|error| in_rows(objective, place, &all, error))?;
    for part in all.chunks(micro_batch_size.max(1)) {
        let contribution = objective.evaluate(part, false);
        let contribution = contribution.map_err(|error| in_rows(objective, place, part, error))?;
        let value = contribution.numerator.f_double_value(&[])?;
        if !value.is_finite() {
            let (place, rows) = (place.to_owned(), rows(objective, part));
            return Err(Error::NonFiniteEvaluation { place, value, rows });
        }
        sum += value;
        means.add(contribution.means);
    }
    let mut values = vec![("loss".to_owned(), sum / objective.count(&all))];
    values.extend(means.values().map(|(name, value)| (name.to_owned(), value)));
    Ok(values)
}

/// An error of the objective with the examples that it was computing.
pub(crate) fn in_rows<O: Objective>(objective: &O, place: &str, items: &[&O::Item], error: Error) -> Error {
    Error::Rows { place: place.to_owned(), rows: rows(objective, items), error: Box::new(error) }
}

/// The ids of some examples.
pub(crate) fn rows<O: Objective>(objective: &O, items: &[&O::Item]) -> String {
    items.iter().map(|item| objective.id(item)).collect::<Vec<_>>().join(", ")
}
