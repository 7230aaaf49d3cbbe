//! Connection to the store (RESP over TCP or TLS): connect, identity check, script calls. It never
//! reconnects by itself, because a new connection may lead to another store, which the caller must
//! know.
//!
//! Commands that it sends: `INFO`, `EXISTS` (in a Cluster), `SCRIPT LOAD`, `EVALSHA`, `WAIT` (with
//! replicas), `SENTINEL GET-MASTER-ADDR-BY-NAME`, and those of the library's handshake.

use std::collections::HashMap;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Cmd, RedisConnectionInfo, RedisError, ServerErrorKind, Value, cmd};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::{Error, Settings};
use crate::net::dial;

/// The Lua script that counts, put together from its three parts in this order.
pub(super) const SCRIPT: &str =
    concat!(include_str!("script/session.lua"), include_str!("script/window.lua"), include_str!("script/grant.lua"));

/// Time limit of a connect, and once more of its identity check and script load. A choice: many
/// round trips around the world.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// Maximum number of nodes of a Cluster that are tried in a row by redirection (MOVED). A choice:
/// one is normal.
const MAX_REDIRECTS: usize = 5;

/// Time for which the server waits for replicas (`WAIT`), in milliseconds. A choice: well below the
/// time limit of a call.
const REPLICA_WAIT_MS: u32 = 50;

/// Connection to one server, with our script loaded.
pub(super) struct StoreConn {
    /// Sends commands in order; used for one call at a time.
    connection: MultiplexedConnection,
    /// Task that drives the connection's I/O; aborted on drop.
    driver: JoinHandle<()>,
    /// Identity of the store (`run_id:master_replid`): another one after a restart, a failover or a
    /// replacement.
    pub(super) id: String,
    /// SHA-1 of the script as loaded into this store, and into no other, see [`load`].
    script: String,
    /// Host and port of the server.
    pub(super) address: String,
}

impl Drop for StoreConn {
    /// Closes the connection; a reply that is still to come is lost.
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// Byte stream to the server: TCP, or TLS over it.
trait Duplex: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Duplex for T {}

impl StoreConn {
    /// Connects to the primary, through the first node that works or knows it.
    ///
    /// # Errors
    /// The error of the last node that was tried; it names that node.
    ///
    /// # Cancel safety
    /// Dropping the future closes the connection; nothing was counted.
    pub(super) async fn open(settings: &Settings, tls: Option<&TlsConnector>) -> Result<StoreConn, Error> {
        let mut last_error = Error::Silent;
        for (host, port) in &settings.nodes {
            let opened = async {
                let (mut host, mut port) = match &settings.sentinel {
                    None => (host.clone(), *port),
                    Some(name) => ask_sentinel(host, *port, name, tls).await?,
                };
                for _ in 0..MAX_REDIRECTS {
                    match StoreConn::open_node(&host, port, settings, tls).await {
                        // An empty host stands for the one that was asked.
                        Err(Error::Moved(new_host, new_port)) => {
                            (host, port) = (if new_host.is_empty() { host } else { new_host }, new_port);
                        }
                        opened => return opened.map_err(|error| error.at(&format!("{host}:{port}"))),
                    }
                }
                Err(Error::Refused("too many redirections between its nodes".to_owned()))
            };
            match opened.await {
                Ok(conn) => return Ok(conn),
                // One without an address is of the node or Sentinel that the configuration names.
                Err(error) => last_error = error.at(&format!("{host}:{port}")),
            }
        }
        Err(last_error)
    }

