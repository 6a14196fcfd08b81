//! The parameters of a model: named views of one flat tensor.

use std::collections::BTreeMap;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};
use tch::{Device, Kind, Tensor};
use xxhash_rust::xxh3::Xxh3;

use crate::error::{Error, Result};
use crate::quantized::Nf4Weight;

/// How a parameter starts when no weights are loaded.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Init {
    /// Normal with mean 0 and this standard deviation.
    Normal(f64),
    /// Uniform between minus and plus this bound.
    Uniform(f64),
    /// All zeros.
    Zeros,
    /// All ones.
    Ones,
}

/// Name, shape and start of one parameter.
#[derive(Debug, Clone, PartialEq)]
pub struct ParameterSpec {
    /// The name in Hugging Face checkpoints.
    pub name: String,
    /// The shape.
    pub shape: Vec<i64>,
    /// The start.
    pub init: Init,
}

/// Parameters that share one flat storage, so that an optimiser, a checkpoint or a sum over devices touches one buffer.
///
/// Every parameter is a leaf of the autograd graph and a view of the flat tensor: what is written into one is seen in
/// the other. Offsets are multiples of 16 elements; the gaps between parameters hold zeros.
///
/// Weights in NF4 are held beside them. They are frozen: no leaves, no part of the flat tensor, and parameters that hold
/// any are not trained.
///
/// Parameters that are mapped ([`is_mapped`](Self::is_mapped)) lie as their file holds them: at its offsets, with
/// whatever it has in the gaps. What is written into them stays in this process.
#[derive(Debug)]
pub struct Parameters {
    flat: Tensor,
    mapped: bool,
    specs: Vec<ParameterSpec>,
    offsets: Vec<i64>,
    leaves: Vec<Tensor>,
    quantized: BTreeMap<String, Nf4Weight>,
}

/// Elements between the starts of two parameters are a multiple of this: 64 bytes in float32, a cache line.
const ALIGNMENT: i64 = 16;

impl Parameters {
    /// Fresh parameters on a device, drawn from `seed`: the same seed gives the same values on every run,
    /// device and kind.
    ///
    /// # Errors
    /// libtorch's, out of memory above all.
    pub fn new(specs: Vec<ParameterSpec>, seed: u64, device: Device, kind: Kind) -> Result<Self> {
        let _no_grad = tch::no_grad_guard();
        let parameters = Self::unset(specs, device, kind)?;
        // Not libtorch's generator, which the whole process shares.
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        for (spec, leaf) in parameters.specs.iter().zip(&parameters.leaves) {
            let (mut leaf, elements) = (leaf.shallow_clone(), leaf.numel());
            match spec.init {
                Init::Normal(std) => {
                    let normal = |_| std as f32 * Distribution::<f32>::sample(&StandardNormal, &mut rng);
                    fill(&mut leaf, (0..elements).map(normal).collect())?;
                }
                Init::Uniform(bound) => {
                    let uniform = |_| bound as f32 * (2.0 * rng.random::<f32>() - 1.0);
                    fill(&mut leaf, (0..elements).map(uniform).collect())?;
                }
                Init::Ones => drop(leaf.f_fill_(1.0)?),
                Init::Zeros => drop(leaf.f_zero_()?),
            }
        }
        Ok(parameters)
    }

    /// Parameters whose values are whatever was in memory, all of which the caller sets; the gaps hold zeros.
    pub(crate) fn unset(specs: Vec<ParameterSpec>, device: Device, kind: Kind) -> Result<Self> {
        let _no_grad = tch::no_grad_guard();
        let mut offsets = Vec::with_capacity(specs.len());
        let mut end = 0;
        for spec in &specs {
            offsets.push(end);
            let elements: i64 = spec.shape.iter().product();
            end += (elements + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
        }
        let flat = Tensor::f_empty([end], (kind, device))?;
        let mut leaves = Vec::with_capacity(specs.len());
        for (at, (spec, &offset)) in specs.iter().zip(&offsets).enumerate() {
            let elements: i64 = spec.shape.iter().product();
            let next = offsets.get(at + 1).copied().unwrap_or(end);
            let _ = flat.f_narrow(0, offset + elements, next - offset - elements)?.f_zero_()?;
            leaves.push(flat.f_narrow(0, offset, elements)?.f_view(spec.shape.as_slice())?.f_detach()?);
        }
        Ok(Self { flat, mapped: false, specs, offsets, leaves, quantized: BTreeMap::new() })
    }

    /// Parameters that lie in a mapped file: `flat [N]` is its content, `offsets` say where in it each begins.
    pub(crate) fn mapped(flat: Tensor, specs: Vec<ParameterSpec>, offsets: Vec<i64>) -> Result<Self> {
        let _no_grad = tch::no_grad_guard();
        let leaf = |(spec, &offset): (&ParameterSpec, &i64)| -> Result<Tensor> {
            let elements = spec.shape.iter().product();
            Ok(flat.f_narrow(0, offset, elements)?.f_view(spec.shape.as_slice())?.f_detach()?)
        };
        let leaves = specs.iter().zip(&offsets).map(leaf).collect::<Result<_>>()?;
        Ok(Self { flat, mapped: true, specs, offsets, leaves, quantized: BTreeMap::new() })
    }

    /// Parameters of these shapes that hold zeros, to be loaded or copied into.
    ///
    /// # Errors
    /// libtorch's, out of memory above all.
    pub fn zeros(mut specs: Vec<ParameterSpec>, device: Device, kind: Kind) -> Result<Self> {
        specs.iter_mut().for_each(|spec| spec.init = Init::Zeros);
        Self::new(specs, 0, device, kind)
    }

    /// The number of parameters as people count them: elements, without the gaps.
    #[must_use]
    pub fn count(&self) -> usize {
        let quantized: usize = self.quantized.values().map(Nf4Weight::count).sum();
        self.leaves.iter().map(Tensor::numel).sum::<usize>() + quantized
    }

    /// The bytes in which all values are held.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let quantized: usize = self.quantized.values().map(Nf4Weight::bytes).sum();
        self.flat.numel() * self.kind().elt_size_in_bytes() + quantized
    }

