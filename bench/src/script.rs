//! What a load asks for, one request after the other, and what each answer must be. Owns paths and bodies; must not know
//! when anything is asked, nor of whom.

use anyhow::{Result, ensure};

use crate::{
    body::{self, KEYS},
    client::TENANT,
    put,
};

/// Which requests follow each other.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Paths {
    /// All keys that were filled, round and round.
    Known,
    /// The same keys, each with a query parameter that no other request has: nothing that remembers requests helps.
    KnownAnew,
    /// A key that nobody has asked for.
    New,
}

/// The requests to one server, and what it must answer. It goes on from one turn to the next, so that what was new once never
/// comes again.
pub(crate) struct Script {
    paths: Paths,
    host: String,
    /// What comes before and behind the key in a body.
    around: [Vec<u8>; 2],
    /// What the head of every answer says, where the server tells how it came by it.
    told: Option<&'static str>,
    asked: u64,
}

/// One request that waits for its answer.
#[derive(Default)]
pub(crate) struct Asked {
    pub(crate) request: Vec<u8>,
    body: Vec<u8>,
}

impl Script {
    /// `text` is that of the source, with `{key}` in it; `told` is to be found in the head of every answer.
    pub(crate) fn new(
        paths: Paths,
        host: impl ToString,
        text: &str,
        told: Option<&'static str>,
    ) -> Result<Self> {
        let body = body::render(text, "{key}");
        let body = String::from_utf8(body)?;
        let Some((before, behind)) = body.split_once("{key}") else {
            anyhow::bail!("the text of the source does not name the key");
        };
        Ok(Self {
            paths,
            host: host.to_string(),
            around: [before.into(), behind.into()],
            told,
            asked: 0,
        })
    }

    /// The next request, in place of the one before.
    pub(crate) fn next(&mut self, asked: &mut Asked) {
        let number = self.asked;
        self.asked += 1;
        let known = || body::key((number % KEYS as u64) as usize);
        let (key, query) = match self.paths {
            Paths::Known => (known(), String::new()),
            Paths::KnownAnew => (known(), format!("?n={number:09}")),
            Paths::New => (format!("n{number:09}"), String::new()),
        };
        let (name, tenant) = TENANT;
        let host = &self.host;
        let request =
            format!("GET /data/{key}{query} HTTP/1.1\r\nHost: {host}\r\n{name}: {tenant}\r\n\r\n");
        asked.request.clear();
        asked.request.extend_from_slice(request.as_bytes());
        let [before, behind] = &self.around;
        asked.body.clear();
        asked.body.extend_from_slice(before);
        asked.body.extend_from_slice(key.as_bytes());
        asked.body.extend_from_slice(behind);
    }

    /// Whether an answer is whole; an error if it is not the one that this request must have.
    pub(crate) fn is_answered(&self, asked: &Asked, answer: &[u8]) -> Result<bool> {
        let Some((status, len)) = put::parse(answer)? else {
            return Ok(false);
        };
        if answer.len() < len {
            return Ok(false);
        }
        let head = len.saturating_sub(asked.body.len());
        let is_right = status == 200
            && answer.len() == len
            && answer[head..] == asked.body
            && answer[..head].ends_with(b"\r\n\r\n")
            && self.told.is_none_or(|told| {
                memchr::memmem::find(&answer[..head], told.as_bytes()).is_some()
            });
        ensure!(
            is_right,
            "{:?} was answered with {:?} instead of 200{} and {:?}",
            String::from_utf8_lossy(&asked.request),
            String::from_utf8_lossy(answer),
            self.told
                .map_or(String::new(), |told| format!(", `{told}`")),
            String::from_utf8_lossy(&asked.body)
        );
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(script: &mut Script) -> (Asked, String) {
        let mut asked = Asked::default();
        script.next(&mut asked);
        let request = String::from_utf8(asked.request.clone()).unwrap();
        let path = request.split(' ').nth(1).unwrap().to_owned();
        (asked, path)
    }

    #[test]
    fn what_is_new_never_comes_again_and_what_is_known_does() {
        let check = |paths, expect: [&str; 2]| {
            let mut script = Script::new(paths, "here", "about {key}", None).unwrap();
            let first = asked(&mut script).1;
            for _ in 1..KEYS {
                asked(&mut script);
            }
            assert_eq!([first, asked(&mut script).1], expect);
        };
        check(Paths::Known, ["/data/k0000", "/data/k0000"]);
        check(
            Paths::KnownAnew,
            ["/data/k0000?n=000000000", "/data/k0000?n=000001000"],
        );
        check(Paths::New, ["/data/n000000000", "/data/n000001000"]);
    }

    #[test]
    fn an_answer_must_be_the_right_one_to_the_byte() {
        let mut script = Script::new(Paths::Known, "here", "about {key}", Some("; hit")).unwrap();
        let (asked, _) = asked(&mut script);
        let check = |head: &str, body: &str| {
            let len = body.len();
            let answer =
                format!("HTTP/1.1 {head}\r\ncontent-length: {len}\r\n\r\n{body}").into_bytes();
            let half = script.is_answered(&asked, &answer[..answer.len() - 1]);
            assert!(!half.unwrap(), "it is not whole");
            script.is_answered(&asked, &answer)
        };
        let right = "{\"data\":\"about k0000\"}";
        let hit = "200 OK\r\ncache-status: larder; hit";
        assert!(check(hit, right).unwrap());
        for (head, body) in [
            (hit, "{\"data\":\"about k0001\"}"),
            (hit, "{\"data\":\"about k0000\"} "),
            ("200 OK\r\ncache-status: larder; fwd=uri-miss", right),
            ("404 Not Found\r\ncache-status: larder; hit", right),
        ] {
            assert!(check(head, body).is_err(), "{head} {body}");
        }
    }
}
