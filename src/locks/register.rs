//! Lock register: append-only file of held locks, one JSON line for each grant and one for each
//! release.
//!
//! A line is written before the client is answered, so that a crash forgets no lock that was
//! granted. Expiry needs no line: its time is part of the grant. A line that was written in part
//! belongs to a grant that was refused; it is cut off, or, if that fails too, terminated by the
//! next line and skipped by the reader.

use std::collections::HashMap;
use std::fs::{File, OpenOptions, Permissions, rename};
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// Name of the file, in the state folder.
const FILE: &str = "locks.jsonl";
/// Lines beyond twice the held locks at which the file is rewritten: each line is written at most
/// twice on average.
const SLACK: usize = 10_000;
/// Mode of the file, whatever that of the folder: the id of a lock is a secret of its holder.
const MODE: u32 = 0o600;
/// Beginnings of a line. Neither occurs elsewhere in one: quotes within JSON strings are escaped.
const BEGINNINGS: [&[u8]; 2] = [b"{\"held\":", b"{\"ended\":"];

/// Held lock as it is written.
#[derive(Clone, PartialEq, Serialize, Deserialize, Debug)]
pub(super) struct RegisterEntry {
    /// As [`super::table::Uid`].
    pub(super) uid: String,
    /// Name of the resource.
    pub(super) resource: String,
    /// Title from the request.
    pub(super) title: String,
    /// Longest wait that was asked for, in seconds; kept for listings.
    pub(super) wait: f64,
    /// Lifetime in seconds, which bounds what is left after a restart.
    pub(super) lifetime: f64,
    /// Time of its expiry, in nanoseconds of Unix time.
    pub(super) until: i128,
}

/// One line: `{"held":{...}}` or `{"ended":"UID"}`.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum RegisterLine {
    /// A grant.
    Held(RegisterEntry),
    /// The id of a lock that was released.
    Ended(String),
}

/// File that is appended to, and truncated after an append that failed. A trait, so that tests can
/// make it fail.
pub(super) trait AppendFile: Write {
    /// Present size in bytes.
    fn size(&self) -> io::Result<u64>;
    /// Truncates the file to `size` bytes.
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

/// The register's file, open for appending.
pub(super) struct Register<F = File> {
    /// Path of the file that has the register's name.
    path: PathBuf,
    /// Open for appending.
    file: F,
    /// Size in bytes, if the last line is known to be complete.
    whole: Option<u64>,
    /// Complete and torn lines, to decide about a rewrite.
    lines: usize,
    /// Bytes appended since a rewrite began; the new file needs them too.
    since: Option<Vec<u8>>,
}

/// Rewrite of the register with the held locks alone. Any thread may write it.
pub(super) struct Rewrite {
    /// Path of the register, not of the new file.
    path: PathBuf,
    /// The locks at the start of the rewrite.
    held: Vec<RegisterEntry>,
}

impl Register {
    /// Opens the register in `dir` and returns the locks that it holds, expired ones included.
    ///
    /// # Errors
    /// If it cannot be read or written, or has lines that are not a register's (`InvalidData`).
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
        let renewed = rewrite.write().and_then(|file| rewrite.put(file, sync));
        let (file, whole, lines) = match renewed {
            Ok(file) => (file, None, rewrite.held.len()),
            // A full disk may still have room for a line.
            Err(error) if !is_new => {
                tracing::warn!(%error, file = %path.display(), "cannot rewrite the lock register");
                let file = OpenOptions::new().append(true).open(&path).map_err(named)?;
                // An earlier version gave it another mode.
                file.set_permissions(Permissions::from_mode(MODE)).map_err(named)?;
                (file, None, lines)
            }
            Err(error) => return Err(named(error)),
        };
        Ok((Register { path, file, whole, lines, since: None }, rewrite.held))
    }

    /// Begins a rewrite if the file has become much longer than the `count` locks in `held`.
    /// [`Register::replace`] ends it.
    pub(super) fn rewrite(&mut self, count: usize, held: impl Iterator<Item = RegisterEntry>) -> Option<Rewrite> {
        if self.since.is_some() || self.lines < 2 * count + SLACK {
            return None;
        }
        self.since = Some(Vec::new());
        Some(Rewrite { path: self.path.clone(), held: held.collect() })
    }

    /// Ends a rewrite: switches to the new file, after appending the lines that were written
    /// meanwhile. Keeps the old file if that fails.
    pub(super) fn replace(&mut self, rewrite: &Rewrite, written: io::Result<File>) {
        self.replace_by(rewrite, written, sync);
    }

    /// As [`Register::replace`]; `sync` is an argument for tests.
    fn replace_by(&mut self, rewrite: &Rewrite, written: io::Result<File>, sync: fn(&Path) -> io::Result<()>) {
        let since = self.since.take().unwrap_or_default();
        let lines = rewrite.held.len() + since.iter().filter(|byte| **byte == b'\n').count();
        let replaced = written.and_then(|mut file| {
            file.write_all(&since)?;
            rewrite.put(file, sync)
        });
        match replaced {
            Ok(file) => (self.file, self.whole, self.lines) = (file, None, lines),
            Err(error) => {
                // Tried again only after as many lines again.
                self.lines = rewrite.held.len();
                tracing::warn!(%error, file = %self.path.display(), "cannot rewrite the lock register");
            }
        }
    }
}

