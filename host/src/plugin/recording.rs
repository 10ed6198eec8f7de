//! A recorded call as a file of JSON: what was asked, what was answered, what was sent and received for it. Values of
//! secrets are replaced before anything is written. Knows neither how a call is made nor how it is compared.

use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::egress::{Bytestring, Exchange};
use super::secrets::{Secrets, stand_in};
use super::workshop::{Answered, Asked, Called};
use crate::cache::{Batching, Outcome, Question, Validator};
use crate::config::Problem;
use crate::error::{Failure, Origin};
use crate::key::{Decision, Derivation, Param, PolicyRequest, encode};

/// What the first member of the file says.
const FORMAT: &str = "larder-call/1";
/// A shorter secret cannot be told from other text, so it could not be replaced alone.
const SECRET_BYTES_MIN: usize = 4;
/// What stands for the value of a header that is secret by its nature.
const REDACTED: &str = "REDACTED";
/// Headers whose values are never written.
const SECRET_HEADERS: [&str; 6] = [
    "authorization",
    "cookie",
    "proxy-authorization",
    "set-cookie",
    "x-api-key",
    "x-auth-token",
];

/// One recorded call.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recording {
    format: String,
    /// The component, as it was named when this was recorded.
    pub file: PathBuf,
    /// BLAKE3 of the component that was recorded, in hex.
    pub digest: String,
    /// The text of its sidecar. Sockets that it grants are not reached in a replay; directories are.
    pub sidecar: Option<String>,
    asked: AskedText,
    /// What it answered, as [`answer`] writes it.
    pub answered: Value,
    /// What it sent by HTTP, and what came back.
    pub exchanges: Vec<Exchange>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
enum AskedText {
    Load {
        route: String,
        parts: Vec<(String, String)>,
        timeout_ms: u64,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        known: Option<Validator>,
    },
    Derive {
        method: String,
        route: String,
        path: Vec<(String, String)>,
        query: Vec<(String, String)>,
        headers: Vec<(String, String)>,
    },
}

impl Recording {
    /// What is written of a call.
    ///
    /// # Errors
    /// A secret that is too short to be found and replaced.
    pub fn of(
        file: PathBuf,
        asked: &Asked,
        called: &Called,
        exchanges: Vec<Exchange>,
    ) -> Result<Self, Problem> {
        let scrub = Scrub::of(&called.secrets)?;
        let recording = Self {
            format: FORMAT.to_owned(),
            file,
            digest: called.digest.clone(),
            sidecar: called.sidecar.clone(),
            asked: AskedText::of(asked),
            answered: answer_with(&called.answer, |body| scrub.bytes(body)),
            exchanges: exchanges
                .into_iter()
                .map(|exchange| scrub.exchange(exchange))
                .collect(),
        };
        if scrub.pairs.is_empty() {
            return Ok(recording);
        }
        let mut value = serde_json::to_value(&recording).map_err(unwritable)?;
        scrub.value(&mut value);
        serde_json::from_value(value).map_err(unwritable)
    }

    /// As a file holds it.
    pub fn text(&self) -> String {
        let mut text = serde_json::to_string_pretty(self).unwrap_or_default();
        text.push('\n');
        text
    }

    /// Reads a file's text.
    ///
    /// # Errors
    /// Why it is no recording, without its place.
    pub fn parse(text: &str) -> Result<Self, Problem> {
        let again = "make it with `larder plugin record`";
        let recording: Self = serde_json::from_str(text).map_err(|error| {
            Problem::error(format!("this is no recorded call: {error}")).remedy(again)
        })?;
        if recording.format != FORMAT {
            return Err(Problem::error(format!(
                "the recording is of the format {:?}; this version reads {FORMAT:?}",
                recording.format
            ))
            .remedy(again));
        }
        Ok(recording)
    }

