//! Embeddings for more tokens, or fewer.

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};
use serde::Serialize;
use serde_json::Value;
use tch::{Kind, Tensor};

use crate::error::{Error, Result};
use crate::parameters::{ParameterSpec, Parameters};

/// How embeddings get another number of rows. Old rows keep their values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resize {
    /// More rows, drawn from a normal distribution with the old rows' mean and 1e-9 times their covariance, so that no
    /// new token is likelier than an average old one: the default of transformers (`mean_resizing=True`; Hewitt 2021).
    Mean {
        /// The seed.
        seed: u64,
    },
    /// More rows, normal with mean 0 and the configuration's `initializer_range`: `mean_resizing=False`.
    Normal {
        /// The seed.
        seed: u64,
    },
    /// Fewer rows: the last ones are given up for good.
    Shrink,
}

/// The part of the old rows' covariance that new rows are drawn with.
const COVARIANCE: f64 = 1e-9;

/// New rows are drawn so many at a time: their normal numbers take up room for as many columns as there are old rows.
const PART: i64 = 64;

/// Checks that a model of this configuration can have `new` rows in place of `old`.
pub(crate) fn check(config: &impl Serialize, old: usize, new: usize, how: Resize) -> Result<()> {
    let fail = |reason| Err(Error::Config { key: "vocab_size", reason });
    match how {
        Resize::Mean { .. } | Resize::Normal { .. } if new < old => {
            return fail(format!(
                "is {old}, {new} would give up tokens; that is asked for with Resize::Shrink"
            ));
        }
        Resize::Shrink if new > old => {
            return fail(format!("is {old}, {new} is no fewer; say how new rows start (Resize::Mean)"));
        }
        _ => {}
    }
    let config = serde_json::to_value(config).unwrap_or_default();
    for key in ["bos_token_id", "eos_token_id", "pad_token_id"] {
        let ids = match &config[key] {
            Value::Array(ids) => ids.clone(),
            id => vec![id.clone()],
        };
        if let Some(id) = ids.iter().filter_map(Value::as_u64).find(|&id| id < old as u64 && id >= new as u64)
        {
            return fail(format!("cannot be {new}: `{key}` is {id}, which would no longer be there"));
        }
    }
    Ok(())
}

impl Parameters {
    /// These parameters with the first dimension of some as in `specs`, which names the same parameters. New rows start
    /// as `how` says, with `deviation` for [`Resize::Normal`]. The leaves are new: gradients are off.
    pub(crate) fn resized(&self, mut specs: Vec<ParameterSpec>, how: Resize, deviation: f64) -> Result<Self> {
        let _no_grad = tch::no_grad_guard();
        specs.retain(|spec| !self.quantized().contains_key(&spec.name));
        let mut resized = Self::zeros(specs, self.device(), self.kind())?;
        resized.share_quantized(self);
        let mut rng = ChaCha8Rng::seed_from_u64(match how {
            Resize::Mean { seed } | Resize::Normal { seed } => seed,
            Resize::Shrink => 0,
        });
        for (spec, new) in resized.specs().iter().zip(resized.leaves()) {
            let Some(old) = self.get(&spec.name) else {
                return Err(Error::Batch(format!("no parameter {} to resize", spec.name)));
            };
            let (rows, kept) = match (spec.shape.first(), old.size().first()) {
                (Some(&new), Some(&old)) => (new, old.min(new)),
                _ => (0, 0),
            };
            new.f_narrow(0, 0, kept)?.f_copy_(&old.f_narrow(0, 0, kept)?)?;
            if rows > kept {
                fill(&new.f_narrow(0, kept, rows - kept)?, old, how, deviation, &mut rng)?;
            }
        }
        Ok(resized)
    }
}

