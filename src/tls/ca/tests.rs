//! Tests of the authority in a temporary folder; rustls' own verifier judges its leaves.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;

use rustls::pki_types::{ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, HandshakeKind, RootCertStore, ServerConnection};

use super::super::pem;
use super::*;
use std::path::PathBuf;

const SECOND: i128 = 1_000_000_000;
const DAY: i128 = 86_400 * SECOND;
/// Some day in 2026.
const NOW: i128 = 1_780_000_000 * SECOND;

/// Temporary folder, removed on drop.
struct CaDir(PathBuf);

impl CaDir {
    fn new(test: &str) -> CaDir {
        let path = std::env::temp_dir().join(format!("lockgate-ca-{}-{test}", std::process::id()));
        fs::remove_dir_all(&path).ok();
        CaDir(path)
    }

    fn settings(&self, covers: &[&str]) -> Settings {
        let subtree = |text: &&str| match text.parse() {
            Ok(address) => Subtree::Address(address),
            Err(_) if *text == "*" => Subtree::Any,
            Err(_) => Subtree::Name((*text).to_owned()),
        };
        Settings { dir: self.0.clone(), covers: covers.iter().map(subtree).collect() }
    }

    fn names(&self) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(&self.0).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

impl Drop for CaDir {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).ok();
    }
}

/// Clock for rustls that stands still.
#[derive(Debug)]
struct FixedClock(i128);

impl rustls::time_provider::TimeProvider for FixedClock {
    fn current_time(&self) -> Option<UnixTime> {
        let seconds = u64::try_from(self.0 / SECOND).unwrap();
        Some(UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds)))
    }
}

/// TLS client that trusts the authority in the folder.
fn caller(dir: &Path, now: i128) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(pem::certificates(&certificate_path(dir)).unwrap().remove(0)).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_details(provider, Arc::new(FixedClock(now)))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Arc::new(config)
}

/// Handshake between this client and a server with this leaf.
fn shake(caller: &Arc<ClientConfig>, leaf: &Arc<ServerConfig>, host: &str) -> Result<ClientConnection, String> {
    let name = ServerName::try_from(host.to_owned()).unwrap();
    let mut caller = ClientConnection::new(Arc::clone(caller), name).unwrap();
    let mut ours = ServerConnection::new(Arc::clone(leaf)).unwrap();
    while caller.wants_write() || ours.wants_write() {
        let mut wire = Vec::new();
        while caller.wants_write() {
            caller.write_tls(&mut wire).unwrap();
        }
        ours.read_tls(&mut &wire[..]).unwrap();
        ours.process_new_packets().map_err(|error| error.to_string())?;
        wire.clear();
        while ours.wants_write() {
            ours.write_tls(&mut wire).unwrap();
        }
        caller.read_tls(&mut &wire[..]).unwrap();
        caller.process_new_packets().map_err(|error| error.to_string())?;
    }
    assert!(!caller.is_handshaking() && !ours.is_handshaking());
    Ok(caller)
}

/// Negotiated protocol of a client that trusts the authority in the folder, or its complaint about this leaf.
fn shown(dir: &Path, leaf: &Arc<ServerConfig>, host: &str, now: i128) -> Result<Vec<u8>, String> {
    Ok(shake(&caller(dir, now), leaf, host)?.alpn_protocol().unwrap().to_vec())
}

fn fault(settings: &Settings, now: i128) -> String {
    let told = match CertAuthority::open(settings, now) {
        Ok(_) => panic!("it is accepted"),
        Err(error) => error.to_string(),
    };
    let looked = inspect(settings, now).unwrap_err().to_string();
    assert_eq!(told, looked, "who only looks is told the same");
    told.replace(&settings.dir.display().to_string(), "D")
}

#[tokio::test]
async fn a_leaf_is_believed_by_whoever_believes_the_authority() {
    let folder = CaDir::new("believed");
    let hosts = ["api.example", "deep.below.api.example", "my_service", "127.0.0.1", "::1"];
    let settings = folder.settings(&["api.example", "my_service", "127.0.0.1", "::1"]);
    let made = CertAuthority::open(&settings, NOW).unwrap();
    let kept = CertAuthority::open(&settings, NOW).unwrap();
    for authority in [made, kept] {
        for host in hosts {
            let leaf = authority.leaf(host, NOW).await.unwrap();
            assert_eq!(shown(&folder.0, &leaf, host, NOW).as_deref(), Ok(&b"h2"[..]), "{host}");
            assert!(shown(&folder.0, &leaf, "other.example", NOW).unwrap_err().contains("not valid for name"));
        }
    }
}

