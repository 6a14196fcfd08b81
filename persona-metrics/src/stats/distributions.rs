//! Upper tails and quantiles of Student's t and the normal distribution, to about 1e-13 of their value as deep as f64
//! reaches.

use std::f64::consts::{PI, SQRT_2};

use crate::error::{Error, Result};

/// P(T > t) for Student's t with `df >= 1` degrees of freedom; below the smallest f64 it is 0.
///
/// With x = df / (df + t^2), y = 1 - x and a = df / 2, the tail is half the regularised incomplete beta function
/// I_x(a, 1/2). Near the centre its complement is summed as a power series in y, whose terms are all positive; further
/// out the continued fraction of Didonato and Morris (1992, equation 9) is used, which stays exact for large a.
pub(super) fn t_upper_tail(t: f64, df: f64) -> f64 {
    if t < 0.0 {
        return 1.0 - t_upper_tail(-t, df);
    }
    let a = df / 2.0;
    let root = t / df.sqrt();
    let ratio = root * root;
    let x = 1.0 / (1.0 + ratio);
    let (y, ln_x) = if root < 1e8 { (ratio * x, -ratio.ln_1p()) } else { (1.0, -2.0 * root.ln()) };
    // x^a y^(1/2) / B(a, 1/2)
    let front = (a * ln_x).exp() * y.sqrt() * gamma_ratio(a) / PI.sqrt();
    if t * t < 3.0 {
        return 0.5 - front * centre_series(a, y);
    }
    let fraction = tail_fraction(a, x, y);
    if front == 0.0 { 0.0 } else { 0.5 * front / fraction }
}

/// Sum over n of the products (a + 1/2)_n / (3/2)_n y^n.
fn centre_series(a: f64, y: f64) -> f64 {
    let (mut term, mut sum, mut n) = (1.0, 1.0, 0.0);
    while term > sum * f64::EPSILON / 8.0 {
        term *= y * (a + 0.5 + n) / (1.5 + n);
        sum += term;
        n += 1.0;
    }
    sum
}

/// The denominator of Didonato and Morris' continued fraction for b = 1/2, by Lentz's method.
fn tail_fraction(a: f64, x: f64, y: f64) -> f64 {
    let lambda = a * y - 0.5 * x;
    let mut value = a / (a + 1.0) * (lambda + 1.0);
    let (mut c, mut d) = (value, 0.0);
    for step in 1..1000 {
        let n = f64::from(step);
        let middle = a + 2.0 * n - 1.0;
        let numerator = (a + n - 1.0) / middle * ((a + n - 0.5) / middle) * n * (0.5 - n) * x * x;
        let denominator =
            n + n * (0.5 - n) * x / middle + (a + n) / (a + 2.0 * n + 1.0) * (lambda + 1.0 + n * (1.0 + y));
        d = 1.0 / (denominator + numerator * d);
        c = denominator + numerator / c;
        value *= c * d;
        if (c * d - 1.0).abs() < f64::EPSILON {
            break;
        }
    }
    value
}

/// Γ(a + 1/2) / Γ(a) for a >= 1/2: the recurrence up to 32, then Stirling's series of its logarithm.
fn gamma_ratio(mut a: f64) -> f64 {
    let mut factor = 1.0;
    while a < 32.0 {
        factor *= a / (a + 0.5);
        a += 1.0;
    }
    let inverse = 1.0 / a;
    let square = inverse * inverse;
    let series = -1.0 / 8.0 + square * (1.0 / 192.0 + square * (-1.0 / 640.0 + square * 17.0 / 14336.0));
    factor * a.sqrt() * (inverse * series).exp()
}

/// P(|Z| > |z|) for the standard normal distribution.
pub(super) fn normal_two_sided(z: f64) -> f64 {
    libm::erfc(z.abs() / SQRT_2)
}

/// The t that Student's t exceeds with probability `upper`, for `upper` up to 1/2.
pub(super) fn t_quantile(upper: f64, df: f64) -> f64 {
    quantile(upper, |t| t_upper_tail(t, df))
}

/// The z that the standard normal distribution exceeds with probability `upper`, for `upper` up to 1/2.
pub(super) fn normal_quantile(upper: f64) -> f64 {
    quantile(upper, |z| 0.5 * normal_two_sided(z))
}

