//! What a template does, statement by statement.

use std::collections::BTreeSet;

use minijinja::machinery::ast::{BinOpKind, Call, CallArg, CompareOpKind, Expr, Filter, Stmt};
use report::audit::{Rule, Severity};

use super::expressions::{contains, is_comparison, mentions, numbers};
use super::facts::{Facts, argument_value, bodies, function, string, target};
use super::{CONTENT, ESCAPE, EXPLODES, INCLUDE, Judgement, RANDOM, words};

/// Rounds that no conversation needs.
const ROUNDS: f64 = 1e6;
/// Characters that one expression may make.
const WIDTH: f64 = 1e6;
/// Rounds of a loop over something of unknown length.
const UNKNOWN_ROUNDS: f64 = 16.0;
/// Doublings after which a text fills any memory.
const DOUBLINGS: f64 = 20.0;

/// Attributes that lead out of the sandbox, besides those in double underscores.
const ESCAPES: &[&str] = &[
    "popen",
    "gi_frame",
    "gi_code",
    "cr_frame",
    "f_globals",
    "f_builtins",
    "f_back",
    "func_globals",
    "func_code",
    "tb_frame",
    "mro",
    "subclasses",
    "_TemplateReference__context",
    "_module",
    "import_module",
    "import_string",
    "environ",
];
/// Objects of Jinja and of web frameworks that templates of chats have no use for.
const OBJECTS: &[&str] =
    &["lipsum", "cycler", "joiner", "self", "url_for", "get_flashed_messages", "request", "config"];

/// Everything found in a template.
pub(super) fn judge(statements: &[Stmt]) -> Vec<Judgement> {
    let facts = Facts::of(statements);
    let mut judge = Judge { facts: &facts, found: Vec::new(), macros: Vec::new(), line: 0 };
    judge.statements(statements, 1.0);
    judge.found
}

pub(super) struct Judge<'a> {
    pub(super) facts: &'a Facts,
    pub(super) found: Vec<Judgement>,
    /// The macros that enclose the place: name, whether a condition was passed since, recursive calls so far.
    macros: Vec<Inside>,
    line: usize,
}

struct Inside {
    name: String,
    conditional: bool,
    counted: usize,
}

