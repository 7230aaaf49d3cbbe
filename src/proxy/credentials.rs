//! Canonical form of Authorization credentials, so that another spelling does not make another key.

use std::borrow::Cow;

use base64::Engine;
use base64::alphabet;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};

/// `Basic` credentials with base64 that some servers accept and others do not.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct NotBase64;

/// Reads base64 as lenient servers do: without padding, and with trailing bits in the last letter that belong to no
/// byte.
const LENIENT: GeneralPurposeConfig = GeneralPurposeConfig::new()
    .with_decode_padding_mode(DecodePaddingMode::Indifferent)
    .with_decode_allow_trailing_bits(true);
const BASIC: GeneralPurpose = GeneralPurpose::new(&alphabet::STANDARD, LENIENT);
const TOKEN: GeneralPurpose = GeneralPurpose::new(&alphabet::URL_SAFE, LENIENT.with_encode_padding(false));

/// Canonical value of an Authorization field: the scheme in lower case (RFC 9110 §11.1), one space behind it, and
/// base64, where the scheme uses it, encoded again. A value without a scheme stays as it is.
///
/// # Errors
/// If the scheme is `Basic` and its credentials are no base64: lenient servers skip invalid characters.
pub(super) fn spell(value: &[u8]) -> Result<Cow<'_, [u8]>, NotBase64> {
    let Some(space) = value.iter().position(u8::is_ascii_whitespace) else { return Ok(value.into()) };
    let (scheme, credentials) = (&value[..space], value[space..].trim_ascii());
    let mut spelt = scheme.to_ascii_lowercase();
    let is_basic = spelt == b"basic";
    spelt[..1].make_ascii_uppercase();
    spelt.push(b' ');
    if is_basic {
        let plain = BASIC.decode(credentials).map_err(|_| NotBase64)?;
        spelt.extend_from_slice(BASIC.encode(plain).as_bytes());
    } else if is_json_web_token(credentials) {
        let parts = credentials.split(|byte| *byte == b'.').map(spell_part);
        spelt.extend_from_slice(&parts.collect::<Vec<_>>().join(&b'.'));
    } else {
        let words = credentials.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
        spelt.extend_from_slice(&words.collect::<Vec<_>>().join(&b' '));
    }
    Ok(spelt.into())
}

/// True if credentials have the form of a signed or encrypted token (RFC 7515 §7.1, RFC 7516 §7.1).
fn is_json_web_token(credentials: &[u8]) -> bool {
    let dots = credentials.iter().filter(|byte| **byte == b'.').count();
    let is_list = credentials.iter().any(|byte| byte.is_ascii_whitespace() || matches!(byte, b'"' | b','));
    matches!(dots, 2 | 4) && !is_list
}

/// Part of a token, encoded canonically. Verifiers skip invalid characters, so one signature could be written in many
/// ways.
fn spell_part(part: &[u8]) -> Vec<u8> {
    let known = part.iter().filter_map(|byte| match byte {
        b'+' => Some(b'-'),
        b'/' => Some(b'_'),
        b'-' | b'_' => Some(*byte),
        _ => byte.is_ascii_alphanumeric().then_some(*byte),
    });
    let known: Vec<u8> = known.collect();
    TOKEN.decode(&known).map_or(known, |plain| TOKEN.encode(plain).into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spelt(value: &str) -> String {
        String::from_utf8(spell(value.as_bytes()).expect("base64").into_owned()).expect("ASCII")
    }

    #[test]
    fn the_usual_spelling_is_the_one() {
        for usual in ["Bearer abc.DEF", "Basic eDp5eg==", "Bearer aGVhZA.Ym9keQ.c2lnbmF0dXJl", "Token x y", "raw", ""] {
            assert_eq!(spelt(usual), usual);
        }
    }

    #[test]
    fn schemes_have_no_case_and_spaces_count_once() {
        assert_eq!(spelt("BEARER  \t T"), "Bearer T");
        assert_eq!(spelt("digest a=1,  b=\"c\""), "Digest a=1, b=\"c\"");
        assert_ne!(spelt("Bearer T"), spelt("Bearer t"));
        assert_ne!(spelt("T"), spelt("t"), "which is no scheme");
    }

    #[test]
    fn base64_is_what_it_says() {
        assert_eq!(spelt("basic eDp5eh"), "Basic eDp5eg==");
        for wrong in ["Basic eDp!5eg==", "Basic eDp5eg==x", "Basic eDp5 eg==", "Basic e", "Basic eDp5-g"] {
            assert_eq!(spell(wrong.as_bytes()), Err(NotBase64), "{wrong}");
        }
    }

    #[test]
    fn a_token_with_a_lenient_signature_is_the_same_token() {
        let token = spelt("Bearer aGVhZA.Ym9keQ.c2lnbmF0dXJl");
        for same in ["aGVhZA.Ym9keQ.c2ln!bmF0dXJl", "aGVhZA.Ym9keQ.c2lnbmF0dXJl==", "aGVhZB.Ym9keX.c2lnbmF0dXJl"] {
            assert_eq!(spelt(&format!("bearer {same}")), token);
        }
        assert_ne!(spelt("Bearer aGVhZA.Ym9keQ.c2lnbmF0dXJm"), token);
        assert_ne!(spelt("Bearer aGVhZQ.Ym9keQ.c2lnbmF0dXJl"), token);
    }
}
