//! PROVES: who we are, who they are.
//!
//! It speaks TLS over a connection that is handed to it, and says in a user's words why a certificate was not
//! accepted. It never opens a connection, and never accepts a certificate that does not check out: there is no switch
//! for that.

pub mod accept;
pub mod bundle;
pub mod ca;
pub mod client_hello;
pub mod identity;
pub mod pem;
pub mod verify;