    /// The question, to be asked again.
    pub fn asked(&self) -> Asked {
        match self.asked.clone() {
            AskedText::Load {
                route,
                parts,
                timeout_ms,
                known,
            } => Asked::Load(Question {
                route: route.into(),
                parts: params(parts).into(),
                timeout: Duration::from_millis(timeout_ms),
                traceparent: None,
                known,
                batching: Batching::ALONE,
            }),
            AskedText::Derive {
                method,
                route,
                path,
                query,
                headers,
            } => Asked::Derive(PolicyRequest {
                method: method_of(&method),
                route: route.into(),
                path: params(path),
                query: params(query),
                headers: params(headers),
            }),
        }
    }
}

/// The methods that reach a key policy; HEAD asks as GET.
pub fn method_of(text: &str) -> &'static str {
    match text {
        "PUT" => "PUT",
        "DELETE" => "DELETE",
        _ => "GET",
    }
}

fn unwritable(error: serde_json::Error) -> Problem {
    Problem::error(format!("the call cannot be written as JSON: {error}"))
}

impl AskedText {
    fn of(asked: &Asked) -> Self {
        match asked {
            Asked::Load(question) => Self::Load {
                route: question.route.to_string(),
                parts: pairs(&question.parts),
                timeout_ms: u64::try_from(question.timeout.as_millis()).unwrap_or(u64::MAX),
                known: question.known.clone(),
            },
            Asked::Derive(request) => Self::Derive {
                method: request.method.to_owned(),
                route: request.route.to_string(),
                path: pairs(&request.path),
                query: pairs(&request.query),
                headers: pairs(&request.headers),
            },
        }
    }
}

fn pairs(params: &[Param]) -> Vec<(String, String)> {
    let pair = |param: &Param| (param.name.clone(), param.value.clone());
    params.iter().map(pair).collect()
}

fn params(pairs: Vec<(String, String)>) -> Vec<Param> {
    let param = |(name, value)| Param { name, value };
    pairs.into_iter().map(param).collect()
}

/// What a plugin answered, as JSON that a reader can compare: a body of JSON is JSON, one of text is text.
pub fn answer(answer: &Result<Answered, Failure>) -> Value {
    answer_with(answer, <[u8]>::to_vec)
}

fn answer_with(answer: &Result<Answered, Failure>, scrub: impl Fn(&[u8]) -> Vec<u8>) -> Value {
    match answer {
        Ok(Answered::Outcome(Outcome::Found(found))) => json!({ "found": {
            "status": found.status.unwrap_or(200),
            "content_type": found.content_type,
            "headers": pairs(&found.headers),
            "ttl_ms": millis(found.ttl),
            "tags": found.tags,
            "validator": found.validator,
            "hints": pairs(&found.hints),
            "body": body(&found.body, scrub),
        } }),
        Ok(Answered::Outcome(Outcome::Missing(absence))) => json!({ "missing": {
            "ttl_ms": millis(absence.ttl),
            "tags": absence.tags,
            "hints": pairs(&absence.hints),
        } }),
        Ok(Answered::Outcome(Outcome::NotModified(renewal))) => json!({ "not-modified": {
            "ttl_ms": millis(renewal.ttl),
            "hints": pairs(&renewal.hints),
        } }),
        Ok(Answered::Decision(Decision::Cache(derivation))) => {
            json!({ "cache": derived(derivation) })
        }
        Ok(Answered::Decision(Decision::Bypass(derivation))) => {
            json!({ "bypass": derived(derivation) })
        }
        Ok(Answered::Decision(Decision::Reject(failure))) => json!({ "reject": failed(failure) }),
        Err(failure) => json!({ "failure": failed(failure) }),
    }
}

fn derived(derivation: &Derivation) -> Value {
    json!({
        "parts": pairs(&derivation.parts),
        "visibility": derivation.visibility,
        "hints": pairs(&derivation.hints),
    })
}

fn failed(failure: &Failure) -> Value {
    json!({
        "kind": failure.kind.name(),
        "code": failure.code,
        "message": failure.message,
        "retry_after_ms": millis(failure.retry_after),
        "details": pairs(&failure.details),
    })
}

