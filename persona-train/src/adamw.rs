//! AdamW over the flat buffer that the parameters share.

use persona_model::{Parameters, share_work};
use tch::{Device, Kind, Tensor};

use crate::config::{AdamWConfig, ParameterGroup};
use crate::error::{Error, Result};
use crate::groups::{self, Rule};

/// AdamW (Loshchilov and Hutter 2019) with torch's numbers: decoupled decay, bias-corrected moments.
///
/// The moments are two flat float32 tensors laid out as the parameters, so that a checkpoint holds them whole. On the
/// CPU one pass with several threads reads each gradient where it lies; elsewhere tensor operations update one parameter
/// after another.
#[derive(Debug)]
pub struct AdamW {
    config: AdamWConfig,
    /// How each parameter is updated, in storage order.
    rules: Vec<Rule>,
    mean: Tensor,
    square: Tensor,
    steps: u64,
}

/// What is needed to update one parameter.
struct Span {
    offset: usize,
    len: usize,
    gradient: Tensor,
    /// What decay leaves of a weight.
    keep: f32,
    /// The rate over the first moment's bias correction.
    rate: f32,
}

/// Sums are taken over blocks of this many elements, so that they do not depend on the number of threads.
const BLOCK: usize = 1 << 16;

impl AdamW {
    /// Moments of zero for parameters held in float32.
    ///
    /// # Errors
    /// [`Error::Config`] for parameters of another kind, as states and master weights are float32, and for mapped ones.
    pub fn new(config: AdamWConfig, parameters: &Parameters) -> Result<Self> {
        if parameters.kind() != Kind::Float {
            let reason =
                format!("the weights are held in {:?}; load them in float32 to train", parameters.kind());
            return Err(Error::Config { key: "precision", reason });
        }
        if parameters.is_mapped() {
            let reason =
                "the weights lie in a mapped file; load them without `LoadOptions::mapped` to train them";
            return Err(Error::Config { key: "model", reason: reason.to_owned() });
        }
        let (mean, square) = (parameters.flat().f_zeros_like()?, parameters.flat().f_zeros_like()?);
        let rules = groups::rules(&config, parameters);
        Ok(Self { config, rules, mean, square, steps: 0 })
    }

    /// Learning rates and weight decay of the parameters that `groups` name, and LoRA+'s `ratio` for the B matrices of an
    /// adapter that none of them names ([`TrainConfig::lora_plus_ratio`](crate::TrainConfig)). `parameters` are those that
    /// the optimiser was made for.
    ///
    /// # Errors
    /// [`Error::Config`] for a pattern that fits no parameter, and for a ratio where there is no B matrix.
    pub fn with_groups(
        mut self,
        groups: &[ParameterGroup],
        ratio: Option<f64>,
        parameters: &Parameters,
    ) -> Result<Self> {
        groups::apply(&mut self.rules, groups, ratio, parameters)?;
        Ok(self)
    }

    /// Steps taken.
    #[must_use]
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// The first and second moments, each `[N]`, laid out as [`Parameters::flat`].
    pub fn moments(&self) -> (&Tensor, &Tensor) {
        (&self.mean, &self.square)
    }

    /// Takes up the state of an earlier run.
    ///
    /// # Errors
    /// libtorch's when the moments have another length.
    pub fn restore(&mut self, steps: u64, mean: &Tensor, square: &Tensor) -> Result<()> {
        self.mean.f_copy_(mean)?;
        self.square.f_copy_(square)?;
        self.steps = steps;
        Ok(())
    }

