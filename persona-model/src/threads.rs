//! The threads that libtorch computes with.

use std::ffi::{c_uint, c_void};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock};

/// OpenMP's entry into a parallel region, as libgomp and LLVM's runtime have it: `GOMP_parallel(fn, data, threads, flags)`.
type Parallel = unsafe extern "C" fn(extern "C" fn(*mut c_void), *mut c_void, c_uint, c_uint);

struct Job<'a> {
    next: AtomicUsize,
    parts: usize,
    run: &'a (dyn Fn(usize) + Sync),
}

/// Runs every part once, on libtorch's own threads: they wait for work in a loop between libtorch's operations, and other
/// threads would have to share the cores with them. Where its runtime is another one, all parts run here, in turn.
#[allow(unsafe_code)]
pub(crate) fn for_each(parts: usize, run: &(dyn Fn(usize) + Sync)) {
    let threads = usize::try_from(tch::get_num_threads()).unwrap_or(1).min(parts);
    let mut job = Job { next: AtomicUsize::new(0), parts, run };
    let data = std::ptr::from_mut(&mut job).cast::<c_void>();
    match parallel() {
        Some(parallel) if threads > 1 => {
            // SAFETY: the symbol is OpenMP's function of this signature; it returns when all threads have left `work`, so
            // the job outlives them.
            unsafe { parallel(work, data, threads as c_uint, 0) }
        }
        _ => work(data),
    }
}

/// Runs `run` on every piece of work, shared among libtorch's own threads, as many as [`tch::get_num_threads`] says; returns
/// when all are done. Which thread takes which piece is left to chance. A panic in `run` ends the program where there are
/// several threads.
pub fn share_work<W: Send>(work: Vec<W>, run: impl Fn(W) + Sync) {
    let pieces: Vec<Mutex<Option<W>>> = work.into_iter().map(|piece| Mutex::new(Some(piece))).collect();
    for_each(pieces.len(), &|at| {
        let piece = pieces[at].lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        piece.into_iter().for_each(&run);
    });
}

/// Takes parts until none is left. A panic in a part ends the program: it may not pass through OpenMP.
#[allow(unsafe_code)]
extern "C" fn work(data: *mut c_void) {
    // SAFETY: `for_each` passes a job that outlives this call.
    let job = unsafe { &*data.cast::<Job<'_>>() };
    loop {
        let part = job.next.fetch_add(1, Ordering::Relaxed);
        if part >= job.parts {
            return;
        }
        (job.run)(part);
    }
}

#[allow(unsafe_code)]
fn parallel() -> Option<Parallel> {
    static FOUND: OnceLock<Option<Parallel>> = OnceLock::new();
    *FOUND.get_or_init(|| {
        // SAFETY: looks a name up among the libraries that are loaded; a function of that name has this signature.
        unsafe {
            let found = libc::dlsym(libc::RTLD_DEFAULT, c"GOMP_parallel".as_ptr());
            (!found.is_null()).then(|| std::mem::transmute::<*mut c_void, Parallel>(found))
        }
    })
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU32;

    use super::*;

    #[test]
    fn every_part_runs_once() {
        let counts: Vec<AtomicU32> = (0..37).map(|_| AtomicU32::new(0)).collect();
        for parts in [0, 1, 37] {
            for_each(parts, &|part| {
                counts[part].fetch_add(1, Ordering::Relaxed);
            });
        }
        let counts: Vec<u32> = counts.iter().map(|count| count.load(Ordering::Relaxed)).collect();
        assert_eq!((counts[0], &counts[1..]), (2, vec![1; 36].as_slice()));
    }

    #[test]
    fn every_piece_of_work_is_done_once() {
        let mut numbers: Vec<u64> = (0..1000).collect();
        share_work(numbers.chunks_mut(7).collect(), |chunk| chunk.iter_mut().for_each(|number| *number += 1));
        assert!(numbers.iter().zip(1..).all(|(&number, expected)| number == expected));
        share_work(Vec::<u64>::new(), |_| unreachable!());
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn libtorchs_threads_are_found() {
        tch::get_num_threads(); // libtorch is loaded
        assert!(parallel().is_some());
    }
}
