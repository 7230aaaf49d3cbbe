//! Who holds what, on the disk: one line when a lock is taken, one when it is given back.
//!
//! A line is written before its lock is told to anybody, so that no lock is forgotten by a process that dies. What ends by
//! itself needs no line: its end is in it.

use std::fs::{File, OpenOptions, rename};
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

const FILE: &str = "locks.jsonl";
/// How many lines there may be beyond those of locks that are held, before the file is written anew.
const SLACK: usize = 10_000;

/// A lock that is held.
#[derive(Clone, PartialEq, Serialize, Deserialize, Debug)]
pub(super) struct Entry {
    pub(super) uid: String,
    pub(super) resource: String,
    pub(super) title: String,
    pub(super) wait: f64,
    pub(super) lifetime: f64,
    /// When it ends, in nanoseconds of Unix time.
    pub(super) until: i128,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Line {
    Held(Entry),
    Ended(String),
}

/// The file.
pub(super) struct Register {
    path: PathBuf,
    file: File,
    lines: usize,
}

impl Register {
    /// Opens it, and reads which locks were held by whoever wrote it. A last line that was not finished was told to nobody.
    ///
    /// # Errors
    /// If it cannot be read or written, or holds what no lockgate has written.
    pub(super) fn open(dir: &Path) -> io::Result<(Register, Vec<Entry>)> {
        let path = dir.join(FILE);
        let named = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
        std::fs::create_dir_all(dir).map_err(named)?;
        let held = match File::open(&path) {
            Ok(file) => read(&file).map_err(named)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(named(error)),
        };
        let (file, lines) = write_anew(&path, held.iter().cloned()).map_err(named)?;
        Ok((Register { path, file, lines }, held))
    }

    /// A lock is held from here on.
    pub(super) fn begin(&mut self, entry: &Entry) -> io::Result<()> {
        self.append(&Line::Held(entry.clone()))
    }

    /// A lock has ended before its time. If that cannot be noted it is held until its time, for whoever reads it.
    pub(super) fn end(&mut self, uid: &str) {
        if let Err(error) = self.append(&Line::Ended(uid.to_owned())) {
            tracing::warn!(%error, file = %self.path.display(), "the end of a lock cannot be noted");
        }
    }

    /// Writes the file anew if it has become much longer than what is held.
    pub(super) fn tidy(&mut self, held: impl Iterator<Item = Entry>) {
        if self.lines < SLACK {
            return;
        }
        match write_anew(&self.path, held) {
            // What is held is few lines again, or this is due each time.
            Ok((file, lines)) => (self.file, self.lines) = (file, lines / 2),
            Err(error) => tracing::warn!(%error, file = %self.path.display(), "the locks cannot be written anew"),
        }
    }

    fn append(&mut self, line: &Line) -> io::Result<()> {
        let mut text = serde_json::to_vec(line).map_err(io::Error::other)?;
        text.push(b'\n');
        self.lines += 1;
        self.file.write_all(&text)
    }
}

fn read(file: &File) -> io::Result<Vec<Entry>> {
    let mut held: Vec<Entry> = Vec::new();
    let mut lines = BufReader::new(file).split(b'\n').peekable();
    while let Some(line) = lines.next() {
        match serde_json::from_slice(&line?) {
            Ok(Line::Held(entry)) => held.push(entry),
            Ok(Line::Ended(uid)) => held.retain(|entry| entry.uid != uid),
            Err(_) if lines.peek().is_none() => {}
            Err(error) => {
                let why = format!("this is no list of locks ({error}); move it away to begin without");
                return Err(io::Error::new(io::ErrorKind::InvalidData, why));
            }
        }
    }
    Ok(held)
}

fn write_anew(path: &Path, held: impl Iterator<Item = Entry>) -> io::Result<(File, usize)> {
    let (beside, mut text, mut lines) = (path.with_extension("new"), Vec::new(), 0);
    for entry in held {
        serde_json::to_writer(&mut text, &Line::Held(entry)).map_err(io::Error::other)?;
        text.push(b'\n');
        lines += 1;
    }
    std::fs::write(&beside, &text)?;
    rename(&beside, path)?;
    Ok((OpenOptions::new().append(true).open(path)?, lines))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(uid: &str) -> Entry {
        let (resource, title) = ("r".to_owned(), "t".to_owned());
        Entry { uid: uid.to_owned(), resource, title, wait: 0.5, lifetime: 1.5, until: 1 << 70 }
    }

    fn folder(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("lockgate-locks-{}-{name}", std::process::id()));
        std::fs::remove_dir_all(&dir).ok();
        dir
    }

    #[test]
    fn what_was_held_is_known_again_and_what_was_not_finished_is_not() {
        let dir = folder("again");
        let (mut register, left) = Register::open(&dir).unwrap();
        assert!(left.is_empty());
        for uid in ["a", "b", "c"] {
            register.begin(&entry(uid)).unwrap();
        }
        register.end("b");
        std::fs::OpenOptions::new().append(true).open(dir.join(FILE)).unwrap().write_all(b"{\"held\":{\"ui").unwrap();
        let (register, left) = Register::open(&dir).unwrap();
        assert_eq!((left, register.lines), (vec![entry("a"), entry("c")], 2));
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn what_is_none_of_ours_is_not_believed() {
        let dir = folder("foreign");
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join(FILE), "hello\nworld\n").unwrap();
        let Err(error) = Register::open(&dir) else { panic!("it was read") };
        assert!(error.to_string().contains("locks.jsonl: this is no list of locks"), "{error}");
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn it_does_not_grow_for_ever() {
        let dir = folder("grow");
        let (mut register, _) = Register::open(&dir).unwrap();
        for number in 0..SLACK {
            register.begin(&entry(&number.to_string())).unwrap();
        }
        register.tidy([entry("x")].into_iter());
        register.begin(&entry("y")).unwrap();
        let (_, left) = Register::open(&dir).unwrap();
        assert_eq!(left, [entry("x"), entry("y")]);
        std::fs::remove_dir_all(dir).unwrap();
    }
}
