//! The walk: one pass over the opcodes, a model of the stack that knows texts and imports and nothing else. It never
//! fails: what it saw before a damaged opcode stands, because a loader runs up to there as well.

use std::collections::HashMap;

use super::opcodes::{self, Argument, Effect};
use crate::audit::limits;

/// Entries of the model's stack and memo; real checkpoints stay far below.
const STACK: usize = 1_000_000;

/// An import that a pickle makes when it is loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Import {
    /// Dotted module, or what could be told of it.
    pub(crate) module: String,
    /// Name in it, which may be dotted too.
    pub(crate) name: String,
    /// Offset of the opcode.
    pub(crate) offset: usize,
    /// Whether module and name stand in the pickle; otherwise they are computed while it loads.
    pub(crate) literal: bool,
    /// Whether it is called, instantiated or given a state.
    pub(crate) used: bool,
    /// The first texts among the arguments of its first call.
    pub(crate) arguments: Vec<String>,
}

impl Import {
    /// Whether the names could be those of something in Python: text that happens to look like opcodes has others.
    pub(crate) fn is_plausible(&self) -> bool {
        let dotted = |path: &str| {
            path.split('.').all(|part| {
                let mut characters = part.chars();
                characters.next().is_some_and(|first| first.is_alphabetic() || first == '_')
                    && characters.all(|character| character.is_alphanumeric() || character == '_')
            })
        };
        !self.literal || (dotted(&self.module) && dotted(&self.name))
    }

    /// Module and name.
    pub(crate) fn path(&self) -> String {
        format!("{}.{}", self.module, self.name)
    }
}

/// What a walk saw.
#[derive(Debug, Default)]
pub(crate) struct Walk {
    /// In the order in which they are made.
    pub(crate) imports: Vec<Import>,
    /// Calls of something that is no import, such as the result of another call.
    pub(crate) indirect_calls: usize,
    /// Whether it came to the opcode that ends a pickle.
    pub(crate) stopped: bool,
    /// What stopped it before that.
    pub(crate) error: Option<&'static str>,
    /// Where it ended: behind the last opcode that was read.
    pub(crate) end: usize,
    /// Opcodes read.
    pub(crate) opcodes: usize,
    /// Whether the same things are put together again and again: small pickles that load into huge objects.
    pub(crate) doublings: usize,
}

#[derive(Clone, Debug)]
enum Value {
    Mark,
    Text(std::rc::Rc<str>),
    /// Index among the imports.
    Import(usize),
    /// What a call gave.
    Result,
    /// A tuple or list: its first parts, and how many levels of them.
    Collected(std::rc::Rc<[Value]>, usize),
    Other,
}

/// Longest text that is followed; module paths and commands are shorter.
const TEXT: usize = 4_096;
/// Tuples inside of each other that are followed.
const LEVELS: usize = 3;
/// Imports of one pickle; a checkpoint has some dozens of different ones, each of which is made once.
const IMPORTS: usize = 50_000;
/// Parts of a tuple that are followed.
const PARTS: usize = 8;

struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    stack: Vec<Value>,
    memo: HashMap<u64, Value>,
    /// The memo entry that was recalled last, and how often in a row, where it is neither text nor an import.
    recalled: (u64, usize),
    seen: Walk,
}

/// Walks over one pickle from the start of `bytes`.
pub(crate) fn walk(bytes: &[u8]) -> Walk {
    let mut machine = Machine {
        bytes,
        at: 0,
        stack: Vec::new(),
        memo: HashMap::new(),
        recalled: (0, 0),
        seen: Walk::default(),
    };
    if let Err(error) = machine.run() {
        machine.seen.error = Some(error);
    }
    machine.seen
}