    /// The weights that are held in NF4, by name.
    #[must_use]
    pub fn quantized(&self) -> &BTreeMap<String, Nf4Weight> {
        &self.quantized
    }

    /// Holds a weight in NF4 beside the others.
    pub(crate) fn hold(&mut self, name: String, weight: Nf4Weight) {
        self.quantized.insert(name, weight);
    }

    /// Names, shapes and starts, in storage order, of all but the weights in NF4.
    #[must_use]
    pub fn specs(&self) -> &[ParameterSpec] {
        &self.specs
    }

    /// Where each parameter begins in the flat tensor.
    #[must_use]
    pub fn offsets(&self) -> &[i64] {
        &self.offsets
    }

    /// The leaves, in storage order.
    pub fn leaves(&self) -> &[Tensor] {
        &self.leaves
    }

    /// The flat tensor `[N]` whose storage the leaves share.
    pub fn flat(&self) -> &Tensor {
        &self.flat
    }

    /// The flat tensor, to write to.
    pub fn flat_mut(&mut self) -> &mut Tensor {
        &mut self.flat
    }

    /// Whether the values lie in a mapped file ([`LoadOptions::mapped`](crate::LoadOptions)): pages are read when they are
    /// first looked at. The loop of persona-train refuses to train such parameters; adapters over them are trained.
    #[must_use]
    pub fn is_mapped(&self) -> bool {
        self.mapped
    }

    /// The device of all parameters.
    #[must_use]
    pub fn device(&self) -> Device {
        self.flat.device()
    }

