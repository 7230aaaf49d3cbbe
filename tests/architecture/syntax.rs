//! Syntax facts about one source file: its module path, the paths it names, its types, its functions, its test code.

use std::collections::BTreeMap;
use std::ops::{Range, RangeInclusive};
use std::sync::{Arc, Mutex, PoisonError};

use proc_macro2::{TokenStream, TokenTree};
use syn::spanned::Spanned;
use syn::visit::{self, Visit};

use super::File;
use super::bodies::{self, Body};

/// A module or item path from the crate's root: `["proxy", "exchange", "run"]`.
pub(super) type ItemPath = Vec<String>;

/// A function, method or trait method.
pub(super) struct Function {
    pub(super) name: String,
    /// Line of `fn`.
    pub(super) line: usize,
    /// Lines between the braces; empty if there is no body or all is on one line.
    pub(super) body: Range<usize>,
    /// Parameters of type `bool`, `&bool` or `&mut bool`: name and line. Empty in an `impl` of a trait, whose signatures
    /// the trait prescribes.
    pub(super) bools: Vec<(String, usize)>,
    pub(super) in_test: bool,
}

/// Facts about one file. `references`, `imports` and `types` leave out test code.
#[derive(Default)]
pub(super) struct Facts {
    pub(super) module: ItemPath,
    /// Each path named in the file, absolute, with its line.
    pub(super) references: Vec<(ItemPath, usize)>,
    /// Each name that a `use` brings into a module: the name's own path and the path it stands for.
    pub(super) imports: Vec<(ItemPath, ItemPath)>,
    pub(super) types: Vec<(String, usize)>,
    pub(super) functions: Vec<Function>,
    /// Lines of items under `#[cfg(test)]`.
    pub(super) test_lines: Vec<RangeInclusive<usize>>,
    /// Functions outside of test code.
    pub(super) bodies: Vec<Body>,
    /// Modules declared under `#[cfg(test)]` whose text is a file of its own.
    pub(super) test_modules: Vec<ItemPath>,
}

impl Facts {
    /// A function's name for lists of allowed ones: `Type::function`, or `file::function` of a free function.
    pub(super) fn qualified(&self, function: &str) -> String {
        if function.contains("::") {
            return function.to_owned();
        }
        format!("{}::{function}", self.module.last().map_or("crate", String::as_str))
    }
}

/// Reads the facts of every Rust file of `src` that is no test code, in the order of `files`.
pub(super) fn sources(files: &[File]) -> Vec<(&File, Arc<Facts>)> {
    let rust = files.iter().filter(|file| file.path.starts_with("src/") && file.path.ends_with(".rs"));
    let mut read: Vec<_> = rust.filter(|file| !file.is_test()).map(|file| (file, facts(file))).collect();
    let tests: Vec<ItemPath> = read.iter().flat_map(|(_, facts)| facts.test_modules.clone()).collect();
    read.retain(|(_, facts)| !tests.iter().any(|test| facts.module.starts_with(test)));
    read
}

/// Facts of one Rust file; all checks share one parse of it, which takes a second for the whole of `src`.
pub(super) fn facts(file: &File) -> Arc<Facts> {
    static PARSED: Mutex<BTreeMap<(String, String), Arc<Facts>>> = Mutex::new(BTreeMap::new());
    let mut parsed = PARSED.lock().unwrap_or_else(PoisonError::into_inner);
    let key = (file.path.clone(), file.text.clone());
    Arc::clone(parsed.entry(key).or_insert_with(|| Arc::new(parse(file))))
}

fn parse(file: &File) -> Facts {
    let parsed = syn::parse_file(&file.text).unwrap_or_else(|e| panic!("{}:{}: {e}", file.path, e.span().start().line));
    let module = module_path(&file.path);
    let mut reader =
        Reader { facts: Facts { module: module.clone(), ..Facts::default() }, module, tests: 0, prescribed: false };
    reader.visit_file(&parsed);
    reader.facts.bodies = bodies::read(&parsed);
    reader.facts
}

/// The module path of a file: `src/a/b.rs` and `src/a/b/mod.rs` are `a::b`, `src/lib.rs` is the root.
pub(super) fn module_path(path: &str) -> ItemPath {
    let inside = path.strip_prefix("src/").unwrap_or(path).trim_end_matches(".rs");
    let inside = inside.strip_suffix("/mod").unwrap_or(inside);
    inside.split('/').filter(|part| *part != "lib").map(str::to_owned).collect()
}

struct Reader {
    facts: Facts,
    /// The module at the place being read, which is longer than the file's own inside `mod x { … }`.
    module: ItemPath,
    /// Number of `#[cfg(test)]` items around the place being read.
    tests: usize,
    /// True inside an `impl` of a trait.
    prescribed: bool,
}

