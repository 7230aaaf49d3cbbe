//! Places of the expressions, bodies and arms of a file, by the spans that cargo-mutants names.

use std::{collections::BTreeMap, ops::Range};

use syn::{spanned::Spanned, visit::Visit};

/// Places that mutants change, as byte ranges of the text. Code that runs in the compiler is left out: no switch can be
/// asked there.
#[derive(Default)]
pub struct Syntax {
    /// By the span of the operator: both operands.
    pub binary: BTreeMap<(usize, usize), [Range<usize>; 2]>,
    /// By the start of the operator: the expression, and its operand.
    pub unary: BTreeMap<usize, [Range<usize>; 2]>,
    /// By the start of the first statement: where a body may return early.
    pub bodies: BTreeMap<usize, usize>,
    /// By the start of the arm: the end of its pattern, and its guard.
    pub arms: BTreeMap<usize, (usize, Option<Range<usize>>)>,
    /// By the start of the field: the literal, and the field with its comma.
    pub fields: BTreeMap<usize, [Range<usize>; 2]>,
    in_constant: bool,
}

impl Syntax {
    pub fn of(text: &str) -> syn::Result<Syntax> {
        let mut syntax = Syntax::default();
        syntax.visit_file(&syn::parse_file(text)?);
        Ok(syntax)
    }

    fn within(&mut self, constant: bool, visit: impl FnOnce(&mut Self)) {
        let before = self.in_constant;
        self.in_constant |= constant;
        visit(self);
        self.in_constant = before;
    }
}

impl<'ast> Visit<'ast> for Syntax {
    fn visit_expr_binary(&mut self, binary: &'ast syn::ExprBinary) {
        // The parts of a condition with a `let` are no expressions of their own.
        if !self.in_constant && !has_let(&binary.left) && !has_let(&binary.right) {
            let operator = place(&binary.op);
            self.binary.insert((operator.start, operator.end), [place(&*binary.left), place(&*binary.right)]);
        }
        syn::visit::visit_expr_binary(self, binary);
    }

    fn visit_expr_unary(&mut self, unary: &'ast syn::ExprUnary) {
        if !self.in_constant {
            self.unary.insert(place(&unary.op).start, [place(unary), place(&*unary.expr)]);
        }
        syn::visit::visit_expr_unary(self, unary);
    }

    fn visit_block(&mut self, block: &'ast syn::Block) {
        if let (false, Some(first)) = (self.in_constant, block.stmts.first()) {
            self.bodies.entry(place(first).start).or_insert(block.brace_token.span.open().byte_range().end);
        }
        syn::visit::visit_block(self, block);
    }

    fn visit_arm(&mut self, arm: &'ast syn::Arm) {
        if !self.in_constant {
            let guard = arm.guard.as_ref().map(|(_, guard)| place(&**guard));
            self.arms.insert(place(arm).start, (place(&arm.pat).end, guard));
        }
        syn::visit::visit_arm(self, arm);
    }

    fn visit_expr_struct(&mut self, literal: &'ast syn::ExprStruct) {
        for pair in literal.fields.pairs().filter(|_| !self.in_constant) {
            let field = place(*pair.value());
            let end = pair.punct().map_or(field.end, |comma| place(comma).end);
            self.fields.insert(field.start, [place(literal), field.start..end]);
        }
        syn::visit::visit_expr_struct(self, literal);
    }

    fn visit_item_const(&mut self, _: &'ast syn::ItemConst) {}

    fn visit_impl_item_const(&mut self, _: &'ast syn::ImplItemConst) {}

    fn visit_item_static(&mut self, _: &'ast syn::ItemStatic) {}

    fn visit_type_array(&mut self, _: &'ast syn::TypeArray) {}

    fn visit_item_fn(&mut self, function: &'ast syn::ItemFn) {
        self.within(function.sig.constness.is_some(), |this| syn::visit::visit_item_fn(this, function));
    }

    fn visit_impl_item_fn(&mut self, function: &'ast syn::ImplItemFn) {
        self.within(function.sig.constness.is_some(), |this| syn::visit::visit_impl_item_fn(this, function));
    }
}

fn has_let(side: &syn::Expr) -> bool {
    match side {
        syn::Expr::Let(_) => true,
        syn::Expr::Binary(binary) => has_let(&binary.left) || has_let(&binary.right),
        _ => false,
    }
}

fn place(node: &impl Spanned) -> Range<usize> {
    node.span().byte_range()
}
