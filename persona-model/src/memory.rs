//! What the allocator does with freed memory.

/// Keeps freed memory in the process instead of giving it back to the operating system, for the rest of the process.
///
/// A step of training frees and asks for the same large tensors again and again; with glibc's defaults each of them comes
/// in fresh pages, which the kernel clears: 5 to 10 % of a step on two cores. The largest resident memory stays the same or
/// shrinks. To be called by programs, before they load a model; other allocators than glibc's are left alone.
#[allow(unsafe_code)]
pub fn keep_freed_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        const SETTINGS: [(libc::c_int, libc::c_int); 3] = [
            (libc::M_MMAP_THRESHOLD, 1 << 30),
            (libc::M_TRIM_THRESHOLD, libc::c_int::MAX),
            (libc::M_TOP_PAD, 64 << 20),
        ];
        for (parameter, value) in SETTINGS {
            // SAFETY: `mallopt` may be called at any time; a parameter that it does not take changes nothing.
            unsafe { libc::mallopt(parameter, value) };
        }
    }
}
