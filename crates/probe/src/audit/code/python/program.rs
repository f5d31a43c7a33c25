//! The walk over a program: names that are reached, calls, text that hides something.

use report::audit::{Rule, Severity};
use tree_sitter::Node;

use super::fold::{self, children, slice};
use super::resolve::Names;
use super::{Act, Nodes, Role, rules, sinks};
use crate::audit::code::shell;
use crate::audit::encoded;

pub(super) struct Program<'a> {
    pub(super) source: &'a str,
    pub(super) role: Role,
    pub(super) nodes: &'a Nodes<'a>,
    pub(super) names: Names,
    pub(super) acts: Vec<Act>,
    /// Whether text that decodes to a program was seen.
    pub(super) hides: bool,
}

impl Program<'_> {
    /// Looks at the node of this index.
    pub(super) fn look(&mut self, index: usize) {
        match self.nodes.all[index].kind() {
            "identifier" | "attribute" | "subscript" => self.reference(index),
            "call" => self.call(index),
            "string" | "concatenated_string" | "binary_operator" => self.text(index),
            "expression_statement" => self.module_call(index),
            _ => {}
        }
    }

    fn add(&mut self, rule: &'static Rule, severity: Severity, index: usize, message: String) {
        let line = self.nodes.all[index].start_position().row + 1;
        self.acts.push(Act { rule, severity, line, message });
    }

    /// A name, also where it is not called: handed to `map`, used as a decorator, bound to another name.
    fn reference(&mut self, index: usize) {
        let node = self.nodes.all[index];
        if node.kind() == "attribute" {
            let attribute = node.child_by_field_name("attribute").map_or("", |name| slice(name, self.source));
            if sinks::DIGGING.contains(&attribute) {
                let severity = self.severity(&rules::IMPORT, index);
                self.add(&rules::IMPORT, severity, index, format!("it digs into `{attribute}`"));
            }
        }
        let Some(parent) = self.nodes.parent(index) else { return };
        let is = |field: &str| parent.child_by_field_name(field).is_some_and(|child| child.id() == node.id());
        let defines = match parent.kind() {
            // Of a longer path the whole is looked at, and calls are looked at as such.
            "attribute" | "dotted_name" | "aliased_import" | "import_from_statement" => true,
            "call" => is("function"),
            "assignment" | "named_expression" => is("left") || is("name"),
            "keyword_argument" | "function_definition" | "class_definition" | "default_parameter" => {
                is("name")
            }
            "parameters" | "global_statement" => true,
            _ => false,
        };
        if defines {
            return;
        }
        if let Some(path) = self.names.path(node, self.source)
            && let Some(rule) = sinks::rule(&path)
            // Of these, naming is not yet using.
            && !["CODE-008", "CODE-010", "CODE-012", "CODE-013"].contains(&rule.id)
        {
            let severity = self.severity(rule, index);
            self.add(rule, severity, index, format!("it names `{path}`"));
        }
    }

    fn call(&mut self, index: usize) {
        let node = self.nodes.all[index];
        let (Some(function), Some(arguments)) =
            (node.child_by_field_name("function"), node.child_by_field_name("arguments"))
        else {
            return;
        };
        let Some(path) = self.names.path(function, self.source) else { return };
        let arguments = children(arguments);
        if matches!(
            path.as_str(),
            "getattr" | "__import__" | "importlib.import_module" | "importlib.__import__"
        ) {
            self.dynamic(index, &path, &arguments);
            return;
        }
        let Some(rule) = sinks::rule(&path) else { return };
        let Some(severity) = self.call_severity(rule, &path, index, &arguments) else { return };
        let command = self.command(&arguments);
        let message = match command.as_deref().and_then(shell::danger) {
            Some(why) => format!("it calls `{path}` with a command that {why}"),
            None => format!("it calls `{path}`"),
        };
        self.add(rule, severity, index, message);
    }

    /// How bad a call is, with what it is given; `None` if it is harmless.
    fn call_severity(
        &mut self,
        rule: &'static Rule,
        path: &str,
        index: usize,
        arguments: &[Node],
    ) -> Option<Severity> {
        let keyword = |name: &str| {
            arguments.iter().find_map(|argument| {
                let found = argument.kind() == "keyword_argument"
                    && argument.child_by_field_name("name").is_some_and(|n| slice(n, self.source) == name);
                found.then(|| {
                    argument.child_by_field_name("value").map_or("", |value| slice(value, self.source))
                })
            })
        };
        let usual = self.severity(rule, index);
        match rule.id {
            "CODE-012" => match path {
                "torch.load" => match keyword("weights_only") {
                    Some("True") => None,
                    Some("False") => Some(usual),
                    // The default since torch 2.6 is True.
                    _ => Some(usual.min(Severity::Medium)),
                },
                "numpy.load" => (keyword("allow_pickle") == Some("True")).then_some(usual),
                _ if path.starts_with("yaml.load") => {
                    let all: String =
                        arguments.iter().map(|argument| slice(*argument, self.source)).collect();
                    (!all.contains("Safe") && !all.contains("BaseLoader")).then_some(usual)
                }
                "yaml.full_load" | "yaml.full_load_all" => Some(usual.min(Severity::Low)),
                _ => Some(usual),
            },
            "CODE-013" => {
                let target = arguments
                    .first()
                    .and_then(|first| fold::text(*first, self.source, &self.names.constants));
                match (path, target) {
                    ("shutil.rmtree", Some(target))
                        if target.starts_with(['/', '~']) && !target.starts_with("/tmp/") =>
                    {
                        Some(Severity::High)
                    }
                    ("shutil.rmtree" | "os.chmod" | "os.kill" | "getpass.getpass", _) => Some(Severity::Low),
                    _ => Some(usual),
                }
            }
            "CODE-008" => {
                let hidden = arguments
                    .first()
                    .and_then(|first| fold::text(*first, self.source, &self.names.constants));
                if hidden.as_deref().is_some_and(|text| encoded::program(text).is_some()) {
                    self.hides = true;
                    return Some(Severity::High);
                }
                let rot =
                    arguments.get(1).and_then(|name| fold::text(*name, self.source, &self.names.constants));
                let odd =
                    path == "codecs.decode" && rot.is_some_and(|name| name.to_lowercase().starts_with("rot"));
                Some(if odd { Severity::High } else { rule.severity })
            }
            "CODE-001" | "CODE-002" => {
                let dangerous = self.command(arguments).as_deref().and_then(shell::danger).is_some();
                let harmless = self.role == Role::Script && !dangerous;
                Some(if dangerous {
                    Severity::Critical
                } else if harmless {
                    usual.min(Severity::Low)
                } else {
                    usual
                })
            }
            "CODE-003" | "CODE-004" | "CODE-005" => {
                let all: String = arguments.iter().map(|argument| slice(*argument, self.source)).collect();
                let sends_secrets = ["environ", "getenv", "getuser", "id_rsa", "HF_TOKEN"]
                    .iter()
                    .any(|word| all.contains(word));
                let header = all.contains("headers=");
                Some(if sends_secrets && !header { Severity::Critical } else { usual })
            }
            _ => Some(usual),
        }
    }

    /// The command line that a call is given, as far as it is constant.
    fn command(&self, arguments: &[Node]) -> Option<String> {
        let first = *arguments.first()?;
        if let Some(text) = fold::text(first, self.source, &self.names.constants) {
            return Some(text);
        }
        if !matches!(first.kind(), "list" | "tuple") {
            return None;
        }
        let words: Vec<String> = children(first)
            .into_iter()
            .map(|word| fold::text(word, self.source, &self.names.constants).unwrap_or_else(|| "?".into()))
            .collect();
        Some(words.join(" "))
    }

    /// Imports and attributes by name: harmless with a constant harmless name.
    fn dynamic(&mut self, index: usize, path: &str, arguments: &[Node]) {
        let node = self.nodes.all[index];
        let position = usize::from(path == "getattr");
        let name =
            arguments.get(position).and_then(|name| fold::text(*name, self.source, &self.names.constants));
        let is_called = self.nodes.parent(index).is_some_and(|parent| {
            parent.kind() == "call"
                && parent.child_by_field_name("function").is_some_and(|f| f.id() == node.id())
        });
        if path == "getattr" {
            let object = arguments.first().and_then(|object| self.names.path(*object, self.source));
            match (object, name) {
                // `getattr(torch, dtype)` is how configurations name types.
                (Some(object), Some(name)) => {
                    if let Some(rule) = sinks::rule(&format!("{object}.{name}")) {
                        let severity = self.severity(rule, index);
                        self.add(rule, severity, index, format!("it reaches `{object}.{name}` by name"));
                    }
                }
                (Some(object), None) if is_called || object == "builtins" || object.contains("__") => {
                    let strong = matches!(
                        object.split('.').next(),
                        Some("os" | "builtins" | "subprocess" | "sys" | "socket")
                    );
                    let severity = if strong { self.severity(&rules::IMPORT, index) } else { Severity::Low };
                    self.add(
                        &rules::IMPORT,
                        severity,
                        index,
                        format!("it calls a computed member of `{object}`"),
                    );
                }
                (_, Some(name)) if sinks::DIGGING.contains(&name.as_str()) => {
                    let severity = self.severity(&rules::IMPORT, index);
                    self.add(&rules::IMPORT, severity, index, format!("it digs into `{name}`"));
                }
                _ => {}
            }
            return;
        }
        let (severity, message) = match name {
            Some(name) => {
                let literal = arguments.first().is_some_and(|first| first.kind() == "string");
                let strong = [
                    "os",
                    "posix",
                    "subprocess",
                    "builtins",
                    "socket",
                    "ctypes",
                    "pty",
                    "marshal",
                    "pickle",
                    "sys",
                ]
                .contains(&name.split('.').next().unwrap_or(""));
                let severity = if strong {
                    self.severity(&rules::IMPORT, index)
                } else if literal {
                    Severity::Low
                } else {
                    Severity::Medium
                };
                (severity, format!("it imports `{name}` through `{path}`"))
            }
            None => {
                let usual = self.severity(&rules::IMPORT, index);
                (usual.min(Severity::High), format!("it imports a computed name through `{path}`"))
            }
        };
        self.add(&rules::IMPORT, severity, index, message);
    }

    /// Constant text: places of secrets, encoded programs.
    fn text(&mut self, index: usize) {
        let node = self.nodes.all[index];
        // Parts of a longer constant are looked at with the whole.
        let part = self
            .nodes
            .parent(index)
            .is_some_and(|parent| matches!(parent.kind(), "binary_operator" | "concatenated_string"));
        let documentation =
            self.nodes.parent(index).is_some_and(|parent| parent.kind() == "expression_statement");
        if documentation || (part && node.kind() != "string") {
            return;
        }
        let Some(text) = fold::text(node, self.source, &self.names.constants) else { return };
        let of_path =
            |place: &&&str| text.contains(**place) && !text.contains(char::is_whitespace) && text.len() < 200;
        if let Some(place) = sinks::SECRET_PLACES
            .iter()
            .find(of_path)
            .filter(|_| !text.contains("://") || text.contains("169.254"))
        {
            let severity = if self.role == Role::Script { Severity::Medium } else { Severity::High };
            self.add(&rules::SECRETS, severity, index, format!("it names `{place}`"));
        } else if text == ".ssh" || text == ".aws" {
            self.add(&rules::SECRETS, Severity::High, index, format!("it names `{text}`"));
        }
        if let Some(kind) = encoded::program(&text) {
            self.hides = true;
            self.add(&rules::DECODE, Severity::High, index, format!("the text decodes to {kind}"));
        }
        if self.role != Role::Script && shell::danger(&text).is_some_and(|_| text.contains(' ')) {
            let why = shell::danger(&text).unwrap_or("is dangerous");
            self.add(&rules::SHELL, Severity::High, index, format!("the text is a command that {why}"));
        }
    }

    /// A call at module level of something that the file itself defines or that is not known.
    fn module_call(&mut self, index: usize) {
        let statement = self.nodes.all[index];
        let Some(call) = statement.named_child(0).filter(|child| child.kind() == "call") else { return };
        if self.role == Role::Script || !self.nodes.runs_on_import(index, self.source) {
            return;
        }
        let Some(function) = call.child_by_field_name("function") else { return };
        let name = slice(function, self.source);
        let own = self.names.defined.iter().any(|defined| defined == name.split('.').next().unwrap_or(name));
        if function.kind() == "identifier" && own {
            self.add(
                &rules::MODULE_CALL,
                Severity::Low,
                index,
                format!("it calls `{name}` when it is imported"),
            );
        }
    }

    /// The usual severity of a rule at a place of this program.
    fn severity(&self, rule: &Rule, index: usize) -> Severity {
        let on_import = self.nodes.runs_on_import(index, self.source);
        let runs_things = ["CODE-001", "CODE-002", "CODE-006", "CODE-007"].contains(&rule.id);
        match self.role {
            Role::Loaded if runs_things && on_import => Severity::Critical,
            Role::Loaded | Role::Module => rule.severity,
            Role::Script if runs_things && rule.id != "CODE-001" && rule.id != "CODE-002" => Severity::Medium,
            Role::Script => Severity::Low,
        }
    }
}