    /// Updates the parameters by their gradients times `scale`, at a learning rate. `gradients` stand in the order of
    /// [`Parameters::leaves`]; a parameter without one is left as it is.
    ///
    /// # Errors
    /// libtorch's.
    pub fn step(
        &mut self,
        parameters: &mut Parameters,
        gradients: &[Option<Tensor>],
        scale: f64,
        learning_rate: f64,
    ) -> Result<()> {
        let _no_grad = tch::no_grad_guard();
        if parameters.kind() != Kind::Float || parameters.flat().numel() != self.mean.numel() {
            let reason = format!(
                "the optimiser was made for {} float32 elements, these are {} of {:?}",
                self.mean.numel(),
                parameters.flat().numel(),
                parameters.kind()
            );
            return Err(Error::Gradient { at: 0, reason });
        }
        // Everything is checked before anything changes.
        let exponent = i32::try_from(self.steps + 1).unwrap_or(i32::MAX);
        let rate = learning_rate / (1.0 - self.config.beta1.powi(exponent));
        let spans = spans(parameters, gradients, &self.rules, learning_rate, rate)?;
        self.steps += 1;
        let update = Update {
            scale: scale as f32,
            beta1: self.config.beta1 as f32,
            beta2: self.config.beta2 as f32,
            root: (1.0 - self.config.beta2.powi(exponent)).sqrt() as f32,
            epsilon: self.config.epsilon as f32,
        };
        if parameters.device() == Device::Cpu {
            update_on_cpu(update, parameters.flat_mut(), &mut self.mean, &mut self.square, &spans);
            return Ok(());
        }
        for span in &spans {
            let part = |flat: &Tensor| flat.f_narrow(0, span.offset as i64, span.len as i64);
            update.with_tensors(part(parameters.flat())?, part(&self.mean)?, part(&self.square)?, span)?;
        }
        Ok(())
    }
}

/// The numbers of one step.
#[derive(Debug, Clone, Copy)]
struct Update {
    scale: f32,
    beta1: f32,
    beta2: f32,
    /// The root of the second moment's bias correction.
    root: f32,
    epsilon: f32,
}

/// What one thread updates at a time.
struct Piece<'a> {
    weight: &'a mut [f32],
    mean: &'a mut [f32],
    square: &'a mut [f32],
    gradient: &'a [f32],
    keep: f32,
    rate: f32,
}

impl Update {
    /// The same bits whatever the processor: operations are the same, as many numbers at once as it takes.
    #[allow(unsafe_code)]
    fn apply(self, part: Piece<'_>) {
        #[cfg(target_arch = "x86_64")]
        {
            #[target_feature(enable = "avx512f")]
            fn avx512(update: Update, part: Piece<'_>) {
                update.apply_each(part);
            }
            #[target_feature(enable = "avx2")]
            fn avx2(update: Update, part: Piece<'_>) {
                update.apply_each(part);
            }
            if is_x86_feature_detected!("avx512f") {
                // SAFETY: the processor has the instructions.
                return unsafe { avx512(self, part) };
            }
            if is_x86_feature_detected!("avx2") {
                // SAFETY: as above.
                return unsafe { avx2(self, part) };
            }
        }
        self.apply_each(part);
    }

    #[inline(always)]
    fn apply_each(self, part: Piece<'_>) {
        let Piece { weight, mean, square, gradient, keep, rate } = part;
        for (((w, m), v), &g) in weight.iter_mut().zip(mean).zip(square).zip(gradient) {
            let g = g * self.scale;
            *m += (g - *m) * (1.0 - self.beta1);
            *v = *v * self.beta2 + g * g * (1.0 - self.beta2);
            *w = *w * keep - rate * (*m / (v.sqrt() / self.root + self.epsilon));
        }
    }

    fn with_tensors(self, mut w: Tensor, mut m: Tensor, mut v: Tensor, span: &Span) -> Result<()> {
        let g = span.gradient.f_view([-1])?.f_mul_scalar(f64::from(self.scale))?;
        let _ = m.f_lerp_(&g, 1.0 - f64::from(self.beta1))?;
        let _ = v.f_mul_scalar_(f64::from(self.beta2))?;
        let _ = v.f_add_(&g.f_mul(&g)?.f_mul_scalar(1.0 - f64::from(self.beta2))?)?;
        let scale = v.f_sqrt()?.f_div_scalar(f64::from(self.root))?.f_add_scalar(f64::from(self.epsilon))?;
        if span.keep != 1.0 {
            let _ = w.f_mul_scalar_(f64::from(span.keep))?;
        }
        let _ = w.f_sub_(&m.f_div(&scale)?.f_mul_scalar(f64::from(span.rate))?)?;
        Ok(())
    }
}