/// Draws new rows `[M, D]` beside the old ones `[V, D]`.
fn fill(new: &Tensor, old: &Tensor, how: Resize, deviation: f64, rng: &mut ChaCha8Rng) -> Result<()> {
    let (device, (count, width)) = (new.device(), new.size2()?);
    let mut normal = |shape: [i64; 2]| -> Result<Tensor> {
        let values = (0..shape[0] * shape[1]).map(|_| Distribution::<f32>::sample(&StandardNormal, rng));
        Ok(Tensor::f_from_slice(&values.collect::<Vec<_>>())?.f_view(shape)?.f_to_device(device)?)
    };
    if let Resize::Normal { .. } = how {
        new.shallow_clone().f_copy_(&normal([count, width])?.f_mul_scalar(deviation)?)?;
        return Ok(());
    }
    let old = old.f_to_kind(Kind::Float)?;
    let vocabulary = old.size2()?.0;
    let mean = old.f_mean_dim([0].as_slice(), true, Kind::Float)?;
    // Normal combinations of the centred rows have their covariance, whatever its rank.
    let centred = old.f_sub(&mean)?.f_mul_scalar((COVARIANCE / vocabulary as f64).sqrt())?;
    for from in (0..count).step_by(PART as usize) {
        let part = PART.min(count - from);
        let rows = mean.f_add(&normal([part, vocabulary])?.f_mm(&centred)?)?;
        new.f_narrow(0, from, part)?.f_copy_(&rows)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use tch::Device;

    use super::*;
    use crate::parameters::Init;

    fn specs(rows: i64) -> Vec<ParameterSpec> {
        let spec = |name: &str, shape: &[i64]| ParameterSpec {
            name: name.to_owned(),
            shape: shape.to_vec(),
            init: Init::Normal(1.0),
        };
        vec![spec("words", &[rows, 3]), spec("other", &[5]), spec("head", &[rows, 3])]
    }

    fn values(parameters: &Parameters, name: &str) -> Vec<Vec<f32>> {
        Vec::try_from(parameters.get(name).unwrap().view([-1, 3])).unwrap()
    }

    #[test]
    fn old_rows_stay_and_new_ones_follow_the_mean_or_the_deviation() {
        let old = Parameters::new(specs(200), 1, Device::Cpu, Kind::Float).unwrap();
        let mean = old.resized(specs(400), Resize::Mean { seed: 2 }, 0.5).unwrap();
        assert_eq!(mean.get("other"), old.get("other"));
        for name in ["words", "head"] {
            let (old, new) = (values(&old, name), values(&mean, name));
            assert_eq!(old, new[..200]);
            let of = |rows: &[Vec<f32>], at: usize| {
                let column = rows.iter().map(|row| f64::from(row[at]));
                let mean = column.clone().sum::<f64>() / rows.len() as f64;
                let variance = column.map(|x| (x - mean).powi(2)).sum::<f64>() / rows.len() as f64;
                (mean, variance.sqrt())
            };
            for at in 0..3 {
                let ((want, spread), (got, drawn)) = (of(&old, at), of(&new[200..], at));
                assert!((want - got).abs() < 1e-5, "{want} {got}");
                assert!((drawn / (spread * COVARIANCE.sqrt()) - 1.0).abs() < 0.2, "{drawn} {spread}");
            }
        }
        assert_ne!(values(&mean, "words")[200..], values(&mean, "head")[200..]);
        let normal = old.resized(specs(400), Resize::Normal { seed: 2 }, 0.5).unwrap();
        let new = normal.get("words").unwrap().narrow(0, 200, 200);
        assert!((new.std(true).double_value(&[]) - 0.5).abs() < 0.05);
        let again = old.resized(specs(400), Resize::Normal { seed: 2 }, 0.5).unwrap();
        assert_eq!(normal.get("head"), again.get("head"));
        let small = normal.resized(specs(150), Resize::Shrink, 0.5).unwrap();
        assert_eq!(values(&small, "words"), values(&old, "words")[..150]);
    }

    #[test]
    fn shrinking_is_asked_for_by_name_and_keeps_special_tokens() {
        let config = serde_json::json!({ "bos_token_id": 3, "eos_token_id": [4, 90], "pad_token_id": null });
        let check = |new, how| check(&config, 100, new, how).map_err(|error| error.to_string());
        check(101, Resize::Mean { seed: 0 }).unwrap();
        check(91, Resize::Shrink).unwrap();
        assert!(check(99, Resize::Normal { seed: 0 }).unwrap_err().contains("Resize::Shrink"));
        assert!(check(101, Resize::Shrink).unwrap_err().contains("Resize::Mean"));
        assert!(check(90, Resize::Shrink).unwrap_err().contains("`eos_token_id` is 90"));
    }
}