impl Judge<'_> {
    pub(super) fn add(&mut self, rule: &'static Rule, severity: Severity, message: String) {
        self.found.push(Judgement { rule, severity, line: self.line, message });
    }

    fn statements(&mut self, statements: &[Stmt], rounds: f64) {
        for statement in statements {
            self.statement(statement, rounds);
        }
    }

    fn statement(&mut self, statement: &Stmt, rounds: f64) {
        match statement {
            Stmt::EmitRaw(raw) => {
                self.line = raw.span().start_line as usize;
                self.emitted(raw.raw);
            }
            Stmt::EmitExpr(emit) => {
                self.at(&emit.expr);
                self.expr(&emit.expr, rounds);
                let mut texts = Vec::new();
                self.facts.strings(&emit.expr, &mut texts);
                texts.iter().for_each(|text| self.emitted(text));
            }
            Stmt::Set(set) => {
                self.at(&set.expr);
                self.expr(&set.expr, rounds);
                if let Some(text) = self.facts.text(&set.expr) {
                    self.emitted(&text);
                }
                if rounds >= DOUBLINGS
                    && target(&set.target).is_some_and(|name| mentions(&set.expr, &name) >= 2)
                {
                    self.add(
                        &EXPLODES,
                        EXPLODES.severity,
                        "a text that is joined to itself, round after round".into(),
                    );
                }
            }
            Stmt::WithBlock(with) => with.assignments.iter().for_each(|(_, value)| self.expr(value, rounds)),
            Stmt::ForLoop(each) => {
                self.at(&each.iter);
                self.expr(&each.iter, rounds);
                if let Some(filter) = &each.filter_expr {
                    self.condition(filter, rounds, &[]);
                }
                let times = rounds * self.rounds(&each.iter);
                if times >= ROUNDS && rounds < ROUNDS {
                    self.add(&EXPLODES, EXPLODES.severity, format!("loops of {times:e} rounds"));
                }
                self.statements(&each.body, times);
                self.statements(&each.else_body, rounds);
                return;
            }
            Stmt::IfCond(condition) => {
                self.at(&condition.expr);
                let mut written = Vec::new();
                let negated = contains(&condition.expr, &|part| matches!(part, Expr::UnaryOp(_)));
                self.written(
                    if negated { &condition.false_body } else { &condition.true_body },
                    &mut written,
                );
                self.condition(&condition.expr, rounds, &written);
                let outer: Vec<bool> = self.macros.iter().map(|inside| inside.conditional).collect();
                self.macros.iter_mut().for_each(|inside| inside.conditional = true);
                self.statements(&condition.true_body, rounds);
                self.statements(&condition.false_body, rounds);
                for (inside, conditional) in self.macros.iter_mut().zip(outer) {
                    inside.conditional = conditional;
                }
                return;
            }
            Stmt::Include(include) => self.include(&include.name),
            Stmt::Import(import) => self.include(&import.expr),
            Stmt::FromImport(import) => self.include(&import.expr),
            Stmt::Extends(extends) => self.include(&extends.name),
            Stmt::Macro(definition) => {
                self.macros.push(Inside { name: definition.name.to_owned(), conditional: false, counted: 0 });
                definition.defaults.iter().for_each(|value| self.expr(value, rounds));
                self.statements(&definition.body, rounds);
                self.macros.pop();
                return;
            }
            Stmt::CallBlock(call) => self.call(&call.call, rounds),
            Stmt::Do(call) => self.call(&call.call, rounds),
            Stmt::SetBlock(set) => set.filter.iter().for_each(|filter| self.expr(filter, rounds)),
            Stmt::FilterBlock(block) => self.expr(&block.filter, rounds),
            _ => {}
        }
        for body in bodies(statement) {
            self.statements(body, rounds);
        }
    }

    fn at(&mut self, expr: &Expr) {
        self.line = expr.span().start_line as usize;
    }

    fn include(&mut self, name: &Expr) {
        self.at(name);
        let what = self.facts.text(name).unwrap_or_else(|| "a computed name".into());
        self.add(&INCLUDE, INCLUDE.severity, format!("it takes in `{what}`"));
    }

    /// How often a loop over this runs.
    fn rounds(&self, over: &Expr) -> f64 {
        match over {
            Expr::Call(call) if function(call) == Some("range") => {
                let numbers: Vec<Option<f64>> =
                    call.args.iter().map(|argument| self.facts.number(argument_value(argument))).collect();
                match numbers.as_slice() {
                    [Some(end)] => end.max(1.0),
                    [Some(start), Some(end)] => (end - start).max(1.0),
                    [Some(start), Some(end), Some(step)] => ((end - start) / step).abs().max(1.0),
                    _ => UNKNOWN_ROUNDS,
                }
            }
            Expr::List(list) => list.items.len() as f64,
            Expr::Const(constant) => constant.value.len().unwrap_or(1) as f64,
            _ => UNKNOWN_ROUNDS,
        }
    }

    pub(super) fn expr(&mut self, expr: &Expr, rounds: f64) {
        match expr {
            Expr::Var(var) => {
                if OBJECTS.contains(&var.id)
                    && matches!(var.id, "url_for" | "get_flashed_messages" | "lipsum")
                {
                    self.add(&ESCAPE, Severity::Medium, format!("it uses `{}`, which no chat needs", var.id));
                }
            }
            Expr::Const(constant) => {
                let texts: Vec<String> = match constant.value.as_str() {
                    Some(text) => vec![text.to_owned()],
                    None => constant
                        .value
                        .try_iter()
                        .into_iter()
                        .flatten()
                        .filter_map(|item| item.as_str().map(str::to_owned))
                        .collect(),
                };
                texts.iter().for_each(|text| self.dunder(text));
            }
            Expr::Slice(slice) => {
                self.expr(&slice.expr, rounds);
                [&slice.start, &slice.stop, &slice.step]
                    .into_iter()
                    .flatten()
                    .for_each(|part| self.expr(part, rounds));
            }
            Expr::UnaryOp(operation) => self.expr(&operation.expr, rounds),
            Expr::BinOp(operation) => {
                self.expr(&operation.left, rounds);
                self.expr(&operation.right, rounds);
                if let Some(text) = self.facts.text(expr) {
                    self.dunder(&text);
                }
                self.operation(operation.op, &operation.left, &operation.right);
            }
            Expr::Compare(compare) => {
                self.expr(&compare.expr, rounds);
                let mut left = &compare.expr;
                for step in &compare.ops {
                    self.expr(&step.expr, rounds);
                    let contains = matches!(step.op, CompareOpKind::In | CompareOpKind::NotIn);
                    self.compare(left, &step.expr, contains);
                    left = &step.expr;
                }
            }
            Expr::IfExpr(choice) => {
                let mut written = Vec::new();
                self.facts.strings(&choice.true_expr, &mut written);
                if let Some(other) = &choice.false_expr {
                    self.facts.strings(other, &mut written);
                    self.expr(other, rounds);
                }
                self.condition(&choice.test_expr, rounds, &written);
                self.expr(&choice.true_expr, rounds);
            }
            Expr::Filter(filter) => self.filter(filter, expr, rounds),
            Expr::Test(test) => {
                self.expr(&test.expr, rounds);
                for argument in &test.args {
                    let value = argument_value(argument);
                    self.expr(value, rounds);
                    self.compare(&test.expr, value, true);
                }
            }
            Expr::GetAttr(get) => {
                self.expr(&get.expr, rounds);
                if ESCAPES.contains(&get.name)
                    || matches!(&get.expr, Expr::Var(var) if OBJECTS.contains(&var.id) && var.id != "config")
                {
                    self.add(&ESCAPE, ESCAPE.severity, format!("it reads the attribute `{}`", get.name));
                }
                self.dunder(get.name);
            }
            Expr::GetItem(item) => {
                self.expr(&item.expr, rounds);
                self.expr(&item.subscript_expr, rounds);
                if let Some(text) = self.facts.text(&item.subscript_expr) {
                    self.dunder(&text);
                    if ESCAPES.contains(&text.as_str()) {
                        self.add(&ESCAPE, ESCAPE.severity, format!("it reads the attribute `{text}`"));
                    }
                }
                if matches!(item.expr, Expr::Map(_) | Expr::Const(_) | Expr::Var(_)) {
                    self.compare(&item.subscript_expr, &item.expr, true);
                }
            }
            Expr::Call(call) => self.call(call, rounds),
            Expr::List(list) => list.items.iter().for_each(|item| self.expr(item, rounds)),
            Expr::Map(map) => map.keys.iter().chain(&map.values).for_each(|item| self.expr(item, rounds)),
        }
    }

    /// A name that leads out of the sandbox.
    fn dunder(&mut self, text: &str) {
        if words::has_dunder(text) {
            self.add(&ESCAPE, ESCAPE.severity, format!("it reaches for `{text}`"));
        } else if words::formats_attributes(text) {
            self.add(&ESCAPE, ESCAPE.severity, format!("it formats attributes: `{text}`"));
        }
    }

    fn operation(&mut self, op: BinOpKind, left: &Expr, right: &Expr) {
        if is_comparison(op) {
            self.compare(left, right, matches!(op, BinOpKind::In));
        }
        if matches!(op, BinOpKind::Mul) {
            let texts = [left, right]
                .map(|side| self.facts.text(side).is_some() && self.facts.number(side).is_none());
            let times = [right, left].map(|side| self.facts.number(side));
            let width = (0..2).filter(|&side| texts[side]).filter_map(|side| times[side]).fold(0.0, f64::max);
            if width >= WIDTH {
                self.add(&EXPLODES, EXPLODES.severity, format!("a text repeated {width:e} times"));
            }
        }
    }

    fn filter(&mut self, filter: &Filter, whole: &Expr, rounds: f64) {
        if let Some(inner) = &filter.expr {
            self.expr(inner, rounds);
        }
        filter.args.iter().for_each(|argument| self.expr(argument_value(argument), rounds));
        if let Some(text) = self.facts.text(whole) {
            self.dunder(&text);
        }
        let number = filter
            .args
            .iter()
            .filter_map(|argument| self.facts.number(argument_value(argument)))
            .fold(0.0, f64::max);
        if number >= WIDTH
            && matches!(
                filter.name,
                "center" | "indent" | "ljust" | "rjust" | "wordwrap" | "batch" | "slice" | "format"
            )
        {
            self.add(&EXPLODES, EXPLODES.severity, format!("the filter `{}` with {number:e}", filter.name));
        }
        let Some(inner) = &filter.expr else { return };
        let texts = |index: usize| {
            filter.args.get(index).and_then(|argument| self.facts.text(argument_value(argument)))
        };
        match filter.name {
            "attr" => {
                let name = texts(0).unwrap_or_else(|| "a computed name".into());
                let severity = if words::has_dunder(&name) { ESCAPE.severity } else { Severity::High };
                self.add(&ESCAPE, severity, format!("the filter `attr` reads `{name}`"));
            }
            "replace" if self.facts.is_content(inner) => self.rewrite(texts(0), texts(1)),
            "select" | "reject" | "selectattr" | "rejectattr"
                if self.facts.is_conversation(inner) || self.facts.is_content(inner) =>
            {
                let of_content = self.facts.is_content(inner)
                    || filter.args.first().is_some_and(|field| {
                        string(argument_value(field)).is_some_and(|name| name == "content")
                    });
                if of_content {
                    let mut constants = Vec::new();
                    filter
                        .args
                        .iter()
                        .skip(1)
                        .for_each(|argument| self.facts.strings(argument_value(argument), &mut constants));
                    // The second of several arguments names the test.
                    constants.retain(|text| !words::is_test(text));
                    self.literal(&constants, true);
                }
            }
            "random" | "shuffle" => {
                self.add(&RANDOM, Severity::Medium, "chance decides what is written".into())
            }
            _ => {}
        }
    }

    fn call(&mut self, call: &Call, rounds: f64) {
        self.expr(&call.expr, rounds);
        call.args.iter().for_each(|argument| self.expr(argument_value(argument), rounds));
        if let Some(name) = function(call) {
            if let Some(inside) = self.macros.iter_mut().find(|inside| inside.name == name) {
                let counts = call.args.iter().any(|argument| {
                    matches!(argument_value(argument), Expr::BinOp(operation)
                        if matches!(operation.op, BinOpKind::Add | BinOpKind::Sub | BinOpKind::Mul) && numbers(&operation.right))
                });
                inside.counted += usize::from(counts);
                if !inside.conditional || inside.counted >= 2 {
                    self.add(
                        &EXPLODES,
                        EXPLODES.severity,
                        format!("the macro `{name}` calls itself without end"),
                    );
                }
            }
            return;
        }
        let Expr::GetAttr(get) = &call.expr else { return };
        let text = |index: usize| {
            call.args.get(index).and_then(|argument| match argument {
                CallArg::Pos(value) => self.facts.text(value),
                _ => None,
            })
        };
        let number = call
            .args
            .iter()
            .filter_map(|argument| self.facts.number(argument_value(argument)))
            .fold(0.0, f64::max);
        if number >= WIDTH && matches!(get.name, "center" | "ljust" | "rjust" | "zfill" | "expandtabs") {
            self.add(&EXPLODES, EXPLODES.severity, format!("`{}` with {number:e}", get.name));
        }
        if !self.facts.is_content(&get.expr) {
            // `{…}.get(content)` and `[…].index(content)` compare as well.
            if matches!(get.name, "get" | "index" | "count" | "__contains__" | "__getitem__" | "pop")
                && call.args.first().is_some_and(|argument| self.facts.is_content(argument_value(argument)))
            {
                let mut constants = Vec::new();
                self.facts.strings(&get.expr, &mut constants);
                self.literal(&constants, true);
            }
            return;
        }
        match get.name {
            "replace" => self.rewrite(text(0), text(1)),
            "startswith" | "endswith" | "find" | "rfind" | "index" | "rindex" | "__contains__"
            | "removeprefix" | "partition" | "removesuffix" | "__eq__" | "split" | "rsplit"
            | "rpartition" => {
                let mut constants = Vec::new();
                call.args
                    .iter()
                    .for_each(|argument| self.facts.strings(argument_value(argument), &mut constants));
                self.literal(&constants, true);
            }
            "count" => {
                let mut constants = Vec::new();
                call.args
                    .iter()
                    .for_each(|argument| self.facts.strings(argument_value(argument), &mut constants));
                if let Some(counted) = constants.iter().find(|text| !words::is_mark(text)) {
                    self.add(
                        &CONTENT,
                        Severity::Medium,
                        format!("it counts `{counted}` in what the user wrote"),
                    );
                }
            }
            _ => {}
        }
    }
}

/// Findings without repetition, as several ways lead to the same place.
pub(super) fn distinct(found: Vec<Judgement>) -> Vec<Judgement> {
    let mut seen = BTreeSet::new();
    found.into_iter().filter(|one| seen.insert((one.rule.id, one.line, one.message.clone()))).collect()
}
