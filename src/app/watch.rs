//! Looks whether the file has changed.
//!
//! By its metadata, once in a while: that needs no kernel interface, and works on every file system, for files that are
//! replaced and for links that are turned elsewhere, as Kubernetes does with its config maps.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};

use super::reload::Reloader;

/// How often to look. A file that is being written is read when it has been the same for as long.
const LOOK: Duration = Duration::from_millis(500);

/// What tells one state of a file from another; `None`: there is no file.
type State = Option<(u64, u64, u64, i64, i64)>;

fn state(path: &Path) -> State {
    let found = fs::metadata(path).ok()?;
    Some((found.dev(), found.ino(), found.size(), found.mtime(), found.mtime_nsec()))
}

/// Has the file read again whenever it has changed, if the file that is in force asks for that.
pub(super) async fn watch(reloader: Rc<Reloader>) {
    let mut known = state(reloader.path());
    let mut last = known;
    let mut look = interval(LOOK);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        look.tick().await;
        let now = state(reloader.path());
        let is_still = now == last;
        last = now;
        if !is_still || now == known || now.is_none() {
            continue;
        }
        known = now;
        if reloader.watches().await {
            // Written by us, or anew with the same words: what was tuned since holds on.
            if reloader.is_as_read() {
                continue;
            }
            // It was logged.
            Rc::clone(&reloader).reload_aloud().await.ok();
        }
    }
}
