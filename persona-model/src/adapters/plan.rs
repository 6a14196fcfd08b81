//! Which adapter computes which tokens of a batch, and how.

use tch::{Device, Kind, Tensor};

use super::lora::{Lora, LowRank};
use super::{AdapterId, Adapters};
use crate::batch::{Batch, Context, Row};
use crate::cpu;
use crate::error::{Error, Result};
use crate::layers::Layout;

/// Runs of tokens shorter than this are computed by one product over all adapters' matrices; the columns of the other
/// adapters are masked out. Longer ones are computed apart.
const SHORT: usize = 16;

/// The adapters of one forward pass.
pub(crate) enum Plan<'a> {
    /// None: the base alone.
    Base,
    /// One for every token.
    One { lora: &'a Lora, train: bool },
    /// Runs of tokens, each with its own adapter or none.
    Runs { runs: Vec<(i64, Option<&'a Lora>)>, train: bool },
    /// One product for all.
    Stacked(Stacked<'a>),
}

/// Several adapters with the mask that keeps every token to its own.
pub(crate) struct Stacked<'a> {
    adapters: &'a Adapters,
    /// For each of the stack's ownerships, `[N, R]`: a token's scale at the ranks of its own adapter, 0 at all others.
    masks: Vec<Tensor>,
}

/// The matrices of several adapters, one below the other.
#[derive(Debug)]
pub(super) struct Stack {
    ids: Vec<AdapterId>,
    sites: Vec<Option<StackedSite>>,
    ownerships: Vec<Ownership>,
}

#[derive(Debug)]
struct StackedSite {
    /// `[R, in]` for R ranks in all.
    a: Tensor,
    /// `[out, R]`.
    b: Tensor,
    /// Which of the stack's ownerships.
    ownership: usize,
}

/// Whose the ranks of a site are; most sites have the same.
#[derive(Debug, PartialEq)]
struct Ownership {
    /// The adapter of each rank, by its place in the stack, R in all.
    owners: Vec<i64>,
    /// Its scale.
    scales: Vec<f64>,
}

impl<'a> Plan<'a> {
    /// The plan for the inputs of a batch, of which each row has as many as `inputs` says.
    pub(super) fn new(
        adapters: &'a Adapters,
        batch: &Batch,
        inputs: fn(&Row) -> usize,
        train: bool,
    ) -> Result<Self> {
        let Some(chosen) = batch.adapters() else {
            return Ok(match adapters.active {
                Some(id) => Self::alone(adapters.lora(id)?, train),
                None => Self::Base,
            });
        };
        for (row, &id) in batch.rows().iter().zip(chosen) {
            if let Some(id) = id {
                adapters.get(id)?;
            }
            if let Context::Row(of) = row.context
                && chosen.get(of) != Some(&id)
            {
                let reason = format!("a row and row {of}, which it continues, have different adapters");
                return Err(Error::Batch(reason));
            }
        }
        let mut runs: Vec<(i64, Option<AdapterId>)> = Vec::new();
        for (row, &id) in batch.rows().iter().zip(chosen) {
            let id = linear(adapters, id)?;
            match runs.last_mut() {
                Some((tokens, last)) if *last == id => *tokens += inputs(row) as i64,
                _ => runs.push((inputs(row) as i64, id)),
            }
        }
        Self::of_runs(adapters, batch, runs, train)
    }

    /// Runs of inputs, each with its adapter.
    fn of_runs(
        adapters: &'a Adapters,
        batch: &Batch,
        runs: Vec<(i64, Option<AdapterId>)>,
        train: bool,
    ) -> Result<Self> {
        if runs.is_empty() {
            return Ok(Self::Base);
        }
        if let [(_, id)] = runs[..] {
            return Ok(match id {
                Some(id) => Self::alone(adapters.lora(id)?, train),
                None => Self::Base,
            });
        }
        let all: i64 = runs.iter().map(|(inputs, _)| inputs).sum();
        if !train && (all as usize) < SHORT * runs.len() {
            return Ok(Self::Stacked(Stacked::new(adapters, &runs, batch)?));
        }
        let lora = |id: Option<AdapterId>| id.map_or(Ok(None), |id| adapters.lora(id));
        let runs = runs.into_iter().map(|(tokens, id)| Ok((tokens, lora(id)?)));
        Ok(Self::Runs { runs: runs.collect::<Result<_>>()?, train })
    }

    /// The plan for the tokens at some places of the batch alone.
    pub(crate) fn at(adapters: &'a Adapters, batch: &Batch, at: &Tensor, train: bool) -> Result<Self> {
        let Some(chosen) = batch.adapters() else { return adapters.plan(batch, train) };
        let starts: Vec<usize> = batch.rows().iter().map(|row| row.start).collect();
        let mut runs: Vec<(i64, Option<AdapterId>)> = Vec::new();
        for place in Vec::<i64>::try_from(&at.f_to_device(Device::Cpu)?)? {
            let row = starts.partition_point(|&start| start as i64 <= place).saturating_sub(1);
            let id = linear(adapters, chosen.get(row).copied().flatten())?;
            match runs.last_mut() {
                Some((tokens, last)) if *last == id => *tokens += 1,
                _ => runs.push((1, id)),
            }
        }
        Self::of_runs(adapters, batch, runs, train)
    }

    fn alone(lora: Option<&'a Lora>, train: bool) -> Self {
        lora.map_or(Self::Base, |lora| Self::One { lora, train })
    }

    /// The output of a linear layer, `[N, out]`, with what the adapters add for its inputs `x`, `[N, in]`.
    pub(crate) fn add(&self, site: usize, x: &Tensor, output: Tensor) -> Result<Tensor> {
        match self {
            Self::Base => Ok(output),
            Self::One { lora, train } => match lora.at(site) {
                Some(low_rank) => low_rank.add(x, output, dropout(lora, *train)),
                None => Ok(output),
            },
            Self::Runs { runs, train } => {
                if runs.iter().all(|(_, lora)| lora.is_none_or(|lora| lora.at(site).is_none())) {
                    return Ok(output);
                }
                let lens: Vec<i64> = runs.iter().map(|(tokens, _)| *tokens).collect();
                let parts = x.f_split_with_sizes(lens.as_slice(), 0)?;
                let outputs = output.f_split_with_sizes(lens.as_slice(), 0)?;
                let mut sums = Vec::with_capacity(runs.len());
                for (((_, lora), x), output) in runs.iter().zip(&parts).zip(outputs) {
                    let low_rank = lora.and_then(|lora| Some((lora, lora.at(site)?)));
                    sums.push(match low_rank {
                        Some((lora, low_rank)) => low_rank.add(x, output, dropout(lora, *train))?,
                        None => output,
                    });
                }
                Ok(Tensor::f_cat(&sums, 0)?)
            }
            Self::Stacked(stacked) => stacked.add(site, x, output),
        }
    }
}

/// The adapter, where it adds to linear layers: a soft prompt does not.
fn linear(adapters: &Adapters, id: Option<AdapterId>) -> Result<Option<AdapterId>> {
    match id {
        Some(id) => Ok(adapters.lora(id)?.map(|_| id)),
        None => Ok(None),
    }
}

fn dropout(lora: &Lora, train: bool) -> f64 {
    if train { lora.config().lora_dropout } else { 0.0 }
}

impl LowRank {
    fn add(&self, x: &Tensor, output: Tensor, dropout: f64) -> Result<Tensor> {
        let dropped = if dropout > 0.0 { x.f_dropout(dropout, true)? } else { x.shallow_clone() };
        let low = times(&dropped, &self.a)?.f_mul_scalar(self.scale)?;
        add_times(output, &low, &self.b)
    }
}

/// `x [N, in]` times a matrix `[out, in]`, in the kind of `x`.
fn times(x: &Tensor, matrix: &Tensor) -> Result<Tensor> {
    match cpu::linear(x, matrix, Layout::OutIn, None, x.kind())? {
        Some(product) => Ok(product),
        None => Ok(x.f_mm(&matrix.f_to_kind(x.kind())?.f_tr()?)?),
    }
}

/// As [`times`], added to `sum [N, out]`.
fn add_times(sum: Tensor, x: &Tensor, matrix: &Tensor) -> Result<Tensor> {
    match cpu::linear(x, matrix, Layout::OutIn, None, x.kind())? {
        Some(product) => Ok(sum.f_add(&product)?),
        None => Ok(sum.f_addmm(x, &matrix.f_to_kind(x.kind())?.f_tr()?)?),
    }
}

impl<'a> Stacked<'a> {
    fn new(adapters: &'a Adapters, runs: &[(i64, Option<AdapterId>)], batch: &Batch) -> Result<Self> {
        let mut ids: Vec<AdapterId> = runs.iter().filter_map(|(_, id)| *id).collect();
        ids.sort_unstable();
        ids.dedup();
        let held = adapters.stack.borrow().as_ref().is_some_and(|stack| stack.ids == ids);
        let place = |id: AdapterId| ids.iter().position(|held| *held == id).map_or(-1, |at| at as i64);
        let own: Vec<i64> = runs
            .iter()
            .flat_map(|(tokens, id)| std::iter::repeat_n(id.map_or(-1, place), *tokens as usize))
            .collect();
        let device = batch.device();
        let own = Tensor::f_from_slice(&own)?.f_to_device(device)?.f_unsqueeze(1)?;
        if !held {
            let stack = Stack::new(adapters, ids)?;
            adapters.stack.replace(Some(stack));
        }
        let stack = adapters.stack.borrow();
        let mask = |ownership: &Ownership| -> Result<Tensor> {
            let owners = Tensor::f_from_slice(&ownership.owners)?.f_to_device(device)?;
            let scales =
                Tensor::f_from_slice(&ownership.scales)?.f_to_kind(Kind::Float)?.f_to_device(device)?;
            Ok(own.f_eq_tensor(&owners)?.f_to_kind(Kind::Float)?.f_mul(&scales)?)
        };
        let masks = stack.iter().flat_map(|stack| &stack.ownerships).map(mask).collect::<Result<_>>()?;
        Ok(Self { adapters, masks })
    }

    fn add(&self, site: usize, x: &Tensor, output: Tensor) -> Result<Tensor> {
        let stack = self.adapters.stack.borrow();
        let Some(site) = stack.as_ref().and_then(|stack| stack.sites.get(site)?.as_ref()) else {
            return Ok(output);
        };
        let Some(mask) = self.masks.get(site.ownership) else { return Ok(output) };
        let low = times(x, &site.a)?.f_mul(&mask.f_to_kind(x.kind())?)?;
        add_times(output, &low, &site.b)
    }
}

impl Stack {
    fn new(adapters: &Adapters, ids: Vec<AdapterId>) -> Result<Self> {
        let _no_grad = tch::no_grad_guard();
        let loras = ids.iter().filter_map(|&id| adapters.lora(id).transpose());
        let loras: Vec<&Lora> = loras.collect::<Result<_>>()?;
        let mut ownerships: Vec<Ownership> = Vec::new();
        let site = |site: usize| -> Result<Option<StackedSite>> {
            let (mut a, mut b, mut owners, mut scales) = (vec![], vec![], vec![], vec![]);
            for (at, lora) in loras.iter().enumerate() {
                let Some(low_rank) = lora.at(site) else { continue };
                let rank = low_rank.a.size2()?.0 as usize;
                a.push(low_rank.a.shallow_clone());
                b.push(low_rank.b.shallow_clone());
                owners.extend(std::iter::repeat_n(at as i64, rank));
                scales.extend(std::iter::repeat_n(low_rank.scale, rank));
            }
            if a.is_empty() {
                return Ok(None);
            }
            let wanted = Ownership { owners, scales };
            let ownership = ownerships.iter().position(|held| *held == wanted).unwrap_or(ownerships.len());
            if ownership == ownerships.len() {
                ownerships.push(wanted);
            }
            Ok(Some(StackedSite { a: Tensor::f_cat(&a, 0)?, b: Tensor::f_cat(&b, 1)?, ownership }))
        };
        let sites = (0..adapters.sites().len()).map(site).collect::<Result<_>>()?;
        Ok(Self { ids, sites, ownerships })
    }
}
