//! Reads the pickle of a torch state dict, and no other pickle.
//!
//! A pickle is a program, and Python's machine for it calls whatever it names. This one has the instructions that
//! `torch.save` writes for a dictionary of tensors, builds nothing but the values below, and calls nothing: a name that
//! is not in [`ALLOWED`] ends it. Values are shared, never copied, and their number and depth are limited, so that
//! no small file grows.

use std::rc::Rc;

/// What a global name may be.
const ALLOWED: &[&str] = &[
    "collections OrderedDict",
    "torch._utils _rebuild_tensor_v2",
    "torch._utils _rebuild_parameter",
    "torch FloatStorage",
    "torch HalfStorage",
    "torch BFloat16Storage",
    "torch DoubleStorage",
];

/// Instructions of one pickle: a state dict has some 30 for each tensor.
const MAX_STEPS: usize = 1_000_000;
/// Values within values.
const MAX_DEPTH: usize = 32;

/// A value of the machine.
#[derive(Debug)]
pub(super) enum Value {
    None,
    Bool,
    Int(i64),
    Text(String),
    /// Module and name.
    Global(String),
    List(Vec<Shared>),
    Dict(Vec<(Shared, Shared)>),
    /// A persistent id: where a storage lies.
    Persistent(Shared),
    /// A callable and its arguments, not called.
    Call(Shared, Shared),
}

/// A value with its depth.
#[derive(Clone, Debug)]
pub(super) struct Shared {
    pub(super) value: Rc<Value>,
    depth: usize,
}

/// The value that a pickle builds.
///
/// # Errors
/// What is in the way, for people.
pub(super) fn unpickle(bytes: &[u8]) -> Result<Shared, String> {
    let mut machine = Machine { bytes, at: 0, stack: Vec::new(), marks: Vec::new(), memo: Vec::new() };
    for _ in 0..MAX_STEPS {
        if let Some(result) = machine.step()? {
            return Ok(result);
        }
    }
    Err(format!("expected at most {MAX_STEPS} instructions"))
}

struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    stack: Vec<Shared>,
    marks: Vec<usize>,
    memo: Vec<Option<Shared>>,
}

