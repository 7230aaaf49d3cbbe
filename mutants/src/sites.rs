//! Puts mutants into the text of a file: an expression becomes a choice between itself and its mutants.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
};

use serde_json::Value;

use crate::syntax::Syntax;

/// A file with its mutants behind switches.
pub struct Switched {
    /// The changed text.
    pub text: String,
    /// Its mutants; one that was added in two pieces is there twice.
    pub placed: Vec<Placed>,
}

/// Where a mutant is in the changed text: what it consists of, and the whole choice that it is part of.
pub struct Placed {
    /// Number of the mutant.
    pub number: usize,
    /// Its own text, in bytes of the whole.
    pub mutant: Range<usize>,
    /// The choice; for added text the same.
    pub site: Range<usize>,
}

/// A place of the original text that has mutants.
enum Site {
    /// An expression, and the text that each mutant puts in its place.
    Choice(BTreeMap<usize, String>),
    /// Text that is added for one mutant.
    Added(usize, String),
}

/// The places of a file in the order in which they begin; of those that begin together, added text comes first, by its
/// number, then the longest expression.
struct Sites<'a> {
    text: &'a str,
    syntax: Syntax,
    sites: BTreeMap<(usize, usize), Site>,
}

/// Puts the mutants of these numbers into `text`, but for `dropped` and those in constants.
pub fn switched(
    text: &str,
    mutants: &[Value],
    numbers: &[usize],
    dropped: &BTreeSet<usize>,
) -> Result<Switched, String> {
    let syntax = Syntax::of(text).map_err(|error| error.to_string())?;
    let lines: Vec<usize> = std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
    let mut sites = Sites { text, syntax, sites: BTreeMap::new() };
    for &number in numbers.iter().filter(|number| !dropped.contains(number)) {
        let mutant = &mutants[number];
        let end_of = |end| offset(text, &lines, &mutant["span"][end]).ok_or(format!("mutant {number} has no {end}"));
        let genre = mutant["genre"].as_str().unwrap_or_default();
        let replacement = mutant["replacement"].as_str().unwrap_or_default();
        sites.put(number, genre, end_of("start")?..end_of("end")?, replacement)?;
    }
    Ok(rendered(text, sites.sites))
}

impl Sites<'_> {
    /// Notes a mutant of cargo-mutants: the kind of what it changes, the span, and what takes its place.
    fn put(&mut self, number: usize, genre: &str, span: Range<usize>, replacement: &str) -> Result<(), String> {
        let text = self.text;
        match genre {
            "FnValue" => {
                if let Some(&body) = self.syntax.bodies.get(&span.start) {
                    self.add(body, number, format!(" if {} {{ return {replacement}; }} ", on(number)));
                }
            }
            "BinaryOperator" => {
                if let Some([left, right]) = self.syntax.binary.get(&(span.start, span.end)).cloned() {
                    let (before, behind) = (&text[left.end..span.start], &text[span.end..right.start]);
                    let operation = format!("{before}{replacement}{behind}");
                    let mutated = format!("({}){operation}({})", &text[left.clone()], &text[right.clone()]);
                    self.choose(left.start..right.end, number, mutated);
                }
            }
            "UnaryOperator" => {
                if let Some([whole, operand]) = self.syntax.unary.get(&span.start).cloned() {
                    self.choose(whole, number, format!("{replacement}{}", &text[operand]));
                }
            }
            "MatchArmGuard" => self.choose(span, number, replacement.to_owned()),
            "MatchArm" => match self.syntax.arms.get(&span.start).cloned() {
                Some((_, Some(guard))) => {
                    self.add(guard.start, number, format!("!{} && (", on(number)));
                    self.add(guard.end, number, ")".to_owned());
                }
                Some((pattern_end, None)) => self.add(pattern_end, number, format!(" if !{}", on(number))),
                None => {}
            },
            "StructField" => {
                if let Some([whole, field]) = self.syntax.fields.get(&span.start).cloned() {
                    let mutated = format!("{}{}", &text[whole.start..field.start], &text[field.end..whole.end]);
                    self.choose(whole, number, mutated);
                }
            }
            other => return Err(format!("mutants of the kind {other} are not known")),
        }
        Ok(())
    }

    fn add(&mut self, at: usize, number: usize, added: String) {
        self.sites.insert((at, number), Site::Added(number, added));
    }

    fn choose(&mut self, place: Range<usize>, number: usize, mutated: String) {
        let key = (place.start, usize::MAX - place.end);
        if let Site::Choice(choices) = self.sites.entry(key).or_insert_with(|| Site::Choice(BTreeMap::new())) {
            choices.insert(number, mutated);
        }
    }
}

fn on(number: usize) -> String {
    format!("crate::mutant_switch::on({number})")
}

/// Byte offset of a position of cargo-mutants, whose lines and columns (in characters) begin at 1.
fn offset(text: &str, lines: &[usize], position: &Value) -> Option<usize> {
    let line = *lines.get(position["line"].as_u64()? as usize - 1)?;
    let column = position["column"].as_u64()? as usize - 1;
    Some(line + text[line..].char_indices().nth(column).map_or(text.len() - line, |(at, _)| at))
}

/// A choice whose end is not yet written.
struct Open {
    /// End of the expression in the original text.
    end: usize,
    /// Start of the choice in the changed text.
    start: usize,
    numbers: Vec<usize>,
}

