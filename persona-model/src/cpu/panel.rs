//! Products of few rows with a panel of a matrix.

use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};

use super::exp::softmax;
use super::lanes::{Avx2, Avx512, Element, Lanes};

/// Rows of numbers at equal distances.
#[derive(Clone, Copy)]
pub(super) struct Lines<T> {
    pub(super) start: *const T,
    pub(super) stride: usize,
}

/// Rows of results at equal distances.
#[derive(Clone, Copy)]
pub(super) struct Results {
    pub(super) start: *mut f32,
    pub(super) stride: usize,
}

/// What results begin with.
#[derive(Clone, Copy)]
pub(super) enum Begin {
    Zero,
    /// One number a column, the same for all rows.
    Bias(*const f32),
    /// What is there.
    Add,
}

/// Some columns of `y[m][n] = sum over k of x[m][k] w[k][n]`: V vectors wide, M rows high. Rows of `w` are read ahead.
#[allow(unsafe_code)]
#[inline(always)]
unsafe fn in_out_tile<L: Lanes, T: Element, const M: usize, const V: usize>(
    x: Lines<f32>,
    depth: usize,
    w: Lines<T>,
    y: Results,
    begin: Begin,
) {
    const AHEAD: usize = 8;
    unsafe {
        let mut sums = [[L::splat(0.0); V]; M];
        for (m, sums) in sums.iter_mut().enumerate() {
            for (v, sum) in sums.iter_mut().enumerate() {
                match begin {
                    Begin::Zero => {}
                    Begin::Bias(bias) => *sum = L::load(bias.add(v * L::N)),
                    Begin::Add => *sum = L::load(y.start.add(m * y.stride + v * L::N)),
                }
            }
        }
        for k in 0..depth {
            let line = w.start.add(k * w.stride);
            if M > 1 {
                let ahead = line.wrapping_add(AHEAD * w.stride).cast::<i8>();
                for at in (0..V * L::N * size_of::<T>()).step_by(64) {
                    _mm_prefetch::<_MM_HINT_T0>(ahead.wrapping_add(at));
                }
            }
            let mut weights = [L::splat(0.0); V];
            for (v, weight) in weights.iter_mut().enumerate() {
                *weight = T::load::<L>(line.add(v * L::N));
            }
            for (m, sums) in sums.iter_mut().enumerate() {
                let factor = L::splat(*x.start.add(m * x.stride + k));
                for (sum, weight) in sums.iter_mut().zip(weights) {
                    *sum = L::mul_add(factor, weight, *sum);
                }
            }
        }
        for (m, sums) in sums.iter().enumerate() {
            for (v, sum) in sums.iter().enumerate() {
                L::store(y.start.add(m * y.stride + v * L::N), *sum);
            }
        }
    }
}

/// One column of the same.
#[allow(unsafe_code)]
#[inline(always)]
unsafe fn in_out_column<T: Element>(
    x: Lines<f32>,
    (rows, depth): (usize, usize),
    w: Lines<T>,
    y: Results,
    begin: Begin,
) {
    unsafe {
        for m in 0..rows {
            let place = y.start.add(m * y.stride);
            let mut sum = match begin {
                Begin::Zero => 0.0,
                Begin::Bias(bias) => *bias,
                Begin::Add => *place,
            };
            for k in 0..depth {
                sum = (*x.start.add(m * x.stride + k)).mul_add((*w.start.add(k * w.stride)).value(), sum);
            }
            *place = sum;
        }
    }
}

/// Some columns of `y[m][n] = sum over k of x[m][k] w[n][k]`: R of them, M rows high.
#[allow(unsafe_code)]
#[inline(always)]
unsafe fn out_in_tile<L: Lanes, T: Element, const M: usize, const R: usize>(
    x: Lines<f32>,
    depth: usize,
    w: Lines<T>,
    y: Results,
    begin: Begin,
) {
    unsafe {
        let mut sums = [[L::splat(0.0); R]; M];
        let whole = depth - depth % L::N;
        for k in (0..whole).step_by(L::N) {
            let mut weights = [L::splat(0.0); R];
            for (r, weight) in weights.iter_mut().enumerate() {
                *weight = T::load::<L>(w.start.add(r * w.stride + k));
            }
            for (m, sums) in sums.iter_mut().enumerate() {
                let factor = L::load(x.start.add(m * x.stride + k));
                for (sum, weight) in sums.iter_mut().zip(weights) {
                    *sum = L::mul_add(factor, weight, *sum);
                }
            }
        }
        for (m, sums) in sums.iter().enumerate() {
            for (r, sum) in sums.iter().enumerate() {
                let place = y.start.add(m * y.stride + r);
                let mut sum = L::sum(*sum);
                for k in whole..depth {
                    sum = (*x.start.add(m * x.stride + k))
                        .mul_add((*w.start.add(r * w.stride + k)).value(), sum);
                }
                *place = match begin {
                    Begin::Zero => sum,
                    Begin::Bias(bias) => sum + *bias.add(r),
                    Begin::Add => sum + *place,
                };
            }
        }
    }
}

