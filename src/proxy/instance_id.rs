//! Identity of a process for collectors of OpenTelemetry: `service.instance.id`.

use std::sync::Arc;

use ring::rand::{SecureRandom, SystemRandom};

/// A random UUID (RFC 9562, version 4). Each process has another one, so that the counters of two processes are never
/// taken for one series, as while one takes over from the other.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct InstanceId(Arc<str>);

impl Default for InstanceId {
    fn default() -> InstanceId {
        let mut random = [0; 16];
        // Without random numbers it is the same for all; nothing but names of series depends on it.
        SystemRandom::new().fill(&mut random).ok();
        let bits = u128::from_be_bytes(random) & !(0xf << 76) | 4 << 76;
        let bits = bits & !(0b11 << 62) | 0b10 << 62;
        let hex = format!("{bits:032x}");
        let parts = [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]];
        InstanceId(parts.join("-").into())
    }
}

impl InstanceId {
    /// The UUID as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_is_a_random_uuid() {
        let (one, other) = (InstanceId::default(), InstanceId::default());
        assert_ne!(one, other);
        let parts: Vec<&str> = one.as_str().split('-').collect();
        assert_eq!(parts.iter().map(|part| part.len()).collect::<Vec<_>>(), [8, 4, 4, 4, 12], "{one:?}");
        assert!(parts[2].starts_with('4') && parts[3].starts_with(['8', '9', 'a', 'b']), "{one:?}");
    }
}
