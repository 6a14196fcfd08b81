//! Attention over all rows at once, side by side with padding: for devices on which a kernel a row costs more.

use std::collections::BTreeMap;

use tch::{Device, Kind, Tensor};

use crate::attention::Settings;
use crate::batch::{Context, Row, continued};
use crate::error::Result;

/// Where the tokens of a batch stand when its rows lie side by side. Rows that continue others are shorter and see more: each
/// number of rows continued has a group of its own.
#[derive(Debug)]
pub(crate) struct Padded {
    groups: Vec<Group>,
    /// Where each of the batch's N tokens stands in what the groups give, one behind the other.
    back: Tensor,
}

/// B rows of at most T tokens that see at most S.
#[derive(Debug)]
struct Group {
    rows: i64,
    /// For each of B T queries its token; padding repeats token 0, and nobody reads what comes of it.
    queries: Tensor,
    /// For each of B S keys its token; None where keys are the queries' tokens.
    keys: Option<Tensor>,
    /// `[B, 1, T or 1, S]`, true where a query looks; None where causality alone, or nothing, hides a key.
    mask: Option<Tensor>,
}

impl Padded {
    /// For rows without a cache. `causal` says whether a token sees what is after it in its row.
    pub(crate) fn new(rows: &[Row], causal: bool, device: Device) -> Result<Self> {
        let mut back = vec![0; rows.iter().map(|row| row.len).sum()];
        let (mut groups, mut end) = (Vec::new(), 0);
        let mut by_depth: BTreeMap<usize, Vec<&Row>> = BTreeMap::new();
        for row in rows {
            by_depth.entry(continued(rows, row).len()).or_default().push(row);
        }
        for members in by_depth.into_values() {
            let Some(width) = members.iter().map(|row| row.len).max() else { continue };
            for (at, row) in members.iter().enumerate() {
                for token in 0..row.len {
                    if let Some(place) = back.get_mut(row.start + token) {
                        *place = (end + at * width + token) as i64;
                    }
                }
            }
            end += members.len() * width;
            groups.push(Group::new(&members, rows, width, causal, device)?);
        }
        Ok(Self { groups, back: Tensor::f_from_slice(&back)?.f_to_device(device)? })
    }

    /// As `attention::attend`, with the result `[N, H, W]`.
    pub(crate) fn attend(
        &self,
        (queries, keys, values): (&Tensor, &Tensor, &Tensor),
        settings: Settings<'_>,
    ) -> Result<Tensor> {
        let outputs = self.groups.iter().map(|group| group.attend((queries, keys, values), settings));
        let outputs = outputs.collect::<Result<Vec<_>>>()?;
        Ok(Tensor::f_cat(&outputs, 0)?.f_index_select(0, &self.back)?)
    }
}

impl Group {
    fn new(members: &[&Row], rows: &[Row], width: usize, causal: bool, device: Device) -> Result<Self> {
        let reach = members.iter().map(|row| row.past + row.len).max().unwrap_or(0);
        let (mut queries, mut keys) = (Vec::new(), Vec::new());
        for row in members {
            let own = row.start..row.start + row.len;
            let before = continued(rows, row).into_iter().filter_map(|of| rows.get(of));
            let before = before.flat_map(|row| row.start..row.start + row.len);
            let padded = |tokens: &mut Vec<i64>, from: usize, to: usize| {
                tokens.resize(tokens.len() + to - from, 0);
            };
            queries.extend(own.clone().map(|token| token as i64));
            padded(&mut queries, row.len, width);
            keys.extend(before.chain(own).map(|token| token as i64));
            padded(&mut keys, row.past + row.len, reach);
        }
        let index =
            |tokens: &[i64]| -> Result<Tensor> { Ok(Tensor::f_from_slice(tokens)?.f_to_device(device)?) };
        let count = members.len() as i64;
        let alone = members.iter().all(|row| row.context == Context::None);
        let ragged = members.iter().any(|row| row.past + row.len != reach);
        let mask = match (alone, causal) {
            (true, true) => None,
            (true, false) if !ragged => None,
            _ => {
                // A query at place t of its own tokens sees up to past + t, or all of its row.
                let column = |of: &dyn Fn(&Row) -> usize| -> Result<Tensor> {
                    let values: Vec<i64> = members.iter().map(|row| of(row) as i64).collect();
                    Ok(index(&values)?.f_view([count, 1, 1, 1])?)
                };
                let places = Tensor::f_arange(reach as i64, (Kind::Int64, device))?;
                let seen = if causal {
                    let own = Tensor::f_arange(width as i64, (Kind::Int64, device))?.f_view([1, 1, -1, 1])?;
                    column(&|row| row.past + 1)?.f_add(&own)?
                } else {
                    column(&|row| row.past + row.len)?
                };
                Some(places.f_lt_tensor(&seen)?)
            }
        };
        let keys = (keys != queries).then(|| index(&keys)).transpose()?;
        Ok(Self { rows: count, queries: index(&queries)?, keys, mask })
    }

    /// `[B T, H, W]`.
    fn attend(
        &self,
        (queries, keys, values): (&Tensor, &Tensor, &Tensor),
        settings: Settings<'_>,
    ) -> Result<Tensor> {
        let (_, heads, size) = queries.size3()?;
        let side_by_side = |x: &Tensor, places: &Tensor| -> Result<Tensor> {
            let (_, heads, size) = x.size3()?;
            Ok(x.f_index_select(0, places)?.f_view([self.rows, -1, heads, size])?.f_transpose(1, 2)?)
        };
        let places = self.keys.as_ref().unwrap_or(&self.queries);
        let (keys, values) = (side_by_side(keys, places)?, side_by_side(values, places)?);
        let output = Tensor::f_scaled_dot_product_attention(
            &side_by_side(queries, &self.queries)?,
            &keys,
            &values,
            self.mask.as_ref(),
            settings.dropout,
            settings.causal && self.mask.is_none(),
            settings.scale,
            keys.size4()?.1 != heads,
        )?;
        Ok(output.f_transpose(1, 2)?.f_reshape([-1, heads, size])?)
    }
}