#[tokio::test]
async fn a_leaf_for_a_host_that_is_not_covered_is_refused_by_callers() {
    let folder = CaDir::new("constraints");
    let cases: [(&[&str], &[&str], &[&str]); 4] = [
        (&["api.example"], &["api.example", "x.api.example"], &["example", "xapi.example", "127.0.0.1", "::1"]),
        (&["127.0.0.1"], &["127.0.0.1"], &["127.0.0.2", "::1", "localhost", "a.example"]),
        (&["a.example", "::1"], &["a.example", "::1"], &["::2", "127.0.0.1", "b.example"]),
        (&["*"], &["a.example", "127.0.0.1", "::1", "localhost"], &[]),
    ];
    for (covers, good, bad) in cases {
        let settings = folder.settings(covers);
        rotate(&settings, NOW).unwrap();
        let authority = CertAuthority::open(&settings, NOW).unwrap();
        for host in good {
            let leaf = authority.leaf(host, NOW).await.unwrap();
            assert!(shown(&folder.0, &leaf, host, NOW).is_ok(), "{covers:?} {host}");
        }
        for host in bad {
            let leaf = authority.leaf(host, NOW).await.unwrap();
            let told = shown(&folder.0, &leaf, host, NOW).unwrap_err();
            assert!(told.contains("NameConstraintViolation"), "{covers:?} {host}: {told}");
        }
    }
}

#[tokio::test]
async fn a_leaf_is_kept_while_it_is_fresh_and_made_anew_in_time() {
    let folder = CaDir::new("fresh");
    let authority = CertAuthority::open(&folder.settings(&["a.example"]), NOW).unwrap();
    let first = authority.leaf("a.example", NOW).await.unwrap();
    let later = authority.leaf("a.example", NOW + 5 * DAY - SECOND).await.unwrap();
    assert!(Arc::ptr_eq(&first, &later), "two days are left");
    let renewed = authority.leaf("a.example", NOW + 5 * DAY).await.unwrap();
    assert!(!Arc::ptr_eq(&first, &renewed), "fewer are left");
    let there = |leaf, now| shown(&folder.0, leaf, "a.example", now);
    assert!(there(&first, NOW - DAY).is_ok() && there(&first, NOW + 7 * DAY).is_ok(), "from yesterday, for seven days");
    assert!(there(&first, NOW + 7 * DAY + SECOND).unwrap_err().contains("expired"));
    assert!(there(&renewed, NOW + 12 * DAY).is_ok());
    let set_back = authority.leaf("a.example", NOW + 3 * DAY).await.unwrap();
    assert!(there(&set_back, NOW + 3 * DAY).is_ok(), "the clock was set back past its first moment");
    assert!(!Arc::ptr_eq(&renewed, &set_back));
}

#[tokio::test]
async fn those_who_ask_at_one_time_get_one_leaf() {
    let folder = CaDir::new("at-once");
    let authority = CertAuthority::open(&folder.settings(&["a.example"]), NOW).unwrap();
    let ask = || authority.leaf("a.example", NOW);
    let (a, b, c) = tokio::join!(ask(), ask(), ask());
    let (a, b, c) = (a.unwrap(), b.unwrap(), c.unwrap());
    assert!(Arc::ptr_eq(&a, &b) && Arc::ptr_eq(&b, &c));
    let other = authority.leaf("b.example", NOW).await.unwrap();
    assert!(!Arc::ptr_eq(&a, &other), "another host has another");
}

#[tokio::test]
async fn a_session_is_resumed_with_its_leaf_and_never_with_another() {
    let folder = CaDir::new("resumed");
    let settings = folder.settings(&["a.example"]);
    let authority = CertAuthority::open(&settings, NOW).unwrap();
    let leaf = authority.leaf("a.example", NOW - 5 * DAY).await.unwrap();
    let caller = caller(&folder.0, NOW);
    let kind = |leaf| shake(&caller, leaf, "a.example").map(|done| done.handshake_kind().unwrap());
    assert_eq!(kind(&leaf), Ok(HandshakeKind::Full));
    assert_eq!(kind(&leaf), Ok(HandshakeKind::Resumed));
    let renewed = authority.leaf("a.example", NOW).await.unwrap();
    assert_eq!(kind(&renewed), Ok(HandshakeKind::Full), "the leaf is a new one");
    rotate(&settings, NOW).unwrap();
    let other = CertAuthority::open(&settings, NOW).unwrap().leaf("a.example", NOW).await.unwrap();
    assert!(kind(&other).unwrap_err().contains("invalid peer certificate"), "the authority is a new one");
}

