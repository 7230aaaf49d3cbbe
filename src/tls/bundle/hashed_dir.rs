//! OpenSSL hashed directory: a folder of roots, each in a file named by the hash of its subject.
//!
//! A program that makes an OpenSSL context for each request, as Python's `requests.get` does,
//! parses a bundle of all roots each time (20 ms of CPU). In a hashed directory OpenSSL opens only
//! the file that it needs.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use x509_parser::asn1_rs::{Any, Tag, ToDer};
use x509_parser::x509::X509Name;

use super::super::pem::encode_certificates;
use super::atomic_write::{write_atomically, write_error};

/// Mode of the folder: any user may read it.
const DIR_MODE: u32 = 0o755;

/// Makes the folder hold these certificates (DER) and nothing else. Unchanged files are not
/// touched.
///
/// Hidden files stay: they are temporary files of another process.
///
/// # Errors
/// If the folder cannot be created or read, or a file cannot be written.
pub(super) fn write(folder: &Path, certificates: &[&[u8]]) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(DIR_MODE).create(folder).map_err(|error| write_error(folder, &error))?;
    let files = files(certificates);
    for (name, pem) in &files {
        write_atomically(&folder.join(name), pem.as_bytes())?;
    }
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        // A root that is no longer trusted must not be found. Another process may have removed its file meanwhile.
        if !entry.file_name().to_str().is_some_and(|name| files.contains_key(name) || name.starts_with('.')) {
            fs::remove_file(entry.path()).ok();
        }
    }
    Ok(())
}

/// Content of the files by their names: `HASH.0`, and `HASH.1` for another certificate with the
/// same hash.
///
/// Bytes that are no certificate are left out. Example of a name: `9d66eef0.0`.
fn files(certificates: &[&[u8]]) -> BTreeMap<String, String> {
    let mut seen: HashMap<u32, u32> = HashMap::new();
    let mut files = BTreeMap::new();
    for certificate in certificates {
        let Some(hash) = subject_hash(certificate) else { continue };
        let number = seen.entry(hash).or_default();
        files.insert(format!("{hash:08x}.{number}"), encode_certificates(&[certificate]));
        *number += 1;
    }
    files
}

/// OpenSSL's subject hash (`openssl x509 -subject_hash`, since 1.0.0): the first four bytes,
/// little-endian, of the SHA-1 of the canonical subject. `None` if the bytes are not a certificate.
fn subject_hash(certificate: &[u8]) -> Option<u32> {
    let (_rest, certificate) = x509_parser::parse_x509_certificate(certificate).ok()?;
    let digest = digest(&SHA1_FOR_LEGACY_USE_ONLY, &canonical_name(certificate.subject())?);
    let bytes = digest.as_ref().first_chunk()?;
    Some(u32::from_le_bytes(*bytes))
}

/// OpenSSL's canonical form of a name (`x509_name_canon` in crypto/x509/x_name.c): its sets without
/// the enclosing sequence, and all texts as UTF-8, in lower case, with single spaces.
fn canonical_name(name: &X509Name<'_>) -> Option<Vec<u8>> {
    let mut sets = Vec::new();
    for set in name.iter_rdn() {
        let mut members = Vec::new();
        for attribute in set.iter() {
            let kind = attribute.attr_type().to_der_vec().ok()?;
            members.push(der_element(Tag::Sequence, &[kind, canonical_value(attribute.attr_value())?].concat()));
        }
        // DER orders the members of a set by their bytes (X.690 §11.6).
        members.sort();
        sets.extend(der_element(Tag::Set, &members.concat()));
    }
    Some(sets)
}

/// Canonical form of one attribute value; a value that is not text stays as it is.
///
/// Leading and trailing white space is dropped, and inner white space becomes one space.
fn canonical_value(any: &Any<'_>) -> Option<Vec<u8>> {
    let text = match any.header.tag() {
        Tag::Utf8String => String::from_utf8_lossy(any.data).into_owned(),
        Tag::PrintableString | Tag::Ia5String | Tag::VisibleString | Tag::T61String => {
            // OpenSSL treats T61 as Latin-1; the other types are ASCII.
            any.data.iter().copied().map(char::from).collect()
        }
        Tag::BmpString => {
            let units: Vec<u16> = any.data.chunks_exact(2).map(|unit| u16::from_be_bytes([unit[0], unit[1]])).collect();
            String::from_utf16_lossy(&units)
        }
        Tag::UniversalString => {
            let points = any.data.chunks_exact(4).map(|unit| u32::from_be_bytes([unit[0], unit[1], unit[2], unit[3]]));
            points.map(|point| char::from_u32(point).unwrap_or(char::REPLACEMENT_CHARACTER)).collect()
        }
        _ => return any.to_der_vec().ok(),
    };
    let mut plain = String::with_capacity(text.len());
    for word in text.split(|c: char| c.is_ascii_whitespace() || c == '\u{b}').filter(|word| !word.is_empty()) {
        if !plain.is_empty() {
            plain.push(' ');
        }
        plain.push_str(&word.to_ascii_lowercase());
    }
    Some(der_element(Tag::Utf8String, plain.as_bytes()))
}

/// Encodes an element of DER (X.690 §8.1): tag, length, content.
fn der_element(tag: Tag, content: &[u8]) -> Vec<u8> {
    let constructed = if matches!(tag, Tag::Sequence | Tag::Set) { 0x20 } else { 0 };
    let mut element = vec![u8::try_from(tag.0).unwrap_or(0) | constructed];
    let length = content.len().to_be_bytes();
    let length = &length[length.iter().take_while(|byte| **byte == 0).count()..];
    match length {
        [] => element.push(0),
        [short] if *short < 0x80 => element.push(*short),
        long => {
            element.push(0x80 | u8::try_from(long.len()).unwrap_or(0));
            element.extend_from_slice(long);
        }
    }
    element.extend_from_slice(content);
    element
}
