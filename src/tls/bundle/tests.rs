//! Tests of the trust bundles: files are written and read back.

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, KeyPair};

use super::*;
use std::os::unix::fs::PermissionsExt;
use std::thread;

/// Temporary folder with an authority in it.
struct BundleDir(PathBuf);

impl BundleDir {
    fn new(test: &str) -> BundleDir {
        let folder = std::env::temp_dir().join(format!("lockgate-bundle-{}-{test}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let folder = BundleDir(folder);
        folder.put("lockgate-ca.pem", &root("ours"));
        folder
    }

    fn put(&self, name: &str, certificate: &[u8]) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, encode_certificates(&[certificate])).unwrap();
        path
    }

    fn write(&self, before: &Inherited) -> Bundle {
        Bundle::write(&self.0, &self.0, before).unwrap()
    }

    fn ours(&self) -> Vec<u8> {
        read_pem(&ca::certificate_path(&self.0)).remove(0)
    }
}

impl Drop for BundleDir {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).ok();
    }
}

fn root(name: &str) -> Vec<u8> {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
}

fn read_pem(path: &Path) -> Vec<Vec<u8>> {
    pem::certificates(path).unwrap().into_iter().map(|certificate| certificate.to_vec()).collect()
}

/// Entries of a trust store (alias, date, certificate), read as Java reads them.
fn read_store(bytes: &[u8]) -> Vec<(String, u64, Vec<u8>)> {
    let (store, end) = bytes.split_at(bytes.len() - 20);
    assert_eq!(jks::digest(store).as_ref(), end, "Java says: password was incorrect");
    let mut rest = store;
    let mut take = |count: usize| {
        let (taken, after) = rest.split_at(count);
        rest = after;
        taken.to_vec()
    };
    let number = |bytes: Vec<u8>| bytes.iter().fold(0_u64, |number, byte| number << 8 | u64::from(*byte));
    assert_eq!(number(take(4)), 0xFEED_FEED);
    assert_eq!(number(take(4)), 2);
    let count = number(take(4));
    let mut entries = Vec::new();
    for _ in 0..count {
        assert_eq!(number(take(4)), 2, "a trusted certificate");
        let length = number(take(2)) as usize;
        let alias = String::from_utf8(take(length)).unwrap();
        let date = number(take(8));
        let length = number(take(2)) as usize;
        assert_eq!(take(length), b"X.509");
        let length = number(take(4)) as usize;
        entries.push((alias, date, take(length)));
    }
    assert!(rest.is_empty());
    entries
}

#[test]
fn a_store_for_java_holds_all_that_the_bundle_holds() {
    let folder = BundleDir::new("java");
    let bundle = folder.write(&Inherited::default());
    let entries = read_store(&fs::read(&bundle.java).unwrap());
    assert_eq!(
        entries.iter().map(|(_, _, certificate)| certificate.clone()).collect::<Vec<_>>(),
        read_pem(&bundle.all)
    );
    assert_eq!(entries[0].0, "lockgate");
    assert_eq!(entries[0].2, folder.ours());
    let aliases: BTreeSet<_> = entries.iter().map(|(alias, ..)| alias).collect();
    assert_eq!(aliases.len(), entries.len(), "each has a name of its own");
    assert!(entries.iter().all(|(_, date, _)| *date > 1_600_000_000_000), "{:?}", entries[0].1);
}

#[test]
fn the_bundle_holds_the_systems_roots_and_ours() {
    let folder = BundleDir::new("all");
    let bundle = folder.write(&Inherited::default());
    let all: Roots = read_pem(&bundle.all).into_iter().collect();
    assert!(all.contains(&folder.ours()));
    assert!(
        system_roots().is_subset(&all) && all.len() == system_roots().len() + 1,
        "{} and ours: {}",
        system_roots().len(),
        all.len()
    );
    assert_eq!(bundle.ours, ca::certificate_path(&folder.0));
    assert_eq!(bundle.all, folder.0.join("bundle.pem"));
    let mode = fs::metadata(&bundle.all).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o644);
}

#[test]
fn the_folder_holds_each_root_of_the_bundle_once_and_what_is_no_longer_believed_goes() {
    let folder = BundleDir::new("hashed");
    // Two roots of one name, as after a company has renewed its authority.
    let before = Inherited {
        replacing: vec![folder.put("1.pem", &root("twin")), folder.put("2.pem", &root("twin"))],
        additional: Vec::new(),
    };
    let bundle = folder.write(&before);
    let found = || -> Roots {
        let files = fs::read_dir(&bundle.folder).unwrap().map(|entry| entry.unwrap().path());
        files.flat_map(|file| read_pem(&file)).collect()
    };
    let all: Roots = read_pem(&bundle.all).into_iter().collect();
    assert_eq!(found(), all);
    fs::write(bundle.folder.join("01234567.0"), encode_certificates(&[&root("distrusted")])).unwrap();
    assert_ne!(found(), all);
    folder.write(&before);
    assert_eq!(found(), all);
}

