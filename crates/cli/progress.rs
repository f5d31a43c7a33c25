//! Progress on standard error, and the user's wish to stop.

use std::cell::RefCell;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::exit::Failure;

/// A bar a stage; lines instead where no terminal reads; nothing with `--quiet`.
pub(crate) struct Bars {
    quiet: bool,
    bar: RefCell<Option<ProgressBar>>,
}

/// Whether the user has asked the program to stop.
static STOPPED: AtomicBool = AtomicBool::new(false);

/// Whether the user has asked the program to stop.
pub(crate) fn stopped() -> bool {
    STOPPED.load(Ordering::SeqCst)
}

/// Who listens to signals; the first one that asks does so for the whole process.
static HANDLED: OnceLock<Result<(), String>> = OnceLock::new();

/// Takes over the signals by which schedulers announce the end: SIGTERM, SIGUSR1, SIGINT and SIGHUP ask the run to stop
/// after its batch.
#[cfg(unix)]
pub(crate) fn heed_scheduler() -> Result<(), Failure> {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1};
    let handled = HANDLED.get_or_init(|| {
        let mut signals = signal_hook::iterator::Signals::new([SIGTERM, SIGUSR1, SIGINT, SIGHUP])
            .map_err(|error| format!("cannot handle signals: {error}"))?;
        std::thread::spawn(move || signals.forever().for_each(|_| STOPPED.store(true, Ordering::SeqCst)));
        Ok(())
    });
    handled.clone().map_err(Failure::Machine)
}

/// Takes over the signals by which schedulers announce the end.
#[cfg(not(unix))]
pub(crate) fn heed_scheduler() -> Result<(), Failure> {
    Bars::new(true).map(drop)
}

impl Bars {
    /// Takes over Ctrl-C: the first asks the run to stop after its batch, the second ends the process.
    pub(crate) fn new(quiet: bool) -> Result<Self, Failure> {
        let handled = HANDLED.get_or_init(|| {
            ctrlc::set_handler(|| {
                if STOPPED.swap(true, Ordering::SeqCst) {
                    // Nothing is left half-written: reports appear by renaming a finished file.
                    std::process::exit(130);
                }
                crate::output::talk("\nstopping after this batch; press Ctrl-C again to end at once");
            })
            .map_err(|error| format!("cannot handle Ctrl-C: {error}"))
        });
        handled.clone().map_err(Failure::Machine)?;
        Ok(Self { quiet, bar: RefCell::new(None) })
    }

    /// A bar without an end: what was done, how fast.
    pub(crate) fn spinner(&self, name: &str) {
        self.finish();
        if self.quiet {
            return;
        }
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
        if let Ok(style) = ProgressStyle::with_template("{pos} {msg}  {per_sec}  {elapsed}") {
            bar.set_style(style);
        }
        bar.set_message(name.to_owned());
        self.bar.replace(Some(bar));
    }

    /// Whether no bar can be seen.
    pub(crate) fn is_hidden(&self) -> bool {
        self.bar.borrow().as_ref().is_none_or(ProgressBar::is_hidden)
    }

    /// Removes the last bar.
    pub(crate) fn finish(&self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

impl probe::Progress for Bars {
    fn stage(&self, name: &str, total: usize) {
        self.finish();
        if self.quiet {
            return;
        }
        let bar = ProgressBar::with_draw_target(Some(total as u64), ProgressDrawTarget::stderr());
        if bar.is_hidden() {
            crate::output::talk(&format!("{name} ({total} steps)"));
        }
        // The template is a constant; should it be wrong, the default bar serves.
        if let Ok(style) =
            ProgressStyle::with_template("{msg:<28} {bar:32} {pos}/{len}  {elapsed}  ETA {eta}")
        {
            bar.set_style(style);
        }
        bar.set_message(name.to_owned());
        self.bar.replace(Some(bar));
    }

    fn advance(&self, steps: usize) {
        if let Some(bar) = &*self.bar.borrow() {
            bar.inc(steps as u64);
        }
    }

    fn note(&self, text: &str) {
        if self.quiet {
            return;
        }
        match &*self.bar.borrow() {
            Some(bar) if !bar.is_hidden() => bar.println(text),
            _ => crate::output::talk(text),
        }
    }

    fn stopped(&self) -> bool {
        stopped()
    }
}
