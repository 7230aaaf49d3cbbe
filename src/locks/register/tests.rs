//! A register whose disk fails: no lock that was given is forgotten, and none that was not given is held.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;

use super::*;

fn entry(uid: &str) -> RegisterEntry {
    let (resource, title) = (format!("of-{uid}"), "t".to_owned());
    RegisterEntry { uid: uid.to_owned(), resource, title, wait: 0.5, lifetime: 1.5, until: 1 << 70 }
}

fn folder(name: &str) -> PathBuf {
    let dir = std::env::temp_dir().join(format!("lockgate-locks-{}-{name}", std::process::id()));
    std::fs::remove_dir_all(&dir).ok();
    dir
}

/// A file that takes so many bytes, and can be cut or not.
struct Disk {
    bytes: Vec<u8>,
    room: usize,
    can_be_cut: bool,
}

impl Write for Disk {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let fits = bytes.len().min(self.room);
        if fits == 0 {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.room -= fits;
        self.bytes.extend(&bytes[..fits]);
        Ok(fits)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl AppendFile for Disk {
    fn size(&self) -> io::Result<u64> {
        Ok(self.bytes.len() as u64)
    }

    fn cut(&mut self, size: u64) -> io::Result<()> {
        if !self.can_be_cut {
            return Err(io::ErrorKind::Other.into());
        }
        self.bytes.truncate(usize::try_from(size).unwrap());
        Ok(())
    }
}

fn uids(bytes: &[u8]) -> Vec<String> {
    read(bytes).unwrap().0.into_iter().map(|entry| entry.uid).collect()
}

#[test]
fn a_disk_that_fails_at_any_byte_forgets_no_lock_that_was_given() {
    let length = serde_json::to_vec(&RegisterLine::Held(entry("a"))).unwrap().len() + 2;
    for can_be_cut in [true, false] {
        // The second line is torn after each of its bytes; then there is room again.
        for torn_at in 0..length {
            let file = Disk { bytes: Vec::new(), room: usize::MAX, can_be_cut };
            let mut register = Register { path: PathBuf::new(), file, whole: Some(0), lines: 0, since: None };
            register.begin(&entry("a")).unwrap();
            register.file.room = torn_at;
            // A line that lacks but its end, and cannot be cut off, is believed: that keeps a lock back, and gives none twice.
            let given = register.begin(&entry("b")).is_ok() || (torn_at == length - 2 && !can_be_cut);
            register.end("a");
            register.file.room = usize::MAX;
            let told = uids(&register.file.bytes);
            assert_eq!(told.contains(&"b".to_owned()), given, "torn at {torn_at}: {told:?}");
            register.begin(&entry("c")).unwrap();
            register.end("c");
            register.begin(&entry("d")).unwrap();
            let mut wanted = vec!["a", "b", "d"];
            wanted.retain(|uid| *uid != "b" || given);
            assert_eq!(uids(&register.file.bytes), wanted, "torn at {torn_at}: the end of a could not be noted");
        }
    }
}

#[test]
fn a_line_that_an_earlier_version_wrote_behind_a_torn_one_is_read() {
    let whole = serde_json::to_vec(&RegisterLine::Held(entry("b"))).unwrap();
    let ended = serde_json::to_vec(&RegisterLine::Ended("b".to_owned())).unwrap();
    for torn in 1..whole.len() {
        let glued = [&whole[..torn], &whole[..], b"\n"].concat();
        assert_eq!(uids(&glued), ["b"], "torn at {torn}");
        let glued = [&whole[..], b"\n", &whole[..torn], &ended[..], b"\n", &whole[..]].concat();
        assert_eq!(uids(&glued), ["b"], "torn at {torn}: the last line has no end, and was told for all anyone knows");
    }
    let zeros = [&whole[..], b"\n", &[0; 4096]].concat();
    assert_eq!(uids(&zeros), ["b"], "after a loss of power");
    assert_eq!(uids(&[&zeros[..], &ended[..], b"\n"].concat()), [""; 0]);
}

#[test]
fn of_two_that_hold_one_resource_the_last_does() {
    let held = |uid: &str| RegisterLine::Held(RegisterEntry { resource: "r".to_owned(), ..entry(uid) });
    let lines = [held("a"), held("b"), RegisterLine::Ended("a".to_owned())];
    let text: Vec<u8> =
        lines.iter().flat_map(|line| [serde_json::to_vec(line).unwrap(), b"\n".to_vec()].concat()).collect();
    assert_eq!(uids(&text), ["b"]);
}

#[test]
fn a_long_list_is_read_in_one_go() {
    let (mut text, count) = (Vec::new(), 60_000);
    for line in (0..count).map(|uid| RegisterLine::Held(entry(&uid.to_string()))) {
        serde_json::to_writer(&mut text, &line).unwrap();
        text.push(b'\n');
    }
    for line in (0..count).rev().skip(1).map(|uid| RegisterLine::Ended(uid.to_string())) {
        serde_json::to_writer(&mut text, &line).unwrap();
        text.push(b'\n');
    }
    // Each end against each lock would be 2 billion comparisons, which takes minutes.
    assert_eq!(uids(&text), [(count - 1).to_string()]);
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
    OpenOptions::new().append(true).open(dir.join(FILE)).unwrap().write_all(b"{\"held\":{\"ui").unwrap();
    let (register, left) = Register::open(&dir).unwrap();
    assert_eq!((left, register.lines), (vec![entry("a"), entry("c")], 2));
    std::fs::remove_dir_all(dir).unwrap();
}

#[test]
fn no_other_user_of_the_machine_can_read_the_ids() {
    let dir = folder("private");
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::set_permissions(&dir, Permissions::from_mode(0o755)).unwrap();
    let exposed = |name: &str| {
        let path = dir.join(FILE).with_extension(name);
        std::fs::write(&path, "").unwrap();
        std::fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
    };
    let is_private = || std::fs::metadata(dir.join(FILE)).unwrap().permissions().mode() & 0o077 == 0;
    Register::open(&dir).unwrap().0.begin(&entry("a")).unwrap();
    assert!(is_private());
    // A process died while it wrote the new file.
    exposed("new");
    Register::open(&dir).unwrap().0.begin(&entry("b")).unwrap();
    assert!(is_private());
    // The file of an earlier version cannot be written anew.
    exposed("jsonl");
    std::fs::create_dir(dir.join(FILE).with_extension("new")).unwrap();
    Register::open(&dir).unwrap().0.begin(&entry("c")).unwrap();
    assert!(is_private());
    std::fs::remove_dir_all(dir).unwrap();
}

#[test]
fn what_is_none_of_ours_is_not_believed() {
    let dir = folder("foreign");
    std::fs::create_dir_all(&dir).unwrap();
    for foreign in ["hello\nworld\n", "{\"held\":5}\n", "{\"other\":", "\u{feff}{}\n"] {
        std::fs::write(dir.join(FILE), foreign).unwrap();
        let Err(error) = Register::open(&dir) else { panic!("{foreign:?} was read") };
        assert!(error.to_string().contains("locks.jsonl: line 1 is not a line of a lock register"), "{error}");
    }
    std::fs::remove_dir_all(dir).unwrap();
}

#[test]
fn a_start_needs_no_room_for_another_file() {
    let dir = folder("no-room");
    let (mut register, _) = Register::open(&dir).unwrap();
    register.begin(&entry("a")).unwrap();
    // What cannot be written stands in for a disk without room.
    std::fs::create_dir(dir.join(FILE).with_extension("new")).unwrap();
    let (mut register, left) = Register::open(&dir).unwrap();
    assert_eq!(left, [entry("a")]);
    register.begin(&entry("b")).unwrap();
    assert_eq!(Register::open(&dir).unwrap().1, [entry("a"), entry("b")]);
    std::fs::remove_dir_all(dir).unwrap();
}

/// Takes so many locks of one resource after the other, and counts how many lines are written anew for it.
fn lines_written_anew(register: &mut Register, held: &[RegisterEntry], takes: usize) -> usize {
    let mut anew = 0;
    for _ in 0..takes {
        register.begin(&entry("x")).unwrap();
        if let Some(rewrite) = register.rewrite(held.len(), held.iter().cloned()) {
            anew += held.len();
            // What comes while it is written is kept.
            register.begin(&entry("meanwhile")).unwrap();
            let written = rewrite.write();
            register.begin(&entry("later")).unwrap();
            register.replace(&rewrite, written);
        }
    }
    anew
}

#[test]
fn it_does_not_grow_for_ever_and_is_not_written_anew_each_time() {
    let dir = folder("grow");
    for held in [0, 12_000] {
        let (mut register, _) = Register::open(&dir).unwrap();
        let held: Vec<RegisterEntry> = (0..held).map(|number| entry(&number.to_string())).collect();
        let takes = 2 * (held.len() + SLACK);
        let anew = lines_written_anew(&mut register, &held, takes);
        assert!(anew <= takes + held.len(), "{anew} lines for {takes}");
        assert!(register.lines <= 2 * held.len() + SLACK + 2, "{}", register.lines);
        let left: Vec<String> = Register::open(&dir).unwrap().1.into_iter().map(|entry| entry.uid).collect();
        for uid in ["x", "meanwhile", "later"] {
            assert!(left.contains(&uid.to_owned()), "{uid} is lost");
        }
        std::fs::remove_dir_all(&dir).unwrap();
    }
}

#[test]
fn a_rewritten_file_that_has_the_name_is_appended_to_though_its_folder_cannot_be_synced() {
    let dir = folder("unsynced");
    let (mut register, _) = Register::open(&dir).unwrap();
    register.lines = SLACK;
    let rewrite = register.rewrite(0, std::iter::empty()).unwrap();
    let written = rewrite.write();
    // As when no descriptor is left to open the folder with.
    register.replace_by(&rewrite, written, |_| Err(io::ErrorKind::Other.into()));
    register.begin(&entry("a")).unwrap();
    assert_eq!(Register::open(&dir).unwrap().1, [entry("a")]);
    std::fs::remove_dir_all(dir).unwrap();
}

#[test]
fn a_file_that_cannot_be_written_anew_is_gone_on_with() {
    let dir = folder("stuck");
    let (mut register, _) = Register::open(&dir).unwrap();
    register.lines = SLACK;
    let rewrite = register.rewrite(0, std::iter::empty()).unwrap();
    register.begin(&entry("a")).unwrap();
    assert!(register.rewrite(0, std::iter::empty()).is_none(), "one at a time");
    register.replace(&rewrite, Err(io::ErrorKind::StorageFull.into()));
    register.begin(&entry("b")).unwrap();
    assert!(register.rewrite(0, std::iter::empty()).is_none(), "not again at once");
    assert_eq!(Register::open(&dir).unwrap().1, [entry("a"), entry("b")]);
    std::fs::remove_dir_all(dir).unwrap();
}
