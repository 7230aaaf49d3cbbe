//! Load and origin for the gateway benches, in one thread and one event loop, so that the core which carries both stays cheaper than any gateway.

mod figures;
mod line;
mod modes;
mod poller;
mod several;
mod tunnels;
mod world;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::process::ExitCode;

const USAGE: &str = "usage: gateway_load MODE [--option value]...
  origin  --origin ADDR                             answers small GETs until killed
  closed  --origin ADDR --to ADDR                   each connection asks again when it was answered
  open    --origin ADDR --to ADDR                   asks at a fixed rate, whatever the answers do
  idle    --origin ADDR --to ADDR                   one request on each connection, then holds them until stdin ends
  promise --origin ADDR --to ADDR                   offers more than a limit allows, and counts what arrives
  several --origin ADDR --to ADDR,ADDR              offers each of several gateways more than one limit allows
  set-ups --origin ADDR --to ADDR                   opens CONNECT tunnels, one after the other on each connection
  bodies  --origin ADDR --to ADDR                   asks for bodies of 1 MiB in CONNECT tunnels
options: --connections 64  --seconds 5  --warm 0.5  --rate 1000  --forward HOST:PORT  --path /  --host HOST
         --tunnel HOST:PORT  --tls NAME  --trust FILE   inside a tunnel, and TLS in it; the origin may be another process
promise, several: --requests N  --per-ms T  --factor 3  --lone 0";

/// What was asked for on the command line.
struct Options {
    mode: String,
    values: HashMap<String, String>,
}

impl Options {
    fn read() -> Result<Options, String> {
        let mut words = std::env::args().skip(1).filter(|word| word != "--bench");
        let mode = words.next().ok_or("no mode")?;
        let mut values = HashMap::new();
        while let Some(word) = words.next() {
            let name = word.strip_prefix("--").ok_or(format!("unexpected `{word}`"))?;
            let value = words.next().ok_or(format!("--{name} needs a value"))?;
            values.insert(name.to_owned(), value);
        }
        Ok(Options { mode, values })
    }

    fn number(&self, name: &str, default: f64) -> Result<f64, String> {
        self.values
            .get(name)
            .map_or(Ok(default), |value| value.parse().map_err(|_| format!("--{name}: `{value}` is not a number")))
    }

    fn address(&self, name: &str) -> Result<SocketAddr, String> {
        self.addresses(name).map(|all| all[0])
    }

    /// One address or several, with commas between them.
    fn addresses(&self, name: &str) -> Result<Vec<SocketAddr>, String> {
        let value = self.values.get(name).ok_or(format!("--{name} is needed"))?;
        let address = |word: &str| word.parse().map_err(|_| format!("--{name}: `{word}` is not an address"));
        value.split(',').map(address).collect()
    }

    /// How callers get to the origin.
    fn path(&self) -> Result<line::Path, String> {
        let tls = match (self.values.get("tls"), self.values.get("trust")) {
            (Some(name), Some(file)) => Some(line::trusting(file, name)?),
            (None, None) => None,
            _ => return Err("--tls and --trust need each other".to_owned()),
        };
        let tunnel = self.values.get("tunnel").map(|target| target.as_str().into());
        Ok(line::Path { to: self.address("to")?, tunnel, tls })
    }

    fn offer(&self) -> Result<modes::Offer, String> {
        Ok(modes::Offer {
            requests: self.number("requests", 0.0)? as usize,
            per: (self.number("per-ms", 0.0)? * 1e6) as u64,
            factor: self.number("factor", 3.0)?,
            lone: self.number("lone", 0.0)? != 0.0,
        })
    }

    /// The bytes of one request: absolute-form if `--forward` names an origin.
    fn request(&self) -> Vec<u8> {
        let path = self.values.get("path").map_or("/", String::as_str);
        let (target, host) = match self.values.get("forward") {
            Some(host) => (format!("http://{host}{path}"), host.clone()),
            None => (path.to_owned(), self.values.get("host").map_or("bench.localhost", String::as_str).to_owned()),
        };
        format!("GET {target} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: load\r\nAccept: */*\r\n\r\n").into_bytes()
    }
}

fn run() -> Result<(), Box<dyn std::error::Error>> {
    let options = Options::read().map_err(|what| format!("{what}\n{USAGE}"))?;
    if let "set-ups" | "bodies" = options.mode.as_str() {
        let tunnels = tunnels::Tunnels {
            origin: options.address("origin")?,
            path: options.path()?,
            connections: options.number("connections", 32.0)? as usize,
            seconds: options.number("seconds", 5.0)?,
            warm: options.number("warm", 0.5)?,
        };
        let measure = if options.mode == "bodies" { tunnels::bodies } else { tunnels::set_ups };
        println!("{}", measure(&tunnels)?);
        return Ok(());
    }
    let origin = options.values.contains_key("origin").then(|| options.address("origin")).transpose()?;
    let mut world = world::World::new(origin)?;
    if options.mode == "origin" {
        world.serve()?;
        return Ok(());
    }
    let load = modes::Load {
        path: options.path()?,
        request: options.request(),
        connections: options.number("connections", 64.0)? as usize,
        seconds: options.number("seconds", 5.0)?,
        warm: options.number("warm", 0.5)?,
    };
    let line = match options.mode.as_str() {
        "closed" => modes::closed(&mut world, &load)?,
        "open" => modes::open(&mut world, &load, options.number("rate", 1000.0)?)?,
        "idle" => return Ok(modes::idle(&mut world, &load)?),
        "promise" => modes::promise(&mut world, &load, &options.offer()?)?,
        "several" => {
            let paths = options.addresses("to")?.into_iter().map(|to| line::Path { to, tunnel: None, tls: None });
            several::several(&mut world, &paths.collect::<Vec<_>>(), &load, &options.offer()?)?
        }
        other => return Err(format!("no mode `{other}`\n{USAGE}").into()),
    };
    println!("{line}");
    Ok(())
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("gateway_load: {error}");
            ExitCode::FAILURE
        }
    }
}