/// Bisection down to neighbouring numbers, within the power of two that holds the solution.
fn quantile(upper: f64, tail: impl Fn(f64) -> f64) -> f64 {
    if upper >= 0.5 {
        return 0.0;
    }
    let mut low = 1.0;
    while tail(low) <= upper && low > f64::MIN_POSITIVE {
        low /= 2.0;
    }
    let mut high = low * 2.0;
    while tail(high) > upper && high < f64::MAX / 2.0 {
        low = high;
        high *= 2.0;
    }
    loop {
        let middle = low + (high - low) / 2.0;
        if middle <= low || middle >= high {
            return middle;
        }
        if tail(middle) > upper { low = middle } else { high = middle }
    }
}

/// The probability on either side of an interval of that level.
pub(crate) fn outside(level: f64) -> Result<f64> {
    if level > 0.0 && level < 1.0 {
        Ok((1.0 - level) / 2.0)
    } else {
        Err(Error::NotAProbability { name: "the level of an interval", value: level })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn near(value: f64, expected: f64, relative: f64) {
        assert!((value - expected).abs() <= relative * expected.abs(), "{value:e} is not {expected:e}");
    }

    /// With one and two degrees of freedom the tail is elementary: atan(1 / t) / pi, and
    /// 1 / (s (s + t)) with s = sqrt(2 + t^2).
    #[test]
    fn tails_of_one_and_two_degrees_of_freedom() {
        for t in [1e-9, 0.02, 0.5, 1.0, 1.7, 1.74, 2.0, 12.0, 4e3, 1e9, 1e30, 1e100] {
            near(t_upper_tail(t, 1.0), (1.0 / t).atan() / PI, 1e-13);
            let s = 2.0_f64.sqrt().hypot(t);
            near(t_upper_tail(t, 2.0), 1.0 / (s * (s + t)), 1e-13);
            near(t_upper_tail(-t, 2.0), 1.0 - 1.0 / (s * (s + t)), 1e-13);
        }
    }

    /// Values of mpmath 1.4.1 at 50 digits (Gauss' series of the incomplete beta function).
    #[test]
    fn tails_of_many_degrees_of_freedom() {
        for (t, df, expected) in TAILS {
            near(t_upper_tail(t, df), expected, 1e-13);
        }
        assert_eq!(t_upper_tail(1e8, 500.0), 0.0);
        assert_eq!(t_upper_tail(f64::INFINITY, 3.0), 0.0);
        assert_eq!(t_upper_tail(0.0, 3.0), 0.5);
    }

    #[test]
    fn with_many_degrees_of_freedom_it_is_the_normal_distribution() {
        for t in [0.1, 1.0, 1.8, 3.0, 6.0] {
            near(2.0 * t_upper_tail(t, 1e15), normal_two_sided(t), 1e-12);
        }
    }

    #[test]
    fn quantiles_invert_the_tails() {
        for df in [1.0, 1.5, 2.0, 7.3, 34.0, 1e4, 1e9] {
            for upper in [1e-15, 1e-6, 0.005, 0.025, 0.1, 0.3, 0.49, 0.4999] {
                near(t_upper_tail(t_quantile(upper, df), df), upper, 1e-12);
                near(0.5 * normal_two_sided(normal_quantile(upper)), upper, 1e-12);
            }
            assert_eq!(t_quantile(0.5, df), 0.0);
        }
        near(normal_quantile(0.025), 1.959_963_984_540_054, 1e-14);
        near(t_quantile(0.025, 1.0), 12.706_204_736_174_7, 1e-13);
    }

    #[test]
    fn levels_lie_between_0_and_1() {
        for level in [0.0, 1.0, -0.5, 95.0, f64::NAN, f64::INFINITY] {
            assert!(matches!(outside(level), Err(Error::NotAProbability { .. })), "{level}");
        }
        assert_eq!(outside(0.5).unwrap(), 0.25);
    }

    /// t, degrees of freedom, tail.
    const TAILS: [(f64, f64, f64); 10] = [
        (2.5, 1.4758, 8.617_866_372_307_341e-2),
        (12.0, 8.0, 1.0719333738443856e-6),
        (30.0, 93.12, 5.948_003_335_805_185e-50),
        (200.0, 34.0, 4.226_694_084_925_495e-54),
        (3.0, 5000.5, 1.3565538456908574e-3),
        (30.0, 500.0, 3.607_144_444_214_01e-114),
        (2.0, 1e5, 2.2751481728753232e-2),
        (30.0, 1e7, 5.007_306_845_408_9e-198),
        (1e5, 34.0, 7.364_093_445_173_846e-146),
        (1e12, 4.0, 3e-48),
    ];
}
