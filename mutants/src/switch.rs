//! The module that the changed sources ask which mutant is on.

/// Source of the module. A mutant that is reached first is written down at once, as no code runs at the end of a test program.
pub const SOURCE: &str = r#"//! Says which mutant is on; written by lockgate-mutants.

use std::{
    fs::File,
    io::Write as _,
    sync::{LazyLock, Mutex, atomic::{AtomicBool, Ordering}},
};

static ACTIVE: LazyLock<Option<usize>> = LazyLock::new(|| std::env::var("LOCKGATE_MUTANT").ok()?.parse().ok());
static TRACE: LazyLock<Option<Mutex<File>>> =
    LazyLock::new(|| Some(Mutex::new(File::options().append(true).create(true).open(std::env::var_os("LOCKGATE_MUTANT_TRACE")?).ok()?)));
static REACHED: [AtomicBool; 20_000] = [const { AtomicBool::new(false) }; 20_000];

/// True if the mutant of this number is on.
pub fn on(number: usize) -> bool {
    if let Some(trace) = &*TRACE {
        if !REACHED[number].swap(true, Ordering::Relaxed) {
            if let Ok(mut file) = trace.lock() {
                let _ = file.write_all(format!("{number}\n").as_bytes());
            }
        }
        return false;
    }
    *ACTIVE == Some(number)
}
"#;
