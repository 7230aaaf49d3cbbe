//! Bodies of functions: their loops, and the collections that they walk through.
//!
//! Reads syntax, not types: a loop awaits something if `.await` is written in it, and a collection is known by the name of
//! its field.

use proc_macro2::{TokenStream, TokenTree};
use syn::spanned::Spanned;
use syn::visit::{self, Visit};

use super::syntax::is_cfg_test;

/// A function outside of test code.
#[derive(Debug)]
pub(super) struct Body {
    /// `Type::function` of a method, the bare name of a free function.
    pub(super) name: String,
    pub(super) loops: Vec<Loop>,
    pub(super) walks: Vec<Walk>,
}

/// A `loop` or a `while`. A `for` ends with its iterator.
#[derive(Debug)]
pub(super) struct Loop {
    pub(super) line: usize,
    /// The place awaits: the body of an async function, block or closure, or of a function that takes a `Context`.
    pub(super) in_task: bool,
    /// Its own body awaits, or returns to the poller (`ready!`, `Poll::Pending`).
    pub(super) yields: bool,
    /// Line of a branch for an error that goes round again; `None` of a `while let`, which takes the next piece of work.
    pub(super) retries: Option<usize>,
    /// It counts or compares with a constant.
    pub(super) is_bounded: bool,
}

/// A walk through a collection (`table.chunks.iter()`, `for id in &self.ids`), or a call of another method
/// (`waiters.indices()`).
#[derive(Debug)]
pub(super) struct Walk {
    pub(super) line: usize,
    /// Last name of the collection: `chunks` of `self.table.chunks`.
    pub(super) collection: String,
    /// True for a field, false for a variable.
    pub(super) is_field: bool,
    /// The method; `for` of a loop over a reference.
    pub(super) method: String,
}

/// Methods that visit every element of a collection; `for` stands for a loop over a reference.
pub(super) const WALKS: [&str; 14] = [
    "for",
    "iter",
    "iter_mut",
    "into_iter",
    "values",
    "values_mut",
    "into_values",
    "keys",
    "into_keys",
    "drain",
    "retain",
    "for_each",
    "clone",
    "to_vec",
];

/// The bodies of one file.
pub(super) fn read(file: &syn::File) -> Vec<Body> {
    let mut reader = Reader { bodies: Vec::new(), open: Vec::new(), owner: None, tests: 0, in_task: false };
    reader.visit_file(file);
    reader.bodies
}

struct Reader {
    bodies: Vec<Body>,
    /// Functions around the place being read, outermost first.
    open: Vec<Body>,
    /// Type of the `impl` around it.
    owner: Option<String>,
    tests: usize,
    in_task: bool,
}

impl Reader {
    fn function(&mut self, signature: &syn::Signature, attrs: &[syn::Attribute], block: &syn::Block) {
        if self.tests > 0 || attrs.iter().any(|attr| is_cfg_test(attr) || attr.path().is_ident("test")) {
            return;
        }
        let own = signature.ident.to_string();
        let name = self.owner.as_ref().map_or_else(|| own.clone(), |owner| format!("{owner}::{own}"));
        let polls = signature.inputs.iter().any(|input| {
            let mut names = Names("Context", false);
            names.visit_fn_arg(input);
            names.1
        });
        let outer = std::mem::replace(&mut self.in_task, signature.asyncness.is_some() || polls);
        self.open.push(Body { name, loops: Vec::new(), walks: Vec::new() });
        visit::visit_block(self, block);
        self.bodies.extend(self.open.pop());
        self.in_task = outer;
    }

    fn looped(&mut self, whole: &dyn Fn(&mut Turn), line: usize) {
        let mut turn = Turn::default();
        whole(&mut turn);
        let in_task = self.in_task;
        if let Some(body) = self.open.last_mut() {
            let Turn { yields, retries, is_bounded } = turn;
            body.loops.push(Loop { line, in_task, yields, retries, is_bounded });
        }
    }

    fn walk(&mut self, of: &syn::Expr, method: &str, line: usize) {
        if let Some(body) = self.open.last_mut() {
            let is_field = matches!(of, syn::Expr::Field(_));
            body.walks.push(Walk { line, collection: last_name(of), is_field, method: method.to_owned() });
        }
    }

    fn task(&mut self, walk: impl FnOnce(&mut Self)) {
        let outer = std::mem::replace(&mut self.in_task, true);
        walk(self);
        self.in_task = outer;
    }
}

impl<'ast> Visit<'ast> for Reader {
    fn visit_item_mod(&mut self, module: &'ast syn::ItemMod) {
        let is_test = usize::from(module.attrs.iter().any(is_cfg_test));
        self.tests += is_test;
        visit::visit_item_mod(self, module);
        self.tests -= is_test;
    }

