//! First state of the dashboard: the page with the numbers of the moment, readable before its script has run and
//! without one.
//!
//! The markup is in `dashboard/index.html` and `dashboard/row.html`; values stand in for `{{name}}`. The script takes
//! the page over, and fills the same elements each second.

use serde_json::Value;

use super::words::{CONDITIONS, REASONS, STATES, STORES, explain};
use crate::proxy::warning::Warning;

/// The page around the values.
const PAGE: &str = include_str!("dashboard/index.html");
/// One limit in the table.
const ROW: &str = include_str!("dashboard/row.html");

/// Renders the page. `gateway` and `limits`: see [`overview`](super::overview).
pub(super) fn render(gateway: &Value, limits: &[Value], warnings: &[Warning]) -> String {
    let mut sorted: Vec<&Value> = limits.iter().collect();
    // As the script sorts them; equal ones stay in the order of the file.
    sorted.sort_by_key(|limit| CONDITIONS.iter().position(|(code, _)| limit["condition"] == *code));
    let rows: String = sorted.into_iter().map(row).collect();
    let per_second = |key: &str| number(&gateway[key]);
    fill(PAGE, |name| match name {
        "status" => escape(status(gateway).0),
        "status_text" => escape(status(gateway).1),
        "version" => text(&gateway["version"]),
        "uptime" => uptime(gateway["uptime_ms"].as_f64()),
        "state" | "store" => text(&gateway[name]),
        "drain" => (if gateway["draining"] == true { "draining" } else { "off" }).to_owned(),
        "trouble" => trouble(gateway),
        "requests_per_s" | "refused_per_s" | "errors_per_s" => per_second(name),
        "connections" | "running" | "waiting" => number(&gateway[name]),
        "limit_count" => count(limits.len(), "limit"),
        "warnings_hidden" => (if warnings.is_empty() { "hidden" } else { "" }).to_owned(),
        "warnings_title" => count(warnings.len(), "warning") + " about the configuration file",
        "warnings" => warnings.iter().map(warning).collect(),
        "rows" => rows.clone(),
        "row" => fill(ROW, |_| String::new()),
        "words" => words(),
        _ => String::new(),
    })
}

/// State of the whole gateway: code and text.
fn status(gateway: &Value) -> (&'static str, &'static str) {
    if gateway["draining"] == true {
        ("draining", "Draining")
    } else if gateway["status"] == "degraded" {
        ("degraded", "Degraded")
    } else {
        ("ok", "Serving")
    }
}

/// Sentences about what is not as it should be; empty if all is well.
fn trouble(gateway: &Value) -> String {
    let explained = |words: &[(&'static str, &'static str)], code: &Value| {
        code.as_str().filter(|code| !matches!(*code, "ok" | "up" | "off")).map(|code| explain(words, code).to_owned())
    };
    let draining = (gateway["draining"] == true).then(|| "No new connections are accepted.".to_owned());
    let all = [draining, explained(&STATES, &gateway["state"]), explained(&STORES, &gateway["store"])];
    escape(&all.into_iter().flatten().collect::<Vec<_>>().join(" "))
}

/// A row of the table of limits.
fn row(limit: &Value) -> String {
    let condition = limit["condition"].as_str().unwrap_or_default();
    let (taken, most) = fullest(limit);
    fill(ROW, |name| match name {
        "name" => text(&limit["name"]),
        "condition" => escape(condition),
        "condition_text" => escape(explain(&CONDITIONS, condition)),
        "rule" => escape(&rule(limit)),
        "sent" => number(&limit["permits_per_s"]),
        "refused" => number(&limit["refused_per_s"]),
        "percent" => format!("{:.1}", (100.0 * taken / most.max(1.0)).min(100.0)),
        "taken" => decimal(taken),
        "most" => decimal(most),
        "waiting" | "keys" => number(&limit[name]),
        _ => String::new(),
    })
}

