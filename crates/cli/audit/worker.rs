//! The process that reads untrusted files, and the one that watches it.
//!
//! An audit runs in a child of this program under limits of memory and time. The child says what it is about to do
//! before it does it; if it dies, hangs or runs out of memory, that step becomes a finding and the audit is run again
//! without it. So a file that breaks a reader is reported, and everything else is still checked.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::Path;
use std::process::{Child, ChildStderr, ChildStdout, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use probe::audit::{self, Options, Signature};
use report::audit::RepositoryAudit;
use serde::{Deserialize, Serialize};

use crate::Outcome;
use crate::args::WorkerArguments;
use crate::exit::{self, Failure};

/// Address space of the child. Everything that the audit keeps at a time stays far below.
pub(crate) const MEMORY_BYTES: u64 = 512 << 20;
/// Processor time of one step, and how many bytes more of a file allow another second. An honest file of 5 MB takes
/// hundredths of a second for all steps together.
const STEP: Duration = Duration::from_millis(1_200);
const STEP_BYTES_A_SECOND: u64 = 8 << 20;
/// A child that neither works nor speaks for so long waits for something that will not come.
const SILENCE: Duration = Duration::from_secs(30);
/// How often the child is looked at while it is silent.
const LOOK: Duration = Duration::from_millis(100);
/// Steps that may fail in one repository.
const FAILURES: usize = 8;

/// Every limit of an audit, those of the process included.
pub(crate) fn limits() -> std::collections::BTreeMap<String, u64> {
    let mut limits = audit::limits();
    limits.insert("bytes of memory".into(), MEMORY_BYTES);
    limits.insert("milliseconds of a step".into(), STEP.as_millis() as u64);
    limits.insert("bytes of a file for each further second".into(), STEP_BYTES_A_SECOND);
    limits.insert("failed steps of a repository".into(), FAILURES as u64);
    limits
}

/// What the child says, one line each.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Line {
    /// It is about to take a step.
    Step { file: String, check: String, bytes: u64 },
    /// It is through.
    Done(Box<RepositoryAudit>),
    /// It cannot begin.
    Error(String),
}

/// The child: audits one path and says every step.
pub(crate) fn run(arguments: &WorkerArguments) -> Outcome {
    limit();
    let skip: Vec<(String, String)> =
        arguments.skip.chunks_exact(2).map(|pair| (pair[0].clone(), pair[1].clone())).collect();
    let signature = signature(arguments.signature.as_deref(), arguments.key.as_deref());
    let options = Options { base: arguments.base.as_deref(), signature, skip: &skip };
    let mut out = std::io::stdout().lock();
    let mut say = |line: &Line| {
        // Without a reader there is nobody to work for; the next step ends on its own limits.
        if let Ok(mut text) = serde_json::to_vec(line) {
            text.push(b'\n');
            let _ = out.write_all(&text).and_then(|()| out.flush());
        }
    };
    let result = audit::audit(&arguments.path, &arguments.name, &options, &mut |step| {
        say(&Line::Step { file: step.file.to_owned(), check: step.check.to_owned(), bytes: step.bytes });
    });
    match result {
        Ok(audit) => say(&Line::Done(Box::new(audit))),
        Err(error) => say(&Line::Error(error.to_string())),
    }
    Ok(exit::PASS)
}

/// Limits of this process: memory, no writing of files, no core dump, and no life after its parent's.
#[cfg(unix)]
fn limit() {
    use rustix::process::{Resource, Rlimit, setrlimit};
    let set = |resource, most| {
        // A system that refuses a lower limit has a lower one already.
        let _ = setrlimit(resource, Rlimit { current: Some(most), maximum: Some(most) });
    };
    set(Resource::As, MEMORY_BYTES);
    set(Resource::Fsize, 0);
    set(Resource::Core, 0);
    set(Resource::Cpu, 3_600);
    #[cfg(target_os = "linux")]
    {
        let _ = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL));
    }
}

#[cfg(not(unix))]
fn limit() {}

/// The signature that a bundle and a key make.
pub(crate) fn signature<'a>(bundle: Option<&'a Path>, key: Option<&'a Path>) -> Option<Signature<'a>> {
    bundle.zip(key).map(|(bundle, key)| Signature { bundle, key })
}