    fn visit_item_impl(&mut self, item: &'ast syn::ItemImpl) {
        let is_test = usize::from(item.attrs.iter().any(is_cfg_test));
        self.tests += is_test;
        let name = if let syn::Type::Path(path) = &*item.self_ty { path.path.segments.last() } else { None };
        let outer = std::mem::replace(&mut self.owner, name.map(|name| name.ident.to_string()));
        visit::visit_item_impl(self, item);
        self.owner = outer;
        self.tests -= is_test;
    }

    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        let owner = self.owner.take();
        self.function(&item.sig, &item.attrs, &item.block);
        self.owner = owner;
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        self.function(&item.sig, &item.attrs, &item.block);
    }

    fn visit_trait_item_fn(&mut self, item: &'ast syn::TraitItemFn) {
        if let Some(block) = &item.default {
            self.function(&item.sig, &item.attrs, block);
        }
    }

    fn visit_expr_async(&mut self, block: &'ast syn::ExprAsync) {
        self.task(|reader| visit::visit_expr_async(reader, block));
    }

    fn visit_expr_closure(&mut self, closure: &'ast syn::ExprClosure) {
        let polls = closure.inputs.iter().any(|input| {
            let mut names = Names("cx", false);
            names.visit_pat(input);
            names.1
        });
        let outer = std::mem::replace(&mut self.in_task, closure.asyncness.is_some() || polls);
        visit::visit_expr_closure(self, closure);
        self.in_task = outer;
    }

    fn visit_expr_loop(&mut self, expr: &'ast syn::ExprLoop) {
        self.looped(&|turn| turn.visit_block(&expr.body), expr.span().start().line);
        visit::visit_expr_loop(self, expr);
    }

    fn visit_expr_while(&mut self, expr: &'ast syn::ExprWhile) {
        let whole = |turn: &mut Turn| {
            turn.visit_expr(&expr.cond);
            turn.visit_block(&expr.body);
            if matches!(*expr.cond, syn::Expr::Let(_)) {
                turn.retries = None;
            }
        };
        self.looped(&whole, expr.span().start().line);
        visit::visit_expr_while(self, expr);
    }

    fn visit_expr_for_loop(&mut self, expr: &'ast syn::ExprForLoop) {
        let mut of = &*expr.expr;
        while let syn::Expr::Reference(reference) = of {
            of = &reference.expr;
        }
        if matches!(of, syn::Expr::Field(_)) {
            self.walk(of, "for", expr.span().start().line);
        }
        visit::visit_expr_for_loop(self, expr);
    }

    fn visit_expr_method_call(&mut self, call: &'ast syn::ExprMethodCall) {
        self.walk(&call.receiver, &call.method.to_string(), call.method.span().start().line);
        visit::visit_expr_method_call(self, call);
    }
}

/// Facts about one turn of a loop. What a nested closure, async block or function does is not done by the turn itself.
#[derive(Default)]
struct Turn {
    yields: bool,
    retries: Option<usize>,
    is_bounded: bool,
}

impl Turn {
    fn retry(&mut self, branch: &impl Spanned, leaves: bool) {
        if !leaves {
            self.retries.get_or_insert(branch.span().start().line);
        }
    }
}

impl<'ast> Visit<'ast> for Turn {
    fn visit_expr_await(&mut self, expr: &'ast syn::ExprAwait) {
        self.yields = true;
        visit::visit_expr_await(self, expr);
    }

    fn visit_macro(&mut self, call: &'ast syn::Macro) {
        let name = call.path.segments.last().map(|last| last.ident.to_string()).unwrap_or_default();
        let inside = words(&call.tokens);
        self.yields |= matches!(name.as_str(), "ready" | "select" | "join" | "try_join");
        self.yields |= inside.iter().any(|word| word == "await");
        self.is_bounded |= inside.iter().any(|word| is_constant(word));
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let last = path.segments.last().map(|last| last.ident.to_string()).unwrap_or_default();
        let of = path.segments.iter().rev().nth(1).map(|of| of.ident.to_string());
        self.yields |= last == "Pending";
        // `MAX_TRIES` and `Self::MAX_TRIES`, but not `Errno::INTR`.
        self.is_bounded |= is_constant(&last) && of.is_none_or(|of| of == "Self");
        visit::visit_path(self, path);
    }

    fn visit_arm(&mut self, arm: &'ast syn::Arm) {
        if takes_error(&arm.pat) {
            self.retry(arm, leaves(&arm.body));
        }
        visit::visit_arm(self, arm);
    }

