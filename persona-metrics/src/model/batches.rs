//! Rows of like length in batches.

use persona_data::EncodedText;
use persona_model::{Batch, Limits};
use tch::{Device, Tensor};

use crate::error::ModelError;

/// Tokens of a batch, unless one row alone has more: enough to fill the processor, few enough for its cache.
const TOKENS: usize = 2048;

/// Where items of these lengths stand in batches, each of like length and at most `most` tokens, longest first.
pub(super) fn of_like_length(lengths: &[usize], most: usize) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..lengths.len()).collect();
    let length = |place: usize| lengths.get(place).copied().unwrap_or(0);
    order.sort_by_key(|&place| std::cmp::Reverse(length(place)));
    let mut batches: Vec<Vec<usize>> = Vec::new();
    let mut tokens = usize::MAX;
    for place in order {
        tokens = tokens.saturating_add(length(place));
        match batches.last_mut() {
            Some(batch) if tokens <= most => batch.push(place),
            _ => {
                batches.push(vec![place]);
                tokens = length(place);
            }
        }
    }
    batches
}

/// What `forward` gives for each row, in the order of the rows; it gets batches of like length, without gradients.
pub(super) fn in_batches<V>(
    rows: &[EncodedText],
    (limits, device): (Limits, Device),
    mut forward: impl FnMut(&Batch) -> Result<Vec<V>, ModelError>,
) -> Result<Vec<V>, ModelError> {
    let _no_grad = tch::no_grad_guard();
    let lengths: Vec<usize> = rows.iter().map(|row| row.ids.len()).collect();
    let mut answers: Vec<Option<V>> = rows.iter().map(|_| None).collect();
    for places in of_like_length(&lengths, TOKENS) {
        let rows: Vec<&EncodedText> = places.iter().filter_map(|&place| rows.get(place)).collect();
        let ids: Vec<&[u32]> = rows.iter().map(|row| row.ids.as_slice()).collect();
        let types: Vec<&[u32]> = rows.iter().map(|row| row.token_types.as_slice()).collect();
        let batch = Batch::typed_rows_of(&ids, &types, limits, device)?;
        for (answer, &place) in forward(&batch)?.into_iter().zip(&places) {
            if let Some(slot) = answers.get_mut(place) {
                *slot = Some(answer);
            }
        }
    }
    let answered: Option<Vec<V>> = answers.into_iter().collect();
    answered.ok_or_else(|| "the model gave fewer answers than it got rows".into())
}

/// The numbers of a tensor.
pub(super) fn numbers(tensor: &Tensor) -> Result<Vec<f32>, ModelError> {
    let tensor = tensor.f_to_device(Device::Cpu)?.f_contiguous()?.f_view([-1])?;
    Ok(Vec::<f32>::try_from(&tensor)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_are_of_like_length() {
        assert_eq!(of_like_length(&[3, 9, 2, 3, 1], 6), [vec![1], vec![0, 3], vec![2, 4]]);
        assert_eq!(of_like_length(&[], 6), Vec::<Vec<usize>>::new());
        assert_eq!(of_like_length(&[2, 2], 1), [vec![0], vec![1]]);
    }
}