/// Audits a path in a child, as often as needed to get past the steps that fail: those of `beside` are the first.
pub(crate) fn audit(path: &Path, name: &str, beside: &Options<'_>) -> Result<RepositoryAudit, Failure> {
    let mut skip: Vec<(String, String)> = beside.skip.to_vec();
    let mut failed = Vec::new();
    loop {
        match attempt(path, name, &Options { skip: &skip, ..beside.clone() })? {
            Attempt::Done(mut audit) => {
                audit.findings.append(&mut failed);
                audit.sort();
                return Ok(*audit);
            }
            Attempt::Failed { file, check, failure, message } => {
                failed.push(audit::failed(&file, &check, failure, &message));
                if skip.len() >= FAILURES {
                    let mut audit = RepositoryAudit { name: name.to_owned(), ..RepositoryAudit::default() };
                    audit.findings = failed;
                    audit.sort();
                    return Ok(audit);
                }
                skip.push((file, check));
            }
        }
    }
}

enum Attempt {
    Done(Box<RepositoryAudit>),
    Failed { file: String, check: String, failure: audit::Failure, message: String },
}

fn attempt(path: &Path, name: &str, options: &Options<'_>) -> Result<Attempt, Failure> {
    let machine =
        |error: std::io::Error| Failure::Machine(format!("cannot start the audit's process: {error}"));
    let mut command = Command::new(std::env::current_exe().map_err(machine)?);
    command.arg(crate::args::WORKER).arg(path).arg(format!("--name={name}"));
    let signature = options.signature;
    let named = [
        ("--base=", options.base),
        ("--signature=", signature.map(|signature| signature.bundle)),
        ("--key=", signature.map(|signature| signature.key)),
    ];
    for (option, path) in named {
        if let Some(path) = path {
            let mut option = std::ffi::OsString::from(option);
            option.push(path);
            command.arg(option);
        }
    }
    for (file, check) in options.skip {
        command.arg(format!("--skip={file}")).arg(format!("--skip={check}"));
    }
    // mimalloc reserves address space far ahead and keeps what is freed, which the limit counts.
    command.env("MIMALLOC_DISALLOW_ARENA_ALLOC", "1").env("MIMALLOC_PURGE_DELAY", "0");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(machine)?;
    let (Some(stdout), Some(stderr)) = (child.stdout.take(), child.stderr.take()) else {
        return Err(Failure::Machine("the audit's process has no output".into()));
    };
    let attempt = Watch::new(child, stdout, stderr).run();
    match attempt {
        Ok(attempt) => Ok(attempt),
        Err(error) => Err(Failure::Input(format!("cannot audit `{name}`: {error}"))),
    }
}

/// A child under watch.
struct Watch {
    child: Child,
    lines: Receiver<Line>,
    stderr: std::thread::JoinHandle<String>,
    step: (String, String, u64),
}

impl Watch {
    fn new(child: Child, stdout: ChildStdout, mut stderr: ChildStderr) -> Self {
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let Ok(line) = serde_json::from_str(&line) else { break };
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        let stderr = std::thread::spawn(move || {
            let mut text = Vec::new();
            let _ = stderr.by_ref().take(1 << 16).read_to_end(&mut text);
            let _ = std::io::copy(&mut stderr, &mut std::io::sink());
            String::from_utf8_lossy(&text).into_owned()
        });
        Self { child, lines, stderr, step: (String::new(), audit::READING.to_owned(), 0) }
    }

    fn run(mut self) -> Result<Attempt, String> {
        loop {
            match self.next() {
                Ok(Some(Line::Step { file, check, bytes })) => self.step = (file, check, bytes),
                Ok(Some(Line::Done(audit))) => {
                    let _ = self.child.wait();
                    return Ok(Attempt::Done(audit));
                }
                Ok(Some(Line::Error(error))) => {
                    let _ = self.child.wait();
                    return Err(error);
                }
                Ok(None) => return Ok(self.died()),
                Err(seconds) => {
                    let _ = self.child.kill();
                    let _ = self.child.wait();
                    let (file, check, _) = self.step;
                    let message = format!("stopped after {seconds:.0} s of processor time");
                    return Ok(Attempt::Failed { file, check, failure: audit::Failure::Hung, message });
                }
            }
        }
    }