fn millis(duration: Option<Duration>) -> Option<u64> {
    duration.map(|it| u64::try_from(it.as_millis()).unwrap_or(u64::MAX))
}

fn body(bytes: &Bytes, scrub: impl Fn(&[u8]) -> Vec<u8>) -> Value {
    let bytes = scrub(bytes);
    match serde_json::from_slice::<Value>(&bytes) {
        Ok(json) => json!({ "json": json }),
        Err(_) => match Bytestring::new(&bytes) {
            Bytestring::Text(text) => json!({ "text": text }),
            Bytestring::Binary { base64 } => json!({ "base64": base64 }),
        },
    }
}

/// Whether a call is worth keeping: what the plugin itself said, and no trap, limit or fault of the host.
pub fn is_said(answer: &Result<Answered, Failure>) -> bool {
    answer
        .as_ref()
        .err()
        .is_none_or(|failure| failure.origin == Origin::Returned)
}

/// Finds the values of secrets, in every spelling that a request may hold them in.
struct Scrub {
    /// A spelling and what replaces it, the longest first.
    pairs: Vec<(String, String)>,
}

impl Scrub {
    fn of(secrets: &Secrets) -> Result<Self, Problem> {
        let mut pairs = Vec::new();
        for name in secrets.names() {
            // What cannot be read now, the plugin was not given either.
            let Ok(value) = secrets.look(name) else {
                continue;
            };
            if value.len() < SECRET_BYTES_MIN {
                return Err(Problem::error(format!(
                    "the secret {name:?} is shorter than {SECRET_BYTES_MIN} characters, so it could not be told from other text in a recording"
                ))
                .remedy("record with a longer one"));
            }
            let quoted = Value::from(value.as_str()).to_string();
            let spellings = [
                quoted[1..quoted.len() - 1].to_owned(),
                encode(&value).into_owned(),
                value,
            ];
            pairs.extend(spellings.map(|spelling| (spelling, stand_in(name))));
        }
        pairs.sort_by_key(|(spelling, _)| std::cmp::Reverse(spelling.len()));
        pairs.dedup();
        Ok(Self { pairs })
    }

    fn text(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for (spelling, stand_in) in &self.pairs {
            if text.contains(spelling) {
                text = text.replace(spelling, stand_in);
            }
        }
        text
    }

    fn bytes(&self, bytes: &[u8]) -> Vec<u8> {
        if let Ok(text) = std::str::from_utf8(bytes) {
            return self.text(text).into_bytes();
        }
        let mut bytes = bytes.to_vec();
        for (spelling, stand_in) in &self.pairs {
            let spelling = spelling.as_bytes();
            let mut from = 0;
            while let Some(at) = bytes[from..]
                .windows(spelling.len())
                .position(|it| it == spelling)
            {
                let at = from + at;
                bytes.splice(at..at + spelling.len(), stand_in.bytes());
                from = at + stand_in.len();
            }
        }
        bytes
    }

