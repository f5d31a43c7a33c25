//! What the expressions of a template stand for: text of the user, dates, constants.

use std::collections::{BTreeMap, BTreeSet};

use minijinja::machinery::ast::{BinOpKind, Call, CallArg, Expr, Stmt, UnaryOpKind};
use minijinja::value::ValueKind;

/// Passes over the assignments, so that a name of a name is followed.
const PASSES: usize = 4;
/// Characters of a folded text.
const LONGEST: usize = 1 << 16;

/// Keys of a message that hold what people wrote.
const CONTENT: &[&str] = &["content", "text", "reasoning_content", "value", "prompt", "query", "input"];

/// What names stand for anywhere in the template. The order of assignments does not count: a name that once held the
/// user's text is taken to hold it.
#[derive(Debug, Default)]
pub(super) struct Facts {
    /// Names of the conversation: messages, one message.
    conversation: BTreeSet<String>,
    /// Names of text of the conversation.
    content: BTreeSet<String>,
    /// Names of dates.
    dates: BTreeSet<String>,
    /// Names of something random.
    random: BTreeSet<String>,
    /// Constant texts that a name, or a field of a namespace, may have.
    texts: BTreeMap<String, BTreeSet<String>>,
    numbers: BTreeMap<String, f64>,
}

impl Facts {
    /// Reads all assignments.
    pub(super) fn of(template: &[Stmt]) -> Self {
        let mut facts = Self::default();
        facts
            .conversation
            .extend(["messages", "message", "conversation", "loop_messages", "prompt"].map(String::from));
        for _ in 0..PASSES {
            facts.statements(template);
        }
        facts
    }

    fn statements(&mut self, statements: &[Stmt]) {
        for statement in statements {
            match statement {
                Stmt::Set(set) => self.assign(&set.target, &set.expr),
                Stmt::WithBlock(with) => {
                    for (target, value) in &with.assignments {
                        self.assign(target, value);
                    }
                }
                Stmt::ForLoop(each) => self.each(&each.target, &each.iter),
                Stmt::SetBlock(set) => {
                    let text = emitted(&set.body);
                    if let Some(name) = target(&set.target) {
                        self.texts.entry(name).or_default().insert(text);
                    }
                }
                _ => {}
            }
            for body in bodies(statement) {
                self.statements(body);
            }
        }
    }

    fn assign(&mut self, left: &Expr, right: &Expr) {
        if let (Expr::List(names), Expr::List(values)) = (left, right) {
            for (name, value) in names.items.iter().zip(&values.items) {
                self.assign(name, value);
            }
            return;
        }
        let Some(name) = target(left) else { return };
        if let Expr::Call(call) = right
            && matches!(&call.expr, Expr::Var(function) if function.id == "namespace" || function.id == "dict")
        {
            for argument in &call.args {
                if let CallArg::Kwarg(field, value) = argument {
                    self.note(format!("{name}.{field}"), value);
                }
            }
            return;
        }
        self.note(name, right);
    }

    fn note(&mut self, name: String, value: &Expr) {
        if self.is_content(value) {
            self.content.insert(name.clone());
        }
        if self.is_conversation(value) {
            self.conversation.insert(name.clone());
        }
        if self.is_date(value) {
            self.dates.insert(name.clone());
        }
        if self.is_random(value) {
            self.random.insert(name.clone());
        }
        if let Some(number) = self.number(value) {
            self.numbers.insert(name.clone(), number);
        }
        let mut texts = Vec::new();
        self.strings(value, &mut texts);
        if !self.is_content(value) {
            self.texts.entry(name).or_default().extend(texts);
        }
    }

    fn each(&mut self, left: &Expr, over: &Expr) {
        let names: Vec<String> = match left {
            Expr::List(list) => list.items.iter().filter_map(target).collect(),
            other => target(other).into_iter().collect(),
        };
        for name in names {
            self.note(name, over);
        }
    }

