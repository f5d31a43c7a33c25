//! Questions about single expressions of a template.

use minijinja::machinery::ast::{BinOpKind, Expr};

use super::facts::{argument_value, function, target};

pub(super) fn is_comparison(op: BinOpKind) -> bool {
    matches!(
        op,
        BinOpKind::Eq
            | BinOpKind::Ne
            | BinOpKind::In
            | BinOpKind::Lt
            | BinOpKind::Lte
            | BinOpKind::Gt
            | BinOpKind::Gte
    )
}

/// Whether an expression is or holds a number.
pub(super) fn numbers(expr: &Expr) -> bool {
    match expr {
        Expr::Const(constant) => {
            constant.value.is_number()
                || constant.value.try_iter().is_ok_and(|mut items| items.any(|item| item.is_number()))
        }
        Expr::List(list) => list.items.iter().any(numbers),
        _ => false,
    }
}

/// Whether an expression raises an error, whose words no model reads.
pub(super) fn raises(expr: &Expr) -> bool {
    matches!(expr, Expr::Call(call) if function(call) == Some("raise_exception"))
}

/// How often a name is in an expression.
pub(super) fn mentions(expr: &Expr, name: &str) -> usize {
    let count = std::cell::Cell::new(0);
    contains(expr, &|part| {
        if target(part).is_some_and(|found| found == name) {
            count.set(count.get() + 1);
        }
        false
    });
    count.get()
}

/// Whether a part of an expression, or the whole, is such.
pub(super) fn contains(expr: &Expr, is: &dyn Fn(&Expr) -> bool) -> bool {
    if is(expr) {
        return true;
    }
    let any = |parts: &[&Expr]| parts.iter().any(|part| contains(part, is));
    match expr {
        Expr::Var(_) | Expr::Const(_) => false,
        Expr::Slice(slice) => any(&[&slice.expr]),
        Expr::UnaryOp(operation) => any(&[&operation.expr]),
        Expr::BinOp(operation) => any(&[&operation.left, &operation.right]),
        Expr::Compare(compare) => {
            any(&[&compare.expr]) || compare.ops.iter().any(|step| contains(&step.expr, is))
        }
        Expr::IfExpr(choice) => {
            any(&[&choice.test_expr, &choice.true_expr])
                || choice.false_expr.as_ref().is_some_and(|other| contains(other, is))
        }
        Expr::Filter(filter) => {
            filter.expr.as_ref().is_some_and(|inner| contains(inner, is))
                || filter.args.iter().any(|argument| contains(argument_value(argument), is))
        }
        Expr::Test(test) => any(&[&test.expr]),
        Expr::GetAttr(get) => any(&[&get.expr]),
        Expr::GetItem(item) => any(&[&item.expr, &item.subscript_expr]),
        Expr::Call(call) => {
            any(&[&call.expr]) || call.args.iter().any(|argument| contains(argument_value(argument), is))
        }
        Expr::List(list) => list.items.iter().any(|item| contains(item, is)),
        Expr::Map(map) => map.keys.iter().chain(&map.values).any(|item| contains(item, is)),
    }
}
