//! Python by its syntax tree: which functions it reaches, when, and through which names. Nothing is run.

mod fold;
mod program;
mod resolve;
mod rules;
mod sinks;

use report::audit::{Finding, Rule, Severity};
use tree_sitter::{Node, Parser};

use self::fold::slice;
use self::program::Program;
use self::resolve::Names;
use crate::audit::Check;
use crate::audit::file::File;
use crate::audit::findings::Findings;
use crate::audit::kind::Kind;

/// Python of models is some thousand lines.
const LONGEST: usize = 2 << 20;
/// Nodes of the tree that are looked at.
const NODES: usize = 1_000_000;
/// Acts of one file; a program of a stranger with more needs no longer list.
const ACTS: usize = 1_000;

/// How a file comes to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// Loaders import it: code of a model, a handler, `setup.py`.
    Loaded,
    /// Something may import it.
    Module,
    /// Somebody starts it by hand: a training script, a notebook.
    Script,
}

/// One thing that a program does.
#[derive(Debug)]
pub(super) struct Act {
    pub(super) rule: &'static Rule,
    pub(super) severity: Severity,
    /// Line, counted from 1.
    pub(super) line: usize,
    pub(super) message: String,
}

/// Python source files.
pub(in crate::audit) struct PythonFiles;

impl Check for PythonFiles {
    fn name(&self) -> &'static str {
        "python"
    }

    fn rules(&self) -> &'static [Rule] {
        rules::RULES
    }

    fn wants(&self, file: &File) -> bool {
        let by_name = matches!(file.extension().as_str(), "py" | "pyw" | "pyx" | "py3" | "ipy");
        let text = matches!(file.kind, Kind::Text | Kind::Binary);
        text && (by_name || file.text().is_some_and(is_python))
    }

    fn file(&self, file: &File, findings: &mut Findings) {
        let source = String::from_utf8_lossy(&file.bytes[..file.bytes.len().min(LONGEST)]);
        // Python refuses NUL, but what was meant can be read.
        let broken = source.contains(['\0', '\u{fffd}']) || !file.whole || file.bytes.len() > LONGEST;
        let source = source.replace('\0', " ");
        let lines: Vec<&str> = source.lines().collect();
        let analysis = analyse(&source, role(file.name(), &source));
        if broken || analysis.broken {
            let message = if broken { "bytes that Python refuses" } else { "a syntax error" };
            let severity = if broken { Severity::Medium } else { UNPARSED.severity };
            findings.in_file(file, Finding::new(&UNPARSED, &file.path, message).severity(severity));
        }
        if analysis.acts.is_empty() {
            findings
                .in_file(file, Finding::new(&rules::PRESENT, &file.path, "found nothing dangerous in it"));
        }
        for act in analysis.acts {
            let evidence = lines.get(act.line - 1).copied().unwrap_or("");
            let finding = Finding::new(act.rule, &file.path, act.message)
                .line(act.line)
                .evidence(evidence)
                .severity(act.severity);
            findings.in_file(file, finding);
        }
    }
}

use rules::UNPARSED;

/// Whether a text without a telling name is Python.
fn is_python(text: &str) -> bool {
    let first = text.lines().next().unwrap_or("");
    first.starts_with("#!") && first.contains("python")
}

/// How a file comes to run, by its name and by whether it guards its main part.
fn role(name: &str, source: &str) -> Role {
    let loaded = [
        "modeling",
        "modelling",
        "configuration",
        "tokenization",
        "processing",
        "image_processing",
        "feature_extraction",
        "handler",
        "pipeline",
        "setup",
        "conftest",
        "sitecustomize",
        "usercustomize",
        "__init__",
        "custom_generate",
        "generate",
    ];
    if loaded.iter().any(|start| name.starts_with(start)) {
        return Role::Loaded;
    }
    let scripts = [
        "train",
        "finetune",
        "fine_tune",
        "run",
        "eval",
        "test",
        "infer",
        "app",
        "demo",
        "convert",
        "merge",
        "prepare",
        "preprocess",
        "download",
        "main",
        "chat",
        "benchmark",
        "example",
        "quantize",
        "upload",
        "export",
        "sft",
        "dpo",
    ];
    let named = scripts.iter().any(|start| name.starts_with(start) || name.contains(&format!("_{start}")));
    if named || source.contains("__main__") { Role::Script } else { Role::Module }
}

