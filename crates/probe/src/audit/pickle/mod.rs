//! Pickles, read without ever running them: a walk over the opcodes with a model of the stack, which lists what would
//! be imported and called.

mod arrays;
pub(super) mod check;
mod imports;
mod machine;
mod opcodes;
mod rules;

pub(super) use machine::{Walk, walk};

/// Whether bytes are a pickle, by their opcodes: a protocol mark and a walk that comes to a stop, or, in the older
/// protocols without a mark, an import that something is done with. A pickle that is cut off or damaged behind its
/// first imports is one too: it runs up to there.
#[must_use]
pub(super) fn is_pickle(bytes: &[u8]) -> bool {
    let marked = matches!(bytes, [0x80, 0..=5, ..]);
    let candidate = marked || bytes.first().is_some_and(|byte| opcodes::can_begin(*byte));
    if !candidate {
        return false;
    }
    let walk = walk(bytes);
    if marked {
        // A few bytes of anything can look like opcodes; what a pickle does is import or end.
        return walk.stopped || !walk.imports.is_empty();
    }
    walk.imports.iter().any(|import| import.used && import.is_plausible())
        || (walk.stopped && walk.imports.is_empty() && walk.end == bytes.len() && walk.opcodes > 8)
}
