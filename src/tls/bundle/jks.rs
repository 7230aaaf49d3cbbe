//! A trust store in Java's own format (JKS), which every version of Java reads and which needs no `keytool`.

/// What the format begins with, and its version.
const MAGIC: u32 = 0xFEED_FEED;
const VERSION: u32 = 2;
/// The kind of an entry that is a certificate to believe.
const TRUSTED: u32 = 2;
/// The password that Java's own store has. It protects nothing: whoever can read the store can read all in it.
pub(super) const PASSWORD: &str = "changeit";
/// What the format mixes into its digest.
const SALT: &[u8] = b"Mighty Aphrodite";

/// A store that holds these certificates (DER). The first is called `lockgate`; all bear one date.
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

/// What shows that nobody changed the store by accident. The format knows no other digest than SHA-1.
pub(super) fn digest(store: &[u8]) -> ring::digest::Digest {
    let mut digest = ring::digest::Context::new(&ring::digest::SHA1_FOR_LEGACY_USE_ONLY);
    PASSWORD.encode_utf16().for_each(|unit| digest.update(&unit.to_be_bytes()));
    digest.update(SALT);
    digest.update(store);
    digest.finish()
}

fn put_u32(store: &mut Vec<u8>, number: u32) {
    store.extend_from_slice(&number.to_be_bytes());
}

/// As `DataOutputStream.writeUTF` does it; our texts are short and ASCII.
fn put_text(store: &mut Vec<u8>, text: &str) {
    let length = u16::try_from(text.len()).unwrap_or(u16::MAX);
    store.extend_from_slice(&length.to_be_bytes());
    store.extend_from_slice(text.as_bytes());
}

fn length<T>(of: &[T]) -> u32 {
    u32::try_from(of.len()).unwrap_or(u32::MAX)
}