    /// Whether an expression is the conversation or one message of it.
    pub(super) fn is_conversation(&self, expr: &Expr) -> bool {
        match expr {
            Expr::Var(var) => self.conversation.contains(var.id),
            Expr::Slice(slice) => self.is_conversation(&slice.expr),
            Expr::GetItem(item) => string(&item.subscript_expr).is_none() && self.is_conversation(&item.expr),
            Expr::GetAttr(_) => target(expr).is_some_and(|name| self.conversation.contains(&name)),
            Expr::Filter(filter) => {
                let keeps = [
                    "list",
                    "first",
                    "last",
                    "reverse",
                    "selectattr",
                    "rejectattr",
                    "select",
                    "reject",
                    "batch",
                ];
                keeps.contains(&filter.name)
                    && filter.expr.as_ref().is_some_and(|inner| self.is_conversation(inner))
            }
            Expr::IfExpr(choice) => {
                self.is_conversation(&choice.true_expr)
                    || choice.false_expr.as_ref().is_some_and(|other| self.is_conversation(other))
            }
            _ => false,
        }
    }

    /// Whether an expression is text that people wrote, or part of it.
    pub(super) fn is_content(&self, expr: &Expr) -> bool {
        let member = |inner: &Expr, name: &str| {
            name == "content"
                || (CONTENT.contains(&name) && (self.is_conversation(inner) || self.is_content(inner)))
                || target(expr).is_some_and(|name| self.content.contains(&name))
        };
        match expr {
            Expr::Var(var) => self.content.contains(var.id),
            Expr::GetAttr(get) => member(&get.expr, get.name),
            Expr::GetItem(item) => match string(&item.subscript_expr) {
                Some(name) => member(&item.expr, &name),
                None => self.is_content(&item.expr),
            },
            Expr::Slice(slice) => self.is_content(&slice.expr),
            Expr::Filter(filter) => {
                let Some(inner) = &filter.expr else { return false };
                let of_fields = filter.name == "map"
                    && filter.args.iter().any(|argument| {
                        let (CallArg::Pos(value) | CallArg::Kwarg(_, value)) = argument else { return false };
                        string(value).is_some_and(|name| CONTENT.contains(&name.as_str()))
                    });
                let written = ["string", "tojson", "join", "pprint", "urlencode"].contains(&filter.name);
                match filter.name {
                    "length" | "count" => false,
                    _ => of_fields || self.is_content(inner) || (written && self.is_conversation(inner)),
                }
            }
            Expr::Call(call) => matches!(&call.expr, Expr::GetAttr(get) if self.is_content(&get.expr)),
            Expr::IfExpr(choice) => {
                self.is_content(&choice.true_expr)
                    || choice.false_expr.as_ref().is_some_and(|other| self.is_content(other))
            }
            Expr::BinOp(operation) => {
                matches!(operation.op, BinOpKind::Add | BinOpKind::Concat | BinOpKind::ScOr)
                    && (self.is_content(&operation.left) || self.is_content(&operation.right))
            }
            _ => false,
        }
    }

    /// Whether an expression is a length of text that people wrote.
    pub(super) fn is_content_length(&self, expr: &Expr) -> bool {
        matches!(expr, Expr::Filter(filter) if matches!(filter.name, "length" | "count")
            && filter.expr.as_ref().is_some_and(|inner| self.is_content(inner)))
    }

    /// Whether an expression depends on the date.
    pub(super) fn is_date(&self, expr: &Expr) -> bool {
        let named = |name: &str| {
            matches!(
                name,
                "strftime_now" | "now" | "utcnow" | "today" | "datetime" | "strftime" | "time" | "localtime"
            )
        };
        match expr {
            Expr::Var(var) => {
                self.dates.contains(var.id) || matches!(var.id, "date_string" | "current_date" | "today_date")
            }
            Expr::Call(call) => {
                let function = match &call.expr {
                    Expr::Var(var) => named(var.id),
                    Expr::GetAttr(get) => named(get.name) || self.is_date(&get.expr),
                    _ => false,
                };
                function || call.args.iter().any(|argument| self.is_date(argument_value(argument)))
            }
            Expr::GetAttr(get) => {
                target(expr).is_some_and(|name| self.dates.contains(&name)) || self.is_date(&get.expr)
            }
            Expr::GetItem(item) => self.is_date(&item.expr),
            Expr::Slice(slice) => self.is_date(&slice.expr),
            Expr::Filter(filter) => filter.expr.as_ref().is_some_and(|inner| self.is_date(inner)),
            Expr::UnaryOp(operation) => self.is_date(&operation.expr),
            Expr::BinOp(operation) => self.is_date(&operation.left) || self.is_date(&operation.right),
            Expr::IfExpr(choice) => {
                self.is_date(&choice.true_expr)
                    || choice.false_expr.as_ref().is_some_and(|other| self.is_date(other))
            }
            _ => false,
        }
    }

