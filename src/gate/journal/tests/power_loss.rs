//! Crashes and losses of power at each write of a stop and of a start: what was granted is known afterwards.

use std::collections::BTreeMap;

use super::*;

/// One operation on the disk.
#[derive(Clone, Debug)]
enum DiskStep {
    /// Offset and content.
    Write(u64, Vec<u8>),
    /// New length.
    SetLen(u64),
    /// All earlier steps are on the disk.
    Sync,
}

/// Disk that notes all its steps.
#[derive(Debug)]
struct RecordedDisk {
    image: Mutex<Vec<u8>>,
    steps: Arc<Mutex<Vec<DiskStep>>>,
}

fn apply(image: &mut Vec<u8>, step: &DiskStep) {
    match step {
        DiskStep::Write(offset, bytes) => {
            let (start, end) = (*offset as usize, *offset as usize + bytes.len());
            // A write after a lost change of the length makes the file longer itself.
            image.resize(image.len().max(end), 0);
            image[start..end].copy_from_slice(bytes);
        }
        DiskStep::SetLen(len) => image.resize(*len as usize, 0),
        DiskStep::Sync => {}
    }
}

impl RecordedDisk {
    fn step(&self, step: DiskStep) -> io::Result<()> {
        apply(&mut self.image.lock().unwrap(), &step);
        self.steps.lock().unwrap().push(step);
        Ok(())
    }
}

impl redb::StorageBackend for RecordedDisk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.image.lock().unwrap().len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        out.copy_from_slice(&self.image.lock().unwrap()[offset as usize..][..out.len()]);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.step(DiskStep::SetLen(len))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.step(DiskStep::Sync)
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.step(DiskStep::Write(offset, data.to_vec()))
    }
}

/// Slots granted to each key.
type SlotsByKey = BTreeMap<u128, u32>;

/// A gate whose file lies on a recorded disk.
struct Recording {
    gate: Arc<Gate>,
    before: Vec<u8>,
    steps: Arc<Mutex<Vec<DiskStep>>>,
    /// Slots granted by the time that so many steps were done.
    granted: Vec<(usize, SlotsByKey)>,
}

const N: u32 = 30;

fn settings(folder: &TestFolder) -> crate::gate::Settings {
    crate::gate::Settings { limits: vec![limit(N, HOUR)], state: Some(folder.settings()), store: None }
}

impl Recording {
    /// Opens the gate of a folder, and moves its file to a recorded disk before the first write.
    fn open(folder: &TestFolder, clock: Clock, granted: &SlotsByKey) -> Recording {
        let (gate, _) = Gate::open(settings(folder), clock).unwrap();
        let steps: Arc<Mutex<Vec<DiskStep>>> = Arc::default();
        let file = &gate.journal.get().unwrap().file;
        *file.lock().unwrap() = None;
        let before = fs::read(folder.file()).unwrap();
        let disk = RecordedDisk { image: Mutex::new(before.clone()), steps: Arc::clone(&steps) };
        *file.lock().unwrap() = Some(File::on_disk(disk, &folder.file()));
        gate.start_journal().unwrap();
        Recording { gate, before, steps, granted: vec![(0, granted.clone())] }
    }

    fn go(&mut self, key: u128, asked: u32) {
        let gone = go(&self.gate, key, asked as usize) as u32;
        let mut granted = self.granted.last().unwrap().1.clone();
        *granted.entry(key).or_default() += gone;
        assert!(granted[&key] <= N, "key {key}");
        self.granted.push((self.steps.lock().unwrap().len(), granted));
    }

    /// Ends the gate, and checks all ends of the file that a crash or a loss of power leaves.
    fn check(self, folder: &TestFolder, clock: Clock) -> SlotsByKey {
        let Recording { gate, before, steps, granted } = self;
        let mark = folder.0.join(COMPLETE_MARK);
        kill(gate);
        assert!(mark.exists());
        let steps = steps.lock().unwrap().clone();
        assert!(steps.iter().filter(|step| matches!(step, DiskStep::Sync)).count() >= 2, "{} steps", steps.len());
        let mut synced = before.clone();
        let mut unsynced: Vec<&DiskStep> = Vec::new();
        for (number, step) in steps.iter().enumerate() {
            let known = &granted.iter().rev().find(|(steps, _)| *steps <= number).unwrap().1;
            let check = |image: &[u8], how: &str| check_image(folder, clock, image, known, &format!("{how} {number}"));
            // A process that is killed leaves all steps so far, the last one in part.
            let mut image = synced.clone();
            unsynced.iter().for_each(|step| apply(&mut image, step));
            if let DiskStep::Write(offset, bytes) = step {
                apply(&mut image, &DiskStep::Write(*offset, bytes[..bytes.len() / 2].to_vec()));
            }
            check(&image, "killed at step");
            // A loss of power leaves any of the steps since the last sync.
            let mut image = synced.clone();
            let kept = |index: &usize| (index * 7 + number * 3) % 4 < 2;
            unsynced.iter().enumerate().filter(|(index, _)| kept(index)).for_each(|(_, step)| apply(&mut image, step));
            check(&image, "power lost at step");
            unsynced.push(step);
            if matches!(step, DiskStep::Sync) {
                unsynced.drain(..).for_each(|step| apply(&mut synced, step));
            }
        }
        unsynced.into_iter().for_each(|step| apply(&mut synced, step));
        fs::write(folder.file(), &synced).unwrap();
        granted.last().unwrap().1.clone()
    }
}

/// Asserts that a gate which starts with this file knows at least these slots.
fn check_image(folder: &TestFolder, clock: Clock, image: &[u8], granted: &SlotsByKey, how: &str) {
    fs::write(folder.file(), image).unwrap();
    let (gate, _) = Gate::open(settings(folder), clock).unwrap_or_else(|error| panic!("{how}: {error}"));
    for (key, granted) in granted {
        let taken = usage(&gate, *key).taken;
        assert!(taken >= *granted, "{how}: key {key} has {granted} slots, of which {taken} are known");
    }
}

#[test]
fn an_end_at_any_write_of_a_stop_or_a_start_forgets_no_slot() {
    let (folder, (clock, hand)) = (TestFolder::new("power"), Clock::manual());
    hand.pass(HOUR);
    drop(Gate::open(settings(&folder), clock).unwrap());
    // A first start, whose keys get rows; then a crash.
    let mut recording = Recording::open(&folder, clock, &SlotsByKey::new());
    (0..8).for_each(|key| recording.go(key, 11 + key as u32));
    let mut granted = recording.check(&folder, clock);
    // A start that writes a base, rows over it, and an orderly stop.
    let mut recording = Recording::open(&folder, clock, &granted);
    (0..3).for_each(|key| recording.go(key, 1));
    recording.gate.stop();
    granted = recording.check(&folder, clock);
    // A start that goes on with that file, rows over its base, and a crash.
    let mut recording = Recording::open(&folder, clock, &granted);
    recording.go(2, 1);
    recording.go(9, 4);
    granted = recording.check(&folder, clock);
    // All slots have opened: the file is replaced by an empty one.
    hand.pass(HOUR + HOUR);
    granted.clear();
    let recording = Recording::open(&folder, clock, &granted);
    recording.check(&folder, clock);
}
