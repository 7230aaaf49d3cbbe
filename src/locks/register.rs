//! Lock register: an append-only file of the locks that are held, one line when a lock is taken, one when it is given back.
//!
//! A line is written before its lock is told to anybody, so that no lock is forgotten by a process that dies. What ends by
//! itself needs no line: its end is in it. A line that was not written as a whole was told to nobody; it is cut off, or if
//! that fails too, ended by the next line and passed over by the reader.

use std::collections::HashMap;
use std::fs::{File, OpenOptions, rename};
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

const FILE: &str = "locks.jsonl";
/// How many lines there may be beyond twice those of locks that are held, before the file is written anew: so each line is
/// written twice at most.
const SLACK: usize = 10_000;
/// How a line begins. No line has either anywhere else: within a string the quotes are escaped.
const BEGINNINGS: [&[u8]; 2] = [b"{\"held\":", b"{\"ended\":"];

/// A lock that is held.
#[derive(Clone, PartialEq, Serialize, Deserialize, Debug)]
pub(super) struct RegisterEntry {
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
enum RegisterLine {
    Held(RegisterEntry),
    Ended(String),
}

/// A file that is appended to, and cut where an append has failed.
pub(super) trait AppendFile: Write {
    fn size(&self) -> io::Result<u64>;
    fn cut(&mut self, size: u64) -> io::Result<()>;
}

impl AppendFile for File {
    fn size(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn cut(&mut self, size: u64) -> io::Result<()> {
        self.set_len(size)
    }
}

/// The file.
pub(super) struct Register<F = File> {
    path: PathBuf,
    file: F,
    /// Its size, if its last line is known to be whole.
    whole: Option<u64>,
    lines: usize,
    /// What was appended since another file began to be written that is to take its place.
    since: Option<Vec<u8>>,
}

/// The locks that are held, to be written to a file that takes the register's place; by any thread.
pub(super) struct Rewrite {
    path: PathBuf,
    held: Vec<RegisterEntry>,
}

impl Register {
    /// Opens it, and reads which locks were held by the process that wrote it.
    ///
    /// # Errors
    /// If it cannot be read or written, or holds what no lockgate has written.
    pub(super) fn open(dir: &Path) -> io::Result<(Register, Vec<RegisterEntry>)> {
        let path = dir.join(FILE);
        let named = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
        std::fs::create_dir_all(dir).map_err(named)?;
        let held = match File::open(&path) {
            Ok(file) => Some(read(BufReader::new(file)).map_err(named)?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(named(error)),
        };
        let is_new = held.is_none();
        let (held, lines) = held.unwrap_or_default();
        let rewrite = Rewrite { path: path.clone(), held };
        let renewed = rewrite.write().and_then(|file| rewrite.put(file));
        let (file, whole, lines) = match renewed {
            Ok(file) => (file, None, rewrite.held.len()),
            // A disk without room for another file may have some for a line.
            Err(error) if !is_new => {
                tracing::warn!(%error, file = %path.display(), "the locks cannot be written anew");
                (OpenOptions::new().append(true).open(&path).map_err(named)?, None, lines)
            }
            Err(error) => return Err(named(error)),
        };
        Ok((Register { path, file, whole, lines, since: None }, rewrite.held))
    }

    /// What is to be written anew, if the file has become much longer than what is held: so many locks, which `held` names.
    /// [`Register::replace`] is to follow.
    pub(super) fn rewrite(&mut self, count: usize, held: impl Iterator<Item = RegisterEntry>) -> Option<Rewrite> {
        if self.since.is_some() || self.lines < 2 * count + SLACK {
            return None;
        }
        self.since = Some(Vec::new());
        Some(Rewrite { path: self.path.clone(), held: held.collect() })
    }

    /// Takes the file that was written, with what was appended meanwhile, in the place of this one; or goes on with this.
    pub(super) fn replace(&mut self, rewrite: &Rewrite, written: io::Result<File>) {
        let since = self.since.take().unwrap_or_default();
        let lines = rewrite.held.len() + since.iter().filter(|byte| **byte == b'\n').count();
        let replaced = written.and_then(|mut file| {
            file.write_all(&since)?;
            rewrite.put(file)
        });
        match replaced {
            Ok(file) => (self.file, self.whole, self.lines) = (file, None, lines),
            Err(error) => {
                // Not tried again before as much has come again.
                self.lines = rewrite.held.len();
                tracing::warn!(%error, file = %self.path.display(), "the locks cannot be written anew");
            }
        }
    }
}

impl<F: AppendFile> Register<F> {
    /// A lock is held from here on.
    ///
    /// # Errors
    /// If that cannot be written; no reader will find it then.
    pub(super) fn begin(&mut self, entry: &RegisterEntry) -> io::Result<()> {
        self.append(&RegisterLine::Held(entry.clone()))
    }