#[test]
fn a_file_that_is_right_is_not_written_again() {
    let folder = BundleDir::new("again");
    let inodes = |bundle: &Bundle| {
        [&bundle.all, &bundle.java].map(|path| std::os::unix::fs::MetadataExt::ino(&fs::metadata(path).unwrap()))
    };
    let first = folder.write(&Inherited::default());
    let before = inodes(&first);
    assert_eq!(inodes(&folder.write(&Inherited::default())), before);
    fs::write(&first.all, "damaged").unwrap();
    assert_ne!(inodes(&folder.write(&Inherited::default()))[0], before[0]);
    assert!(read_pem(&first.all).contains(&folder.ours()));
    let left: Vec<_> = fs::read_dir(&folder.0).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left.len(), 4, "nothing else stays behind: {left:?}");
}

#[test]
fn what_was_believed_before_is_believed_still_and_by_nobody_else() {
    let folder = BundleDir::new("before");
    let (company, node) = (root("company"), root("node"));
    let before = Inherited {
        replacing: vec![folder.put("company.pem", &company)],
        additional: vec![folder.put("node.pem", &node)],
    };
    let bundle = folder.write(&before);
    let all = read_pem(&bundle.all);
    for certificate in [&company, &node, &folder.ours()] {
        assert!(all.contains(certificate));
    }
    let added = read_pem(&bundle.ours);
    assert!(added.contains(&node) && added.contains(&folder.ours()) && !added.contains(&company));
    let other = folder.write(&Inherited::default());
    assert_ne!(other.all, bundle.all);
    assert!(!read_pem(&other.all).contains(&company));
    assert!(read_pem(&bundle.all).contains(&company), "a program that runs keeps its file as it is");
    // A program that inherits our files has them in its environment and passes them on.
    let nested =
        folder.write(&Inherited { replacing: vec![bundle.all.clone()], additional: vec![bundle.ours.clone()] });
    assert_eq!(nested, bundle);
}

#[test]
fn after_a_rotation_both_authorities_are_believed() {
    let folder = BundleDir::new("rotated");
    let old = folder.ours();
    folder.put("lockgate-ca-old.pem", &old);
    folder.put("lockgate-ca.pem", &root("the new one"));
    let bundle = folder.write(&Inherited::default());
    for path in [&bundle.ours, &bundle.all] {
        let found = read_pem(path);
        assert!(found.contains(&old) && found.contains(&folder.ours()), "{}", path.display());
    }
}

#[test]
fn folders_are_read_too_and_what_cannot_be_read_is_said() {
    let folder = BundleDir::new("folders");
    let company = root("company");
    let certs = folder.0.join("certs");
    fs::create_dir(&certs).unwrap();
    folder.put("certs/one.pem", &company);
    let gone = folder.0.join("gone.pem");
    let bundle = folder.write(&Inherited { replacing: vec![certs, gone.clone()], additional: Vec::new() });
    assert!(read_pem(&bundle.all).contains(&company));
    assert_eq!(bundle.unreadable.len(), 1, "{:?}", bundle.unreadable);
    assert!(bundle.unreadable[0].contains(&gone.display().to_string()), "{:?}", bundle.unreadable);
}

#[test]
fn a_folder_that_cannot_be_written_is_named() {
    let folder = BundleDir::new("unwritable");
    let file = folder.put("a-file", &root("no folder"));
    let told = Bundle::write(&folder.0, &file, &Inherited::default()).unwrap_err().to_string();
    assert!(told.starts_with(&format!("cannot write {}", file.display())), "{told}");
}

#[test]
fn writers_with_one_process_id_leave_one_whole_content() {
    let folder = BundleDir::new("writers");
    let path = folder.0.join("file");
    let contents = [b'a', b'b'].map(|byte| vec![byte; 1 << 20]);
    write_atomically(&path, &contents[0]).unwrap();
    thread::scope(|scope| {
        // Threads stand in for processes of several containers, where each has the id 1.
        let (path, contents) = (&path, &contents);
        // A content that is there already is not written again.
        let write =
            |first: usize| (first..first + 200).for_each(|at| write_atomically(path, &contents[at % 2]).unwrap());
        let writers = [0, 1].map(|first| scope.spawn(move || write(first)));
        while writers.iter().any(|writer| !writer.is_finished()) {
            let found = fs::read(path).unwrap();
            assert!(contents.contains(&found), "{} bytes are part of both contents, or of one", found.len());
        }
    });
    let left = fs::read_dir(&folder.0).unwrap().count();
    assert_eq!(left, 2, "the file and the authority alone");
}
