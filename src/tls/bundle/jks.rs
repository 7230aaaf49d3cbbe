//! JKS trust store: Java's own format, which every version of Java reads, and which needs no `keytool`.
//!
//! Layout: magic number, version, number of entries; for each entry its tag, alias, date in
//! milliseconds, type and certificate; at the end a keyed SHA-1. Numbers are big-endian, texts have
//! a length of two bytes.

/// Magic number and version at the start of a store (`JavaKeyStore.java` of OpenJDK).
const MAGIC: u32 = 0xFEED_FEED;
/// Version 2, the one that names the type of each certificate.
const VERSION: u32 = 2;
/// Tag of a trusted-certificate entry.
const TRUSTED: u32 = 2;
/// Password of Java's own store (`cacerts`). It protects nothing: the store holds only public certificates.
pub(super) const PASSWORD: &str = "changeit";
/// Salt that the format mixes into its digest.
const SALT: &[u8] = b"Mighty Aphrodite";

/// Encodes a store of these certificates (DER). The first has the alias `lockgate`; all bear one date.
///
/// `made_unix_ms`: date of the entries, in milliseconds of Unix time. Equal arguments give equal
/// bytes, so that an unchanged store is not written again.
pub(super) fn trust_store(certificates: &[&[u8]], made_unix_ms: u64) -> Vec<u8> {
    let mut store = Vec::new();
    put_u32(&mut store, MAGIC);
    put_u32(&mut store, VERSION);
    put_u32(&mut store, length(certificates));
    for (index, certificate) in certificates.iter().enumerate() {
        put_u32(&mut store, TRUSTED);
        let alias = if index == 0 { "lockgate".to_owned() } else { format!("root-{index}") };
        put_text(&mut store, &alias);
        store.extend_from_slice(&made_unix_ms.to_be_bytes());
        put_text(&mut store, "X.509");
        put_u32(&mut store, length(certificate));
        store.extend_from_slice(certificate);
    }
    let digest = digest(&store);
    store.extend_from_slice(digest.as_ref());
    store
}

/// SHA-1 over password, salt and store, by which Java notices damage. The format has no other digest.
pub(super) fn digest(store: &[u8]) -> ring::digest::Digest {
    let mut digest = ring::digest::Context::new(&ring::digest::SHA1_FOR_LEGACY_USE_ONLY);
    PASSWORD.encode_utf16().for_each(|unit| digest.update(&unit.to_be_bytes()));
    digest.update(SALT);
    digest.update(store);
    digest.finish()
}

/// Appends four bytes, big-endian.
fn put_u32(store: &mut Vec<u8>, number: u32) {
    store.extend_from_slice(&number.to_be_bytes());
}

/// Appends a text as `DataOutputStream.writeUTF` does; our texts are short and ASCII.
fn put_text(store: &mut Vec<u8>, text: &str) {
    let length = u16::try_from(text.len()).unwrap_or(u16::MAX);
    store.extend_from_slice(&length.to_be_bytes());
    store.extend_from_slice(text.as_bytes());
}

fn length<T>(of: &[T]) -> u32 {
    u32::try_from(of.len()).unwrap_or(u32::MAX)
}