#[tokio::test]
async fn a_leaf_never_outlives_its_authority() {
    let folder = CaDir::new("outlives");
    let authority = CertAuthority::open(&folder.settings(&["a.example"]), NOW).unwrap();
    let end = NOW + 3_650 * DAY;
    let last = authority.leaf("a.example", end - DAY).await.unwrap();
    assert!(shown(&folder.0, &last, "a.example", end).is_ok());
    let told = authority.leaf("a.example", end + SECOND).await.unwrap_err().to_string();
    assert!(told.starts_with("our authority expired on 2036-"), "{told}");
    let no_name = authority.leaf("\u{e4}.example", NOW).await.unwrap_err().to_string();
    assert!(no_name.starts_with("\"\u{e4}.example\" is not a name that a certificate can bear"), "{no_name}");
}

#[test]
fn it_is_made_once_with_a_key_that_only_its_owner_can_read() {
    let folder = CaDir::new("made");
    let settings = folder.settings(&["a.example"]);
    assert_eq!(inspect(&settings, NOW).unwrap(), None, "who looks makes nothing");
    assert!(!folder.0.exists());
    let made = open_or_create(&settings, NOW).unwrap();
    assert_eq!(open_or_create(&settings, NOW).unwrap(), made, "it is kept");
    assert_eq!(inspect(&settings, NOW).unwrap(), Some(made.clone()));
    assert_eq!(folder.names(), ["lockgate-ca.key", "lockgate-ca.pem"], "nothing is left beside them");
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&folder.0), 0o700);
    assert_eq!(mode(&key_path(&folder.0)), 0o600);
    assert!(made.subject.contains("lockgate CA (") && made.subject.contains(", 2026-05-28, "), "{}", made.subject);
    assert_eq!(made.not_after - made.not_before, 3_651 * 86_400);
    assert_eq!(made.scope.to_string(), "a.example, and what is below this name");
}

#[test]
fn several_who_need_it_at_one_time_end_up_with_one() {
    let folder = CaDir::new("race");
    let settings = folder.settings(&["a.example"]);
    for _ in 0..5 {
        fs::remove_dir_all(&folder.0).ok();
        let summaries: Vec<_> = std::thread::scope(|scope| {
            let makers: Vec<_> = (0..8).map(|_| scope.spawn(|| open_or_create(&settings, NOW).unwrap())).collect();
            makers.into_iter().map(|maker| maker.join().unwrap().fingerprint).collect()
        });
        assert!(summaries.iter().all(|one| *one == summaries[0]));
        assert_eq!(inspect(&settings, NOW).unwrap().unwrap().fingerprint, summaries[0], "it is the one that is kept");
    }
}

#[test]
fn who_reads_while_it_is_rotated_reads_the_old_or_the_new_one() {
    let folder = CaDir::new("rotate-race");
    let settings = folder.settings(&["a.example"]);
    open_or_create(&settings, NOW).unwrap();
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..3)
            .map(|_| scope.spawn(|| (0..40).for_each(|_| drop(inspect(&settings, NOW).unwrap().unwrap()))))
            .collect();
        for _ in 0..10 {
            rotate(&settings, NOW).unwrap();
        }
        readers.into_iter().for_each(|reader| reader.join().unwrap());
    });
}

#[test]
fn a_rotated_authority_is_a_new_one_and_the_old_certificate_is_kept() {
    let folder = CaDir::new("rotate");
    let settings = folder.settings(&["a.example"]);
    let old = open_or_create(&settings, NOW).unwrap();
    let (old_pem, old_key) = (fs::read(certificate_path(&folder.0)).unwrap(), fs::read(key_path(&folder.0)).unwrap());
    let wider = folder.settings(&["b.example"]);
    let new = rotate(&wider, NOW).unwrap();
    assert!(new.fingerprint != old.fingerprint && new.subject != old.subject);
    assert_eq!(inspect(&wider, NOW).unwrap(), Some(new));
    assert_eq!(fs::read(old_certificate_path(&folder.0)).unwrap(), old_pem);
    assert_ne!(fs::read(key_path(&folder.0)).unwrap(), old_key);
    assert_eq!(folder.names(), ["lockgate-ca-old.pem", "lockgate-ca.key", "lockgate-ca.pem"]);
}

#[test]
fn rotation_mends_whatever_is_there() {
    let folder = CaDir::new("mend");
    let settings = folder.settings(&["a.example"]);
    rotate(&settings, NOW).unwrap();
    fs::write(certificate_path(&folder.0), "nothing").unwrap();
    fs::remove_file(key_path(&folder.0)).unwrap();
    // Left behind by a crash, and read-only.
    let leftover = folder.0.join(".lockgate-ca.key.new");
    fs::write(&leftover, "half").unwrap();
    fs::set_permissions(&leftover, Permissions::from_mode(0o444)).unwrap();
    let new = rotate(&settings, NOW).unwrap();
    assert_eq!(inspect(&settings, NOW).unwrap(), Some(new));
    assert_eq!(folder.names(), ["lockgate-ca.key", "lockgate-ca.pem"], "what nobody can believe is not kept");
}

