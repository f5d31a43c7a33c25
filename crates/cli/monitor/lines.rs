//! Lines of traffic: read by a thread of their own, so that a pipe is followed as it is written, and within limits.

use std::io::BufRead;
use std::io::Read as _;
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;

use inference::chat::{Role, Turn};
use probe::activation::monitor::Exchange;
use probe::prompt::Scene;
use serde::Deserialize;

use crate::exit::Failure;
use crate::progress::stopped;

/// Longer lines are not kept. No context holds them.
const LONGEST: usize = 1 << 18;
/// Lines that wait to be scored.
const WAITING: usize = 128;
/// How long Ctrl-C may go unnoticed while nothing comes in.
const PATIENCE: Duration = Duration::from_millis(200);

/// A line: what it says, or what is wrong with it.
pub(super) struct Line {
    /// Its `id`.
    pub(super) id: Option<String>,
    /// What is to be scored.
    pub(super) exchange: Result<Exchange, String>,
}

/// Lines as they come in.
pub(super) struct Lines {
    receiver: Receiver<std::io::Result<Line>>,
}

impl Lines {
    /// Of a file, or of standard input.
    pub(super) fn open(path: Option<&Path>) -> Result<Self, Failure> {
        let reader: Box<dyn BufRead + Send> = match path {
            None => Box::new(std::io::BufReader::new(std::io::stdin())),
            Some(path) => Box::new(std::io::BufReader::new(
                std::fs::File::open(path)
                    .map_err(|error| Failure::Input(format!("cannot read `{}`: {error}", path.display())))?,
            )),
        };
        let (sender, receiver) = sync_channel(WAITING);
        std::thread::Builder::new()
            .name("lines".into())
            .spawn(move || send(reader, &sender))
            .map_err(|error| Failure::Machine(format!("cannot start a thread: {error}")))?;
        Ok(Self { receiver })
    }

    /// What is there, at least one line and at most so many; `None` at the end, or if the user stops.
    pub(super) fn batch(&self, most: usize) -> Result<Option<Vec<Line>>, Failure> {
        let failed = |error: std::io::Error| Failure::Input(format!("cannot read on: {error}"));
        let first = loop {
            match self.receiver.recv_timeout(PATIENCE) {
                Ok(line) => break line.map_err(failed)?,
                Err(RecvTimeoutError::Timeout) if !stopped() => {}
                Err(_) => return Ok(None),
            }
        };
        let mut batch = vec![first];
        while batch.len() < most {
            let Ok(line) = self.receiver.try_recv() else { break };
            batch.push(line.map_err(failed)?);
        }
        Ok(Some(batch))
    }
}

/// Reads to the end, or until nobody listens.
fn send(mut reader: Box<dyn BufRead + Send>, sender: &SyncSender<std::io::Result<Line>>) {
    loop {
        let line = match next(&mut reader) {
            Ok(None) => return,
            Ok(Some(line)) => Ok(line),
            Err(error) => Err(error),
        };
        let last = line.is_err();
        if sender.send(line).is_err() || last {
            return;
        }
    }
}

/// The next line; of one that is too long no more than the limit is held.
fn next(reader: &mut dyn BufRead) -> std::io::Result<Option<Line>> {
    let mut bytes = Vec::new();
    let read = (&mut *reader).take(LONGEST as u64 + 1).read_until(b'\n', &mut bytes)?;
    if read == 0 {
        return Ok(None);
    }
    if bytes.len() > LONGEST && bytes.last() != Some(&b'\n') {
        skip(reader)?;
        let error = format!("expected at most {LONGEST} bytes, found more");
        return Ok(Some(Line { id: None, exchange: Err(error) }));
    }
    while matches!(bytes.last(), Some(b'\n' | b'\r')) {
        bytes.pop();
    }
    Ok(Some(parse(&bytes)))
}

/// Reads past the end of a line.
fn skip(reader: &mut dyn BufRead) -> std::io::Result<()> {
    loop {
        let held = reader.fill_buf()?;
        let (count, end) = match held.iter().position(|&byte| byte == b'\n') {
            Some(at) => (at + 1, true),
            None => (held.len(), held.is_empty()),
        };
        reader.consume(count);
        if end {
            return Ok(());
        }
    }
}

/// What a line may hold; other keys are the business of whoever wrote the log.
#[derive(Deserialize)]
struct Form {
    id: Option<serde_json::Value>,
    prompt: Option<String>,
    system: Option<String>,
    messages: Option<Vec<Message>>,
    response: Option<String>,
}