/// Use and bound of the fullest window: of its slots or of its requests in flight, whichever is nearer to its bound; of
/// equals that of its slots, as the script shows it.
fn fullest(limit: &Value) -> (f64, f64) {
    let bound = |taken: &str, most: &str| Some((limit[taken].as_f64()?, limit[most].as_f64()?));
    let bounds = [bound("taken", "requests"), bound("in_flight_taken", "in_flight")].into_iter().flatten();
    // `max_by` takes the last of equals.
    bounds.rev().max_by(|one, other| (one.0 * other.1).total_cmp(&(other.0 * one.1))).unwrap_or((0.0, 0.0))
}

/// Rule of a limit, such as `5 per 1s, 10 in flight (dry run)`.
fn rule(limit: &Value) -> String {
    let rate = limit["requests"].as_u64().zip(limit["per_ms"].as_f64());
    let rate = rate.map(|(requests, per)| format!("{requests} per {}", duration(per)));
    let in_flight = limit["in_flight"].as_u64().map(|most| format!("{most} in flight"));
    let bounds = [rate, in_flight].into_iter().flatten().collect::<Vec<_>>().join(", ");
    bounds + if limit["dry_run"] == true { " (dry run)" } else { "" }
}

/// A warning about the configuration file, as an item of a list.
fn warning(warning: &Warning) -> String {
    let Warning { file, line, column, message, advice } = warning;
    let place = escape(&format!("{file}:{line}:{column}"));
    format!("<li><code>{place}</code> {}. <small>{}</small></li>", escape(message), escape(advice))
}

/// Words for the script: what it shows of codes, as JSON in a block of data.
fn words() -> String {
    let object = |words: &[(&str, &str)]| {
        Value::Object(words.iter().map(|(code, text)| ((*code).to_owned(), (*text).into())).collect())
    };
    let all = [
        // A list, because the members of an object have no order.
        ("conditions", Value::from_iter(CONDITIONS.map(|(code, text)| vec![code, text]))),
        ("states", object(&STATES)),
        ("stores", object(&STORES)),
        ("reasons", object(&REASONS)),
    ];
    let all: serde_json::Map<String, Value> = all.into_iter().map(|(name, words)| (name.to_owned(), words)).collect();
    // The end tag of the block, or a comment, would end or swallow it.
    Value::Object(all).to_string().replace('<', "\\u003c")
}

/// Replaces each `{{name}}` of a template by a value, in one pass: a value that contains `{{` stays as it is.
fn fill(template: &str, mut value: impl FnMut(&str) -> String) -> String {
    let mut parts = template.split("{{");
    let mut filled = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (name, rest) = part.split_once("}}").unwrap_or(("", part));
        filled.push_str(&value(name));
        filled.push_str(rest);
    }
    filled
}

/// Escapes text for HTML, in elements and in quoted attributes.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            _ => escaped.push(letter),
        }
    }
    escaped
}

/// A text of the JSON, escaped.
fn text(value: &Value) -> String {
    escape(value.as_str().unwrap_or_default())
}

/// A number of the JSON for people.
fn number(value: &Value) -> String {
    value.as_f64().map_or_else(|| "–".to_owned(), decimal)
}

