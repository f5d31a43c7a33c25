//! The allocator of the programs: activations of some MB come and go with every step.

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// `mi_option_purge_delay` of mimalloc's header (the same in its versions 2 and 3), which the crate has no name for.
const PURGE_DELAY: libmimalloc_sys::mi_option_t = 15;
/// Milliseconds that it has unless someone set it.
const DEFAULT_PURGE_DELAY: std::ffi::c_long = 10;

/// Keeps freed memory for the next step. By default it goes back to the system after 10 ms, and a gradient step that
/// follows a pause takes up to three times as long while the system clears it again. A delay that the user has set
/// by `MIMALLOC_PURGE_DELAY` stays.
#[expect(unsafe_code, reason = "mimalloc's options are C functions")]
pub(crate) fn keep_freed_memory() {
    // SAFETY: reads and sets a number of the allocator, which takes any.
    unsafe {
        if libmimalloc_sys::mi_option_get(PURGE_DELAY) == DEFAULT_PURGE_DELAY {
            libmimalloc_sys::mi_option_set(PURGE_DELAY, -1);
        }
    }
}