    fn value(&self, value: &mut Value) {
        match value {
            Value::String(text) => *text = self.text(text),
            Value::Array(items) => items.iter_mut().for_each(|item| self.value(item)),
            Value::Object(members) => members.values_mut().for_each(|member| self.value(member)),
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }

    fn exchange(&self, mut exchange: Exchange) -> Exchange {
        exchange.request.body = Bytestring::new(&self.bytes(&exchange.request.body.bytes()));
        self.headers(&mut exchange.request.headers);
        if let Some(reply) = &mut exchange.reply {
            reply.body = Bytestring::new(&self.bytes(&reply.body.bytes()));
            self.headers(&mut reply.headers);
        }
        exchange
    }

    /// A header that is secret by its nature is written only if all that is secret in it has a name.
    fn headers(&self, headers: &mut [(String, String)]) {
        for (name, value) in headers {
            let scrubbed = self.text(value);
            let named = scrubbed != *value;
            *value = if SECRET_HEADERS.contains(&name.as_str()) && !named {
                REDACTED.to_owned()
            } else {
                scrubbed
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    use crate::cache::Found;
    use crate::config::SecretSource;
    use crate::plugin::egress::{Reply, Sent};

    fn called(secret: &str, body: &str) -> (tempfile::TempDir, Called) {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("token");
        std::fs::write(&file, secret).unwrap();
        let called = Called {
            answer: Ok(Answered::Outcome(Outcome::Found(Found {
                status: None,
                content_type: None,
                headers: Vec::new(),
                body: Bytes::from(body.to_owned()),
                validator: None,
                ttl: Some(Duration::from_secs(1)),
                tags: vec![secret.to_owned()],
                hints: Vec::new(),
            }))),
            warnings: Vec::new(),
            digest: "d".to_owned(),
            sidecar: None,
            secrets: Secrets::new(
                "x",
                BTreeMap::from([("to-ken".to_owned(), SecretSource::File(file))]),
            ),
            unrecorded: Vec::new(),
            compile: Duration::ZERO,
            start: Duration::ZERO,
            call: Duration::ZERO,
            memory_peak: 0,
        };
        (dir, called)
    }

    fn load() -> Asked {
        Asked::Load(Question {
            route: "/data/{key}".into(),
            parts: vec![Param::new("key", "42")].into(),
            timeout: Duration::from_secs(2),
            traceparent: None,
            known: None,
            batching: Batching::ALONE,
        })
    }

    fn exchange(secret: &str) -> Exchange {
        let header = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        Exchange {
            request: Sent {
                method: "POST".to_owned(),
                url: format!("http://a/?k={}", encode(secret)),
                headers: vec![
                    header("authorization", &format!("Bearer {secret}")),
                    header("cookie", "session=1"),
                ],
                body: Bytestring::new(Value::from(secret).to_string().as_bytes()),
            },
            reply: Some(Reply {
                status: 200,
                headers: vec![header("x-echo", secret)],
                body: Bytestring::new(&[b"\xff", secret.as_bytes()].concat()),
            }),
            error: None,
        }
    }

    #[test]
    fn law_9_no_spelling_of_a_secret_is_in_a_recording() {
        let secret = "s3cr\"et /+é";
        let (_dir, called) = called(secret, &format!("it was {secret}"));
        let recording =
            Recording::of("x.wasm".into(), &load(), &called, vec![exchange(secret)]).unwrap();
        let text = recording.text();
        for hidden in ["s3cr", "session", "é", "%C3%A9"] {
            assert!(!text.contains(hidden), "{hidden} is in {text}");
        }
        assert!(text.contains("Bearer SECRET_to_ken"), "{text}");
        assert!(text.contains("http://a/?k=SECRET_to_ken"), "{text}");
        let reply = recording.exchanges[0].reply.as_ref().unwrap();
        assert_eq!(reply.body.bytes(), b"\xffSECRET_to_ken");
        assert_eq!(Recording::parse(&text), Ok(recording));
    }

    #[test]
    fn a_secret_that_could_be_anything_is_not_recorded() {
        let (_dir, called) = called("abc", "");
        let refused = Recording::of("x.wasm".into(), &load(), &called, Vec::new()).unwrap_err();
        assert!(
            refused.message.contains("\"to-ken\" is shorter"),
            "{refused}"
        );
    }

    #[test]
    fn another_format_is_refused_by_name() {
        let (_dir, called) = called("secret", "{}");
        let recording = Recording::of("x.wasm".into(), &load(), &called, Vec::new()).unwrap();
        let later = recording.text().replace(FORMAT, "larder-call/2");
        let refused = Recording::parse(&later).unwrap_err();
        assert!(refused.message.contains("larder-call/2"), "{refused}");
        assert!(Recording::parse("{}").is_err());
    }
}