#[derive(Deserialize)]
struct Message {
    role: String,
    content: String,
}

fn parse(bytes: &[u8]) -> Line {
    let wrong = |id: Option<String>, error: String| Line { id, exchange: Err(error) };
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return wrong(None, "expected a JSON object, found an empty line".to_owned());
    }
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => return wrong(None, format!("expected UTF-8, found {error}")),
    };
    let form: Form = match serde_json::from_str(text) {
        Ok(form) => form,
        Err(error) => return wrong(None, format!("expected a JSON object with a `prompt`: {error}")),
    };
    let id = form.id.as_ref().map(|id| id.as_str().map_or_else(|| id.to_string(), str::to_owned));
    match exchange(form) {
        Ok(exchange) => Line { id, exchange: Ok(exchange) },
        Err(error) => wrong(id, error),
    }
}

fn exchange(form: Form) -> Result<Exchange, String> {
    let (mut turns, mut response) = (Vec::new(), form.response);
    if let Some(system) = form.system {
        turns.push(Turn::system(system));
    }
    match (form.prompt, form.messages) {
        (Some(prompt), None) => turns.push(Turn::user(prompt)),
        (None, Some(messages)) => {
            for message in messages {
                let role = match message.role.as_str() {
                    "system" | "developer" => Role::System,
                    "user" => Role::User,
                    "assistant" => Role::Assistant,
                    "tool" => Role::Tool,
                    other => {
                        return Err(format!(
                            "expected a role of system, user, assistant or tool, found `{other}`"
                        ));
                    }
                };
                turns.push(Turn { role, content: message.content });
            }
            if response.is_none() && turns.last().is_some_and(|turn| turn.role == Role::Assistant) {
                response = turns.pop().map(|turn| turn.content);
            }
        }
        (Some(_), Some(_)) => return Err("expected `prompt` or `messages`, found both".to_owned()),
        (None, None) => return Err("expected `prompt` or `messages`, found neither".to_owned()),
    }
    let last_of =
        |role: Role| turns.iter().rev().find(|turn| turn.role == role).map(|turn| turn.content.clone());
    let Some(user) = last_of(Role::User) else {
        return Err("expected a turn of the user, found none".to_owned());
    };
    let system = last_of(Role::System);
    Ok(Exchange { scene: Scene { user, system, turns }, response })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &[u8]) -> Vec<Line> {
        let mut reader = text;
        std::iter::from_fn(|| next(&mut reader).unwrap()).collect()
    }

    #[test]
    fn every_line_is_an_exchange_or_says_what_is_wrong() {
        let text = concat!(
            "{\"id\":7,\"prompt\":\"a\",\"response\":\"b\",\"other\":[1]}\r\n",
            "\n",
            "not json\n",
            "{\"prompt\":\"a\",\"messages\":[]}\n",
            "{\"messages\":[{\"role\":\"alien\",\"content\":\"x\"}]}\n",
            "{\"messages\":[{\"role\":\"system\",\"content\":\"s\"},{\"role\":\"user\",\"content\":\"u\"},",
            "{\"role\":\"assistant\",\"content\":\"r\"}]}\n",
            "{\"prompt\":\"last\"}"
        );
        let lines = lines(text.as_bytes());
        let found: Vec<_> = lines.iter().map(|line| line.exchange.is_ok()).collect();
        assert_eq!(found, [true, false, false, false, false, true, true]);
        assert_eq!(lines[0].id.as_deref(), Some("7"));
        let both = lines[5].exchange.as_ref().unwrap();
        assert_eq!((both.scene.turns.len(), both.response.as_deref()), (2, Some("r")));
        assert_eq!(both.scene.system.as_deref(), Some("s"));
    }

    #[test]
    fn long_lines_and_bytes_that_are_no_text_do_not_spoil_the_next() {
        let mut text = vec![b'x'; LONGEST + 5];
        text.extend(b"\n\xff\xfe\n{\"prompt\":\"a\"}\n");
        let lines = lines(&text);
        let errors: Vec<_> = lines.iter().filter_map(|line| line.exchange.as_ref().err()).collect();
        assert_eq!(lines.len(), 3);
        assert!(errors[0].contains("at most") && errors[1].contains("UTF-8"), "{errors:?}");
    }
}