    fn visit_expr_if(&mut self, expr: &'ast syn::ExprIf) {
        let mut found = ErrorTest(false);
        found.visit_expr(&expr.cond);
        if found.0 {
            self.retry(expr, expr.then_branch.stmts.iter().any(statement_leaves));
        }
        visit::visit_expr_if(self, expr);
    }

    fn visit_local(&mut self, local: &'ast syn::Local) {
        if let (syn::Pat::TupleStruct(pattern), Some(init)) = (&local.pat, &local.init)
            && pattern.path.is_ident("Ok")
            && let Some((_, otherwise)) = &init.diverge
        {
            self.retry(local, leaves(otherwise));
        }
        visit::visit_local(self, local);
    }

    fn visit_expr_async(&mut self, _: &'ast syn::ExprAsync) {}
    fn visit_expr_closure(&mut self, _: &'ast syn::ExprClosure) {}
    fn visit_item(&mut self, _: &'ast syn::Item) {}
    /// A loop inside is judged by itself, but its awaits are awaits of this one.
    fn visit_expr_loop(&mut self, inner: &'ast syn::ExprLoop) {
        let before = self.retries;
        visit::visit_expr_loop(self, inner);
        self.retries = before;
    }
}

/// A condition that holds for an error: `let Err(…) = …`, `….is_err()`.
struct ErrorTest(bool);

impl<'ast> Visit<'ast> for ErrorTest {
    fn visit_expr_let(&mut self, expr: &'ast syn::ExprLet) {
        self.0 |= takes_error(&expr.pat);
        visit::visit_expr_let(self, expr);
    }

    fn visit_expr_method_call(&mut self, call: &'ast syn::ExprMethodCall) {
        self.0 |= call.method == "is_err";
        visit::visit_expr_method_call(self, call);
    }
}

fn takes_error(pattern: &syn::Pat) -> bool {
    if let syn::Pat::Or(either) = pattern {
        return either.cases.iter().any(takes_error);
    }
    let syn::Pat::TupleStruct(inner) = pattern else { return false };
    inner.path.segments.last().is_some_and(|last| last.ident == "Err") || inner.elems.iter().any(takes_error)
}

/// True if some way through the expression leaves the loop.
fn leaves(expr: &syn::Expr) -> bool {
    let mut exits = Exits(false);
    exits.visit_expr(expr);
    exits.0
}

fn statement_leaves(statement: &syn::Stmt) -> bool {
    let mut exits = Exits(false);
    exits.visit_stmt(statement);
    exits.0
}

struct Exits(bool);

impl<'ast> Visit<'ast> for Exits {
    fn visit_expr_return(&mut self, _: &'ast syn::ExprReturn) {
        self.0 = true;
    }
    fn visit_expr_break(&mut self, _: &'ast syn::ExprBreak) {
        self.0 = true;
    }
    fn visit_expr_try(&mut self, _: &'ast syn::ExprTry) {
        self.0 = true;
    }
    fn visit_macro(&mut self, call: &'ast syn::Macro) {
        self.0 |= ["panic", "unreachable", "ready"].iter().any(|name| call.path.is_ident(name));
    }
    fn visit_expr_closure(&mut self, _: &'ast syn::ExprClosure) {}
    fn visit_expr_async(&mut self, _: &'ast syn::ExprAsync) {}
}

/// Last name of a place: `chunks` of `self.table.chunks`, `undecided` of `self.undecided`.
fn last_name(expr: &syn::Expr) -> String {
    if let syn::Expr::Field(field) = expr {
        return if let syn::Member::Named(name) = &field.member { name.to_string() } else { String::new() };
    }
    let syn::Expr::Path(path) = expr else { return String::new() };
    path.path.segments.last().map(|last| last.ident.to_string()).unwrap_or_default()
}

fn is_constant(word: &str) -> bool {
    word.len() > 2 && word.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_')
}

/// All words of a macro's arguments.
fn words(tokens: &TokenStream) -> Vec<String> {
    let of = |token| match token {
        TokenTree::Ident(word) => vec![word.to_string()],
        TokenTree::Group(group) => words(&group.stream()),
        TokenTree::Punct(_) | TokenTree::Literal(_) => Vec::new(),
    };
    tokens.clone().into_iter().flat_map(of).collect()
}

/// True if a name occurs in a piece of syntax.
struct Names<'n>(&'n str, bool);

impl<'ast> Visit<'ast> for Names<'_> {
    fn visit_ident(&mut self, name: &'ast syn::Ident) {
        self.1 |= name == self.0;
    }
}