impl Machine<'_> {
    /// One instruction; the result at its end.
    fn step(&mut self) -> Result<Option<Shared>, String> {
        let at = self.at;
        match self.byte()? {
            b'.' => return Ok(Some(self.pop()?)),
            0x80 => drop(self.take(1)?),
            0x95 => drop(self.take(8)?),
            b'N' => self.push(Value::None, 0)?,
            0x88 | 0x89 => self.push(Value::Bool, 0)?,
            b'J' => {
                let n = i32::from_le_bytes(self.array()?);
                self.push(Value::Int(n.into()), 0)?;
            }
            b'K' => {
                let n = self.byte()?;
                self.push(Value::Int(n.into()), 0)?;
            }
            b'M' => {
                let n = u16::from_le_bytes(self.array()?);
                self.push(Value::Int(n.into()), 0)?;
            }
            0x8a => {
                let len = usize::from(self.byte()?);
                let digits = self.take(len)?;
                let n = little_endian(digits).ok_or("an integer of more than eight bytes")?;
                self.push(Value::Int(n), 0)?;
            }
            b'X' => {
                let len = u32::from_le_bytes(self.array()?);
                self.text(len as usize)?;
            }
            0x8c => {
                let len = self.byte()?;
                self.text(len.into())?;
            }
            b'c' => {
                let (module, name) = (self.line()?, self.line()?);
                self.global(&module, &name)?;
            }
            0x93 => {
                let (name, module) = (self.pop()?, self.pop()?);
                match (&*module.value, &*name.value) {
                    (Value::Text(module), Value::Text(name)) => self.global(module, name)?,
                    _ => return Err("a global without a name".into()),
                }
            }
            b'(' => self.marks.push(self.stack.len()),
            b')' | b']' => self.push(Value::List(Vec::new()), 0)?,
            b'}' => self.push(Value::Dict(Vec::new()), 0)?,
            0x85 => self.tuple(1)?,
            0x86 => self.tuple(2)?,
            0x87 => self.tuple(3)?,
            b't' => {
                let items = self.since_mark()?;
                self.list(items)?;
            }
            b'Q' => {
                let id = self.pop()?;
                let depth = id.depth;
                self.push(Value::Persistent(id), depth + 1)?;
            }
            b'R' => {
                let (arguments, callable) = (self.pop()?, self.pop()?);
                match &*callable.value {
                    Value::Global(name) if name.ends_with("OrderedDict") => {
                        self.push(Value::Dict(Vec::new()), 0)?;
                    }
                    _ => {
                        let depth = arguments.depth.max(callable.depth);
                        self.push(Value::Call(callable, arguments), depth + 1)?;
                    }
                }
            }
            // A state that is set on a dictionary (`_metadata`) is of no use here.
            b'b' => drop(self.pop()?),
            b's' => {
                let (value, key) = (self.pop()?, self.pop()?);
                self.set(vec![key, value])?;
            }
            b'u' => {
                let items = self.since_mark()?;
                self.set(items)?;
            }
            b'q' => {
                let index = self.byte()?;
                self.remember(index.into())?;
            }
            b'r' => {
                let index = u32::from_le_bytes(self.array()?);
                self.remember(index as usize)?;
            }
            0x94 => self.remember(self.memo.len())?,
            b'h' => {
                let index = self.byte()?;
                self.recall(index.into())?;
            }
            b'j' => {
                let index = u32::from_le_bytes(self.array()?);
                self.recall(index as usize)?;
            }
            other => return Err(format!("instruction {other:#04x} at byte {at} is none of a state dict")),
        }
        Ok(None)
    }

    fn byte(&mut self) -> Result<u8, String> {
        Ok(self.take(1)?[0])
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    fn take(&mut self, len: usize) -> Result<&[u8], String> {
        let end = self.at.checked_add(len).filter(|&end| end <= self.bytes.len());
        let end = end.ok_or("the pickle ends in the middle of an instruction")?;
        let taken = &self.bytes[self.at..end];
        self.at = end;
        Ok(taken)
    }

    fn line(&mut self) -> Result<String, String> {
        let rest = &self.bytes[self.at..];
        let len = rest.iter().position(|&byte| byte == b'\n').ok_or("a name without an end")?;
        let line = String::from_utf8_lossy(&rest[..len]).into_owned();
        self.at += len + 1;
        Ok(line)
    }

    fn text(&mut self, len: usize) -> Result<(), String> {
        let text = std::str::from_utf8(self.take(len)?).map_err(|_| "a text that is not UTF-8")?.to_owned();
        self.push(Value::Text(text), 0)
    }

    fn global(&mut self, module: &str, name: &str) -> Result<(), String> {
        let whole = format!("{module} {name}");
        if !ALLOWED.contains(&whole.as_str()) {
            return Err(format!("it imports `{module}.{name}`, which no state dict needs"));
        }
        self.push(Value::Global(whole), 0)
    }

    fn push(&mut self, value: Value, depth: usize) -> Result<(), String> {
        if depth > MAX_DEPTH {
            return Err(format!("expected values at most {MAX_DEPTH} deep"));
        }
        self.stack.push(Shared { value: Rc::new(value), depth });
        Ok(())
    }

    fn pop(&mut self) -> Result<Shared, String> {
        self.stack.pop().ok_or_else(|| "an instruction without its operands".into())
    }

    fn since_mark(&mut self) -> Result<Vec<Shared>, String> {
        let mark = self.marks.pop().filter(|&mark| mark <= self.stack.len());
        Ok(self.stack.split_off(mark.ok_or("a list without its beginning")?))
    }

    fn tuple(&mut self, len: usize) -> Result<(), String> {
        let first = self.stack.len().checked_sub(len).ok_or("an instruction without its operands")?;
        let items = self.stack.split_off(first);
        self.list(items)
    }

    fn list(&mut self, items: Vec<Shared>) -> Result<(), String> {
        let depth = items.iter().map(|item| item.depth + 1).max().unwrap_or(0);
        self.push(Value::List(items), depth)
    }

    /// Puts keys and values, in turns, into the dictionary below them.
    fn set(&mut self, items: Vec<Shared>) -> Result<(), String> {
        let Some(top) = self.stack.last_mut() else { return Err("items without a dictionary".into()) };
        top.depth = items.iter().map(|item| item.depth + 1).max().unwrap_or(0).max(top.depth);
        if top.depth > MAX_DEPTH {
            return Err(format!("expected values at most {MAX_DEPTH} deep"));
        }
        // The memo shares the dictionary; nothing of a state dict asks for it again, so what the memo holds may be old.
        if Rc::get_mut(&mut top.value).is_none() {
            for entry in self
                .memo
                .iter_mut()
                .filter(|entry| entry.as_ref().is_some_and(|entry| Rc::ptr_eq(&entry.value, &top.value)))
            {
                *entry = None;
            }
        }
        let Some(Value::Dict(entries)) = Rc::get_mut(&mut top.value) else {
            return Err("items for something that is no dictionary".into());
        };
        let mut items = items.into_iter();
        while let (Some(key), Some(value)) = (items.next(), items.next()) {
            entries.push((key, value));
        }
        Ok(())
    }

    fn remember(&mut self, index: usize) -> Result<(), String> {
        if index > self.memo.len() + MAX_DEPTH {
            return Err("a memo with holes".into());
        }
        let top = self.stack.last().cloned().ok_or("nothing to remember")?;
        if index >= self.memo.len() {
            self.memo.resize(index + 1, None);
        }
        self.memo[index] = Some(top);
        Ok(())
    }

    fn recall(&mut self, index: usize) -> Result<(), String> {
        let known = self.memo.get(index).cloned().flatten();
        self.stack.push(known.ok_or("a memo entry that does not exist")?);
        Ok(())
    }
}

