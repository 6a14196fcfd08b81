//! What a program asks of its process: how it uses memory, and an end that leaves computing threads alone.

/// How many compiled kernels oneDNN keeps. Its own bound, 1024, is gigabytes when every batch has another length; within
/// a step the layers share a few dozen.
const ONEDNN_KERNELS: (&str, &str) = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "32");

/// Bounds oneDNN's cache of kernels unless the environment says otherwise, and keeps freed memory for the next step. To be
/// called first in `main`.
#[allow(unsafe_code)]
pub fn bound_memory() {
    let (name, value) = ONEDNN_KERNELS;
    if std::env::var_os(name).is_none() {
        // SAFETY: no other thread runs yet that could read the environment.
        unsafe { std::env::set_var(name, value) };
    }
    persona_model::keep_freed_memory();
}

/// Ends the process at once, without the destructors of libtorch, which other threads may be using.
#[allow(unsafe_code)]
pub(crate) fn end_now(code: i32) -> ! {
    // SAFETY: `_exit` takes any number and does not return.
    unsafe { libc::_exit(code) }
}
