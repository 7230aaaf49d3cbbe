//! One connection to the store. It is never renewed by itself: who counts must know when the store may be another one.

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

/// The script that counts: its three parts, in their order.
pub(super) const SCRIPT: &str =
    concat!(include_str!("script/session.lua"), include_str!("script/window.lua"), include_str!("script/grant.lua"));

/// How long a connection may take, to the server and through its greeting.
const CONNECT: Duration = Duration::from_secs(1);
/// How often a node may send us to another one.
const MOVES: usize = 5;

/// A connection.
pub(super) struct StoreConn {
    connection: MultiplexedConnection,
    driver: JoinHandle<()>,
    /// Which store this is: it changes when it was started anew, or another has taken its place.
    pub(super) id: String,
    /// The name under which this store knows the script, and no other does, see [`load`].
    script: String,
    /// Where it leads.
    pub(super) address: String,
}

impl Drop for StoreConn {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

trait Duplex: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Duplex for T {}

impl StoreConn {
    /// Connects to the server that counts, whichever of the nodes knows it.
    ///
    /// # Errors
    /// Of the last node that was tried.
    pub(super) async fn open(settings: &Settings, tls: Option<&TlsConnector>) -> Result<StoreConn, Error> {
        let mut last = Error::Silent;
        for (host, port) in &settings.nodes {
            let opened = async {
                let (mut host, mut port) = match &settings.sentinel {
                    None => (host.clone(), *port),
                    Some(name) => ask_sentinel(host, *port, name, tls).await?,
                };
                for _ in 0..MOVES {
                    match StoreConn::at(&host, port, settings, tls).await {
                        // A node that does not know its own name says where it was reached.
                        Err(Error::Moved(there, number)) => {
                            (host, port) = (if there.is_empty() { host } else { there }, number);
                        }
                        opened => return opened,
                    }
                }
                Err(Error::Refused("its nodes send us round and round".to_owned()))
            };
            match opened.await {
                Ok(conn) => return Ok(conn),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    async fn at(host: &str, port: u16, settings: &Settings, tls: Option<&TlsConnector>) -> Result<StoreConn, Error> {
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
        let greeting = async {
            let said = read_info(&mut connection).await?;
            let said = fields(&said);
            let of = |name: &str| said.get(name).copied().unwrap_or_default();
            let in_cluster = of("cluster_enabled") == "1";
            if of("role") != "master" && !in_cluster {
                return Err(Error::Replica(format!("{host}:{port}")));
            }
            if of("maxmemory") != "0" && of("maxmemory_policy") != "noeviction" {
                return Err(Error::Evicts(of("maxmemory_policy").to_owned()));
            }
            let id = identity(&said).ok_or_else(|| Error::Nameless(format!("{host}:{port}")))?;
            if in_cluster {
                // Says where the keys are, if they are elsewhere.
                let key = format!("{{{}}}:meta", settings.group);
                let asked = cmd("EXISTS").arg(key).query_async::<i64>(&mut connection).await;
                asked.map_err(|error| Error::of(&error))?;
            }
            let script = load(&mut connection, &id).await?;
            Ok((id, script))
        };
        (conn.id, conn.script) = timeout(CONNECT, greeting).await.map_err(|_elapsed| Error::Silent)??;
        Ok(conn)
    }

    /// One call of the script: `write` appends what it is told. With `confirm`, what it did is on that many replicas when
    /// this returns.
    ///
    /// # Errors
    /// If no answer came in time, or one that is an error.
    pub(super) async fn call(
        &mut self,
        keys: &[String],
        confirm: u32,
        within: Duration,
        write: impl Fn(&mut Cmd),
    ) -> Result<Value, Error> {
        let called = async {
            let called = match self.try_call(keys, confirm, &write).await {
                // It has done nothing: it has forgotten the script, or is another store, which never knew it.
                Err(error) if error.kind() == redis::ErrorKind::Server(ServerErrorKind::NoScript) => {
                    self.script = load(&mut self.connection, &self.id).await?;
                    self.try_call(keys, confirm, &write).await
                }
                called => called,
            };
            called.map_err(|error| Error::of(&error))
        };
        let (value, found) = timeout(within, called).await.map_err(|_elapsed| Error::Silent)??;
        if found < confirm {
            return Err(Error::Unconfirmed { found, wanted: confirm });
        }
        Ok(value)
    }

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
        wait.arg(confirm).arg(50);
        let mut both = redis::pipe();
        both.add_command(call).add_command(wait);
        both.query_async(&mut self.connection).await
    }
}

async fn connect(
    host: &str,
    port: u16,
    info: &RedisConnectionInfo,
    tls: Option<&TlsConnector>,
) -> Result<(MultiplexedConnection, JoinHandle<()>), Error> {
    let unreachable = |why: String| Error::Unreachable { address: format!("{host}:{port}"), why };
    let connecting = async {
        let tcp =
            dial::connect_unchecked(host, port, CONNECT).await.map_err(|error| unreachable(with_cause(&error)))?;
        let stream: Box<dyn Duplex> = match tls {
            None => Box::new(tcp),
            Some(tls) => {
                let name = ServerName::try_from(host.to_owned());
                let name =
                    name.map_err(|_invalid| unreachable("it has no name that a certificate can bear".to_owned()))?;
                Box::new(tls.connect(name, tcp).await.map_err(|error| unreachable(error.to_string()))?)
            }
        };
        // The times are ours to watch: what it has not answered in time is not known, and the connection of no use.
        let config = AsyncConnectionConfig::new().set_response_timeout(None).set_connection_timeout(None);
        let opened = MultiplexedConnection::new_with_config(info, stream, config).await;
        opened.map_err(|error| Error::of(&error))
    };
    let (connection, driver) =
        timeout(CONNECT, connecting).await.map_err(|_elapsed| unreachable("no answer in time".to_owned()))??;
    Ok((connection, tokio::spawn(driver)))
}

fn with_cause(error: &dial::Error) -> String {
    match std::error::Error::source(error) {
        Some(cause) => format!("{error} ({cause})"),
        None => error.to_string(),
    }
}

/// Asks a Sentinel where the server is that counts.
async fn ask_sentinel(host: &str, port: u16, name: &str, tls: Option<&TlsConnector>) -> Result<(String, u16), Error> {
    let (mut connection, driver) = connect(host, port, &RedisConnectionInfo::default(), tls).await?;
    let mut ask = cmd("SENTINEL");
    ask.arg("GET-MASTER-ADDR-BY-NAME").arg(name);
    let asked = timeout(CONNECT, ask.query_async::<Option<(String, u16)>>(&mut connection)).await;
    driver.abort();
    let answer = asked.map_err(|_elapsed| Error::Silent)?.map_err(|error| Error::of(&error))?;
    answer
        .ok_or_else(|| Error::Refused(format!("no server is called {name:?} (that is the Sentinel at {host}:{port})")))
}

/// Has the store know the script under a name that is of this store alone, and returns the name.
///
/// Something between us and the store may connect to another one without a word (a RESP proxy, after a failover). Reading
/// INFO in the script would show that, for 10 µs a call, a quarter of what the script takes. This costs nothing: scripts
/// are called by their hash, ours ends with the store's identity, and servers neither keep scripts over a restart nor pass
/// them on to replicas (since Redis 7 and in every Valkey). So another store, or this one started anew, does not know ours
/// and refuses the call. The identity is read after the script is loaded: if it is still the same, so was the store that
/// loaded it.
async fn load(connection: &mut MultiplexedConnection, id: &str) -> Result<String, Error> {
    let mut order = cmd("SCRIPT");
    order.arg("LOAD").arg(format!("{SCRIPT}-- {id}\n"));
    let name = order.query_async(connection).await.map_err(|error| Error::of(&error))?;
    let said = read_info(connection).await?;
    if identity(&fields(&said)).as_deref() == Some(id) { Ok(name) } else { Err(Error::Other) }
}

async fn read_info(connection: &mut MultiplexedConnection) -> Result<String, Error> {
    cmd("INFO").query_async(connection).await.map_err(|error| Error::of(&error))
}

/// Which store it is, by its INFO; `None` if it does not say.
fn identity(said: &HashMap<&str, &str>) -> Option<String> {
    // Zeros stand for nothing, as in `master_replid2`.
    let of = |name: &str| said.get(name).filter(|id| id.chars().any(|digit| digit != '0'));
    // `run_id` is another after each start, `master_replid` after each failover.
    Some(format!("{}:{}", of("run_id")?, of("master_replid")?))
}

/// The lines of INFO.
fn fields(said: &str) -> HashMap<&str, &str> {
    said.lines().filter_map(|line| line.trim_end().split_once(':')).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_is_known_by_its_run_and_its_replication() {
        let id = |said: &str| identity(&fields(said));
        assert_eq!(id("run_id:ab\r\nmaster_replid:cd\r\n").as_deref(), Some("ab:cd"));
        for nameless in
            ["run_id:ab", "master_replid:cd", "run_id:\r\nmaster_replid:cd", "run_id:00\r\nmaster_replid:cd"]
        {
            assert_eq!(id(nameless), None, "{nameless}");
        }
    }
}
