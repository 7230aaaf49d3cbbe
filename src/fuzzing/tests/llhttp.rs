//! Comparison with llhttp, the parser of Node: whatever is accepted or sent is read in the same way there.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

use super::{Numbers, corpus};
use crate::proxy::fuzzing::{h2_head, sent_for};
use crate::wire::fuzzing::FramedRequest;
use crate::wire::fuzzing::hyper_server::SeenRequest;
use crate::wire::{RequestHead, framing};

/// Number of changed inputs for each corpus.
const CHANGED: usize = 2000;

/// Methods that llhttp knows in any case; it refuses others that are not on its list.
const METHODS: [&str; 9] = ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"];

/// Inputs of a corpus, and random changes of them.
fn inputs(target: &str) -> Vec<Vec<u8>> {
    let known: Vec<Vec<u8>> = corpus(target).into_iter().map(|(_, input)| input).collect();
    let mut numbers = Numbers(11);
    let mut changed = |_| {
        let (one, other) = (&known[numbers.below(known.len())], &known[numbers.below(known.len())]);
        numbers.changed(one, other)
    };
    let changed: Vec<Vec<u8>> = (0..CHANGED).map(&mut changed).collect();
    [known, changed].concat()
}

/// Requests that llhttp finds in the bytes of each connection, with the name of its error.
fn read_by_llhttp(connections: &[FramedRequest]) -> Vec<(String, Vec<Value>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/node");
    assert!(folder.join("node_modules/undici").exists(), "the Node libraries of the tests are missing: run tests/run");
    let mut node = Command::new("node");
    node.arg(folder.join("llhttp.mjs")).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut node = node.spawn().expect("node runs");
    let input: Vec<u8> = connections
        .iter()
        .flat_map(|one| [&u32::try_from(one.bytes.len()).unwrap().to_be_bytes()[..], &one.bytes].concat())
        .collect();
    let mut stdin = node.stdin.take().unwrap();
    let writing = std::thread::spawn(move || stdin.write_all(&input));
    let output = node.wait_with_output().unwrap();
    writing.join().unwrap().unwrap();
    let lines: Vec<Value> =
        String::from_utf8(output.stdout).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), connections.len());
    let read = |line: Value| (line["error"].as_str().unwrap().to_owned(), line["requests"].as_array().unwrap().clone());
    lines.into_iter().map(read).collect()
}

/// Text as JSON has it: one character for each byte.
fn latin1(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| char::from(*byte)).collect()
}

/// Fails where llhttp reads a connection in another way. `may_refuse`: errors by which it may refuse one.
fn compare(connections: Vec<FramedRequest>, may_refuse: &[&str]) {
    let known: Vec<FramedRequest> =
        connections.into_iter().filter(|one| METHODS.contains(&one.method.as_str())).collect();
    assert!(known.len() > 100, "only {} requests are compared", known.len());
    for (expected, (error, requests)) in known.iter().zip(read_by_llhttp(&known)) {
        let shown = || format!("{error}: {requests:#?}\nfor {}", expected.bytes.escape_ascii());
        // llhttp refuses what a URL must not have; callers may send it all the same, to origins that take it.
        let is_odd_url = error == "INVALID_URL" && !expected.target.is_ascii();
        if (is_odd_url || may_refuse.contains(&&*error)) && requests[0]["complete"] == false {
            continue;
        }
        let first = &requests[0];
        assert_eq!(first["method"], expected.method, "{}", shown());
        assert_eq!(first["target"], latin1(expected.target.as_bytes()), "{}", shown());
        let field = |field: &Value| {
            let [name, value] = [0, 1].map(|at| field[at].as_str().unwrap().to_owned());
            (name.to_ascii_lowercase().into_bytes(), value.trim_end_matches([' ', '\t']).to_owned().into_bytes())
        };
        let fields = SeenRequest::sorted(first["fields"].as_array().unwrap().iter().map(field).collect());
        let ours = expected.fields.iter().map(|(name, value)| (name.clone(), latin1(value).into_bytes()));
        assert_eq!(fields, ours.collect::<Vec<_>>(), "{}", shown());
        match &expected.body {
            Some(body) => {
                assert_eq!((&first["complete"], &first["body"]), (&true.into(), &latin1(body).into()), "{}", shown())
            }
            None => assert_eq!(first["complete"], false, "{}", shown()),
        }
        let behind: Vec<_> = requests[1..].iter().map(|request| request["target"].as_str().unwrap()).collect();
        // llhttp leaves the bytes behind an upgrade to its user, and hyper reads them until the upgrade is granted.
        let upgrades = error == "PAUSED_UPGRADE" && expected.fields.iter().any(|(name, _)| name == b"upgrade");
        assert_eq!(behind, if upgrades { &[] } else { expected.behind }, "{}", shown());
    }
}

#[test]
fn llhttp_reads_accepted_heads_with_the_same_framing() {
    let framed = |input: Vec<u8>| {
        let mut head = RequestHead::default();
        let length = head.read(&input).ok()??;
        Some(FramedRequest::of(&input[..length], &head, framing::of_request(&head).ok()?))
    };
    // llhttp checks the grammar of targets; the gateway does so when it looks for the target's origin. llhttp refuses
    // a length that is given twice; the gateway accepts equal ones, and sends one.
    compare(
        inputs("request_head").into_iter().filter_map(framed).collect(),
        &["INVALID_URL", "UNEXPECTED_CONTENT_LENGTH"],
    );
}

#[test]
fn llhttp_reads_what_is_sent_to_origins_as_it_was_received() {
    let received = inputs("forward_request").into_iter().filter_map(|input| {
        let mut head = RequestHead::default();
        head.read(&input).ok()??;
        sent_for(&head)
    });
    let of_http2 = inputs("h2_request").into_iter().filter_map(|input| sent_for(&h2_head(&input)?));
    compare(received.chain(of_http2).collect(), &[]);
}