/// The parameters that have gradients, each contiguous in float32.
fn spans(
    parameters: &Parameters,
    gradients: &[Option<Tensor>],
    rules: &[Rule],
    learning_rate: f64,
    corrected: f64,
) -> Result<Vec<Span>> {
    if gradients.len() != parameters.specs().len() {
        let reason = format!("{} gradients for {} parameters", gradients.len(), parameters.specs().len());
        return Err(Error::Gradient { at: 0, reason });
    }
    let mut spans = Vec::with_capacity(gradients.len());
    for (at, ((gradient, spec), rule)) in gradients.iter().zip(parameters.specs()).zip(rules).enumerate() {
        let Some(gradient) = gradient else { continue };
        if gradient.size() != spec.shape || gradient.device() != parameters.device() {
            let (found, wanted) = (gradient.size(), &spec.shape);
            let reason = format!("{found:?} on {:?} for {} {wanted:?}", gradient.device(), spec.name);
            return Err(Error::Gradient { at, reason });
        }
        spans.push(Span {
            offset: parameters.offsets()[at] as usize,
            len: gradient.numel(),
            gradient: gradient.f_to_kind(Kind::Float)?.f_contiguous()?,
            keep: (1.0 - learning_rate * rule.factor * rule.weight_decay) as f32,
            rate: (corrected * rule.factor) as f32,
        });
    }
    Ok(spans)
}

/// The Euclidean norm of all gradients together. On the CPU it does not depend on the number of threads.
///
/// # Errors
/// libtorch's.
pub fn gradient_norm(gradients: &[Option<Tensor>]) -> Result<f64> {
    let _no_grad = tch::no_grad_guard();
    let mut sum = 0.0;
    let mut in_memory = Vec::new();
    for gradient in gradients.iter().flatten() {
        let gradient = gradient.f_to_kind(Kind::Float)?.f_contiguous()?;
        if gradient.device() == Device::Cpu {
            in_memory.push(gradient);
        } else {
            sum += gradient.f_square()?.f_sum(Kind::Double)?.f_double_value(&[])?;
        }
    }
    let blocks: Vec<&[f32]> =
        in_memory.iter().flat_map(|gradient| host_slice(gradient).chunks(BLOCK)).collect();
    let mut sums = vec![0.0; blocks.len()];
    share_work(blocks.into_iter().zip(&mut sums).collect(), |(block, sum)| *sum = sum_of_squares(block));
    Ok((sum + sums.iter().sum::<f64>()).sqrt())
}

fn sum_of_squares(values: &[f32]) -> f64 {
    const LANES: usize = 16;
    let mut lanes = [0.0f32; LANES];
    let chunks = values.chunks_exact(LANES);
    let rest: f64 = chunks.remainder().iter().map(|&value| f64::from(value) * f64::from(value)).sum();
    for chunk in chunks {
        for (lane, &value) in lanes.iter_mut().zip(chunk) {
            *lane += value * value;
        }
    }
    lanes.iter().map(|&lane| f64::from(lane)).sum::<f64>() + rest
}

/// Reads a contiguous float32 tensor in main memory.
#[allow(unsafe_code)]
fn host_slice(tensor: &Tensor) -> &[f32] {
    debug_assert!(tensor.device() == Device::Cpu && tensor.kind() == Kind::Float && tensor.is_contiguous());
    // SAFETY: the callers pass contiguous float32 tensors on the CPU; the tensor keeps its storage alive for as long as
    // the slice, and nothing writes to a gradient while it is read.
    unsafe { std::slice::from_raw_parts(tensor.data_ptr().cast::<f32>(), tensor.numel()) }
}

/// One pass over weights, moments and gradients, shared by several threads.
#[allow(unsafe_code)]
fn update_on_cpu(
    update: Update,
    weights: &mut Tensor,
    mean: &mut Tensor,
    square: &mut Tensor,
    spans: &[Span],
) {
    // SAFETY: the three tensors are contiguous float32 on the CPU (checked by `AdamW::new` and made with the same
    // layout), each exclusively borrowed here, and their storages are distinct.
    let slice = |tensor: &mut Tensor| unsafe {
        std::slice::from_raw_parts_mut(tensor.data_ptr().cast::<f32>(), tensor.numel())
    };
    let (mut weights, mut mean, mut square) = (slice(weights), slice(mean), slice(square));
    let mut work = Vec::new();
    let mut at = 0;
    for span in spans {
        let mut gradient = host_slice(&span.gradient);
        for slice in [&mut weights, &mut mean, &mut square] {
            *slice = &mut std::mem::take(slice)[span.offset - at..];
        }
        at = span.offset + span.len;
        while !gradient.is_empty() {
            let len = gradient.len().min(BLOCK);
            let (now, later) = gradient.split_at(len);
            gradient = later;
            let [weight, mean, square] = [&mut weights, &mut mean, &mut square].map(|slice| {
                let (now, later) = std::mem::take(slice).split_at_mut(len);
                *slice = later;
                now
            });
            work.push(Piece { weight, mean, square, gradient: now, keep: span.keep, rate: span.rate });
        }
    }
    share_work(work, |piece| update.apply(piece));
}

