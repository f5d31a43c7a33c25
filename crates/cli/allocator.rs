//! The allocator of the programs: activations of some MB come and go with every step.

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// `mi_option_purge_delay` of mimalloc's header (the same in its versions 2 and 3), which the crate has no name for.
const PURGE_DELAY: libmimalloc_sys::mi_option_t = 15;
/// Keeps freed memory for the next step. By default it goes back to the system after a while, and a gradient step that
/// follows a pause takes up to three times as long while the system clears it again. A delay that the user has set
/// by mimalloc's own variable stays.
#[expect(unsafe_code, reason = "mimalloc's options are C functions")]
pub(crate) fn keep_freed_memory() {
    if std::env::var_os("MIMALLOC_PURGE_DELAY").is_none() {
        // SAFETY: sets a number of the allocator, which takes any.
        unsafe { libmimalloc_sys::mi_option_set(PURGE_DELAY, -1) }
    }
}
