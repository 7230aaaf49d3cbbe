//! The peer that tunnels are measured against: the least that a CONNECT proxy on tokio can be, on one thread.
//!
//! `copy_loop PORT` reads a head, dials what it names, answers 200 and copies both ways with tokio's own function.

use std::io;
use std::net::Ipv4Addr;

use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};

async fn tunnel(mut caller: TcpStream) -> io::Result<()> {
    caller.set_nodelay(true)?;
    let mut head = Vec::with_capacity(1024);
    while !head.ends_with(b"\r\n\r\n") {
        if caller.read_buf(&mut head).await? == 0 {
            return Ok(());
        }
    }
    let text = String::from_utf8_lossy(&head);
    let target = text.split(' ').nth(1).ok_or(io::ErrorKind::InvalidData)?;
    let mut origin = TcpStream::connect(target).await?;
    origin.set_nodelay(true)?;
    caller.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await?;
    copy_bidirectional(&mut caller, &mut origin).await?;
    Ok(())
}

async fn serve(port: u16) -> io::Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await?;
    loop {
        let (caller, _) = listener.accept().await?;
        // A tunnel that breaks is its two ends' affair.
        tokio::spawn(async move { drop(tunnel(caller).await) });
    }
}

fn main() -> io::Result<()> {
    let port = std::env::args().find_map(|word| word.parse().ok()).ok_or(io::ErrorKind::InvalidInput)?;
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(serve(port))
}
