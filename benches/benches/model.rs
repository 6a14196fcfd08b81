//! A small GPT-2 with random weights: training steps and decoding, on the CPU and on a CUDA device where there is one.

use std::hint::black_box;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, SamplingMode, Throughput, criterion_group};
use persona_align::{PreferenceLoss, reference_log_probs};
use persona_benches::{examples, pairs, prompts, shape};
use persona_infer::{DecodeConfig, Decoder};
use persona_model::{Gpt2, Model, Precision, cuda_status};
use persona_train::{AdamW, AdamWConfig, NextToken, Objective, gradient_norm};
use tch::{Cuda, Device, Kind, Tensor};

const EXAMPLES: usize = 16;
const PAIRS: usize = 8;
const NEW_TOKENS: usize = 40;
const SEED: u64 = 1;

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_secs(1))
        .measurement_time(Duration::from_secs(5));
    targets = next_token_step, dpo_step, greedy
}

fn next_token_step(criterion: &mut Criterion) {
    let items = examples(EXAMPLES, SEED);
    let items: Vec<_> = items.iter().collect();
    let tokens: usize = items.iter().map(|item| item.source.len() + item.target.len()).sum();
    let mut group = criterion.benchmark_group("next_token_step");
    group.sampling_mode(SamplingMode::Flat).throughput(Throughput::Elements(tokens as u64));
    for (device, precision) in places() {
        group.bench_function(id(device, precision), |bencher| {
            let mut training = Training::new(NextToken::new(model(device, precision)));
            bencher.iter(|| training.step(black_box(&items)));
        });
    }
    group.finish();
}

fn dpo_step(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("dpo_step");
    group.sampling_mode(SamplingMode::Flat).throughput(Throughput::Elements(PAIRS as u64));
    for (device, precision) in places() {
        group.bench_function(id(device, precision), |bencher| {
            let policy = model(device, precision);
            let items = reference_log_probs(&policy, pairs(PAIRS, SEED), PAIRS, None).unwrap();
            let items: Vec<_> = items.iter().collect();
            let mut training = Training::new(PreferenceLoss::sigmoid(0.1).on(policy));
            bencher.iter(|| training.step(black_box(&items)));
        });
    }
    group.finish();
}

/// No token ends a reply, so every row runs to its full length. Weights are held in the precision itself, as there is
/// no optimiser to keep them in float32 for.
fn greedy(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("greedy");
    group.sampling_mode(SamplingMode::Flat);
    for batch_size in [1, 16] {
        let prompts = prompts(batch_size, SEED);
        group.throughput(Throughput::Elements((batch_size * NEW_TOKENS) as u64));
        for (device, precision) in places() {
            let name = format!("batch {batch_size}/{}", place(device, precision));
            group.bench_function(name, |bencher| {
                let model = model(device, precision).copy(precision.kind()).unwrap();
                let config =
                    DecodeConfig { max_new_tokens: NEW_TOKENS, batch_size, ..DecodeConfig::default() };
                let decoder = Decoder::new(&model, config, &[]).unwrap();
                bencher.iter(|| {
                    let replies = decoder.generate(black_box(&prompts)).unwrap();
                    assert!(replies.iter().all(|reply| reply.len() == NEW_TOKENS));
                    replies
                });
            });
        }
    }
    group.finish();
}

/// One optimiser step as the trainer takes it: forward, backward, norm, clipping, AdamW.
struct Training<O> {
    objective: O,
    optimizer: AdamW,
}

impl<O: Objective> Training<O> {
    fn new(objective: O) -> Self {
        let parameters = objective.model().parameters();
        parameters.set_trainable(true).unwrap();
        let optimizer = AdamW::new(AdamWConfig::default(), parameters).unwrap();
        tch::manual_seed(SEED as i64); // for dropout
        Self { objective, optimizer }
    }

    fn step(&mut self, items: &[&O::Item]) -> f64 {
        let contribution = self.objective.evaluate(items, true).unwrap();
        let loss = contribution.numerator.f_div_scalar(self.objective.count(items)).unwrap();
        let value = loss.f_double_value(&[]).unwrap();
        let gradients: Vec<Option<Tensor>> =
            Tensor::f_run_backward(&[loss], self.objective.model().parameters().leaves(), false, false)
                .unwrap()
                .into_iter()
                .map(|gradient| gradient.defined().then_some(gradient))
                .collect();
        let scale = (1.0 / (gradient_norm(&gradients).unwrap() + 1e-6)).min(1.0);
        let parameters = self.objective.model_mut().parameters_mut();
        self.optimizer.step(parameters, &gradients, scale, 5e-5).unwrap();
        if let Device::Cuda(index) = parameters.device() {
            Cuda::synchronize(index as i64);
        }
        value
    }
}

fn model(device: Device, precision: Precision) -> Gpt2 {
    let mut model = Gpt2::new(shape(), SEED, device, Kind::Float).unwrap();
    model.set_precision(precision);
    model
}

/// Every device and precision that is measured.
fn places() -> Vec<(Device, Precision)> {
    let cuda = cuda_status().is_ok().then_some(Device::Cuda(0));
    [Device::Cpu]
        .into_iter()
        .chain(cuda)
        .flat_map(|device| [(device, Precision::Fp32), (device, Precision::Bf16)])
        .collect()
}

fn place(device: Device, precision: Precision) -> String {
    let device = if device == Device::Cpu { "cpu" } else { "cuda" };
    let precision = match precision {
        Precision::Fp32 => "fp32",
        Precision::Bf16 => "bf16",
    };
    format!("{device}/{precision}")
}

fn id(device: Device, precision: Precision) -> BenchmarkId {
    BenchmarkId::from_parameter(place(device, precision))
}