/// What a program does.
#[derive(Debug, Default)]
pub(super) struct Analysis {
    pub(super) acts: Vec<Act>,
    /// Whether parts of it are no Python.
    pub(super) broken: bool,
}

/// Looks at a program.
pub(super) fn analyse(source: &str, role: Role) -> Analysis {
    let mut parser = Parser::new();
    if parser.set_language(&tree_sitter_python::LANGUAGE.into()).is_err() {
        return Analysis { acts: Vec::new(), broken: true };
    }
    let Some(tree) = parser.parse(source, None) else {
        return Analysis { acts: Vec::new(), broken: true };
    };
    let nodes = Nodes::of(tree.root_node());
    let names = Names::of(&nodes.all, source);
    let mut program = Program { source, role, nodes: &nodes, names, acts: Vec::new(), hides: false };
    for index in 0..nodes.all.len() {
        if program.acts.len() < ACTS {
            program.look(index);
        }
    }
    let hides = program.hides;
    let mut acts = program.acts;
    // Decoding is ordinary; beside something that runs what was decoded it hides a program.
    let runs = acts
        .iter()
        .any(|act| ["CODE-001", "CODE-002", "CODE-006", "CODE-007", "CODE-010"].contains(&act.rule.id));
    for act in acts.iter_mut().filter(|act| act.rule.id == "CODE-008") {
        act.severity = match (runs || hides, role) {
            (true, _) => act.severity.max(Severity::High),
            (false, Role::Script) => act.severity.min(Severity::Low),
            (false, _) => act.severity,
        };
    }
    acts.sort_by_key(|act| (act.line, act.rule.id));
    acts.dedup_by_key(|act| (act.line, act.rule.id));
    Analysis { acts, broken: tree.root_node().has_error() }
}

/// All nodes of a tree, parents before children, each with the index of its parent. The library finds a parent by a
/// walk from the root, and a tree can be as deep as the file is long.
struct Nodes<'t> {
    all: Vec<Node<'t>>,
    parents: Vec<usize>,
}

impl<'t> Nodes<'t> {
    fn of(root: Node<'t>) -> Self {
        let mut nodes = Self { all: Vec::new(), parents: Vec::new() };
        let mut open: Vec<usize> = Vec::new();
        let mut cursor = root.walk();
        loop {
            let index = nodes.all.len();
            nodes.all.push(cursor.node());
            nodes.parents.push(open.last().copied().unwrap_or(0));
            if index >= NODES {
                return nodes;
            }
            if cursor.goto_first_child() {
                open.push(index);
                continue;
            }
            while !cursor.goto_next_sibling() {
                if !cursor.goto_parent() {
                    return nodes;
                }
                open.pop();
            }
        }
    }

    fn parent(&self, index: usize) -> Option<Node<'t>> {
        (index > 0).then(|| self.all[self.parents[index]])
    }

    /// Whether a place runs when the file is imported: it is in no function, and not guarded as the main part.
    fn runs_on_import(&self, index: usize, source: &str) -> bool {
        let mut at = index;
        while let Some(parent) = self.parent(at) {
            match parent.kind() {
                // Decorators stand outside; default values of parameters run with the definition.
                "function_definition" | "lambda" => {
                    let body = parent.child_by_field_name("body");
                    if body.is_some_and(|body| body.id() == self.all[at].id()) {
                        return false;
                    }
                }
                "if_statement" => {
                    let condition =
                        parent.child_by_field_name("condition").map_or("", |node| slice(node, source));
                    if condition.contains("__main__") {
                        return false;
                    }
                }
                _ => {}
            }
            at = self.parents[at];
        }
        true
    }
}

#[cfg(test)]
mod tests;