#[test]
fn files_that_cannot_be_an_authority_are_told_with_what_to_do() {
    let folder = CaDir::new("unfit");
    let settings = folder.settings(&["a.example"]);
    open_or_create(&settings, NOW).unwrap();
    let (path, key) = (certificate_path(&folder.0), key_path(&folder.0));
    let (pem, key_pem) = (fs::read_to_string(&path).unwrap(), fs::read_to_string(&key).unwrap());
    let rotate = "; `lockgate ca rotate` makes a new authority";

    fs::set_permissions(&key, Permissions::from_mode(0o640)).unwrap();
    let told = "the private key D/lockgate-ca.key may be read or written by others (its mode is 640); run `chmod 600 D/lockgate-ca.key`";
    assert_eq!(fault(&settings, NOW), told);
    fs::set_permissions(&key, Permissions::from_mode(0o600)).unwrap();

    fs::write(&key, rcgen::KeyPair::generate().unwrap().serialize_pem()).unwrap();
    assert_eq!(fault(&settings, NOW), format!("D/lockgate-ca.key is not the key of D/lockgate-ca.pem{rotate}"));
    fs::write(&key, "nothing").unwrap();
    assert_eq!(fault(&settings, NOW), format!("D/lockgate-ca.key holds no private key{rotate}"));
    fs::write(&key, "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n").unwrap();
    let told = fault(&settings, NOW);
    assert!(told.starts_with("D/lockgate-ca.key cannot be used as our authority: its key cannot be used"), "{told}");
    fs::write(&key, &key_pem).unwrap();

    let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    fs::write(&path, broken).unwrap();
    let told = fault(&settings, NOW);
    assert!(told.starts_with("D/lockgate-ca.pem cannot be used as our authority: it is no certificate: "), "{told}");
    let leaf = rcgen::generate_simple_self_signed(vec!["a.example".to_owned()]).unwrap();
    fs::write(&path, leaf.cert.pem()).unwrap();
    let told = "D/lockgate-ca.pem cannot be used as our authority: it is not the certificate of an authority";
    assert_eq!(fault(&settings, NOW), format!("{told}{rotate}"));
    fs::write(&path, &pem).unwrap();

    fs::remove_file(&key).unwrap();
    let told = "D/lockgate-ca.pem is there, but D/lockgate-ca.key is not; put D/lockgate-ca.key back; or `lockgate ca rotate` makes a new authority";
    assert_eq!(fault(&settings, NOW), told);
    fs::write(&key, &key_pem).unwrap();
    fs::set_permissions(&key, Permissions::from_mode(0o600)).unwrap();
    fs::remove_file(&path).unwrap();
    assert!(fault(&settings, NOW).starts_with("D/lockgate-ca.key is there, but D/lockgate-ca.pem is not; "));
}

#[test]
fn an_authority_out_of_its_time_or_for_other_hosts_is_told() {
    let folder = CaDir::new("time");
    let settings = folder.settings(&["a.example"]);
    open_or_create(&settings, NOW).unwrap();
    assert!(
        CertAuthority::open(&settings, NOW - DAY).is_ok() && CertAuthority::open(&settings, NOW + 3_650 * DAY).is_ok()
    );
    let told = fault(&settings, NOW + 3_651 * DAY);
    assert!(told.starts_with("the authority in D/lockgate-ca.pem expired on 2036-05-25T"), "{told}");
    let told = fault(&settings, NOW - 2 * DAY);
    assert!(told.starts_with("the authority in D/lockgate-ca.pem is not valid before 2026-05-27T"), "{told}");
    let told = fault(&folder.settings(&["x.a.example", "b.example"]), NOW);
    let expected = "the authority in D/lockgate-ca.pem may not vouch for b.example, only for a.example, and what is below this name; \
        `lockgate ca rotate` makes a new authority for the hosts that [tls] intercept names now";
    assert_eq!(told, expected);
    assert!(fault(&folder.settings(&["*"]), NOW).contains("may not vouch for every host"));
    assert!(fault(&folder.settings(&["10.0.0.1"]), NOW).contains("may not vouch for 10.0.0.1"));
}

#[test]
fn a_folder_that_cannot_be_made_is_told() {
    let folder = CaDir::new("folder");
    fs::write(&folder.0, "a file").unwrap();
    let settings = Settings { dir: folder.0.join("certs"), covers: vec![] };
    let told = open_or_create(&settings, NOW).unwrap_err().to_string();
    assert!(told.contains("cannot ") && told.contains("/certs"), "{told}");
    fs::remove_file(&folder.0).unwrap();
}
