//! An HTTP server that is one epoll loop: what the kernel lets one thread do. Owns the loop, its connections and the
//! little of HTTP/1.1 that the load needs (requests without a body, kept alive); must not know where answers come from.
//!
//! Two system calls a request besides `epoll_wait`, which many requests share: `recvfrom` and `writev`.

use std::{
    io::{self, ErrorKind, IoSlice, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    os::fd::{AsFd, BorrowedFd},
};

use anyhow::{Context, Result, ensure};
use rustix::{
    buffer::spare_capacity,
    event::epoll::{self, CreateFlags, EventData, EventFlags},
};

/// How much is read at a time.
const CHUNK: usize = 64 * 1024;

/// How many events one `epoll_wait` brings at most.
const EVENTS: usize = 256;

/// The tokens of what is no client. Clients have the place they are kept at.
const LISTENER: u64 = u64::MAX;
const BACKEND: u64 = u64::MAX - 1;

/// Where answers come from.
pub(super) trait Answers {
    /// What is waited for besides clients.
    fn backend(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    /// A client asks for a key.
    fn asked(&mut self, clients: &mut Clients, who: Client, key: &str) -> Result<()>;

    /// The backend can be read.
    fn heard(&mut self, _clients: &mut Clients) -> Result<()> {
        Ok(())
    }

    /// Everyone whom the kernel had told of has asked.
    fn all_asked(&mut self) -> Result<()> {
        Ok(())
    }
}

/// A client, for as long as it is connected: its place, and which of the place's clients it is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Client {
    place: usize,
    count: u64,
}

struct Connection {
    stream: TcpStream,
    count: u64,
    /// The beginning of a request whose end has not come yet.
    unread: Vec<u8>,
    /// What the socket had no room for.
    unsent: Vec<u8>,
}

/// Everyone who is connected.
pub(super) struct Clients {
    epoll: std::os::fd::OwnedFd,
    connections: Vec<Option<Connection>>,
    count: u64,
}

/// Serves until the process is killed.
pub(super) fn serve(listen: SocketAddr, mut answers: impl Answers) -> Result<()> {
    let listener =
        TcpListener::bind(listen).with_context(|| format!("cannot listen on {listen}"))?;
    listener.set_nonblocking(true)?;
    let epoll = epoll::create(CreateFlags::CLOEXEC)?;
    let readable = EventFlags::IN;
    epoll::add(&epoll, &listener, EventData::new_u64(LISTENER), readable)?;
    if let Some(backend) = answers.backend() {
        epoll::add(&epoll, backend, EventData::new_u64(BACKEND), readable)?;
    }
    let mut clients = Clients {
        epoll,
        connections: Vec::new(),
        count: 0,
    };
    let mut events = Vec::with_capacity(EVENTS);
    let mut chunk = vec![0; CHUNK];
    loop {
        events.clear();
        match epoll::wait(&clients.epoll, spare_capacity(&mut events), None) {
            Err(rustix::io::Errno::INTR) => continue,
            waited => waited?,
        };
        for event in &events {
            // Copied: the kernel's form is packed, and what is in it cannot be referred to.
            let (token, flags) = (event.data.u64(), event.flags);
            match token {
                LISTENER => clients.accept(&listener)?,
                BACKEND => answers.heard(&mut clients)?,
                place => {
                    let place = usize::try_from(place)?;
                    if flags.contains(EventFlags::OUT) {
                        clients.send_rest(place)?;
                    } else {
                        read(&mut clients, place, &mut chunk, &mut answers)?;
                    }
                }
            }
        }
        answers.all_asked()?;
    }
}

/// Reads what a client has sent and asks for each key in it.
fn read(
    clients: &mut Clients,
    place: usize,
    chunk: &mut [u8],
    answers: &mut impl Answers,
) -> Result<()> {
    let Some(connection) = &mut clients.connections[place] else {
        return Ok(());
    };
    let who = Client {
        place,
        count: connection.count,
    };
    let mut bytes = match connection.stream.read(chunk) {
        Ok(0) => {
            clients.connections[place] = None;
            return Ok(());
        }
        Ok(length) => &chunk[..length],
        Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
        Err(_) => {
            clients.connections[place] = None;
            return Ok(());
        }
    };
    let mut joined = std::mem::take(&mut connection.unread);
    if !joined.is_empty() {
        joined.extend_from_slice(bytes);
        bytes = &joined;
    }
    while let Some((key, rest)) = request(bytes)? {
        answers.asked(clients, who, key)?;
        bytes = rest;
    }
    if !bytes.is_empty()
        && let Some(connection) = &mut clients.connections[place]
    {
        connection.unread = bytes.to_vec();
    }
    Ok(())
}

/// The key of the first request, and what follows it; `None` if it is not whole yet.
fn request(bytes: &[u8]) -> Result<Option<(&str, &[u8])>> {
    let mut headers = [httparse::EMPTY_HEADER; 32];
    let mut request = httparse::Request::new(&mut headers);
    let httparse::Status::Complete(length) = request.parse(bytes)? else {
        return Ok(None);
    };
    let key = request.path.and_then(|path| path.strip_prefix("/data/"));
    ensure!(request.method == Some("GET"), "only GET is answered");
    Ok(Some((
        key.context("only /data/{key} is answered")?,
        &bytes[length..],
    )))
}

impl Clients {
    fn accept(&mut self, listener: &TcpListener) -> Result<()> {
        let stream = match listener.accept() {
            Ok((stream, _)) => stream,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
        let free = self.connections.iter().position(Option::is_none);
        let place = free.unwrap_or(self.connections.len());
        let token = EventData::new_u64(u64::try_from(place)?);
        epoll::add(&self.epoll, &stream, token, EventFlags::IN)?;
        self.count += 1;
        let connection = Some(Connection {
            stream,
            count: self.count,
            unread: Vec::new(),
            unsent: Vec::new(),
        });
        match self.connections.get_mut(place) {
            Some(free) => *free = connection,
            None => self.connections.push(connection),
        }
        Ok(())
    }

    /// Sends an answer, unless the client has left.
    pub(super) fn answer(&mut self, who: Client, body: &[u8]) -> Result<()> {
        let Some(connection) = &mut self.connections[who.place] else {
            return Ok(());
        };
        if connection.count != who.count {
            return Ok(());
        }
        // On the stack: an allocation for each answer would be seen.
        let mut head = [0; 96];
        let mut free = &mut head[..];
        write!(
            free,
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
            body.len()
        )?;
        let free = free.len();
        let head = &head[..head.len() - free];
        let sent = if connection.unsent.is_empty() {
            let parts = [IoSlice::new(head), IoSlice::new(body)];
            sent(connection.stream.write_vectored(&parts))
        } else {
            Some(0)
        };
        let Some(sent) = sent else {
            self.connections[who.place] = None;
            return Ok(());
        };
        if sent < head.len() + body.len() {
            connection.unsent.extend(&head[sent.min(head.len())..]);
            connection
                .unsent
                .extend(&body[sent.saturating_sub(head.len())..]);
            // Until it has taken this, nothing more is read of it.
            self.wait_for(who.place, EventFlags::OUT)?;
        }
        Ok(())
    }

    fn send_rest(&mut self, place: usize) -> Result<()> {
        let Some(connection) = &mut self.connections[place] else {
            return Ok(());
        };
        let Some(sent) = sent(connection.stream.write(&connection.unsent)) else {
            self.connections[place] = None;
            return Ok(());
        };
        connection.unsent.drain(..sent);
        if connection.unsent.is_empty() {
            self.wait_for(place, EventFlags::IN)?;
        }
        Ok(())
    }

    fn wait_for(&self, place: usize, what: EventFlags) -> Result<()> {
        if let Some(connection) = &self.connections[place] {
            let token = EventData::new_u64(u64::try_from(place)?);
            epoll::modify(&self.epoll, connection.stream.as_fd(), token, what)?;
        }
        Ok(())
    }
}

/// How much was taken; `None` if the client is gone.
fn sent(written: io::Result<usize>) -> Option<usize> {
    match written {
        Ok(length) => Some(length),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Some(0),
        Err(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::request;

    #[test]
    fn requests_are_taken_one_by_one_and_a_part_of_one_waits_for_its_end() {
        let bytes = b"GET /data/k1 HTTP/1.1\r\nhost: a\r\n\r\nGET /data/k2 HTTP/1.1\r\n\r\nGET /da";
        let (key, rest) = request(bytes).unwrap().unwrap();
        assert_eq!(key, "k1");
        let (key, rest) = request(rest).unwrap().unwrap();
        assert_eq!((key, rest), ("k2", &b"GET /da"[..]));
        assert!(request(rest).unwrap().is_none());
    }

    #[test]
    fn what_is_not_served_is_refused() {
        assert!(request(b"POST /data/k1 HTTP/1.1\r\n\r\n").is_err());
        assert!(request(b"GET /other HTTP/1.1\r\n\r\n").is_err());
    }
}
