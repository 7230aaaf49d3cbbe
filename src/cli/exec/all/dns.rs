//! DNS server for the namespace of a program: answers each name with an address that stands for it.
//!
//! A name is looked up outside first, as the gateway does, so that one that does not exist does not seem
//! to. Only addresses of IPv4 are given; other types exist and are empty (NODATA), but for names of this
//! machine.

use std::cell::RefCell;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::rc::Rc;
use std::sync::Arc;

use simple_dns::rdata::{A, AAAA, RData};
use simple_dns::{CLASS, OPCODE, Packet, PacketFlag, QCLASS, QTYPE, RCODE, ResourceRecord, TYPE};

use super::names::Names;
use crate::net::resolve::Resolver;

/// Time for which a program may keep an address, in seconds: the lookup is cheap, and the table forgets.
const TTL: u32 = 60;

/// The server's state, shared by its queries.
pub(super) struct NameServer {
    resolver: Arc<Resolver>,
    names: Rc<RefCell<Names>>,
}

impl NameServer {
    /// A server that adds the names it is asked for to `names`.
    ///
    /// # Errors
    /// If the system gives no threads for lookups.
    pub(super) fn new(names: Rc<RefCell<Names>>) -> io::Result<NameServer> {
        Ok(NameServer { resolver: Resolver::new()?, names })
    }

    /// Answer to a query; `None` for bytes that are none, which get no answer.
    pub(super) async fn answer(&self, query: &[u8]) -> Option<Vec<u8>> {
        let query = Packet::parse(query).ok().filter(|query| !query.has_flags(PacketFlag::RESPONSE))?;
        let mut reply = Packet::new_reply(query.id());
        reply.set_flags(PacketFlag::RECURSION_AVAILABLE);
        if query.has_flags(PacketFlag::RECURSION_DESIRED) {
            reply.set_flags(PacketFlag::RECURSION_DESIRED);
        }
        let [question] = &query.questions[..] else { return failure(reply, RCODE::FormatError) };
        if query.opcode() != OPCODE::StandardQuery || question.qclass != QCLASS::CLASS(CLASS::IN) {
            return failure(reply, RCODE::NotImplemented);
        }
        reply.questions.push(question.clone());
        let name = question.qname.to_string().to_ascii_lowercase();
        match self.look_up(&name, question.qtype).await {
            Ok(data) => {
                let records =
                    data.into_iter().map(|data| ResourceRecord::new(question.qname.clone(), CLASS::IN, TTL, data));
                reply.answers.extend(records);
                reply.build_bytes_vec().ok()
            }
            Err(code) => failure(reply, code),
        }
    }

    /// Data for a name.
    async fn look_up(&self, name: &str, kind: QTYPE) -> Result<Option<RData<'static>>, RCODE> {
        let (four, six) = (kind == QTYPE::TYPE(TYPE::A), kind == QTYPE::TYPE(TYPE::AAAA));
        if name == "localhost" || name.ends_with(".localhost") {
            let four = four.then(|| RData::A(A { address: Ipv4Addr::LOCALHOST.to_bits() }));
            return Ok(four.or(six.then(|| RData::AAAA(AAAA { address: Ipv6Addr::LOCALHOST.to_bits() }))));
        }
        if !four && !six {
            return Ok(None);
        }
        if !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte)) {
            return Err(RCODE::NameError);
        }
        match self.resolver.check(name).await {
            Ok(()) if four => {
                let address = self.names.borrow_mut().address_of(name);
                Ok(Some(RData::A(A { address: address.to_bits() })))
            }
            Ok(()) => Ok(None),
            // glibc and musl tell both by their text alone.
            Err(error) if error.to_string().contains("emporary failure") || error.to_string().contains("ry again") => {
                Err(RCODE::ServerFailure)
            }
            Err(_) => Err(RCODE::NameError),
        }
    }
}

/// A reply without data.
fn failure(mut reply: Packet<'_>, code: RCODE) -> Option<Vec<u8>> {
    *reply.rcode_mut() = code;
    reply.build_bytes_vec().ok()
}
