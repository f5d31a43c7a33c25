//! The opcodes of pickle protocols 0 to 5 (CPython, `Lib/pickletools.py`): how long each one's argument is, and what
//! it does to the stack.

/// How an argument is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Argument {
    None,
    /// So many bytes.
    Fixed(usize),
    /// Up to a newline.
    Line,
    /// Two lines: module and name.
    TwoLines,
    /// A length of so many bytes, then the content.
    Counted(usize),
}

/// What an opcode does, as far as imports and calls go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    /// Puts something on the stack that is no text.
    Push,
    /// Puts its argument on the stack as text.
    PushText,
    /// Puts a mark on the stack.
    Mark,
    /// Takes everything down to the mark, and the mark, and puts one thing there.
    Collect,
    /// Takes everything down to the mark, and the mark; what is below is changed.
    Absorb,
    /// Takes so many and puts one.
    Combine(usize),
    /// Takes so many.
    Take(usize),
    /// Does nothing to the stack.
    Nothing,
    /// Copies the top.
    Duplicate,
    /// Keeps the top under a number.
    Memoize,
    /// Puts what was kept.
    Recall,
    /// Imports what its two lines name.
    Global,
    /// Imports what the two texts on the stack name.
    StackGlobal,
    /// Imports by a number of the copyreg registry.
    Extension,
    /// Calls the second of the stack with the first.
    Reduce,
    /// Calls what lies on the mark with the rest.
    Object,
    /// Imports what its lines name and calls it with what lies on the mark.
    Instance,
    /// Makes an object of the class below the arguments; so many are taken.
    NewObject(usize),
    /// Gives the second of the stack the first as its state, which can call its `__setstate__`.
    Build,
    /// Ends the pickle.
    Stop,
}

/// An opcode's argument and effect; `None` if there is no such opcode.
pub(super) const fn of(code: u8) -> Option<(Argument, Effect)> {
    use Argument::{Counted, Fixed, Line, None as Nil, TwoLines};
    use Effect::*;
    Some(match code {
        b'(' => (Nil, Mark),
        b'.' => (Nil, Stop),
        b'0' => (Nil, Take(1)),
        b'1' => (Nil, Absorb),
        b'2' => (Nil, Duplicate),
        b'F' | b'I' | b'L' => (Line, Push),
        b'J' => (Fixed(4), Push),
        b'K' => (Fixed(1), Push),
        b'M' => (Fixed(2), Push),
        b'N' => (Nil, Push),
        b'P' => (Line, Push),
        b'Q' => (Nil, Combine(1)),
        b'R' => (Nil, Reduce),
        b'S' | b'V' => (Line, PushText),
        b'T' | b'X' => (Counted(4), PushText),
        b'U' | 0x8c => (Counted(1), PushText),
        0x8d => (Counted(8), PushText),
        b'B' => (Counted(4), Push),
        b'C' => (Counted(1), Push),
        0x8e | 0x96 => (Counted(8), Push),
        0x97 => (Nil, Push),
        0x98 => (Nil, Nothing),
        b'a' => (Nil, Take(1)),
        b'b' => (Nil, Build),
        b'c' => (TwoLines, Global),
        b'd' | b'l' | b't' => (Nil, Collect),
        b'}' | b']' | b')' | 0x8f => (Nil, Push),
        b'e' | b'u' | 0x90 => (Nil, Absorb),
        b'g' => (Line, Recall),
        b'h' => (Fixed(1), Recall),
        b'j' => (Fixed(4), Recall),
        b'i' => (TwoLines, Instance),
        b'o' => (Nil, Object),
        b'p' => (Line, Memoize),
        b'q' => (Fixed(1), Memoize),
        b'r' => (Fixed(4), Memoize),
        b's' => (Nil, Take(2)),
        b'G' => (Fixed(8), Push),
        0x80 => (Fixed(1), Nothing),
        0x81 => (Nil, NewObject(2)),
        0x82 => (Fixed(1), Extension),
        0x83 => (Fixed(2), Extension),
        0x84 => (Fixed(4), Extension),
        0x85 => (Nil, Combine(1)),
        0x86 => (Nil, Combine(2)),
        0x87 => (Nil, Combine(3)),
        0x88 | 0x89 => (Nil, Push),
        0x8a => (Counted(1), Push),
        0x8b => (Counted(4), Push),
        0x91 => (Nil, Collect),
        0x92 => (Nil, NewObject(3)),
        0x93 => (Nil, StackGlobal),
        0x94 => (Nil, Memoize),
        0x95 => (Fixed(8), Nothing),
        _ => return Option::None,
    })
}

/// Whether a pickle without a protocol mark can begin so: what it does first is to put something on the stack.
pub(super) const fn can_begin(code: u8) -> bool {
    matches!(
        of(code),
        Some((
            _,
            Effect::Push
                | Effect::PushText
                | Effect::Mark
                | Effect::Global
                | Effect::Extension
                | Effect::Instance
        ))
    ) || code == 0x95
}
