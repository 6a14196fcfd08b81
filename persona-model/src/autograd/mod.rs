//! Functions of ours in libtorch's graph: a result is computed outside of it, and attached with a closure that gives the
//! gradients.

use std::ffi::{CStr, c_char, c_void};

use tch::Tensor;
use torch_sys::C_tensor;

use crate::error::{Error, Result};

/// From the gradient of a result, those of its inputs; None where the flag of an input says that nobody wants it.
type Gradients = dyn Fn(&Tensor, &[bool]) -> Result<Vec<Option<Tensor>>> + Send;

type RawGradients = extern "C" fn(
    *const c_void,
    *mut C_tensor,
    *const bool,
    *mut *mut C_tensor,
    usize,
    *mut c_char,
    usize,
) -> bool;

#[allow(unsafe_code)]
unsafe extern "C" {
    fn persona_torch_version() -> *const c_char;
    fn persona_autograd_records(inputs: *const *const C_tensor, count: usize) -> bool;
    fn persona_autograd_attach(
        output: *mut C_tensor,
        inputs: *const *const C_tensor,
        count: usize,
        state: *mut c_void,
        gradients: RawGradients,
        drop: extern "C" fn(*mut c_void),
        message: *mut c_char,
        room: usize,
    ) -> bool;
}

/// The version of the libtorch that this is built with, such as `2.11.0`.
#[must_use]
#[allow(unsafe_code)]
pub fn libtorch_version() -> String {
    // SAFETY: a literal, which ends in zero.
    unsafe { CStr::from_ptr(persona_torch_version()) }.to_string_lossy().into_owned()
}

/// Whether results of these inputs take part in the graph: some input learns, and gradients are on.
#[allow(unsafe_code)]
pub(crate) fn records(inputs: &[&Tensor]) -> bool {
    let inputs: Vec<*const C_tensor> = inputs.iter().map(|input| input.as_ptr()).collect();
    // SAFETY: the pointers are those of living tensors, as many as is said.
    unsafe { persona_autograd_records(inputs.as_ptr(), inputs.len()) }
}

/// Makes a fresh tensor a result of the inputs. The closure gives one gradient an input, in their order, each of its
/// input's shape; what it holds should be detached, and not the result itself, which would then never be freed.
#[allow(unsafe_code)]
pub(crate) fn attach(
    mut output: Tensor,
    inputs: &[&Tensor],
    gradients: impl Fn(&Tensor, &[bool]) -> Result<Vec<Option<Tensor>>> + Send + 'static,
) -> Result<Tensor> {
    let inputs: Vec<*const C_tensor> = inputs.iter().map(|input| input.as_ptr()).collect();
    let gradients: Box<Gradients> = Box::new(gradients);
    let state = Box::into_raw(Box::new(gradients)).cast();
    let mut message = [0; 512];
    // SAFETY: the pointers are those of living tensors, as many as is said. The state is a `Box<Gradients>`, which is what
    // the two functions take it for, and belongs to the node from here on.
    let done = unsafe {
        persona_autograd_attach(
            output.as_mut_ptr(),
            inputs.as_ptr(),
            inputs.len(),
            state,
            call,
            free,
            message.as_mut_ptr(),
            message.len(),
        )
    };
    if done {
        return Ok(output);
    }
    // SAFETY: the buffer ends in zero, as does what was written to it.
    let message = unsafe { CStr::from_ptr(message.as_ptr()) };
    Err(Error::Batch(message.to_string_lossy().into_owned()))
}

/// Calls the closure. A panic in it ends the program: it may not pass through C++.
#[allow(unsafe_code)]
extern "C" fn call(
    state: *const c_void,
    gradient: *mut C_tensor,
    wanted: *const bool,
    results: *mut *mut C_tensor,
    count: usize,
    message: *mut c_char,
    room: usize,
) -> bool {
    // SAFETY: the state is what `attach` made and not freed yet; the tensor lives during this call; `wanted` and `results`
    // have `count` places.
    let (gradients, gradient, wanted, results) = unsafe {
        (
            &*state.cast::<Box<Gradients>>(),
            Tensor::clone_from_ptr(gradient),
            std::slice::from_raw_parts(wanted, count),
            std::slice::from_raw_parts_mut(results, count),
        )
    };
    let error = match gradients(&gradient, wanted) {
        Ok(found) if found.len() == count => {
            for (place, found) in results.iter_mut().zip(found) {
                if let Some(mut found) = found {
                    *place = found.as_mut_ptr();
                    std::mem::forget(found); // C++ deletes it
                }
            }
            return true;
        }
        Ok(found) => format!("{} gradients of {count} inputs", found.len()),
        Err(error) => error.to_string(),
    };
    let bytes = error.as_bytes();
    let len = bytes.len().min(room.saturating_sub(1));
    // SAFETY: the buffer has `room` bytes; the last of those written is zero.
    unsafe {
        std::ptr::copy_nonoverlapping(bytes.as_ptr().cast(), message, len);
        *message.add(len) = 0;
    }
    false
}