impl Reader {
    /// Calls `walk`, inside of test code if `attrs` say so.
    fn within(&mut self, attrs: &[syn::Attribute], lines: RangeInclusive<usize>, walk: impl FnOnce(&mut Self)) {
        let is_test = attrs.iter().any(is_cfg_test);
        self.tests += usize::from(is_test);
        if is_test {
            self.facts.test_lines.push(lines);
        }
        walk(self);
        self.tests -= usize::from(is_test);
    }

    /// The absolute form of a path written here, if it is one into this crate: it begins with `crate`, `self` or `super`,
    /// or (in a `use`, `relative`) with a child of this module.
    fn absolute(&self, written: &[String], relative: bool) -> Option<ItemPath> {
        let mut base = self.module.clone();
        let mut rest = written;
        match rest.first()?.as_str() {
            "crate" => {
                base.clear();
                rest = &rest[1..];
            }
            "self" => rest = &rest[1..],
            "super" => {
                while rest.first().is_some_and(|first| first == "super") {
                    base.pop();
                    rest = &rest[1..];
                }
            }
            _ if relative => {}
            _ => return None,
        }
        base.extend_from_slice(rest);
        Some(base)
    }

    fn refer(&mut self, written: &[String], line: usize) {
        if self.tests == 0
            && let Some(path) = self.absolute(written, false)
        {
            self.facts.references.push((path, line));
        }
    }

    /// Reads the leaves of a `use` tree: each is a reference and brings a name.
    fn import(&mut self, tree: &syn::UseTree, before: &[String]) {
        let mut path = before.to_vec();
        let (name, line) = match tree {
            syn::UseTree::Path(part) => {
                path.push(part.ident.to_string());
                return self.import(&part.tree, &path);
            }
            syn::UseTree::Group(group) => return group.items.iter().for_each(|tree| self.import(tree, before)),
            syn::UseTree::Name(leaf) => {
                if leaf.ident != "self" {
                    path.push(leaf.ident.to_string());
                }
                (path.last().cloned().unwrap_or_default(), leaf.span().start().line)
            }
            syn::UseTree::Rename(leaf) => {
                if leaf.ident != "self" {
                    path.push(leaf.ident.to_string());
                }
                (leaf.rename.to_string(), leaf.span().start().line)
            }
            syn::UseTree::Glob(glob) => ("*".to_owned(), glob.span().start().line),
        };
        self.refer(&path, line);
        if let Some(target) = self.absolute(&path, true) {
            let mut own = self.module.clone();
            own.push(name);
            self.facts.imports.push((own, target));
        }
    }

    fn function(&mut self, signature: &syn::Signature, block: Option<&syn::Block>) {
        let prescribed = self.prescribed;
        let bools = signature.inputs.iter().filter_map(|input| match input {
            syn::FnArg::Typed(typed) if !prescribed && is_bool(&typed.ty) => {
                let name =
                    if let syn::Pat::Ident(pattern) = &*typed.pat { pattern.ident.to_string() } else { "_".to_owned() };
                Some((name, typed.span().start().line))
            }
            syn::FnArg::Typed(_) | syn::FnArg::Receiver(_) => None,
        });
        let bools = bools.collect();
        let name = signature.ident.to_string();
        let line = signature.fn_token.span().start().line;
        let body = block.map_or(0..0, |block| block.span().start().line + 1..block.span().end().line);
        self.facts.functions.push(Function { name, line, body, bools, in_test: self.tests > 0 });
    }

    fn type_named(&mut self, name: &syn::Ident) {
        if self.tests == 0 {
            self.facts.types.push((name.to_string(), name.span().start().line));
        }
    }

    /// Reads the paths in a macro's arguments: words joined by `::`.
    fn tokens(&mut self, tokens: TokenStream) {
        let mut path: Vec<String> = Vec::new();
        let (mut colons, mut line) = (0, 0);
        for token in tokens {
            match token {
                TokenTree::Ident(word) => {
                    if colons != 2 {
                        self.refer(&path, line);
                        path.clear();
                        line = word.span().start().line;
                    }
                    path.push(word.to_string());
                    colons = 0;
                }
                TokenTree::Punct(punct) if punct.as_char() == ':' => colons += 1,
                TokenTree::Group(group) => {
                    self.tokens(group.stream());
                    colons = 0;
                }
                TokenTree::Punct(_) | TokenTree::Literal(_) => colons = 0,
            }
        }
        self.refer(&path, line);
    }
}

impl<'ast> Visit<'ast> for Reader {
    fn visit_item(&mut self, item: &'ast syn::Item) {
        self.within(attributes(item), lines(item), |reader| visit::visit_item(reader, item));
    }

