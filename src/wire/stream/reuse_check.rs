//! Reuse of an idle connection: checks whether it can carry another message.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::{Context, Waker};

use tokio::task::coop::unconstrained;

use super::{Stream, Transport};

impl Stream {
    /// True if an idle connection can carry another message: it was neither closed nor written to by the peer (RFC 9112
    /// §9.3, §9.5). Costs a system call: tokio does not know of bytes that arrived since its last poll, and reports
    /// nothing to a task without budget, so a surplus response could be taken for the next one.
    ///
    /// A byte that is found is lost, which does not matter: a connection with a surplus byte is not used again.
    pub fn is_reusable(&mut self) -> bool {
        if let Some(tcp) = self.tcp_mut() {
            tcp.force_read();
        }
        match &mut self.transport {
            Transport::Origin(stream) => stream.is_usable(),
            Transport::Plain(_) | Transport::Tls(_) | Transport::Caller(_) | Transport::Closed => {
                let read = unconstrained(poll_fn(|cx| self.poll_read(cx, &mut [0_u8; 1])));
                pin!(read).poll(&mut Context::from_waker(Waker::noop())).is_pending()
            }
        }
    }

    /// As [`Stream::is_reusable`], but without a system call unless bytes are known to have arrived since the last
    /// read: for a connection that was read a moment ago.
    pub fn seems_reusable(&mut self) -> bool {
        match &self.transport {
            Transport::Plain(tcp) if self.pushback.is_empty() && !tcp.may_have_input() => true,
            Transport::Plain(_)
            | Transport::Tls(_)
            | Transport::Caller(_)
            | Transport::Origin(_)
            | Transport::Closed => self.is_reusable(),
        }
    }
}
