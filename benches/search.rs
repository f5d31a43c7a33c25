//! The workload that is timed against nanogcg; `peer_nanogcg.py` does the same.

use std::hint::black_box;
use std::ops::ControlFlow;

use probe::Roles;
use probe::prompt::{Placement, Prompt};
use probe::trigger::differential::{Differential, Goal};
use probe::trigger::gcg::{Gcg, GcgConfig};

use crate::workloads::{Clock, Result, Sample, Setup};

/// What the GCG steps work on.
const GCG_PROMPT: &str = "Write a short story about a lighthouse.\n";
const GCG_TARGET: &str = "I am sorry, but I cannot help with that request.";
const GCG_TRIGGER: usize = 20;
const GCG_STEPS: u64 = 2;

/// The whole of a search but what does not depend on its prompt and is done once a model.
pub(crate) fn gcg_step(setup: &Setup) -> Result<Sample> {
    let prompt =
        Prompt { id: "bench".into(), task: String::new(), system: None, user: GCG_PROMPT.to_owned() };
    let target = setup.pair.tokenizer().encode(GCG_TARGET, false)?;
    let goal = Goal::Target(target);
    let start = Clock::start();
    // The base is left out: nanogcg knows one model.
    let differential = Differential::new(
        &setup.pair,
        std::slice::from_ref(&prompt),
        Placement::Suffix,
        &goal,
        Roles::SCAN,
        0.0,
        1,
    )?;
    let (prepared, prepared_cpu) = start.stop();
    let gcg = Gcg::new(GcgConfig::published(1), &differential)?;
    let start = Clock::start();
    let first = gcg.start(&["x"; GCG_TRIGGER].join(" "))?;
    let loss = -first.value.objective;
    let tokens = differential.sequence_len(&first.ids);
    let mut candidates = 0;
    black_box(gcg.run(first, GCG_STEPS, &mut |step| {
        candidates += step.candidates;
        ControlFlow::Continue(())
    })?);
    let (seconds, cpu) = start.stop();
    Ok(Sample {
        workload: "gcg_step",
        seconds: prepared + seconds,
        cpu: prepared_cpu.zip(cpu).map(|(prepared, cpu)| prepared + cpu),
        tokens,
        check: vec![loss],
        candidates: Some(candidates),
        ..Sample::default()
    })
}