    fn visit_impl_item(&mut self, item: &'ast syn::ImplItem) {
        let attrs: &[syn::Attribute] = match item {
            syn::ImplItem::Const(item) => &item.attrs,
            syn::ImplItem::Fn(item) => &item.attrs,
            syn::ImplItem::Type(item) => &item.attrs,
            syn::ImplItem::Macro(item) => &item.attrs,
            syn::ImplItem::Verbatim(_) | _ => &[],
        };
        self.within(attrs, lines(item), |reader| visit::visit_impl_item(reader, item));
    }

    fn visit_field(&mut self, field: &'ast syn::Field) {
        self.within(&field.attrs, lines(field), |reader| visit::visit_field(reader, field));
    }

    fn visit_local(&mut self, local: &'ast syn::Local) {
        self.within(&local.attrs, lines(local), |reader| visit::visit_local(reader, local));
    }

    fn visit_item_mod(&mut self, module: &'ast syn::ItemMod) {
        self.module.push(module.ident.to_string());
        if module.content.is_none() && self.tests > 0 {
            self.facts.test_modules.push(self.module.clone());
        }
        visit::visit_item_mod(self, module);
        self.module.pop();
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        if self.tests == 0 {
            self.import(&item.tree, &[]);
        }
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let words: Vec<String> = path.segments.iter().map(|part| part.ident.to_string()).collect();
        self.refer(&words, path.span().start().line);
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, call: &'ast syn::Macro) {
        self.tokens(call.tokens.clone());
        visit::visit_macro(self, call);
    }

    /// Skips `pub(in crate::a)`, which uses nothing of `a`.
    fn visit_vis_restricted(&mut self, _: &'ast syn::VisRestricted) {}

    fn visit_item_impl(&mut self, item: &'ast syn::ItemImpl) {
        let outer = std::mem::replace(&mut self.prescribed, item.trait_.is_some());
        visit::visit_item_impl(self, item);
        self.prescribed = outer;
    }

    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        let outer = std::mem::take(&mut self.prescribed);
        self.function(&item.sig, Some(&item.block));
        visit::visit_item_fn(self, item);
        self.prescribed = outer;
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        self.function(&item.sig, Some(&item.block));
        visit::visit_impl_item_fn(self, item);
    }

    fn visit_trait_item_fn(&mut self, item: &'ast syn::TraitItemFn) {
        self.function(&item.sig, item.default.as_ref());
        visit::visit_trait_item_fn(self, item);
    }

    fn visit_item_struct(&mut self, item: &'ast syn::ItemStruct) {
        self.type_named(&item.ident);
        visit::visit_item_struct(self, item);
    }

    fn visit_item_enum(&mut self, item: &'ast syn::ItemEnum) {
        self.type_named(&item.ident);
        visit::visit_item_enum(self, item);
    }

    fn visit_item_union(&mut self, item: &'ast syn::ItemUnion) {
        self.type_named(&item.ident);
        visit::visit_item_union(self, item);
    }

    fn visit_item_trait(&mut self, item: &'ast syn::ItemTrait) {
        self.type_named(&item.ident);
        visit::visit_item_trait(self, item);
    }

    fn visit_item_type(&mut self, item: &'ast syn::ItemType) {
        self.type_named(&item.ident);
        visit::visit_item_type(self, item);
    }
}

pub(super) fn is_cfg_test(attr: &syn::Attribute) -> bool {
    attr.path().is_ident("cfg") && attr.meta.require_list().is_ok_and(|list| list.tokens.to_string() == "test")
}

fn is_bool(ty: &syn::Type) -> bool {
    if let syn::Type::Reference(reference) = ty {
        return is_bool(&reference.elem);
    }
    matches!(ty, syn::Type::Path(path) if path.path.is_ident("bool"))
}

fn lines(node: &impl Spanned) -> RangeInclusive<usize> {
    node.span().start().line..=node.span().end().line
}

fn attributes(item: &syn::Item) -> &[syn::Attribute] {
    match item {
        syn::Item::Const(item) => &item.attrs,
        syn::Item::Enum(item) => &item.attrs,
        syn::Item::ExternCrate(item) => &item.attrs,
        syn::Item::Fn(item) => &item.attrs,
        syn::Item::ForeignMod(item) => &item.attrs,
        syn::Item::Impl(item) => &item.attrs,
        syn::Item::Macro(item) => &item.attrs,
        syn::Item::Mod(item) => &item.attrs,
        syn::Item::Static(item) => &item.attrs,
        syn::Item::Struct(item) => &item.attrs,
        syn::Item::Trait(item) => &item.attrs,
        syn::Item::TraitAlias(item) => &item.attrs,
        syn::Item::Type(item) => &item.attrs,
        syn::Item::Union(item) => &item.attrs,
        syn::Item::Use(item) => &item.attrs,
        syn::Item::Verbatim(_) | _ => &[],
    }
}