#[cfg(test)]
mod tests {
    use persona_model::{Init, ParameterSpec};

    use super::*;

    fn parameters() -> Parameters {
        let spec = |name: &str, shape: &[i64]| ParameterSpec {
            name: name.into(),
            shape: shape.to_vec(),
            init: Init::Normal(1.0),
        };
        Parameters::new(
            vec![spec("a", &[300, 500]), spec("b", &[7]), spec("c", &[5])],
            1,
            Device::Cpu,
            Kind::Float,
        )
        .unwrap()
    }

    fn gradients(parameters: &Parameters, seed: u64) -> Vec<Option<Tensor>> {
        let specs = parameters.specs().to_vec();
        let drawn = Parameters::new(specs, seed, Device::Cpu, Kind::Float).unwrap();
        let mut gradients: Vec<_> = drawn.leaves().iter().map(|leaf| Some(leaf.copy())).collect();
        gradients[1] = None;
        gradients
    }

    /// The threaded pass and the tensor operations are two implementations of one update.
    #[test]
    fn both_implementations_agree() {
        let (mut a, mut b) = (parameters(), parameters());
        let config = AdamWConfig { weight_decay: 0.1, ..AdamWConfig::default() };
        let group = ParameterGroup {
            parameters: vec!["c".into()],
            learning_rate_factor: 16.0,
            weight_decay: Some(0.0),
        };
        let mut threaded = AdamW::new(config, &a).unwrap().with_groups(&[group], None, &a).unwrap();
        let operations = AdamW::new(config, &b).unwrap();
        for step in 1..=3 {
            let gradients = gradients(&a, step);
            threaded.step(&mut a, &gradients, 0.5, 0.01).unwrap();
            let power = step as i32;
            let update = Update {
                scale: 0.5,
                beta1: 0.9,
                beta2: 0.999,
                root: (1.0 - 0.999f64.powi(power)).sqrt() as f32,
                epsilon: 1e-8,
            };
            let corrected = 0.01 / (1.0 - 0.9f64.powi(power));
            for span in spans(&b, &gradients, &threaded.rules, 0.01, corrected).unwrap() {
                let part = |flat: &Tensor| flat.narrow(0, span.offset as i64, span.len as i64);
                let (w, m, v) = (part(b.flat()), part(&operations.mean), part(&operations.square));
                update.with_tensors(w, m, v, &span).unwrap();
            }
        }
        let difference = (a.flat() - b.flat()).abs().max().double_value(&[]);
        assert!(difference < 1e-6, "{difference}");
        assert_eq!(a.get("b").unwrap(), parameters().get("b").unwrap(), "no gradient, no change");
        b.copy_from(&parameters()).unwrap();
        assert!((a.flat() - b.flat()).abs().max().double_value(&[]) > 0.01);
    }

    #[test]
    fn the_norm_is_that_of_all_gradients_together() {
        let gradients = gradients(&parameters(), 5);
        let sum: f64 =
            gradients.iter().flatten().map(|g| g.square().sum(Kind::Double).double_value(&[])).sum();
        approx::assert_relative_eq!(gradient_norm(&gradients).unwrap(), sum.sqrt(), max_relative = 1e-6);
    }

    #[test]
    fn weights_in_bfloat16_are_refused() {
        let half = Parameters::new(parameters().specs().to_vec(), 1, Device::Cpu, Kind::BFloat16).unwrap();
        assert!(AdamW::new(AdamWConfig::default(), &half).unwrap_err().to_string().contains("BFloat16"));
    }
}