    /// Connects to this server, checks that it can be used, and loads the script.
    ///
    /// Refuses a replica, a server that may evict counters, and one without an identity.
    ///
    /// # Errors
    /// [`Error::Unreachable`], [`Error::Silent`] after a second, [`Error::Moved`] if the keys are
    /// on another node of the Cluster, [`Error::Replica`], [`Error::Evicts`], [`Error::Nameless`],
    /// and what the server replied.
    async fn open_node(
        host: &str,
        port: u16,
        settings: &Settings,
        tls: Option<&TlsConnector>,
    ) -> Result<StoreConn, Error> {
        let mut info = RedisConnectionInfo::default().set_db(i64::from(settings.database));
        info = info.set_lib_name("lockgate", env!("CARGO_PKG_VERSION"));
        if let Some(user) = &settings.user {
            info = info.set_username(user);
        }
        if let Some(password) = &settings.password {
            info = info.set_password(&password.0);
        }
        let (mut connection, driver) = connect(host, port, &info, tls).await?;
        let mut conn = StoreConn {
            connection: connection.clone(),
            driver,
            id: String::new(),
            script: String::new(),
            address: format!("{host}:{port}"),
        };
        let handshake = async {
            let info = read_info(&mut connection).await?;
            let info = info_fields(&info);
            let of = |name: &str| info.get(name).copied().unwrap_or_default();
            let in_cluster = of("cluster_enabled") == "1";
            if of("role") != "master" && !in_cluster {
                return Err(Error::Replica(format!("{host}:{port}")));
            }
            if of("maxmemory") != "0" && of("maxmemory_policy") != "noeviction" {
                return Err(Error::Evicts(of("maxmemory_policy").to_owned()));
            }
            let id = identity(&info).ok_or_else(|| Error::Nameless(format!("{host}:{port}")))?;
            if in_cluster {
                // Fails with MOVED if the keys are on another node.
                let key = format!("{{{}}}:meta", settings.group);
                let exists = cmd("EXISTS").arg(key).query_async::<i64>(&mut connection).await;
                exists.map_err(|error| Error::of(&error))?;
            }
            let script = load(&mut connection, &id).await?;
            Ok((id, script))
        };
        (conn.id, conn.script) = timeout(CONNECT_TIMEOUT, handshake).await.map_err(|_elapsed| Error::Silent)??;
        Ok(conn)
    }

    /// Calls the script once; `write` appends its arguments. Returns after `confirm` replicas have
    /// the result.
    ///
    /// # Errors
    /// [`Error::Silent`] without a reply in `within`; [`Error::Unconfirmed`] with too few replicas;
    /// else what the server replied.
    ///
    /// # Cancel safety
    /// Not cancel safe: the server may have executed the call. The connection must be dropped then,
    /// as after a timeout.
    pub(super) async fn call(
        &mut self,
        keys: &[String],
        confirm: u32,
        within: Duration,
        write: impl Fn(&mut Cmd),
    ) -> Result<Value, Error> {
        let call = async {
            let result = match self.try_call(keys, confirm, &write).await {
                // NOSCRIPT: nothing was executed. The store was flushed of its scripts, or is another one.
                Err(error) if error.kind() == redis::ErrorKind::Server(ServerErrorKind::NoScript) => {
                    self.script = load(&mut self.connection, &self.id).await?;
                    self.try_call(keys, confirm, &write).await
                }
                result => result,
            };
            result.map_err(|error| Error::of(&error))
        };
        let (value, found) = timeout(within, call).await.map_err(|_elapsed| Error::Silent)??;
        if found < confirm {
            return Err(Error::Unconfirmed { found, wanted: confirm });
        }
        Ok(value)
    }