impl<'a> Machine<'a> {
    fn run(&mut self) -> Result<(), &'static str> {
        loop {
            self.seen.end = self.at;
            let start = self.at;
            let Some(code) = self.bytes.get(self.at) else { return Err("it is cut off") };
            self.at += 1;
            let (kind, effect) = opcodes::of(*code).ok_or("it has an unknown opcode")?;
            let argument = self.argument(kind)?;
            self.seen.opcodes += 1;
            if self.seen.opcodes > limits::PICKLE_OPCODES
                || self.stack.len() > STACK
                || self.seen.imports.len() > IMPORTS
            {
                return Err("it has more opcodes than the limit");
            }
            self.apply(effect, kind, argument, start);
            if effect == Effect::Stop {
                self.seen.stopped = true;
                self.seen.end = self.at;
                return Ok(());
            }
        }
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], &'static str> {
        let end = self.at.checked_add(count).ok_or("it is cut off")?;
        let field = self.bytes.get(self.at..end).ok_or("it is cut off")?;
        self.at = end;
        Ok(field)
    }

    fn line(&mut self) -> Result<&'a [u8], &'static str> {
        let rest = &self.bytes[self.at..];
        let end = rest.iter().position(|byte| *byte == b'\n').ok_or("it is cut off")?;
        self.at += end + 1;
        Ok(rest[..end].strip_suffix(b"\r").unwrap_or(&rest[..end]))
    }

    fn number(field: &[u8]) -> u64 {
        field.iter().rev().fold(0u64, |number, byte| (number << 8) | u64::from(*byte))
    }

    /// The argument; of two lines, both with the newline between them.
    fn argument(&mut self, kind: Argument) -> Result<&'a [u8], &'static str> {
        match kind {
            Argument::None => Ok(&[]),
            Argument::Fixed(count) => self.take(count),
            Argument::Line => self.line(),
            Argument::TwoLines => {
                let start = self.at;
                self.line()?;
                self.line()?;
                Ok(&self.bytes[start..self.at - 1])
            }
            Argument::Counted(width) => {
                let count = Self::number(self.take(width)?);
                self.take(usize::try_from(count).map_err(|_| "it is cut off")?)
            }
        }
    }

    fn pop(&mut self) -> Value {
        // A stack that is too short ends a loader, but what it did before stands.
        self.stack.pop().unwrap_or(Value::Other)
    }

    fn down_to_mark(&mut self) -> Vec<Value> {
        let mark = self.stack.iter().rposition(|value| matches!(value, Value::Mark));
        let taken = self.stack.split_off(mark.map_or(0, |mark| mark + 1));
        if mark.is_some() {
            self.stack.pop();
        }
        taken
    }

    /// A tuple or list of these. What lies deeper than texts are looked for is forgotten, so that values stay small
    /// however deep a pickle nests.
    fn collected(values: &[Value]) -> Value {
        let parts: Vec<Value> = values
            .iter()
            .take(PARTS)
            .map(|value| match value {
                Value::Collected(_, levels) if *levels >= LEVELS => Value::Other,
                value => value.clone(),
            })
            .collect();
        let levels = parts
            .iter()
            .map(|part| if let Value::Collected(_, levels) = part { *levels } else { 0 })
            .max()
            .unwrap_or(0);
        Value::Collected(parts.into(), levels + 1)
    }

    fn apply(&mut self, effect: Effect, kind: Argument, argument: &[u8], offset: usize) {
        match effect {
            Effect::Push => self.stack.push(Value::Other),
            Effect::PushText => {
                let shown = &argument[..argument.len().min(TEXT)];
                // Protocol 0 writes its texts with quotes.
                let text = String::from_utf8_lossy(shown);
                let text = text.trim_matches(|character| character == '\'' || character == '"');
                self.stack.push(Value::Text(text.into()));
            }
            Effect::Mark => self.stack.push(Value::Mark),
            Effect::Collect => {
                let parts = self.down_to_mark();
                self.note_doubling(parts.len());
                self.stack.push(Self::collected(&parts));
            }
            Effect::Absorb => {
                let parts = self.down_to_mark();
                self.note_doubling(parts.len());
            }
            Effect::Combine(count) => {
                self.note_doubling(count);
                let from = self.stack.len().saturating_sub(count);
                let parts = self.stack.split_off(from);
                self.stack.push(Self::collected(&parts));
            }
            Effect::Take(count) => {
                let left = self.stack.len().saturating_sub(count);
                self.stack.truncate(left);
            }
            Effect::Nothing => {}
            Effect::Duplicate => {
                let top = self.stack.last().cloned().unwrap_or(Value::Other);
                self.stack.push(top);
            }
            Effect::Memoize => {
                let key = self.key(kind, argument);
                if self.memo.len() < STACK {
                    let top = self.stack.last().cloned().unwrap_or(Value::Other);
                    self.memo.insert(key, top);
                }
            }
            Effect::Recall => {
                let key = self.key(kind, argument);
                let value = self.memo.get(&key).cloned().unwrap_or(Value::Other);
                if matches!(value, Value::Collected(..) | Value::Other) {
                    let (last, times) = self.recalled;
                    self.recalled = (key, if last == key { times + 1 } else { 1 });
                }
                self.stack.push(value);
            }
            Effect::Global => {
                let index = self.import_lines(argument, offset);
                self.stack.push(Value::Import(index));
            }
            Effect::StackGlobal => {
                let (name, module) = (self.pop(), self.pop());
                let literal = matches!((&module, &name), (Value::Text(_), Value::Text(_)));
                let text = |value: &Value| match value {
                    Value::Text(text) => text.to_string(),
                    _ => "?".to_owned(),
                };
                let index = self.import(text(&module), text(&name), literal, offset);
                self.stack.push(Value::Import(index));
            }
            Effect::Extension => {
                let number = Self::number(argument);
                let index = self.import("copyreg".into(), format!("extension {number}"), false, offset);
                self.stack.push(Value::Import(index));
            }
            Effect::Reduce => {
                let (arguments, callee) = (self.pop(), self.pop());
                self.call(&callee, &[arguments]);
            }
            Effect::NewObject(count) => {
                let from = self.stack.len().saturating_sub(count);
                let mut parts = self.stack.split_off(from);
                let class = if parts.is_empty() { Value::Other } else { parts.remove(0) };
                self.call(&class, &parts);
            }
            Effect::Object => {
                let mut parts = self.down_to_mark();
                let class = if parts.is_empty() { Value::Other } else { parts.remove(0) };
                self.call(&class, &parts);
            }
            Effect::Instance => {
                let parts = self.down_to_mark();
                let index = self.import_lines(argument, offset);
                self.call(&Value::Import(index), &parts);
            }
            Effect::Build => {
                let state = self.pop();
                if let Some(Value::Import(index)) = self.stack.last() {
                    let index = *index;
                    self.seen.imports[index].used = true;
                    Self::note_texts(&mut self.seen.imports[index], &[state]);
                }
            }
            Effect::Stop => {}
        }
    }

    /// The number of a memo entry; `MEMOIZE` counts by itself.
    fn key(&self, kind: Argument, argument: &[u8]) -> u64 {
        match kind {
            Argument::Line => std::str::from_utf8(argument)
                .ok()
                .and_then(|digits| digits.trim().parse().ok())
                .unwrap_or(u64::MAX),
            Argument::Fixed(_) => Self::number(argument),
            _ => self.memo.len() as u64,
        }
    }

    fn import_lines(&mut self, lines: &[u8], offset: usize) -> usize {
        let text = String::from_utf8_lossy(&lines[..lines.len().min(TEXT)]).into_owned();
        let (module, name) = text.split_once('\n').unwrap_or((&text, ""));
        self.import(module.trim_end().to_owned(), name.trim_end().to_owned(), true, offset)
    }

    fn import(&mut self, module: String, name: String, literal: bool, offset: usize) -> usize {
        self.seen.imports.push(Import { module, name, offset, literal, used: false, arguments: Vec::new() });
        self.seen.imports.len() - 1
    }

    fn call(&mut self, callee: &Value, arguments: &[Value]) {
        match callee {
            Value::Import(index) => {
                let import = &mut self.seen.imports[*index];
                import.used = true;
                Self::note_texts(import, arguments);
            }
            _ => self.seen.indirect_calls += 1,
        }
        self.stack.push(Value::Result);
    }

    fn note_texts(import: &mut Import, values: &[Value]) {
        if import.arguments.is_empty() {
            texts(values, 0, &mut import.arguments);
        }
    }

    /// Counts containers that hold one earlier thing several times: each multiplies what was there before.
    fn note_doubling(&mut self, parts: usize) {
        if parts >= 2 && self.recalled.1 >= parts {
            self.seen.doublings += 1;
        }
        self.recalled.1 = 0;
    }
}

/// The texts among values, a few tuples deep.
fn texts(values: &[Value], depth: usize, found: &mut Vec<String>) {
    for value in values {
        match value {
            Value::Text(text) if found.len() < PARTS => found.push(text.to_string()),
            Value::Collected(parts, _) if depth < LEVELS => texts(parts, depth + 1, found),
            _ => {}
        }
    }
}
