//! Which Python object an expression names, through imports, other names, and the ways around them.

use std::collections::BTreeMap;

use tree_sitter::Node;

use super::fold::{self, Constants, arguments, children, slice};

/// Expressions inside each other that are followed.
const DEPTH: usize = 60;
/// Passes over the assignments, so that a name of a name of a name is followed.
const PASSES: usize = 3;

/// What the names of a file stand for.
#[derive(Debug, Default)]
pub(super) struct Names {
    /// Name to dotted path.
    aliases: BTreeMap<String, String>,
    /// Modules of `from module import *`.
    stars: Vec<String>,
    /// Names with one constant text.
    pub(super) constants: Constants,
    /// Functions and classes that the file defines.
    pub(super) defined: Vec<String>,
}

/// Builtins that matter; anything else without an import is a name of the file.
const BUILTINS: &[&str] = &[
    "exec",
    "eval",
    "compile",
    "__import__",
    "execfile",
    "open",
    "getattr",
    "globals",
    "vars",
    "locals",
    "input",
    "breakpoint",
    "__builtins__",
    "__loader__",
    "setattr",
];

impl Names {
    /// Reads the imports and assignments among all nodes of a file.
    pub(super) fn of(nodes: &[Node], source: &str) -> Self {
        let mut names = Self::default();
        for node in nodes {
            match node.kind() {
                "import_statement" => names.import(*node, source),
                "import_from_statement" => names.import_from(*node, source),
                "function_definition" | "class_definition" => {
                    if let Some(name) = node.child_by_field_name("name") {
                        names.defined.push(slice(name, source).to_owned());
                    }
                }
                _ => {}
            }
        }
        for _ in 0..PASSES {
            for node in nodes.iter().filter(|node| matches!(node.kind(), "assignment" | "named_expression")) {
                names.assign(*node, source);
            }
        }
        names
    }

    fn import(&mut self, node: Node, source: &str) {
        for child in children(node) {
            match child.kind() {
                "dotted_name" => {
                    let path = slice(child, source);
                    let first = path.split('.').next().unwrap_or(path);
                    self.aliases.insert(first.to_owned(), first.to_owned());
                }
                "aliased_import" => self.aliased(child, "", source),
                _ => {}
            }
        }
    }

    fn import_from(&mut self, node: Node, source: &str) {
        let Some(module) = node.child_by_field_name("module_name") else { return };
        let module_text = slice(module, source).to_owned();
        for child in children(node) {
            if child.id() == module.id() {
                continue;
            }
            match child.kind() {
                "dotted_name" => {
                    let name = slice(child, source);
                    self.aliases.insert(name.to_owned(), format!("{module_text}.{name}"));
                }
                "aliased_import" => self.aliased(child, &format!("{module_text}."), source),
                "wildcard_import" => self.stars.push(module_text.clone()),
                _ => {}
            }
        }
    }

    fn aliased(&mut self, node: Node, prefix: &str, source: &str) {
        if let (Some(name), Some(alias)) =
            (node.child_by_field_name("name"), node.child_by_field_name("alias"))
        {
            self.aliases.insert(slice(alias, source).to_owned(), format!("{prefix}{}", slice(name, source)));
        }
    }

    fn assign(&mut self, node: Node, source: &str) {
        let left = node.child_by_field_name("left").or_else(|| node.child_by_field_name("name"));
        let right = node.child_by_field_name("right").or_else(|| node.child_by_field_name("value"));
        let (Some(left), Some(right)) = (left, right) else { return };
        if left.kind() == "identifier" {
            self.bind(left, right, source);
        } else if matches!(left.kind(), "pattern_list" | "tuple_pattern")
            && matches!(right.kind(), "expression_list" | "tuple")
        {
            for (left, right) in children(left).into_iter().zip(children(right)) {
                self.bind(left, right, source);
            }
        }
    }