    /// Whether an expression depends on chance.
    pub(super) fn is_random(&self, expr: &Expr) -> bool {
        match expr {
            Expr::Var(var) => self.random.contains(var.id),
            Expr::Filter(filter) => {
                matches!(filter.name, "random" | "shuffle")
                    || filter.expr.as_ref().is_some_and(|inner| self.is_random(inner))
            }
            Expr::Call(call) => match &call.expr {
                Expr::Var(var) => {
                    matches!(var.id, "random" | "randint" | "randrange" | "lipsum" | "uuid" | "uuid4")
                }
                Expr::GetAttr(get) => {
                    matches!(get.name, "choice" | "random" | "randint") || self.is_random(&get.expr)
                }
                _ => false,
            },
            Expr::BinOp(operation) => self.is_random(&operation.left) || self.is_random(&operation.right),
            Expr::GetAttr(get) => self.is_random(&get.expr),
            Expr::GetItem(item) => self.is_random(&item.expr),
            _ => false,
        }
    }

    /// The one text that an expression has, put together from its pieces.
    pub(super) fn text(&self, expr: &Expr) -> Option<String> {
        let text = match expr {
            Expr::Const(constant) => match constant.value.kind() {
                ValueKind::String => constant.value.as_str()?.to_owned(),
                ValueKind::Number => constant.value.to_string(),
                _ => return None,
            },
            Expr::Var(_) | Expr::GetAttr(_) => {
                let texts = self.texts.get(&target(expr)?)?;
                (texts.len() == 1).then(|| texts.first().cloned())??
            }
            Expr::BinOp(operation) if matches!(operation.op, BinOpKind::Add | BinOpKind::Concat) => {
                self.text(&operation.left)? + &self.text(&operation.right)?
            }
            Expr::Filter(filter) => {
                let inner = filter.expr.as_ref()?;
                match (filter.name, inner) {
                    ("join", Expr::List(list)) => {
                        let glue = filter
                            .args
                            .first()
                            .map_or(Some(String::new()), |glue| self.text(argument_value(glue)))?;
                        list.items.iter().map(|item| self.text(item)).collect::<Option<Vec<_>>>()?.join(&glue)
                    }
                    ("reverse", inner) => self.text(inner)?.chars().rev().collect(),
                    ("upper", inner) => self.text(inner)?.to_uppercase(),
                    ("lower", inner) => self.text(inner)?.to_lowercase(),
                    ("trim" | "string" | "safe" | "default" | "d", inner) => {
                        self.text(inner)?.trim().to_owned()
                    }
                    ("replace", inner) => {
                        let mut arguments =
                            filter.args.iter().map(|argument| self.text(argument_value(argument)));
                        let (from, to) = (arguments.next()??, arguments.next()??);
                        if from.is_empty() {
                            return None;
                        }
                        self.text(inner)?.replace(&from, &to)
                    }
                    _ => return None,
                }
            }
            Expr::Slice(slice) if slice.start.is_none() && slice.stop.is_none() => {
                let turned =
                    slice.step.as_ref().and_then(|step| self.number(step)).is_some_and(|step| step < 0.0);
                let text = self.text(&slice.expr)?;
                if turned { text.chars().rev().collect() } else { text }
            }
            _ => return None,
        };
        (text.len() <= LONGEST).then_some(text)
    }

    /// Every constant text of an expression, whole where it can be put together, keys of fields left out.
    pub(super) fn strings(&self, expr: &Expr, out: &mut Vec<String>) {
        if let Some(text) = self.text(expr) {
            out.push(text);
            return;
        }
        match expr {
            Expr::Var(_) => {
                out.extend(target(expr).and_then(|name| self.texts.get(&name)).into_iter().flatten().cloned())
            }
            Expr::GetAttr(_) => {
                out.extend(
                    target(expr).and_then(|name| self.texts.get(&name)).into_iter().flatten().cloned(),
                );
            }
            Expr::List(list) => list.items.iter().for_each(|item| self.strings(item, out)),
            Expr::Map(map) => map.keys.iter().chain(&map.values).for_each(|item| self.strings(item, out)),
            Expr::Const(constant) => {
                out.extend(
                    constant
                        .value
                        .try_iter()
                        .into_iter()
                        .flatten()
                        .filter_map(|item| item.as_str().map(str::to_owned)),
                );
            }
            Expr::BinOp(operation) => {
                self.strings(&operation.left, out);
                self.strings(&operation.right, out);
            }
            Expr::IfExpr(choice) => {
                self.strings(&choice.true_expr, out);
                if let Some(other) = &choice.false_expr {
                    self.strings(other, out);
                }
            }
            Expr::Filter(filter) => filter.expr.iter().for_each(|inner| self.strings(inner, out)),
            Expr::Call(call) => {
                if let Expr::GetAttr(get) = &call.expr {
                    self.strings(&get.expr, out);
                }
                call.args.iter().for_each(|argument| self.strings(argument_value(argument), out));
            }
            _ => {}
        }
    }

