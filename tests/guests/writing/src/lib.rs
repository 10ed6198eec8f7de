//! `writing`: a writer with its loader, both of which do what an HTTP origin tells them.
//!
//! A load GETs `/VALUE` of the part `id`, and is found with the body; 500 or more is a failure; `x-tags: a,b` gives tags.
//!
//! A change is sent to `/write/VALUE`, with what the host told beside it: `x-expect`, `x-key`, `x-sequence`, and the content type.
//! 201 says that it was created, another 2xx that it was done; `etag` is its validator, `x-entry` the value as a read would give it,
//! `x-tags` the tags to purge. 403, 409, 422 and 429 are failures of their kinds; 503 is `unavailable`, with the code
//! `outcome-unknown` if `x-outcome` says so. `x-do: panic` panics, `x-do: wait` waits for ever.
//!
//! Settings: `url`, the origin's base URL; `[grants] http` must hold it.

use larder_plugin::http::{self, Response};
use larder_plugin::prelude::*;
use larder_plugin::{Expect, Mutation, Operation, Receipt};

#[derive(Deserialize, JsonSchema)]
struct Settings {
    url: String,
}

#[derive(Deserialize, JsonSchema)]
struct Params {
    id: String,
}

async fn load(params: Params, context: Context<Settings>) -> Result<Reply<Value>, Error> {
    let url = format!("{}/{}", context.url, params.id);
    let answer = http::get(url).send().await?;
    if answer.status >= 500 {
        return Err(Error::unavailable("the origin says so"));
    }
    let mut reply = Reply::bytes("application/json", answer.body.clone());
    for tag in tags(&answer) {
        reply = reply.tag(tag);
    }
    Ok(reply)
}

async fn write(mutation: Mutation<Params>, context: Context<Settings>) -> Result<Receipt, Error> {
    let url = format!("{}/write/{}", context.url, mutation.params.id);
    let request = match mutation.operation {
        Operation::Put { content_type, body } => {
            http::put(url).body(content_type.as_deref().unwrap_or("none"), body)
        }
        Operation::Delete => http::delete(url),
    };
    let expect = match mutation.expect {
        Expect::Anything => "anything".to_owned(),
        Expect::Absent => "absent".to_owned(),
        Expect::Present => "present".to_owned(),
        Expect::Etag(etag) => etag,
    };
    let answer = request
        .header("x-expect", expect)
        .header("x-key", mutation.idempotency_key)
        .header("x-sequence", mutation.sequence.to_string())
        .send()
        .await?;
    match answer.header("x-do") {
        Some("panic") => panic!("told to panic"),
        Some("wait") => std::future::pending().await,
        _ => {}
    }
    match answer.status {
        200..300 => {}
        403 => return Err(Error::denied("not yours")),
        409 => return Err(Error::conflict("it is another by now")),
        422 => return Err(Error::invalid_request("that is none")),
        429 => return Err(Error::rate_limited("slowly", None)),
        _ if answer.header("x-outcome").is_some() => {
            return Err(Error::unavailable("it broke off").code("outcome-unknown"));
        }
        _ => return Err(Error::unavailable("the origin is down")),
    }
    let mut receipt = Receipt::done().created(answer.status == 201);
    if let Some(etag) = answer.header("etag") {
        receipt = receipt.etag(etag);
    }
    if let Some(entry) = answer.header("x-entry") {
        receipt = receipt.value(Reply::<Value>::bytes("application/json", entry));
    }
    for tag in tags(&answer) {
        receipt = receipt.tag(tag);
    }
    Ok(receipt)
}

fn tags(answer: &Response) -> Vec<String> {
    let tags = answer.header("x-tags").unwrap_or_default().split(',');
    tags.filter(|tag| !tag.is_empty())
        .map(str::to_owned)
        .collect()
}

larder_plugin::plugin! {
    about: "Does what an origin tells it.",
    loader: load,
    writer: write,
    needs: Needs::new().http("http://127.0.0.1", "the origin"),
}
