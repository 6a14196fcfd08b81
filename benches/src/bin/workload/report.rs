//! The line that is printed, under the peers' names.

use std::time::Instant;

use anyhow::Result;
use serde_json::{Map, Value, json};
use tch::{Cuda, Device, Kind, Tensor};

use crate::Workload;

/// Seconds of every step after the first.
pub(crate) fn timed(
    device: Device,
    steps: usize,
    mut step: impl FnMut(usize) -> Result<()>,
) -> Result<Vec<f64>> {
    let mut seconds = Vec::with_capacity(steps);
    for at in 0..=steps {
        synchronize(device);
        let began = Instant::now();
        step(at)?;
        synchronize(device);
        if at > 0 {
            seconds.push(began.elapsed().as_secs_f64());
        }
    }
    seconds.sort_by(f64::total_cmp);
    Ok(seconds)
}

fn synchronize(device: Device) {
    if let Device::Cuda(index) = device {
        Cuda::synchronize(index as i64);
    }
}

/// The line for sorted seconds a step; `more` gets the median.
pub(crate) fn line(workload: &Workload, seconds: &[f64], more: impl Fn(f64) -> Value) -> Value {
    let median = seconds.get(seconds.len() / 2).copied().unwrap_or(f64::NAN);
    let mut line = Map::new();
    let mut put = |part: Value| {
        if let Value::Object(part) = part {
            line.extend(part);
        }
    };
    put(json!({
        "program": "persona",
        "seconds_per_step": median,
        "fastest_seconds": seconds.first(),
        "rows_per_second": workload.batch as f64 / median,
        "peak_mib": peak_mib(),
        "threads": tch::get_num_threads(),
        "batch": workload.batch,
        "device": workload.device,
        "dtype": workload.dtype,
    }));
    put(more(median));
    Value::Object(line)
}

/// The largest resident memory so far, by the operating system's account.
fn peak_mib() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().trim_end_matches(" kB").trim().parse::<u64>().ok()? / 1024)
}

/// Bytes a second that libtorch reads in a sum over 256 MiB, the best of some runs.
pub(crate) fn memory_bandwidth(device: Device) -> Result<f64> {
    let numbers = Tensor::f_ones([1 << 26], (Kind::Float, device))?;
    let seconds = timed(device, 8, |_| {
        let _ = numbers.f_sum(Kind::Float)?;
        Ok(())
    })?;
    Ok((4.0 * (1u64 << 26) as f64) / seconds.first().copied().unwrap_or(f64::NAN))
}