    /// The kind in which all parameters are held.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.flat.kind()
    }

    /// A hash of names, shapes, kind and values: equal for equal parameters, on whatever device.
    ///
    /// # Errors
    /// libtorch's.
    pub fn fingerprint(&self) -> Result<String> {
        const PART: i64 = 1 << 24;
        let _no_grad = tch::no_grad_guard();
        let mut hash = Xxh3::new();
        hash.update(format!("{:?}", self.kind()).as_bytes());
        for spec in &self.specs {
            hash.update(format!("{} {:?}\n", spec.name, spec.shape).as_bytes());
        }
        for leaf in &self.leaves {
            let (values, end) = (leaf.f_detach()?.f_view([-1])?, leaf.numel() as i64);
            for start in (0..end).step_by(PART as usize) {
                let part = values.f_narrow(0, start, PART.min(end - start))?.f_to_device(Device::Cpu)?;
                let mut bytes = vec![0; part.numel() * part.kind().elt_size_in_bytes()];
                part.f_copy_data_u8(&mut bytes, part.numel())?;
                hash.update(&bytes);
            }
            // The gap, which is not zero where the values are mapped.
            let gap = (ALIGNMENT - end % ALIGNMENT) % ALIGNMENT;
            hash.update(&vec![0; gap as usize * leaf.kind().elt_size_in_bytes()]);
        }
        for (name, weight) in &self.quantized {
            hash.update(name.as_bytes());
            weight.hash(&mut hash)?;
        }
        Ok(format!("{:032x}", hash.digest128()))
    }

    /// Switches gradients of all leaves on or off.
    ///
    /// # Errors
    /// [`Error::Quantized`] where gradients are asked for and a weight is in NF4; libtorch's: only floating-point leaves
    /// can have gradients.
    pub fn set_trainable(&self, trainable: bool) -> Result<()> {
        if let (true, Some(name)) = (trainable, self.quantized.keys().next()) {
            let reason =
                "is in NF4, which is not trained: train an adapter over it, or load the weights in float";
            return Err(Error::Quantized { tensor: name.clone(), reason: reason.to_owned() });
        }
        for leaf in &self.leaves {
            let _ = leaf.f_set_requires_grad(trainable)?;
        }
        Ok(())
    }

    /// The leaf of a name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Tensor> {
        self.specs.iter().position(|spec| spec.name == name).map(|at| &self.leaves[at])
    }

    /// The same parameters with storage of their own, held in `kind`; weights in NF4, which nobody writes to, are shared.
    ///
    /// # Errors
    /// libtorch's, out of memory above all.
    pub fn copy(&self, kind: Kind) -> Result<Self> {
        let _no_grad = tch::no_grad_guard();
        let mut copy = Self::zeros(self.specs.clone(), self.device(), kind)?;
        copy.copy_values(self)?;
        copy.share_quantized(self);
        Ok(copy)
    }

    /// Copies the values of parameters of the same shapes.
    fn copy_values(&mut self, other: &Self) -> Result<()> {
        if self.offsets == other.offsets && self.flat.numel() == other.flat.numel() {
            self.flat.f_copy_(&other.flat)?;
        } else {
            for (leaf, values) in self.leaves.iter().zip(&other.leaves) {
                leaf.shallow_clone().f_copy_(values)?;
            }
        }
        Ok(())
    }

    /// Takes the weights in NF4 of other parameters, without a copy.
    pub(crate) fn share_quantized(&mut self, other: &Self) {
        let quantized = other.quantized.iter();
        self.quantized = quantized.map(|(name, weight)| (name.clone(), weight.shallow_clone())).collect();
    }

    /// The values under the names and in the form in which a checkpoint holds them.
    pub(crate) fn tensors(&self) -> Result<Vec<(String, Tensor)>> {
        let leaves = self.specs.iter().zip(&self.leaves);
        let mut tensors: Vec<_> =
            leaves.map(|(spec, leaf)| (spec.name.clone(), leaf.shallow_clone())).collect();
        for (name, weight) in &self.quantized {
            let parts = weight.tensors()?.into_iter();
            tensors.extend(parts.map(|(ending, part)| (format!("{name}{ending}"), part)));
        }
        Ok(tensors)
    }

    /// Copies all values from parameters of the same specs, changing kind and device where they differ.
    ///
    /// # Errors
    /// [`Error::Batch`] when names or shapes differ; [`Error::Quantized`] where a weight is in NF4, which is not written
    /// to; libtorch's.
    pub fn copy_from(&mut self, other: &Self) -> Result<()> {
        let _no_grad = tch::no_grad_guard();
        let same = |(one, other): (&ParameterSpec, &ParameterSpec)| {
            one.name == other.name && one.shape == other.shape
        };
        if let Some(name) = self.quantized.keys().chain(other.quantized.keys()).next() {
            let reason =
                "is in NF4, which is not written to: load the weights again, or copy the model whole";
            return Err(Error::Quantized { tensor: name.clone(), reason: reason.to_owned() });
        }
        if self.specs.len() != other.specs.len() || !self.specs.iter().zip(&other.specs).all(same) {
            return Err(Error::Batch(
                "parameters of another model cannot be copied into this one".to_owned(),
            ));
        }
        self.copy_values(other)
    }
}

fn fill(leaf: &mut Tensor, values: Vec<f32>) -> Result<()> {
    let shape = leaf.size();
    leaf.f_copy_(&Tensor::f_from_slice(&values)?.f_view(shape.as_slice())?)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn specs() -> Vec<ParameterSpec> {
        vec![
            ParameterSpec { name: "a".into(), shape: vec![3, 5], init: Init::Normal(1.0) },
            ParameterSpec { name: "b".into(), shape: vec![7], init: Init::Ones },
        ]
    }

    #[test]
    fn leaves_share_the_flat_storage() {
        let mut parameters = Parameters::new(specs(), 1, Device::Cpu, Kind::Float).unwrap();
        parameters.set_trainable(true).unwrap();
        let _guard = tch::no_grad_guard();
        let _ = parameters.flat_mut().f_fill_(2.0).unwrap();
        assert_eq!(parameters.get("a").unwrap().double_value(&[2, 4]), 2.0);
        assert!(parameters.get("b").unwrap().requires_grad());
        assert_eq!((parameters.count(), parameters.offsets()), (22, [0, 16].as_slice()));
    }

    #[test]
    fn fingerprints_tell_values_names_and_kinds_apart() {
        let make = |seed, kind| Parameters::new(specs(), seed, Device::Cpu, kind).unwrap();
        let one = make(1, Kind::Float).fingerprint().unwrap();
        assert_eq!(one, make(1, Kind::Float).fingerprint().unwrap());
        assert_ne!(one, make(2, Kind::Float).fingerprint().unwrap());
        assert_ne!(one, make(1, Kind::BFloat16).fingerprint().unwrap());
        let mut renamed = specs();
        renamed[0].name = "c".into();
        let mut renamed = Parameters::new(renamed, 1, Device::Cpu, Kind::Float).unwrap();
        assert_ne!(one, renamed.fingerprint().unwrap());
        assert!(renamed.copy_from(&make(1, Kind::Float)).is_err());
    }

    #[test]
    fn one_seed_is_one_model_whatever_was_drawn_before() {
        let first = Parameters::new(specs(), 7, Device::Cpu, Kind::Float).unwrap();
        let _ = Tensor::rand([9], (Kind::Float, Device::Cpu));
        let second = Parameters::new(specs(), 7, Device::Cpu, Kind::Float).unwrap();
        assert_eq!(Vec::<f32>::try_from(first.flat()).unwrap(), Vec::<f32>::try_from(second.flat()).unwrap());
    }
}