#[allow(unsafe_code)]
extern "C" fn free(state: *mut c_void) {
    // SAFETY: the state is what `attach` made; C++ calls this once.
    drop(unsafe { Box::from_raw(state.cast::<Box<Gradients>>()) });
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tch::{Device, Kind};

    use super::*;

    fn learning(values: &[f32]) -> Tensor {
        Tensor::from_slice(values).set_requires_grad(true)
    }

    /// The product of two tensors, with a count of the gradients that were computed.
    fn product(a: &Tensor, b: &Tensor, computed: &Arc<AtomicUsize>) -> Tensor {
        let output = tch::no_grad(|| a * b);
        let (x, y, computed) = (a.detach(), b.detach(), Arc::clone(computed));
        attach(output, &[a, b], move |gradient, wanted| {
            computed.fetch_add(wanted.iter().filter(|&&wanted| wanted).count(), Ordering::Relaxed);
            Ok(vec![wanted[0].then(|| gradient * &y), wanted[1].then(|| gradient * &x)])
        })
        .unwrap()
    }

    #[test]
    fn gradients_pass_through_what_is_attached() {
        let (a, b, computed) = (learning(&[2.0, 3.0]), learning(&[5.0, 7.0]), Arc::default());
        let inner = product(&a, &b, &computed);
        let outer = product(&inner, &b, &computed);
        let parts = Tensor::run_backward(&[outer.sum(Kind::Float)], &[&a, &b], false, false);
        assert_eq!(Vec::<f32>::try_from(&parts[0]).unwrap(), [25.0, 49.0]);
        assert_eq!(Vec::<f32>::try_from(&parts[1]).unwrap(), [20.0, 42.0]);
        assert_eq!(computed.load(Ordering::Relaxed), 4);
    }

    #[test]
    fn only_what_is_wanted_is_computed() {
        let (a, b, computed) = (learning(&[2.0]), Tensor::from_slice(&[5.0f32]), Arc::default());
        product(&a, &b, &computed).backward();
        assert_eq!(computed.load(Ordering::Relaxed), 1);
        let (c, d) = (learning(&[2.0]), learning(&[5.0]));
        drop(Tensor::run_backward(&[product(&c, &d, &computed)], &[&c], false, false));
        assert_eq!(computed.load(Ordering::Relaxed), 2);
    }

    #[test]
    fn the_closure_is_dropped_with_the_graph_or_after_the_backward_pass() {
        let (a, b, computed) = (learning(&[2.0]), learning(&[5.0]), Arc::new(AtomicUsize::new(0)));
        let output = product(&a, &b, &computed);
        assert_eq!(Arc::strong_count(&computed), 2);
        output.backward();
        assert_eq!(Arc::strong_count(&computed), 1);
        assert!(output.f_backward().is_err(), "the graph is freed");
        drop(product(&a, &b, &computed));
        assert_eq!(Arc::strong_count(&computed), 1);
    }

    #[test]
    fn records_only_where_something_learns() {
        let (learns, fixed) = (learning(&[1.0]), Tensor::ones([1], (Kind::Float, Device::Cpu)));
        assert!(records(&[&fixed, &learns]));
        assert!(!records(&[&fixed]));
        assert!(!tch::no_grad(|| records(&[&learns])));
    }

    #[test]
    fn errors_and_wrong_shapes_arrive_as_errors() {
        let a = learning(&[1.0, 2.0]);
        let with = |result: fn() -> Result<Vec<Option<Tensor>>>| {
            let output = attach(a.detach().copy(), &[&a], move |_, _| result()).unwrap();
            output.sum(Kind::Float).f_backward().unwrap_err().to_string()
        };
        assert!(with(|| Err(Error::Batch("no luck".into()))).contains("no luck"));
        assert!(with(|| Ok(vec![])).contains("0 gradients of 1"));
        let shape = with(|| Ok(vec![Some(Tensor::ones([3], (Kind::Float, Device::Cpu)))]));
        assert!(shape.contains("invalid gradient"), "{shape}");
    }

    #[test]
    fn second_derivatives_are_refused() {
        let (a, b) = (learning(&[2.0]), learning(&[5.0]));
        let output = product(&a, &b, &Arc::default());
        let error = Tensor::f_run_backward(&[output], &[&a], true, true).unwrap_err();
        assert!(error.to_string().contains("second derivatives"), "{error}");
    }
}