/// A number for people: whole from 100 on, with separators of thousands; else with at most one decimal.
fn decimal(value: f64) -> String {
    if value < 100.0 && value.fract() != 0.0 {
        return format!("{value:.1}");
    }
    let digits = format!("{value:.0}");
    let mut grouped = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

/// A number of things: `1 limit`, `2 limits`.
fn count(number: usize, thing: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{} {thing}{plural}", decimal(number as f64))
}

/// Milliseconds in the largest unit that they are a multiple of, as in the file: `800ms`, `1m`.
fn duration(millis: f64) -> String {
    let units = [("d", 86_400_000.0), ("h", 3_600_000.0), ("m", 60_000.0), ("s", 1000.0)];
    let whole = units.into_iter().find(|(_, size)| millis >= *size && millis % size == 0.0);
    whole.map_or_else(|| format!("{millis}ms"), |(unit, size)| format!("{}{unit}", millis / size))
}

/// A time since the start in its two largest units: `3 d 4 h`, `12 min`, `45 s`.
fn uptime(millis: Option<f64>) -> String {
    let Some(millis) = millis else { return "–".to_owned() };
    let [days, hours, minutes] = [86_400_000.0, 3_600_000.0, 60_000.0].map(|size| (millis / size).floor());
    if days > 0.0 {
        format!("{days} d {} h", hours - days * 24.0)
    } else if hours > 0.0 {
        format!("{hours} h {} min", minutes - hours * 60.0)
    } else if minutes > 0.0 {
        format!("{minutes} min")
    } else {
        format!("{} s", (millis / 1000.0).floor())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn names_of_limits_cannot_change_the_page() {
        let limit = json!({ "name": "<b>{{rows}}\"&'", "requests": 5, "per_ms": 800.0, "taken": 2, "condition": "ok" });
        let row = row(&limit);
        assert!(row.contains("&lt;b&gt;{{rows}}&quot;&amp;&#39;") && !row.contains("<b>"), "{row}");
        assert!(row.contains("5 per 800ms") && row.contains("2 of 5") && row.contains("width=\"40.0\""), "{row}");
        assert!(!words().contains('<'));
    }

    #[test]
    fn of_two_bounds_that_are_equally_near_the_slots_are_shown_as_the_script_does() {
        let limit = json!({ "name": "a", "requests": 5, "per_ms": 800.0, "taken": 0, "in_flight": 20,
            "in_flight_taken": 0, "condition": "idle" });
        assert!(row(&limit).contains("0 of 5"), "{}", row(&limit));
    }

    #[test]
    fn every_value_of_the_templates_is_filled() {
        let mut names = Vec::new();
        for template in [PAGE, ROW] {
            fill(template, |name| {
                names.push(name.to_owned());
                String::new()
            });
        }
        let gateway = json!({ "version": "1.2.3", "uptime_ms": 1.0, "status": "ok", "state": "ok", "store": "off",
            "requests_per_s": 1.0, "refused_per_s": 0.0, "errors_per_s": 0.0, "connections": 1, "running": 1, "waiting": 0 });
        let limit = json!({ "name": "a", "condition": "ok" });
        let page = render(&gateway, &[limit], &[]);
        assert!(names.len() > 20 && !page.contains("{{"), "{page}");
        assert!(page.contains("1.2.3") && page.contains("1 limit<"), "{page}");
    }

    #[test]
    fn the_limits_that_need_attention_come_first() {
        let limits = ["ok", "idle", "refusing", "full", "waiting", "ok"].into_iter().zip('a'..);
        let limits: Vec<Value> = limits
            .map(|(condition, name)| json!({ "name": format!("limit-{name}"), "condition": condition }))
            .collect();
        let page = render(&json!({}), &limits, &[]);
        let order: Vec<&str> = page.split("limit-").skip(1).map(|rest| &rest[..1]).collect();
        assert_eq!(order, ["c", "e", "d", "a", "f", "b"]);
    }

    #[test]
    fn numbers_and_times_are_written_for_people() {
        assert_eq!([0.0, 2.25, 99.96, 100.4, 1_234_567.0].map(decimal), ["0", "2.2", "100.0", "100", "1,234,567"]);
        let times = [800.0, 61_000.0, 3_600_000.0 * 5.2, 86_400_000.0 * 3.25].map(|millis| uptime(Some(millis)));
        assert_eq!(times, ["0 s", "1 min", "5 h 12 min", "3 d 6 h"]);
        assert_eq!([800.0, 60_000.0, 1500.0].map(duration), ["800ms", "1m", "1500ms"]);
        let draining = json!({ "draining": true, "state": "degraded", "store": "up" });
        let expected = "No new connections are accepted. The state folder cannot be written. A crash now would close long \
                        windows for their whole period.";
        assert_eq!((trouble(&draining), status(&draining).1), (expected.to_owned(), "Draining"));
    }
}