fn little_endian(bytes: &[u8]) -> Option<i64> {
    let mut wide = match bytes.last() {
        Some(last) if last & 0x80 != 0 => [0xff; 8],
        _ => [0; 8],
    };
    wide.get_mut(..bytes.len())?.copy_from_slice(bytes);
    Some(i64::from_le_bytes(wide))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_beyond_a_state_dict_end_it() {
        let error = unpickle(b"\x80\x02cos\nsystem\nX\x02\x00\x00\x00id\x85R.").unwrap_err();
        assert!(error.contains("os.system"), "{error}");
        assert!(unpickle(b"\x80\x02c__builtin__\neval\n.").unwrap_err().contains("eval"));
    }

    #[test]
    fn malformed_programs_are_errors() {
        for bytes in [
            &b""[..],
            b".",
            b"X\xff\xff\xff\xffa",
            b"t.",
            b"s.",
            b"h\x00.",
            b"q\x00",
            b"\x8a\x09012345678.",
            b"\xff",
        ] {
            assert!(unpickle(bytes).is_err(), "{bytes:?}");
        }
    }

    #[test]
    fn depth_and_growth_are_limited() {
        let mut deep = vec![b'N'];
        deep.extend([0x85; 100]);
        deep.push(b'.');
        assert!(unpickle(&deep).unwrap_err().contains("deep"));
        // Twice the last value in a pair, again and again: shared, it stays small.
        let mut twice = b"N".to_vec();
        for index in 0..30u8 {
            twice.extend([b'q', index, b'h', index, 0x86]);
        }
        twice.push(b'.');
        assert!(unpickle(&twice).is_ok());
    }

    #[test]
    fn a_dictionary_takes_items() {
        let bytes = b"\x80\x02}q\x00(X\x01\x00\x00\x00aK\x07u.";
        let result = unpickle(bytes).unwrap();
        let Value::Dict(entries) = &*result.value else { panic!("{result:?}") };
        assert!(
            matches!((&*entries[0].0.value, &*entries[0].1.value), (Value::Text(a), Value::Int(7)) if a == "a")
        );
    }
}