/// The kernels for one set of instructions. `WIDE` vectors at once for a single row, `V` for up to `HIGH` rows; the same
/// with columns for `[out, in]`.
macro_rules! kernels {
    ($name:ident, $lanes:ty, $features:literal, wide: $wide:literal, vectors: $v:literal, rows: [$($m:literal),+],
     high: $high:literal, single: $single:literal, columns: $r:literal) => {
        #[allow(unsafe_code, clippy::missing_safety_doc)]
        pub(super) mod $name {
            use super::*;

            /// `count` columns of `y = x w` for `w [in, out]`.
            #[target_feature(enable = $features)]
            pub(in super::super) unsafe fn in_out<T: Element>(
                x: Lines<f32>,
                (rows, depth): (usize, usize),
                w: Lines<T>,
                count: usize,
                y: Results,
                begin: Begin,
            ) {
                const N: usize = <$lanes as Lanes>::N;
                let mut n = 0;
                unsafe {
                    while n < count {
                        let w = Lines { start: w.start.add(n), ..w };
                        let y = Results { start: y.start.add(n), ..y };
                        let begin = match begin {
                            Begin::Bias(bias) => Begin::Bias(bias.add(n)),
                            other => other,
                        };
                        let left = count - n;
                        if rows == 1 && left >= $wide * N {
                            in_out_tile::<$lanes, T, 1, $wide>(x, depth, w, y, begin);
                            n += $wide * N;
                        } else if left >= $v * N {
                            let mut m = 0;
                            while m < rows {
                                let x = Lines { start: x.start.add(m * x.stride), ..x };
                                let y = Results { start: y.start.add(m * y.stride), ..y };
                                match rows - m {
                                    $($m => in_out_tile::<$lanes, T, $m, $v>(x, depth, w, y, begin),)+
                                    _ => in_out_tile::<$lanes, T, $high, $v>(x, depth, w, y, begin),
                                }
                                m += $high;
                            }
                            n += $v * N;
                        } else if left >= N {
                            for m in 0..rows {
                                let x = Lines { start: x.start.add(m * x.stride), ..x };
                                let y = Results { start: y.start.add(m * y.stride), ..y };
                                in_out_tile::<$lanes, T, 1, 1>(x, depth, w, y, begin);
                            }
                            n += N;
                        } else {
                            in_out_column(x, (rows, depth), w, y, begin);
                            n += 1;
                        }
                    }
                }
            }

            /// `count` columns of `y = x w` for `w [out, in]`.
            #[target_feature(enable = $features)]
            pub(in super::super) unsafe fn out_in<T: Element>(
                x: Lines<f32>,
                (rows, depth): (usize, usize),
                w: Lines<T>,
                count: usize,
                y: Results,
                begin: Begin,
            ) {
                let mut n = 0;
                unsafe {
                    while n < count {
                        let w = Lines { start: w.start.add(n * w.stride), ..w };
                        let y = Results { start: y.start.add(n), ..y };
                        let begin = match begin {
                            Begin::Bias(bias) => Begin::Bias(bias.add(n)),
                            other => other,
                        };
                        let left = count - n;
                        if rows == 1 && left >= $single {
                            out_in_tile::<$lanes, T, 1, $single>(x, depth, w, y, begin);
                            n += $single;
                        } else if left >= $r {
                            let mut m = 0;
                            while m < rows {
                                let x = Lines { start: x.start.add(m * x.stride), ..x };
                                let y = Results { start: y.start.add(m * y.stride), ..y };
                                match rows - m {
                                    $($m => out_in_tile::<$lanes, T, $m, $r>(x, depth, w, y, begin),)+
                                    _ => out_in_tile::<$lanes, T, $high, $r>(x, depth, w, y, begin),
                                }
                                m += $high;
                            }
                            n += $r;
                        } else {
                            for m in 0..rows {
                                let x = Lines { start: x.start.add(m * x.stride), ..x };
                                let y = Results { start: y.start.add(m * y.stride), ..y };
                                out_in_tile::<$lanes, T, 1, 1>(x, depth, w, y, begin);
                            }
                            n += 1;
                        }
                    }
                }
            }

            /// Softmax in place of rows of `len` scores, which `scale` multiplies; divided by the sums.
            #[target_feature(enable = $features)]
            pub(in super::super) unsafe fn softmax_rows(rows: usize, len: usize, scores: Results, scale: f32) {
                const N: usize = <$lanes as Lanes>::N;
                unsafe {
                    for row in 0..rows {
                        let scores = scores.start.add(row * scores.stride);
                        let (factor, _) = softmax::<$lanes>(scores, len, scale);
                        let lanes = <$lanes as Lanes>::splat(factor);
                        let whole = len - len % N;
                        for at in (0..whole).step_by(N) {
                            let weight = <$lanes as Lanes>::load(scores.add(at));
                            <$lanes as Lanes>::store(scores.add(at), <$lanes as Lanes>::mul(weight, lanes));
                        }
                        for at in whole..len {
                            *scores.add(at) *= factor;
                        }
                    }
                }
            }
        }
    };
}

kernels!(avx512, Avx512, "avx512f,avx512bw,avx2,fma", wide: 24, vectors: 4, rows: [1, 2, 3, 4, 5], high: 6,
         single: 8, columns: 4);
kernels!(avx2, Avx2, "avx2,fma", wide: 12, vectors: 3, rows: [1, 2, 3], high: 4, single: 8, columns: 3);
