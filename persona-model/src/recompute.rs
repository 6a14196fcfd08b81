//! Gradient checkpointing (Chen et al. 2016): blocks are computed again in the backward pass, so that between forward and
//! backward only their inputs are kept.
//!
//! libtorch's graph ends at the last block's output, which is a leaf; the gradient that arrives there is carried on block
//! by block, each with a graph of its own.

use std::cell::{Cell, RefCell};
use std::ops::Range;

use tch::{Device, Kind, Tensor};

use crate::batch::Batch;
use crate::error::{Error, Result};
use crate::model::Model;

/// What a model keeps for the backward pass.
#[derive(Debug, Default)]
pub(crate) struct Recompute {
    pub(crate) on: Cell<bool>,
    recorded: RefCell<Vec<Recorded>>,
}

/// One forward pass through the blocks.
#[derive(Debug)]
struct Recorded {
    batch: Batch,
    /// Of a decoder: what it reads.
    source: Option<Batch>,
    layers: Range<usize>,
    /// What the blocks began with, `[N, D]`, with its graph.
    first: Tensor,
    /// What each block began with, without a graph.
    inputs: Vec<Tensor>,
    /// What the last one gave, a leaf.
    output: Tensor,
    train: bool,
    /// Where dropout is drawn from; none where none is drawn.
    seed: Option<i64>,
}

/// Whether a forward pass is one whose gradient will be asked for, under checkpointing.
pub(crate) fn is_wanted(model: &dyn Model) -> Result<bool> {
    if !model.state().recompute.on.get() {
        return Ok(false);
    }
    let leaf = model.trainable().leaves().first();
    Ok(leaf.map(Tensor::f_alias).transpose()?.is_some_and(|alias| alias.requires_grad()))
}

/// The output `[N, D]` of some blocks, of which only the inputs are kept.
pub(crate) fn forward(
    model: &dyn Model,
    first: Tensor,
    (batch, source): (&Batch, Option<&Batch>),
    layers: Range<usize>,
    train: bool,
) -> Result<Tensor> {
    let seed = match train && model.has_dropout() {
        true => Some(Tensor::f_randint(i64::MAX, [1], (Kind::Int64, Device::Cpu))?.f_int64_value(&[0])?),
        false => None,
    };
    let mut inputs = Vec::with_capacity(layers.len());
    let no_grad = tch::no_grad_guard();
    let mut x = first.f_detach()?;
    for layer in layers.clone() {
        seed_block(seed, layer);
        let output = model.block(layer, &x, batch, source, train)?;
        inputs.push(std::mem::replace(&mut x, output));
    }
    drop(no_grad);
    let output = x.f_detach()?.f_set_requires_grad(true)?;
    let recorded = Recorded {
        batch: batch.shallow_clone(),
        source: source.map(Batch::shallow_clone),
        layers,
        first,
        inputs,
        output: output.shallow_clone(),
        train,
        seed,
    };
    model.state().recompute.recorded.borrow_mut().push(recorded);
    Ok(output)
}

/// The gradients of a loss with respect to what is trained; None for what the loss does not depend on.
pub(crate) fn gradients(model: &(impl Model + ?Sized), loss: &Tensor) -> Result<Vec<Option<Tensor>>> {
    let recorded = model.state().recompute.recorded.take();
    let leaves: Vec<&Tensor> = model.trainable().leaves().iter().collect();
    let outputs: Vec<Tensor> = recorded.iter().map(|recorded| recorded.output.shallow_clone()).collect();
    let mut sums = backward(loss, &leaves.iter().copied().chain(&outputs).collect::<Vec<_>>(), false)?;
    // The last pass first: a decoder's may begin with what an encoder's gave.
    let mut arrived = sums.split_off(leaves.len());
    for (at, recorded) in recorded.into_iter().enumerate().rev() {
        let Some(mut gradient) = arrived.pop().flatten() else { continue };
        let Recorded { batch, source, layers, first, inputs, train, seed, .. } = recorded;
        for (layer, input) in layers.zip(inputs).rev() {
            let input = input.f_detach()?.f_set_requires_grad(true)?;
            seed_block(seed, layer);
            let output = model.block(layer, &input, &batch, source.as_ref(), train)?;
            let mut parts = backward(
                &output.f_mul(&gradient)?,
                &leaves.iter().copied().chain([&input]).collect::<Vec<_>>(),
                false,
            )?;
            let lost = || Error::Batch(format!("block {layer} gave its input no gradient"));
            gradient = parts.pop().flatten().ok_or_else(lost)?;
            add(&mut sums, parts)?;
        }
        if first.requires_grad() {
            let earlier = leaves.iter().copied().chain(outputs.iter().take(at)).collect::<Vec<_>>();
            // Other passes may begin with the same graph.
            let mut parts = backward(&first.f_mul(&gradient)?, &earlier, at > 0)?;
            add(&mut arrived, parts.split_off(leaves.len()))?;
            add(&mut sums, parts)?;
        }
    }
    Ok(sums)
}

/// The gradients of the sum of a tensor's elements; the graph stays where it is kept.
fn backward(of: &Tensor, inputs: &[&Tensor], keep: bool) -> Result<Vec<Option<Tensor>>> {
    let parts = Tensor::f_run_backward(&[of], inputs, keep, false)?;
    Ok(parts.into_iter().map(|part| part.defined().then_some(part)).collect())
}

fn add(sums: &mut [Option<Tensor>], parts: Vec<Option<Tensor>>) -> Result<()> {
    let _no_grad = tch::no_grad_guard();
    for (sum, part) in sums.iter_mut().zip(parts) {
        match (sum.as_mut(), part) {
            (Some(sum), Some(part)) => drop(sum.f_add_(&part)?),
            (None, part @ Some(_)) => *sum = part,
            (_, None) => {}
        }
    }
    Ok(())
}

/// Both times a block draws the same dropout.
fn seed_block(seed: Option<i64>, layer: usize) {
    if let Some(seed) = seed {
        tch::manual_seed(seed.wrapping_add(layer as i64));
    }
}