    /// A lock has ended before its time. If that cannot be noted it is held until its time by a later reader, or until its
    /// resource is held again.
    pub(super) fn end(&mut self, uid: &str) {
        if let Err(error) = self.append(&RegisterLine::Ended(uid.to_owned())) {
            tracing::warn!(%error, file = %self.path.display(), "the end of a lock cannot be noted");
        }
    }

    fn append(&mut self, line: &RegisterLine) -> io::Result<()> {
        let mut text = Vec::new();
        if self.whole.is_none() {
            // What is before may not have ended.
            text.push(b'\n');
        }
        serde_json::to_writer(&mut text, line).map_err(io::Error::other)?;
        text.push(b'\n');
        let written = self.file.write_all(&text);
        match (&written, self.whole) {
            (Ok(()), Some(size)) => self.whole = Some(size + text.len() as u64),
            (Ok(()), None) => self.whole = self.file.size().ok(),
            (Err(_), Some(size)) => self.whole = self.file.cut(size).ok().map(|()| size),
            (Err(_), None) => {}
        }
        written?;
        self.lines += 1;
        if let Some(since) = &mut self.since {
            since.extend(text);
        }
        Ok(())
    }
}

impl Rewrite {
    /// Writes the locks to a file beside the register, down to the disk.
    ///
    /// # Errors
    /// If the disk does not take it.
    pub(super) fn write(&self) -> io::Result<File> {
        let mut text = Vec::new();
        for entry in &self.held {
            serde_json::to_writer(&mut text, &RegisterLine::Held(entry.clone())).map_err(io::Error::other)?;
            text.push(b'\n');
        }
        let mut file = OpenOptions::new().create(true).append(true).open(self.beside())?;
        // One that a process left which died at this.
        file.set_len(0)?;
        file.write_all(&text)?;
        // Or a loss of power may leave the name with nothing behind it.
        file.sync_all()?;
        Ok(file)
    }

    /// Puts it in the register's place.
    ///
    /// # Errors
    /// If the register is still the file that it was.
    fn put(&self, file: File) -> io::Result<File> {
        rename(self.beside(), &self.path)?;
        // No failure from here on: what is appended must go to the file that has the name by now.
        let synced = self.path.parent().map_or(Ok(()), |dir| File::open(dir).and_then(|dir| dir.sync_all()));
        if let Err(error) = synced {
            tracing::warn!(%error, file = %self.path.display(), "a loss of power may undo the last rewrite of the locks");
        }
        Ok(file)
    }

    fn beside(&self) -> PathBuf {
        self.path.with_extension("new")
    }
}

/// What a line says.
enum ParsedLine {
    Whole(RegisterLine),
    /// It was not written to its end.
    Torn,
    /// It is none of ours.
    Foreign(serde_json::Error),
}

/// The locks that are held, in the order in which they were taken; and how many lines say so.
fn read(file: impl BufRead) -> io::Result<(Vec<RegisterEntry>, usize)> {
    let (mut held, mut lines): (Vec<Option<RegisterEntry>>, usize) = (Vec::new(), 0);
    let (mut by_uid, mut by_resource) = (HashMap::new(), HashMap::new());
    for line in file.split(b'\n') {
        lines += 1;
        match parse(&line?) {
            ParsedLine::Whole(RegisterLine::Held(entry)) => {
                // Of two that hold one resource the first had ended by itself, or it would not have been given again.
                if let Some(before) = by_resource.insert(entry.resource.clone(), held.len()) {
                    held[before] = None;
                }
                by_uid.insert(entry.uid.clone(), held.len());
                held.push(Some(entry));
            }
            ParsedLine::Whole(RegisterLine::Ended(uid)) => {
                if let Some(at) = by_uid.remove(&uid) {
                    held[at] = None;
                }
            }
            ParsedLine::Torn => {}
            ParsedLine::Foreign(error) => {
                let why =
                    format!("line {lines} is none of a list of locks ({error}); move the file away to begin without");
                return Err(io::Error::new(io::ErrorKind::InvalidData, why));
            }
        }
    }
    Ok((held.into_iter().flatten().collect(), lines))
}

fn parse(line: &[u8]) -> ParsedLine {
    let error = match serde_json::from_slice(line) {
        Ok(said) => return ParsedLine::Whole(said),
        Err(error) => error,
    };
    // The end of a line that was torn is followed by a whole one if the next append did not know of it.
    let begins = |at: &usize| BEGINNINGS.iter().any(|beginning| line[*at..].starts_with(beginning));
    if let Some(said) = (1..line.len()).rfind(begins).and_then(|at| serde_json::from_slice(&line[at..]).ok()) {
        return ParsedLine::Whole(said);
    }
    // After a loss of power a file may be as long as it was, with zeros for what did not reach the disk.
    let is_cut = |beginning: &&[u8]| line.starts_with(beginning) || beginning.starts_with(line);
    let is_torn = error.is_eof() && BEGINNINGS.iter().any(is_cut) || line.contains(&0);
    if is_torn { ParsedLine::Torn } else { ParsedLine::Foreign(error) }
}

#[cfg(test)]
mod tests;
