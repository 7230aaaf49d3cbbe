//! Documentation as a site: a complete table of contents, links that lead somewhere, code that its programs can read, and
//! reference pages that are made from the program.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::path::{Component, Path};
use std::process::Command;

use pulldown_cmark::{CodeBlockKind, Event, Options, Parser, Tag, TagEnd};

use crate::support::gateway::PROGRAM;

/// Languages of code blocks. `sh` is read by bash, `python`, `yaml` and `json` by Python, `toml` by the gateway (in
/// src/config/tests/documents.rs). `text` is output, or a file of another program, and is not read.
const LANGUAGES: [&str; 6] = ["sh", "python", "yaml", "json", "toml", "text"];

/// Reads all blocks of Python, YAML and JSON: arguments are a name, a language and the text of each.
const READ_BLOCKS: &str = r#"
import json, sys, yaml
for name, language, text in zip(*[iter(sys.argv[1:])] * 3):
    try:
        if language == "python":
            compile(text, name, "exec")
        elif language == "yaml":
            list(yaml.safe_load_all(text))
        else:
            json.loads(text)
    except Exception as error:
        sys.exit(f"{name}: {error}\n{text}")
"#;

/// Pages of the repository's top that link into `docs/`.
const TOP_PAGES: [&str; 3] = ["README.md", "CONTRIBUTING.md", "SECURITY.md"];