    /// The number that an expression has.
    pub(super) fn number(&self, expr: &Expr) -> Option<f64> {
        match expr {
            Expr::Const(constant) if constant.value.kind() == ValueKind::Number => {
                f64::try_from(constant.value.clone()).ok()
            }
            Expr::Var(var) => self.numbers.get(var.id).copied(),
            Expr::GetAttr(_) => self.numbers.get(&target(expr)?).copied(),
            Expr::UnaryOp(operation) => match operation.op {
                UnaryOpKind::Neg => Some(-self.number(&operation.expr)?),
                UnaryOpKind::Not => None,
            },
            Expr::Filter(filter) if matches!(filter.name, "int" | "float" | "abs" | "round") => {
                let inner = filter.expr.as_ref()?;
                self.number(inner).or_else(|| self.text(inner)?.trim().parse().ok())
            }
            Expr::BinOp(operation) => {
                let (left, right) = (self.number(&operation.left)?, self.number(&operation.right)?);
                match operation.op {
                    BinOpKind::Add => Some(left + right),
                    BinOpKind::Sub => Some(left - right),
                    BinOpKind::Mul => Some(left * right),
                    BinOpKind::Div | BinOpKind::FloorDiv => Some(left / right),
                    BinOpKind::Pow => Some(left.powf(right)),
                    _ => None,
                }
            }
            _ => None,
        }
    }
}

/// The name that an expression assigns to or reads: of a variable, or `namespace.field`.
pub(super) fn target(expr: &Expr) -> Option<String> {
    match expr {
        Expr::Var(var) => Some(var.id.to_owned()),
        Expr::GetAttr(get) => match &get.expr {
            Expr::Var(var) => Some(format!("{}.{}", var.id, get.name)),
            _ => None,
        },
        _ => None,
    }
}

/// A constant text as it stands.
pub(super) fn string(expr: &Expr) -> Option<String> {
    match expr {
        Expr::Const(constant) => constant.value.as_str().map(str::to_owned),
        _ => None,
    }
}

/// The value of an argument, however it is handed over.
pub(super) fn argument_value<'a, 't>(argument: &'a CallArg<'t>) -> &'a Expr<'t> {
    match argument {
        CallArg::Pos(value)
        | CallArg::Kwarg(_, value)
        | CallArg::PosSplat(value)
        | CallArg::KwargSplat(value) => value,
    }
}

/// The statements inside a statement.
pub(super) fn bodies<'a, 't>(statement: &'a Stmt<'t>) -> Vec<&'a [Stmt<'t>]> {
    match statement {
        Stmt::Template(template) => vec![&template.children],
        Stmt::ForLoop(each) => vec![&each.body, &each.else_body],
        Stmt::IfCond(condition) => vec![&condition.true_body, &condition.false_body],
        Stmt::WithBlock(with) => vec![&with.body],
        Stmt::SetBlock(set) => vec![&set.body],
        Stmt::AutoEscape(escape) => vec![&escape.body],
        Stmt::FilterBlock(filter) => vec![&filter.body],
        Stmt::Block(block) => vec![&block.body],
        Stmt::Macro(definition) => vec![&definition.body],
        Stmt::CallBlock(call) => vec![&call.macro_decl.body],
        _ => Vec::new(),
    }
}

/// What statements write as it stands in the template.
fn emitted(statements: &[Stmt]) -> String {
    let mut text = String::new();
    for statement in statements {
        match statement {
            Stmt::EmitRaw(raw) => text.push_str(raw.raw),
            Stmt::EmitExpr(emit) => text.extend(string(&emit.expr)),
            _ => {}
        }
    }
    text
}

/// The function of a call, if it is called by its name.
pub(super) fn function<'a>(call: &'a Call) -> Option<&'a str> {
    match &call.expr {
        Expr::Var(var) => Some(var.id),
        _ => None,
    }
}
