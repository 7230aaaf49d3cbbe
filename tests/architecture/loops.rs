//! Loops: those of a task yield, and those that try again after an error are bounded.

use super::File;
use super::bodies::Loop;
use super::syntax::sources;

/// Loops of tasks without an await that end by themselves, and the reason.
const ENDING: [(&str, &str); 3] = [
    ("connection::next", "each turn consumes two bytes that were read before"),
    ("session::linger", "ends at `Pending`, and after LINGER_BYTES"),
    ("Deadline::poll_expired", "the timer is pending after it was set to a later time"),
];

/// Loops that go round again after an error without a constant, and what bounds them.
const BOUNDED_OTHERWISE: [(&str, &str); 4] = [
    ("new_process::recv_from_old", "an error ends the loop a few lines below"),
    ("race::happy_eyeballs", "each turn takes an address away, or an attempt"),
    ("Listener::accept", "the backoff pauses up to a second; a listener accepts for ever"),
    ("Tcp::poll_read", "only for a system call that a signal interrupts"),
];

/// Loops of tasks that neither await nor return to the poller: the thread serves nothing else meanwhile.
pub(super) fn spins(files: &[File]) -> Vec<String> {
    let fault = |turn: &Loop| (turn.in_task && !turn.yields).then_some(turn.line);
    let mend = "await something in each turn, or add its bound to ENDING";
    faults(files, &ENDING, fault, ("spinning loop", mend))
}

/// Loops that go round again after an error, and name no constant: no number of tries, pause or deadline.
///
/// `while let` is passed: each of its turns takes the next piece of work.
pub(super) fn retries(files: &[File]) -> Vec<String> {
    let fault = |turn: &Loop| if turn.is_bounded { None } else { turn.retries };
    let mend = "name a constant that bounds the tries or spaces them, or add its bound to BOUNDED_OTHERWISE";
    faults(files, &BOUNDED_OTHERWISE, fault, ("unbounded retry", mend))
}

fn faults(
    files: &[File],
    allowed: &[(&str, &str)],
    fault: impl Fn(&Loop) -> Option<usize>,
    (rule, mend): (&str, &str),
) -> Vec<String> {
    let mut found = Vec::new();
    for (file, facts) in sources(files) {
        for body in &facts.bodies {
            let name = facts.qualified(&body.name);
            let lines =
                body.loops.iter().filter_map(&fault).filter(|_| allowed.iter().all(|(known, _)| *known != name));
            found.extend(lines.map(|line| format!("{}:{line}: {rule}: in `{name}`; {mend}", file.path)));
        }
    }
    found
}

/// Names of a list without a loop that needs them.
fn unneeded(allowed: &[(&str, &str)], check: fn(&Loop) -> bool) -> Vec<String> {
    let files = super::files(&["src"]);
    let mut names: Vec<&str> = allowed.iter().map(|(name, _)| *name).collect();
    for (_, facts) in sources(&files) {
        for body in facts.bodies.iter().filter(|body| body.loops.iter().any(check)) {
            names.retain(|name| *name != facts.qualified(&body.name));
        }
    }
    names.into_iter().map(str::to_owned).collect()
}

#[test]
fn loops_of_tasks_yield() {
    super::hold(spins, &["src"]);
    assert_eq!(unneeded(&ENDING, |turn| turn.in_task && !turn.yields), Vec::<String>::new(), "remove them from ENDING");
}

#[test]
fn retries_are_bounded() {
    super::hold(retries, &["src"]);
    let unneeded = unneeded(&BOUNDED_OTHERWISE, |turn| turn.retries.is_some() && !turn.is_bounded);
    assert_eq!(unneeded, Vec::<String>::new(), "remove them from BOUNDED_OTHERWISE");
}