/// Parts of a Markdown page that a reader can follow or copy.
#[derive(Default)]
struct Page {
    links: Vec<String>,
    /// Fragments of headings, as GitHub and mdBook make them, and ids in HTML.
    anchors: HashSet<String>,
    /// Language and text of fenced blocks.
    blocks: Vec<(String, String)>,
}

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The Markdown files below a folder, by their paths from the repository's top.
fn markdown_below(folder: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(repository().join(folder)).unwrap() {
        let entry = entry.unwrap();
        let path = format!("{folder}/{}", entry.file_name().into_string().unwrap());
        if entry.file_type().unwrap().is_dir() {
            found.extend(markdown_below(&path));
        } else if path.ends_with(".md") {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// All pages with their paths from the repository's top.
fn pages() -> BTreeMap<String, Page> {
    let paths = TOP_PAGES.map(str::to_owned).into_iter().chain(markdown_below("docs"));
    paths.map(|path| (path.clone(), parse(&fs::read_to_string(repository().join(&path)).unwrap()))).collect()
}

fn parse(markdown: &str) -> Page {
    let mut page = Page::default();
    let mut heading: Option<String> = None;
    let mut block: Option<(String, String)> = None;
    for event in Parser::new_ext(markdown, Options::ENABLE_TABLES) {
        match event {
            Event::Start(Tag::Link { dest_url, .. } | Tag::Image { dest_url, .. }) => {
                page.links.push(dest_url.into_string());
            }
            Event::Start(Tag::Heading { .. }) => heading = Some(String::new()),
            Event::End(TagEnd::Heading(_)) => {
                let name = fragment(&heading.take().unwrap_or_default());
                let further = (1..).map(|n| format!("{name}-{n}"));
                let mut free = std::iter::once(name.clone()).chain(further);
                page.anchors.extend(free.find(|name| !page.anchors.contains(name)));
            }
            Event::Start(Tag::CodeBlock(CodeBlockKind::Fenced(info))) => {
                block = Some((info.into_string(), String::new()));
            }
            Event::End(TagEnd::CodeBlock) => page.blocks.extend(block.take()),
            Event::Html(html) | Event::InlineHtml(html) => {
                let ids = html.split("id=\"").skip(1).filter_map(|rest| rest.split('"').next());
                page.anchors.extend(ids.map(str::to_owned));
            }
            Event::Text(text) | Event::Code(text) => {
                if let Some(text_so_far) = heading.as_mut().or(block.as_mut().map(|(_, code)| code)) {
                    text_so_far.push_str(&text);
                }
            }
            Event::Start(_)
            | Event::End(_)
            | Event::InlineMath(_)
            | Event::DisplayMath(_)
            | Event::FootnoteReference(_)
            | Event::SoftBreak
            | Event::HardBreak
            | Event::Rule
            | Event::TaskListMarker(_) => {}
        }
    }
    page
}

/// The fragment of a heading: lower case, dashes for spaces, without punctuation.
fn fragment(heading: &str) -> String {
    let kept = heading.trim().chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.collect::<String>().to_lowercase().replace(' ', "-")
}

/// A path relative to the folder of a page, from the repository's top; `None` if it leads out of the repository.
fn resolve(page: &str, relative: &str) -> Option<String> {
    let mut parts: Vec<String> = Vec::new();
    for component in Path::new(page).parent().unwrap().join(relative).components() {
        if component == Component::ParentDir {
            parts.pop()?;
        } else if let Component::Normal(part) = component {
            parts.push(part.to_str().unwrap().to_owned());
        }
    }
    Some(parts.join("/"))
}

/// The fault of a link on a page, if it has one.
fn fault(pages: &BTreeMap<String, Page>, page: &str, link: &str) -> Option<String> {
    if link.contains("://") || link.starts_with("mailto:") {
        return None;
    }
    let (path, anchor) = link.split_once('#').unwrap_or((link, ""));
    let target = if path.is_empty() { Some(page.to_owned()) } else { resolve(page, path) };
    let fault = match target {
        None => "leads out of the repository",
        Some(target) if !repository().join(&target).exists() => "leads to no file",
        Some(target) if page.starts_with("docs/") && !target.starts_with("docs/") => {
            "leads out of docs/, which the site does not have: name the file without a link"
        }
        Some(target) if !anchor.is_empty() && !pages.get(&target).is_some_and(|p| p.anchors.contains(anchor)) => {
            "leads to no heading of its page"
        }
        Some(_) => return None,
    };
    Some(format!("{page}: ({link}) {fault}"))
}

#[test]
fn the_table_of_contents_names_every_page_once() {
    let pages = pages();
    let mut named: Vec<String> =
        pages["docs/SUMMARY.md"].links.iter().filter_map(|link| resolve("docs/SUMMARY.md", link)).collect();
    named.sort();
    let mut all = markdown_below("docs");
    all.retain(|path| path != "docs/SUMMARY.md");
    assert_eq!(named, all, "docs/SUMMARY.md differs from the files below docs/");
    let book = fs::read_to_string(repository().join("book.toml")).unwrap();
    assert!(book.contains("src = \"docs\""), "book.toml names another folder");
}

#[test]
fn every_link_leads_to_a_file_and_a_heading() {
    let pages = pages();
    let faults: Vec<String> =
        pages.iter().flat_map(|(path, page)| page.links.iter().filter_map(|link| fault(&pages, path, link))).collect();
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    assert!(pages.values().map(|page| page.links.len()).sum::<usize>() > 200, "links are not found");
}

#[test]
fn broken_links_are_found() {
    let mut pages = pages();
    let page = "docs/limits.md";
    pages.insert(page.into(), parse("# A `b`, c\n\n## A b c\n\n<a id=\"d\"></a>\n"));
    for good in ["#a-b-c", "#a-b-c-1", "limits.md#d", "exec.md#the-program", "acquire.py", "https://example.com/#x"] {
        assert_eq!(fault(&pages, page, good), None);
    }
    for bad in ["#e", "nothing.md", "exec.md#nothing", "../README.md", "../../x.md", "acquire.py#x"] {
        assert!(fault(&pages, page, bad).is_some(), "{bad}");
    }
}

#[test]
fn every_block_of_code_is_one_that_its_program_reads() {
    let mut arguments: Vec<String> = Vec::new();
    for (path, page) in pages() {
        for (number, (language, text)) in page.blocks.into_iter().enumerate() {
            let name = format!("{path}, block {}", number + 1);
            assert!(LANGUAGES.contains(&language.as_str()), "{name}: language {language:?}, not of {LANGUAGES:?}");
            match language.as_str() {
                "sh" => {
                    let read = Command::new("bash").args(["-n", "-c", &text]).output().unwrap();
                    assert!(read.status.success(), "{name}: {}", String::from_utf8_lossy(&read.stderr));
                }
                "python" | "yaml" | "json" => arguments.extend([name, language, text]),
                _ => {}
            }
        }
    }
    assert!(arguments.len() >= 3 * 10, "only {} blocks of Python, YAML and JSON are found", arguments.len() / 3);
    // The tests' own Python, which has PyYAML.
    let python = repository().join(".venv/bin/python");
    let read = Command::new(python).args(["-c", READ_BLOCKS]).args(&arguments).output().unwrap();
    assert!(read.status.success(), "{}", String::from_utf8_lossy(&read.stderr));
}

#[test]
fn every_recipe_is_listed_and_has_a_configuration_an_outcome_and_traps() {
    let pages = pages();
    let listed: HashSet<String> =
        pages["docs/recipes.md"].links.iter().filter_map(|link| resolve("docs/recipes.md", link)).collect();
    let recipes: Vec<_> = pages.iter().filter(|(path, _)| path.starts_with("docs/recipes/")).collect();
    assert!(recipes.len() >= 10, "recipes are missing");
    for (path, recipe) in recipes {
        assert!(listed.contains(path), "docs/recipes.md does not list {path}");
        assert!(recipe.blocks.iter().any(|(l, text)| l == "toml" && text.contains("[[limit]]")), "{path} has no limit");
        for heading in ["proxytoml", "what-you-see", "traps"] {
            assert!(recipe.anchors.contains(heading), "{path} has no section {heading}");
        }
    }
}

/// The text of `--help` of a command of lockgate, and of all commands below it, as sections of Markdown.
fn help(command: &[String], sections: &mut String) {
    let output = Command::new(PROGRAM).args(command).arg("--help").env_remove("COLUMNS").output().unwrap();
    assert!(output.status.success(), "{command:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    let name = [&["lockgate".to_owned()], command].concat().join(" ");
    sections.push_str(&format!("\n## `{name}`\n\n```text\n{}\n```\n", text.trim_end()));
    let commands = text.split("\nCommands:\n").nth(1).unwrap_or_default().lines();
    for line in commands.take_while(|line| !line.is_empty()) {
        // Further lines of a description are indented more.
        let name =
            line.strip_prefix("  ").filter(|line| !line.starts_with(' ')).and_then(|line| line.split(' ').next());
        if let Some(name) = name.filter(|name| *name != "help") {
            help(&[command, &[name.to_owned()]].concat(), sections);
        }
    }
}

/// Compares a page with what it must be, or writes it if `LOCKGATE_RENEW` is set.
fn compare(path: &str, wanted: &str) {
    let file = repository().join(path);
    if std::env::var_os("LOCKGATE_RENEW").is_some() {
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, wanted).unwrap();
    }
    let current = fs::read_to_string(&file).unwrap_or_default();
    assert!(
        current == wanted,
        "{path} is not what the program says; renew it: LOCKGATE_RENEW=1 cargo test --test all docs::the_reference"
    );
}

#[test]
fn the_reference_of_the_command_line_is_what_help_prints() {
    let mut page = "# Command line\n\nThis page is made from the program: it has the text of `--help` of every command. [Operating](../operating.md#command-line)\nsays what the commands are for, where the configuration is looked for, and what exit codes mean.\n".to_owned();
    help(&[], &mut page);
    for command in ["exec", "ca rotate", "user add", "service install"] {
        assert!(page.contains(&format!("\n## `lockgate {command}`\n")), "{command}");
    }
    compare("docs/reference/command-line.md", &page);
}

#[test]
fn the_reference_of_the_configuration_is_the_commented_file() {
    let file = fs::read_to_string(repository().join("config/proxy.toml")).unwrap();
    let page = format!(
        "# proxy.toml\n\nThis page is made from `config/proxy.toml`, which shows every option there is; tests compare its options and defaults\nwith the code. Limits are explained in [Limits](../limits.md), everything else in [Operating](../operating.md).\n\n```toml\n{}\n```\n",
        file.trim_end()
    );
    compare("docs/reference/configuration.md", &page);
}