    /// The next line; none when the child is gone. An error with its limit in seconds when it hangs.
    fn next(&mut self) -> Result<Option<Line>, f64> {
        let limit = STEP + Duration::from_secs(self.step.2 / STEP_BYTES_A_SECOND);
        let start = Instant::now();
        let mut before: Option<Duration> = None;
        loop {
            match self.lines.recv_timeout(LOOK) {
                Ok(line) => return Ok(Some(line)),
                Err(RecvTimeoutError::Disconnected) => return Ok(None),
                Err(RecvTimeoutError::Timeout) => {}
            }
            // Time on the processor counts, so that a busy or suspended machine is no hang.
            let used = processor_time(&self.child);
            let hung = match (used, before) {
                (Some(used), Some(before)) => used.saturating_sub(before) >= limit,
                (Some(used), None) => {
                    before = Some(used);
                    false
                }
                (None, _) => start.elapsed() >= limit,
            };
            if hung || start.elapsed() >= SILENCE + limit * 10 {
                return Err(limit.as_secs_f64());
            }
        }
    }

    fn died(mut self) -> Attempt {
        let status = self.child.wait();
        let stderr = self.stderr.join().unwrap_or_default();
        let (file, check, _) = self.step;
        let memory = stderr.contains("memory allocation of");
        let how = status.map_or_else(|error| error.to_string(), |status| status.to_string());
        let last = stderr.lines().find(|line| !line.trim().is_empty()).unwrap_or("").to_owned();
        let (failure, message) = if memory {
            (audit::Failure::OutOfMemory, format!("more than {MEMORY_BYTES} bytes were wanted"))
        } else {
            (audit::Failure::Crashed, format!("the process ended with {how}: {last}"))
        };
        Attempt::Failed { file, check, failure, message }
    }
}

/// Processor time of a child so far, where the system tells.
#[cfg(target_os = "linux")]
fn processor_time(child: &Child) -> Option<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", child.id())).ok()?;
    // After the name, which may hold anything, in parentheses: state is field 3, user and system time 14 and 15.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks: u64 = fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?;
    let a_second = rustix::param::clock_ticks_per_second();
    Some(Duration::from_millis(ticks * 1_000 / a_second.max(1)))
}

#[cfg(not(target_os = "linux"))]
fn processor_time(_: &Child) -> Option<Duration> {
    None
}

#[cfg(unix)]
#[cfg(test)]
mod tests {
    use super::*;

    /// What becomes of a child that runs this shell script.
    fn watched(script: &str) -> Attempt {
        let mut child = Command::new("sh")
            .args(["-c", script])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (stdout, stderr) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        Watch::new(child, stdout, stderr).run().unwrap()
    }

    fn failure(script: &str) -> audit::Failure {
        let step = r#"echo '{"step":{"file":"x.bin","check":"pickles","bytes":1}}'; "#;
        match watched(&format!("{step}{script}")) {
            Attempt::Failed { file, check, failure, .. } => {
                assert_eq!((file.as_str(), check.as_str()), ("x.bin", "pickles"));
                failure
            }
            Attempt::Done(_) => panic!("{script}: expected a failure"),
        }
    }

    #[test]
    fn a_child_that_fails_is_a_finding_about_the_step() {
        assert_eq!(failure("kill -SEGV $$"), audit::Failure::Crashed);
        assert_eq!(
            failure("echo 'memory allocation of 9 bytes failed' >&2; kill -ABRT $$"),
            audit::Failure::OutOfMemory
        );
        assert_eq!(failure("while :; do :; done"), audit::Failure::Hung);
        // One that ends without a word of being done was cut off.
        assert_eq!(failure("exit 0"), audit::Failure::Crashed);
    }

    #[test]
    fn a_child_that_is_through_gives_its_audit() {
        let done = r#"echo '{"done":{"name":"r","files":[],"findings":[]}}'"#;
        assert!(matches!(watched(done), Attempt::Done(audit) if audit.name == "r"));
    }
}