    /// Sends EVALSHA, and WAIT in the same pipeline; returns the reply and the number of replicas
    /// that confirmed.
    ///
    /// With `confirm` 0 there is no WAIT, and the number is 0.
    ///
    /// # Errors
    /// Errors of the library; `NOSCRIPT` if the server does not know the script.
    async fn try_call(
        &mut self,
        keys: &[String],
        confirm: u32,
        write: &impl Fn(&mut Cmd),
    ) -> Result<(Value, u32), RedisError> {
        let mut call = cmd("EVALSHA");
        call.arg(&self.script).arg(keys.len()).arg(keys);
        write(&mut call);
        if confirm == 0 {
            return Ok((call.query_async(&mut self.connection).await?, 0));
        }
        let mut wait = cmd("WAIT");
        wait.arg(confirm).arg(REPLICA_WAIT_MS);
        let mut both = redis::pipe();
        both.add_command(call).add_command(wait);
        both.query_async(&mut self.connection).await
    }
}

/// Opens a RESP connection, with TLS and login as configured, and starts the task that drives it.
///
/// # Errors
/// [`Error::Unreachable`] with the cause, also after a second without an answer; [`Error::Denied`]
/// after a failed login; else what the server replied.
async fn connect(
    host: &str,
    port: u16,
    info: &RedisConnectionInfo,
    tls: Option<&TlsConnector>,
) -> Result<(MultiplexedConnection, JoinHandle<()>), Error> {
    let unreachable = |why: String| Error::Unreachable { address: format!("{host}:{port}"), why };
    let connecting = async {
        let tcp = dial::connect_unchecked(host, port, CONNECT_TIMEOUT)
            .await
            .map_err(|error| unreachable(with_cause(&error)))?;
        let stream: Box<dyn Duplex> = match tls {
            None => Box::new(tcp),
            Some(tls) => {
                let name = ServerName::try_from(host.to_owned());
                let name =
                    name.map_err(|_invalid| unreachable("its host name is not valid in a certificate".to_owned()))?;
                Box::new(tls.connect(name, tcp).await.map_err(|error| unreachable(error.to_string()))?)
            }
        };
        // No time limits of the library's own: after a late reply the connection is dropped by `call` and `open`.
        let config = AsyncConnectionConfig::new().set_response_timeout(None).set_connection_timeout(None);
        let connection = MultiplexedConnection::new_with_config(info, stream, config).await;
        connection.map_err(|error| Error::of(&error))
    };
    let (connection, driver) = timeout(CONNECT_TIMEOUT, connecting)
        .await
        .map_err(|_elapsed| unreachable("no answer in time".to_owned()))??;
    Ok((connection, tokio::spawn(driver)))
}

/// The error and its source in one line.
fn with_cause(error: &dial::Error) -> String {
    match std::error::Error::source(error) {
        Some(cause) => format!("{error} ({cause})"),
        None => error.to_string(),
    }
}

/// Asks a Sentinel for the address of the primary (`SENTINEL GET-MASTER-ADDR-BY-NAME`).
///
/// The connection to the Sentinel is closed afterwards. It uses TLS as the servers do, without a
/// login.
///
/// # Errors
/// As [`connect`]; [`Error::Silent`] after a second; [`Error::Refused`] if the Sentinel does not
/// know the name.
async fn ask_sentinel(host: &str, port: u16, name: &str, tls: Option<&TlsConnector>) -> Result<(String, u16), Error> {
    let (mut connection, driver) = connect(host, port, &RedisConnectionInfo::default(), tls).await?;
    let mut request = cmd("SENTINEL");
    request.arg("GET-MASTER-ADDR-BY-NAME").arg(name);
    let reply = timeout(CONNECT_TIMEOUT, request.query_async::<Option<(String, u16)>>(&mut connection)).await;
    driver.abort();
    let address = reply.map_err(|_elapsed| Error::Silent)?.map_err(|error| Error::of(&error))?;
    address.ok_or_else(|| Error::Refused(format!("the Sentinel knows no primary with the name {name:?}")))
}

/// Loads the script under a hash that only this store knows, and returns the hash (SHA-1).
///
/// A RESP proxy between us and the store may switch to another store after a failover without any
/// notice. Reading INFO in the script would show that, but takes 10 µs a call, a quarter of the
/// script's time. This check costs nothing: scripts are called by their hash, ours ends with the
/// store's identity, and servers neither keep scripts over a restart nor replicate them (since
/// Redis 7 and in every Valkey). So another store, or this one after a restart, does not know the
/// hash and refuses the call. The identity is read after the load: if it is unchanged, the script
/// was loaded into that store.
///
/// # Errors
/// [`Error::Other`] if the identity has changed meanwhile; else what the server replied.
async fn load(connection: &mut MultiplexedConnection, id: &str) -> Result<String, Error> {
    let mut load = cmd("SCRIPT");
    load.arg("LOAD").arg(format!("{SCRIPT}-- {id}\n"));
    let sha = load.query_async(connection).await.map_err(|error| Error::of(&error))?;
    let info = read_info(connection).await?;
    if identity(&info_fields(&info)).as_deref() == Some(id) { Ok(sha) } else { Err(Error::Other) }
}

/// Text of INFO, with the default sections of the server.
async fn read_info(connection: &mut MultiplexedConnection) -> Result<String, Error> {
    cmd("INFO").query_async(connection).await.map_err(|error| Error::of(&error))
}

/// Identity of a store by its INFO; `None` if a field is missing.
fn identity(info: &HashMap<&str, &str>) -> Option<String> {
    // An ID of zeros is a placeholder, as in `master_replid2`.
    let of = |name: &str| info.get(name).filter(|id| id.chars().any(|digit| digit != '0'));
    // `run_id` changes at each start, `master_replid` at each failover.
    Some(format!("{}:{}", of("run_id")?, of("master_replid")?))
}

/// Parses INFO: `name:value` lines.
fn info_fields(info: &str) -> HashMap<&str, &str> {
    info.lines().filter_map(|line| line.trim_end().split_once(':')).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_is_known_by_its_run_and_its_replication() {
        let id = |info: &str| identity(&info_fields(info));
        assert_eq!(id("run_id:ab\r\nmaster_replid:cd\r\n").as_deref(), Some("ab:cd"));
        for nameless in
            ["run_id:ab", "master_replid:cd", "run_id:\r\nmaster_replid:cd", "run_id:00\r\nmaster_replid:cd"]
        {
            assert_eq!(id(nameless), None, "{nameless}");
        }
    }
}
