//! How many threads an operation may use.

use std::cell::Cell;

thread_local! {
    static ALONE: Cell<bool> = const { Cell::new(false) };
}

/// Threads that an operation may share its work out to.
pub(super) fn threads() -> usize {
    if ALONE.get() { 1 } else { rayon::current_num_threads() }
}

/// The fewest items that one task of a parallel iterator takes, if it is `fewest` where threads share: all of them on a
/// thread alone.
pub(crate) fn least_items(fewest: usize) -> usize {
    if threads() == 1 { usize::MAX } else { fewest }
}

/// Runs `work` with operations that stay on this thread: where threads have work of their own that is large enough,
/// sharing out every single operation only costs waiting.
pub(crate) fn alone<T>(work: impl FnOnce() -> T) -> T {
    /// Puts back what was, whatever happens.
    struct Before(bool);
    impl Drop for Before {
        fn drop(&mut self) {
            ALONE.set(self.0);
        }
    }
    let _before = Before(ALONE.replace(true));
    work()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_alone_sees_one_thread_and_what_follows_sees_all() {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap();
        pool.install(|| {
            assert_eq!(threads(), 3);
            assert_eq!(alone(|| (threads(), alone(threads), threads())), (1, 1, 1));
            assert_eq!(threads(), 3);
            assert!(std::panic::catch_unwind(|| alone(|| panic!("as a test"))).is_err());
            assert_eq!(threads(), 3);
        });
    }
}
