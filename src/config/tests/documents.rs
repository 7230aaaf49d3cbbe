//! Documents: every `proxy.toml` in them is valid, and shows the defaults of the code.

use super::*;

/// The root of the repository.
fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The files of a folder with this ending.
fn files(folder: &Path, ending: &str) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return Vec::new();
    };
    let paths = entries.map(|entry| entry.unwrap().path());
    paths.filter(|path| path.extension().is_some_and(|e| e == ending)).collect()
}

/// The pages of the documentation: Markdown files in `docs/` and the folders in it.
fn pages() -> Vec<PathBuf> {
    let docs = repository().join("docs");
    let entries = std::fs::read_dir(&docs).unwrap().map(|entry| entry.unwrap().path());
    let folders = std::iter::once(docs).chain(entries.filter(|path| path.is_dir()));
    folders.flat_map(|folder| files(&folder, "md")).collect()
}

/// The TOML blocks of a Markdown text.
fn blocks(markdown: &str) -> Vec<&str> {
    let begins = markdown.split("```toml\n").skip(1);
    begins.map(|rest| rest.split("\n```").next().unwrap()).collect()
}

/// The text with its `#key = value` lines uncommented: such a line shows a default.
fn uncommented(text: &str) -> String {
    let live = |line: &str| match line.strip_prefix('#') {
        Some(rest) if rest.starts_with(|c: char| c.is_ascii_lowercase() || c == '[') => rest.to_owned(),
        _ => line.to_owned(),
    };
    text.lines().map(|line| live(line) + "\n").collect()
}

fn commented_default() -> String {
    std::fs::read_to_string(repository().join("config/proxy.toml")).unwrap()
}

#[test]
fn the_commented_default_works_and_every_example_too() {
    let folder = folder("examples");
    let mut paths = files(&repository().join("config/examples"), "toml");
    assert!(paths.len() >= 4, "the examples are gone: {paths:?}");
    paths.push(repository().join("config/proxy.toml"));
    for path in paths {
        let text = std::fs::read_to_string(&path).unwrap();
        match parse_in(&folder, &text) {
            Ok(settings) => assert!(settings.warnings.is_empty(), "{}: {:?}", path.display(), settings.warnings),
            Err(reports) => panic!("{}\n{}", path.display(), join_reports(&reports)),
        }
    }
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn every_proxy_toml_in_the_documentation_is_right() {
    let folder = folder("documentation");
    let mut paths = pages();
    assert!(paths.iter().any(|path| path.ends_with("docs/recipes/celery.md")), "the recipes are gone: {paths:?}");
    paths.push(repository().join("README.md"));
    for path in paths.iter().filter(|path| path.exists()) {
        for block in blocks(&std::fs::read_to_string(path).unwrap()) {
            let shown = |reports: &[Report]| panic!("{}\n{block}\n{}", path.display(), join_reports(reports));
            match parse_in(&folder, block) {
                Err(reports) => shown(&reports),
                // Many blocks have one section alone, and so no limit.
                Ok(settings) if block.contains("[[limit]]") && !settings.warnings.is_empty() => {
                    shown(&settings.warnings)
                }
                Ok(_) => {}
            }
        }
    }
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn blocks_are_found_in_markdown() {
    assert_eq!(blocks("a\n```toml\n[log]\n```\nb\n```sh\nx\n```\n```toml\n[tls]\nx\n```\n"), ["[log]", "[tls]\nx"]);
}

#[test]
fn the_defaults_that_the_commented_default_shows_are_those_of_the_code() {
    let text = commented_default();
    let (mut plain, mut live) = (good(&text), good(&uncommented(&text)));
    (plain.text, live.text) = ("".into(), "".into());
    assert_eq!(format!("{plain:#?}"), format!("{live:#?}"));
    assert_ne!(text, uncommented(&text), "no line of the form `#key = value` was found");
}

#[test]
fn the_commented_default_shows_every_key_there_is() {
    let sections = [
        ("[[limit]]", "[[limit]]\n"),
        ("match", "[[limit]]\n[limit.match]\n"),
        ("[[route]]", "[[route]]\n"),
        ("[[parent]]", "[[parent]]\n"),
        ("[listen]", "[listen]\n"),
        ("tls", "[listen.tls]\n"),
        ("[tls]", "[tls]\n"),
        ("[[tls.client]]", "[[tls.client]]\n"),
        ("[access]", "[access]\n"),
        ("[timeouts]", "[timeouts]\n"),
        ("[[timeouts.for]]", "[[timeouts.for]]\n"),
        ("[http]", "[http]\n"),
        ("[store]", "[store]\n"),
        ("[state]", "[state]\n"),
        ("[config]", "[config]\n"),
        ("[log]", "[log]\n"),
        ("[admin]", "[admin]\n"),
        ("[locks]", "[locks]\n"),
        ("[zmq]", "[zmq]\n"),
        ("[trace]", "[trace]\n"),
    ];
    let shown = commented_default();
    for (heading, text) in sections {
        let reports = bad(&format!("{text}qqqqqqqqqqqq = 1\n"));
        let unknown = reports.iter().find(|r| r.message.starts_with("unknown key `qqqqqqqqqqqq`")).unwrap();
        for key in unknown.advice.trim_start_matches("known keys: ").split(", ") {
            let written = [
                format!("\n{key} "),
                format!("\n#{key} "),
                format!("\n# {key} "),
                format!("{{ {key} "),
                format!(", {key} "),
                format!("\n# [[tls.{key}]]\n"),
                format!("\n# [[timeouts.{key}]]\n"),
            ];
            assert!(written.iter().any(|form| shown.contains(form)), "{heading} {key} is missing in config/proxy.toml");
        }
    }
}

/// Cells of the columns `key` and `default`, in the tables of a Markdown text that have them.
fn defaults(markdown: &str) -> Vec<(String, String)> {
    let mut rows = Vec::new();
    let mut is_ours = false;
    for line in markdown.lines() {
        is_ours = line.starts_with("| key | default |") || (is_ours && line.starts_with('|'));
        let cells: Vec<_> = line.split('|').map(str::trim).collect();
        if let (true, [_, key, default, ..]) = (is_ours, cells.as_slice())
            && let (Some(key), Some(default)) = (code(key), code(default))
        {
            rows.push((key.to_owned(), default.to_owned()));
        }
    }
    rows
}

/// The code in backticks at the beginning of a cell.
fn code(cell: &str) -> Option<&str> {
    cell.strip_prefix('`')?.split_once('`').map(|(code, _)| code)
}

#[test]
fn the_defaults_in_the_tables_of_the_documentation_are_those_of_the_code() {
    let shown = commented_default();
    let mut compared = 0;
    for path in pages() {
        for (key, default) in defaults(&std::fs::read_to_string(&path).unwrap()) {
            let begin = format!("#{key} = ");
            if let Some(line) = shown.lines().find(|line| line.starts_with(&begin)) {
                assert_eq!(line, format!("{begin}{default}"), "{}", path.display());
                compared += 1;
            }
        }
    }
    assert!(compared >= 10, "only {compared} defaults were found in docs/");
}
