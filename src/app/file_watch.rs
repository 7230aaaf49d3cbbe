//! File watch: reloads the configuration when its file has changed.
//!
//! Polls the file's metadata. That needs no kernel interface, and works on every file system, for
//! files that are replaced and for symbolic links that are turned elsewhere, as Kubernetes does
//! with its config maps.
//!
//! A change is reloaded once it is still for one interval. A file that is missing for a moment, as
//! editors leave it while they save, is waited for.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};

use super::reload::Reloader;
use crate::audit::Author;

/// Time between two looks at the file, and for how long it must stay the same before it is read: a
/// file that is still being written is not. A choice: the effect comes within a second, for two
/// calls of stat(2) per second.
const POLL_INTERVAL: Duration = Duration::from_millis(500);

/// Metadata that tells two versions of a file apart: device, inode, size, and modification time in
/// seconds and nanoseconds. `None`: there is no file.
type FileStamp = Option<(u64, u64, u64, i64, i64)>;

/// Reads the metadata of a file, or of the target of a symbolic link.
fn stamp(path: &Path) -> FileStamp {
    let found = fs::metadata(path).ok()?;
    Some((found.dev(), found.ino(), found.size(), found.mtime(), found.mtime_nsec()))
}

/// Looks at a file, one after the other.
#[derive(Default)]
struct FileLooks {
    /// The last version that was reported.
    known: FileStamp,
    /// The version of the last look.
    last: FileStamp,
}

impl FileLooks {
    /// Notes a look. True for a version that is new, and that the look before has seen, too: also for the first one, as the
    /// file may have changed since the start has read it.
    fn note(&mut self, now: FileStamp) -> bool {
        let is_still = std::mem::replace(&mut self.last, now) == now;
        let is_new = is_still && now.is_some() && now != self.known;
        if is_new {
            self.known = now;
        }
        is_new
    }
}

/// Reloads the file each time that it has changed, if `[config] watch` is on in the configuration
/// in force. Never returns.
pub(super) async fn watch(reloader: Rc<Reloader>) {
    let mut looks = FileLooks::default();
    let mut poll = interval(POLL_INTERVAL);
    poll.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        poll.tick().await;
        if !looks.note(stamp(reloader.path())) {
            continue;
        }
        if reloader.is_watching().await {
            // Saved by the admin API, or rewritten with the same text: limits that were tuned since stay tuned.
            if reloader.is_file_unchanged() {
                continue;
            }
            // A failure is logged.
            let by = Author::File(reloader.path().display().to_string());
            Rc::clone(&reloader).reload_and_log(by).await.ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_version_is_reported_once_it_has_kept_still_and_so_is_the_first() {
        let version = |nanos| Some((1, 2, 3, 4, nanos));
        let looks = [version(1), version(1), version(1), version(2), version(3), version(3), None, None, version(3)];
        let mut file = FileLooks::default();
        let reported = looks.map(|look| file.note(look));
        assert_eq!(reported, [false, true, false, false, false, true, false, false, false]);
    }
}
