//! A bare epoll loop that answers from a map: the limit of the kernel. Owns the map.

use std::{collections::HashMap, net::SocketAddr};

use anyhow::Result;

use super::{
    Source,
    epoll::{self, Answers, Client, Clients},
};

struct Memory {
    kept: HashMap<String, Vec<u8>>,
    source: Source,
}

pub(super) fn serve(listen: SocketAddr, source: Source) -> Result<()> {
    let kept = HashMap::new();
    epoll::serve(listen, Memory { kept, source })
}

impl Answers for Memory {
    fn asked(&mut self, clients: &mut Clients, who: Client, key: &str) -> Result<()> {
        if let Some(body) = self.kept.get(key) {
            return clients.answer(who, body);
        }
        let body = self.source.load_at_once(key);
        clients.answer(who, &body)?;
        self.kept.insert(key.to_owned(), body);
        Ok(())
    }
}