/// The text with all sites, each inside of those around it.
fn rendered(text: &str, sites: BTreeMap<(usize, usize), Site>) -> Switched {
    let mut output = Switched { text: String::new(), placed: Vec::new() };
    let mut open: Vec<Open> = Vec::new();
    let mut at = 0;
    for ((start, key), site) in sites {
        while let Some(innermost) = open.pop_if(|innermost| innermost.end <= start) {
            at = output.close(text, at, innermost);
        }
        output.text += &text[at..start];
        at = start;
        let site_start = output.text.len();
        match site {
            Site::Added(number, added) => {
                output.text += &added;
                let place = site_start..output.text.len();
                output.placed.push(Placed { number, mutant: place.clone(), site: place });
            }
            Site::Choice(choices) => {
                output.text += "(";
                for (&number, mutated) in &choices {
                    output.text += &format!("if {} {{ ", on(number));
                    let mutant_start = output.text.len();
                    output.text += mutated;
                    output.placed.push(Placed { number, mutant: mutant_start..output.text.len(), site: 0..0 });
                    output.text += " } else ";
                }
                output.text += "{ ";
                open.push(Open { end: usize::MAX - key, start: site_start, numbers: choices.into_keys().collect() });
            }
        }
    }
    while let Some(innermost) = open.pop() {
        at = output.close(text, at, innermost);
    }
    output.text += &text[at..];
    output
}

impl Switched {
    /// Ends the innermost choice, and returns up to where the original text is written.
    fn close(&mut self, text: &str, at: usize, Open { end, start, numbers }: Open) -> usize {
        self.text += &text[at..end];
        self.text += " })";
        let site = start..self.text.len();
        let choices =
            self.placed.iter_mut().filter(|placed| placed.site.is_empty() && numbers.contains(&placed.number));
        choices.for_each(|placed| placed.site = site.clone());
        end
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Mutants as cargo-mutants lists them, each with its line, its columns and what it says in their place.
    fn listed(mutants: &[(&str, u64, Range<u64>, &str)]) -> Vec<Value> {
        let at = |line: &u64, column| json!({"line": line, "column": column});
        let mutant = |(genre, line, columns, replacement): &(&str, u64, Range<u64>, &str)| {
            json!({"genre": genre, "replacement": replacement,
                "span": {"start": at(line, columns.start), "end": at(line, columns.end)}})
        };
        mutants.iter().map(mutant).collect()
    }

    #[test]
    fn an_expression_becomes_a_choice_and_a_body_may_return_early() {
        let text = "fn f(a: bool, b: u8) -> bool {\n    !a && b + 1 < 3\n}\n";
        let mutants = listed(&[
            ("FnValue", 2, 5..20, "true"),
            ("BinaryOperator", 2, 8..10, "||"),
            ("BinaryOperator", 2, 17..18, "=="),
            ("UnaryOperator", 2, 5..6, ""),
            ("BinaryOperator", 2, 13..14, "*"),
        ]);
        let file = switched(text, &mutants, &[0, 1, 2, 3, 4], &BTreeSet::from([4])).unwrap();
        let on = |number| format!("crate::mutant_switch::on({number})");
        let not = format!("(if {} {{ a }} else {{ !a }})", on(3));
        let less = format!("(if {} {{ (b + 1) == (3) }} else {{ b + 1 < 3 }})", on(2));
        let both = format!("(if {} {{ (!a) || (b + 1 < 3) }} else {{ {not} && {less} }})", on(1));
        let early = format!(" if {} {{ return true; }} ", on(0));
        assert_eq!(file.text, format!("fn f(a: bool, b: u8) -> bool {{{early}\n    {both}\n}}\n"));
        let named: BTreeMap<usize, &str> =
            file.placed.iter().map(|placed| (placed.number, &file.text[placed.mutant.clone()])).collect();
        assert_eq!(named, BTreeMap::from([(0, &*early), (1, "(!a) || (b + 1 < 3)"), (2, "(b + 1) == (3)"), (3, "a")]));
        let innermost = file.placed.iter().find(|placed| placed.number == 2).unwrap();
        assert_eq!(file.text[innermost.site.clone()], less);
    }

    #[test]
    fn arms_and_guards_are_switched_and_constants_kept() {
        let text = "const fn c() -> u8 { 1 + 1 }\nfn f(a: u8) -> u8 {\n    match a {\n        1 => 2,\n        n if n > 5 => 3,\n        _ => 4,\n    }\n}\n";
        let mutants = listed(&[
            ("BinaryOperator", 1, 24..25, "-"),
            ("MatchArm", 4, 9..15, ""),
            ("MatchArm", 5, 9..24, ""),
            ("MatchArmGuard", 5, 14..19, "true"),
        ]);
        let file = switched(text, &mutants, &[0, 1, 2, 3], &BTreeSet::new()).unwrap();
        let on = |number| format!("crate::mutant_switch::on({number})");
        assert!(file.text.starts_with("const fn c() -> u8 { 1 + 1 }\n"), "{}", file.text);
        assert!(file.text.contains(&format!("        1 if !{} => 2,\n", on(1))), "{}", file.text);
        let guard = format!("n if !{} && ((if {} {{ true }} else {{ n > 5 }})) => 3", on(2), on(3));
        assert!(file.text.contains(&guard), "{}", file.text);
    }
}