    fn bind(&mut self, left: Node, right: Node, source: &str) {
        let name = slice(left, source).to_owned();
        if let Some(text) = fold::text(right, source, &self.constants) {
            self.constants.insert(name, text);
        } else if let Some(path) = self.path(right, source)
            && path != name
        {
            self.aliases.insert(name, path);
        }
    }

    /// The dotted path that an expression names, if it names an object of a module or a builtin.
    pub(super) fn path(&self, node: Node, source: &str) -> Option<String> {
        self.follow(node, source, 0)
    }

    fn follow(&self, node: Node, source: &str, depth: usize) -> Option<String> {
        if depth > DEPTH {
            return None;
        }
        match node.kind() {
            "identifier" => self.name(slice(node, source)),
            "parenthesized_expression" => self.follow(node.named_child(0)?, source, depth + 1),
            "attribute" => {
                let object = self.follow(node.child_by_field_name("object")?, source, depth + 1)?;
                Some(member(&object, slice(node.child_by_field_name("attribute")?, source)))
            }
            "subscript" => {
                let value = self.follow(node.child_by_field_name("value")?, source, depth + 1)?;
                let key = fold::text(node.child_by_field_name("subscript")?, source, &self.constants)?;
                Some(member(&value, &key))
            }
            "call" => self.call(node, source, depth),
            // `(a or b)(…)`, `a if x else b`: the first that is known.
            "boolean_operator" | "conditional_expression" => {
                children(node).into_iter().find_map(|child| self.follow(child, source, depth + 1))
            }
            _ => None,
        }
    }

    fn name(&self, name: &str) -> Option<String> {
        if let Some(path) = self.aliases.get(name) {
            return Some(path.clone());
        }
        if BUILTINS.contains(&name) && !self.defined.iter().any(|defined| defined == name) {
            return Some(name.to_owned());
        }
        // `from os import *` brings names whose module is not written down.
        let star = self
            .stars
            .iter()
            .find(|module| matches!(module.as_str(), "os" | "subprocess" | "socket" | "ctypes" | "pty"))?;
        (!self.defined.iter().any(|defined| defined == name) && !self.constants.contains_key(name))
            .then(|| format!("{star}.{name}"))
    }

    fn call(&self, node: Node, source: &str, depth: usize) -> Option<String> {
        let function = self.follow(node.child_by_field_name("function")?, source, depth + 1)?;
        let arguments = arguments(node);
        let text = |index: usize| fold::text(*arguments.get(index)?, source, &self.constants);
        match function.as_str() {
            "__import__" | "importlib.import_module" | "importlib.__import__" => text(0),
            "getattr" => {
                let object = self.follow(*arguments.first()?, source, depth + 1)?;
                Some(member(&object, &text(1)?))
            }
            "vars" => self.follow(*arguments.first()?, source, depth + 1),
            "globals" | "locals" => Some("globals".to_owned()),
            "functools.partial" | "staticmethod" | "operator.methodcaller" => {
                self.follow(*arguments.first()?, source, depth + 1)
            }
            path if path.ends_with(".get")
                || path.ends_with(".__getitem__")
                || path.ends_with(".__getattribute__") =>
            {
                let holder = path.rsplit_once('.').map_or("", |(holder, _)| holder);
                Some(member(holder, &text(0)?))
            }
            // What a call returns has the members of its module's object: `socket.socket().connect`.
            path => Some(format!("{path}()")),
        }
    }
}

/// A member of an object, where namespaces lead to what is in them.
fn member(object: &str, name: &str) -> String {
    match (object, name) {
        ("globals", "__builtins__") | ("builtins", "__dict__") | ("__builtins__", "__dict__") => {
            "builtins".to_owned()
        }
        // `sys.modules['os']` is `os`.
        ("sys.modules" | "globals", other) => other.to_owned(),
        ("builtins" | "__builtins__", other) => other.to_owned(),
        (object, "__dict__") => object.to_owned(),
        (object, name) => format!("{object}.{name}"),
    }
}
