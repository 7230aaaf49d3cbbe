//! TLS: certificates, their verification, and the local certificate authority.
//!
//! Speaks TLS over a stream that it is given, and explains in a user's words why a certificate was
//! rejected. Never opens a connection, and never accepts a certificate that fails verification:
//! there is no switch for that.
//!
//! | module | holds |
//! |---|---|
//! | [`pem`] | PEM files |
//! | [`identity`] | a certificate chain with its key |
//! | [`client_hello`] | server names of tunnelled connections |
//! | [`accept`] | server side of a handshake |
//! | [`listener_tls`] | a listener's certificate, which a reload replaces |
//! | [`verify`] | client side of a handshake, verification of origins |
//! | [`ca`] | the local authority and its leaves |
//! | [`bundle`] | trust stores for programs behind the gateway |

pub mod accept;
pub mod bundle;
pub mod ca;
pub mod client_hello;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
pub mod identity;
pub mod listener_tls;
pub mod pem;
pub mod verify;