impl<F: AppendFile> Register<F> {
    /// Writes a grant.
    ///
    /// # Errors
    /// If it cannot be written; a reader skips the part that was.
    pub(super) fn begin(&mut self, entry: &RegisterEntry) -> io::Result<()> {
        self.append(&RegisterLine::Held(entry.clone()))
    }

    /// Writes a release. If that fails, a later reader takes the lock as held until it expires or
    /// its resource is granted again.
    pub(super) fn end(&mut self, uid: &str) {
        if let Err(error) = self.append(&RegisterLine::Ended(uid.to_owned())) {
            tracing::warn!(%error, file = %self.path.display(), "cannot write the release of a lock");
        }
    }

    /// A failed append is cut off again, or the next line begins with a line feed.
    ///
    /// # Errors
    /// Of the file system; the line does not count then.
    fn append(&mut self, line: &RegisterLine) -> io::Result<()> {
        let mut text = Vec::new();
        if self.whole.is_none() {
            // The line before may be torn.
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
    /// Writes and syncs a file beside the register.
    ///
    /// # Errors
    /// Of the file system.
    pub(super) fn write(&self) -> io::Result<File> {
        let mut text = Vec::new();
        for entry in &self.held {
            serde_json::to_writer(&mut text, &RegisterLine::Held(entry.clone())).map_err(io::Error::other)?;
            text.push(b'\n');
        }
        let mut file = OpenOptions::new().create(true).append(true).mode(MODE).open(self.beside())?;
        // A process may have died while writing it, one of an earlier version with another mode.
        file.set_permissions(Permissions::from_mode(MODE))?;
        file.set_len(0)?;
        file.write_all(&text)?;
        // Without it a loss of power may leave the name with an empty file.
        file.sync_all()?;
        Ok(file)
    }

    /// Renames the new file over the register; `sync` brings the names in the folder to the disk.
    ///
    /// # Errors
    /// If the rename fails; the register is still the old file then.
    fn put(&self, file: File, sync: fn(&Path) -> io::Result<()>) -> io::Result<File> {
        rename(self.beside(), &self.path)?;
        // Not an error: appends must go to the file that has the name now.
        if let Some(dir) = self.path.parent()
            && let Err(error) = sync(dir)
        {
            tracing::warn!(%error, file = %self.path.display(), "a loss of power may undo the last rewrite of the locks");
        }
        Ok(file)
    }

    /// Path of the new file, `locks.new`.
    fn beside(&self) -> PathBuf {
        self.path.with_extension("new")
    }
}

/// Brings the names in `dir` to the disk.
fn sync(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// Line of the register, parsed.
enum ParsedLine {
    /// A complete line, perhaps after a torn one.
    Whole(RegisterLine),
    /// Part of a line.
    Torn,
    /// Anything else.
    Foreign(serde_json::Error),
}

/// Held locks in order of their grants, and the number of lines.
///
/// # Errors
/// Of the file system, and `InvalidData` for a line that is none of a register.
fn read(file: impl BufRead) -> io::Result<(Vec<RegisterEntry>, usize)> {
    let (mut held, mut lines): (Vec<Option<RegisterEntry>>, usize) = (Vec::new(), 0);
    let (mut by_uid, mut by_resource) = (HashMap::new(), HashMap::new());
    for line in file.split(b'\n') {
        lines += 1;
        match parse(&line?) {
            ParsedLine::Whole(RegisterLine::Held(entry)) => {
                // Of two grants of one resource the first had expired; the second would have been refused otherwise.
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
                let why = format!(
                    "line {lines} is not a line of a lock register ({error}); move the file away to start without it"
                );
                return Err(io::Error::new(io::ErrorKind::InvalidData, why));
            }
        }
    }
    Ok((held.into_iter().flatten().collect(), lines))
}

/// Never fails: a line is whole, torn or foreign.
fn parse(line: &[u8]) -> ParsedLine {
    let error = match serde_json::from_slice(line) {
        Ok(said) => return ParsedLine::Whole(said),
        Err(error) => error,
    };
    // A torn line is followed by a complete one on the same line if the next append did not know of the tear.
    let begins = |at: &usize| BEGINNINGS.iter().any(|beginning| line[*at..].starts_with(beginning));
    if let Some(said) = (1..line.len()).rfind(begins).and_then(|at| serde_json::from_slice(&line[at..]).ok()) {
        return ParsedLine::Whole(said);
    }
    // After a loss of power a file may have its length, with zeros for bytes that did not reach the disk.
    let is_cut = |beginning: &&[u8]| line.starts_with(beginning) || beginning.starts_with(line);
    let is_torn = error.is_eof() && BEGINNINGS.iter().any(is_cut) || line.contains(&0);
    if is_torn { ParsedLine::Torn } else { ParsedLine::Foreign(error) }
}

#[cfg(test)]
mod tests;
