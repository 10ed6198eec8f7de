//! From the contract's calls to an author's functions and back. What [`crate::plugin!`] expands to.

use std::future::Future;

use serde::de::DeserializeOwned;

use crate::context::{Context, config};
use crate::contract::types::{Failure, Outcome, Question};
use crate::contract::{change_feed, key_policy, writer};
use crate::error::Error;
use crate::feed::{Page, Poll};
use crate::key::{Key, Request};
use crate::params;
use crate::reply::IntoReply;
use crate::write::{Mutation, Receipt};

pub async fn load<P, C, R, F>(
    load: impl Fn(P, Context<C>) -> F,
    question: Question,
) -> Result<Outcome, Failure>
where
    P: DeserializeOwned,
    C: DeserializeOwned + 'static,
    R: IntoReply,
    F: Future<Output = Result<R, Error>>,
{
    let (params, context) = asked(question)?;
    outcome(load(params, context).await)
}

pub fn load_blocking<P, C, R>(
    load: impl Fn(P, Context<C>) -> Result<R, Error>,
    question: Question,
) -> Result<Outcome, Failure>
where
    P: DeserializeOwned,
    C: DeserializeOwned + 'static,
    R: IntoReply,
{
    let (params, context) = asked(question)?;
    outcome(load(params, context))
}

/// A question whose parts do not fit gets its own failure; the others go on.
pub async fn load_many<P, C, R, F>(
    load: impl Fn(Vec<(P, Context<C>)>) -> F,
    questions: Vec<Question>,
) -> Vec<Result<Outcome, Failure>>
where
    P: DeserializeOwned,
    C: DeserializeOwned + 'static,
    R: IntoReply,
    F: Future<Output = Vec<Result<R, Error>>>,
{
    let mut fit = Vec::with_capacity(questions.len());
    let mut answers: Vec<Option<Failure>> = Vec::with_capacity(questions.len());
    for question in questions {
        match asked(question) {
            Ok(asked) => {
                fit.push(asked);
                answers.push(None);
            }
            Err(failure) => answers.push(Some(failure)),
        }
    }
    let expected = fit.len();
    let loaded = if fit.is_empty() {
        Vec::new()
    } else {
        load(fit).await
    };
    if loaded.len() != expected {
        let message = format!(
            "the plugin gave {} results for {expected} questions",
            loaded.len()
        );
        let failure = Error::internal(message).code("batch-length").0;
        return answers
            .into_iter()
            .map(|own| Err(own.unwrap_or_else(|| failure.clone())))
            .collect();
    }
    let mut loaded = loaded.into_iter().map(outcome);
    answers
        .into_iter()
        .filter_map(|failure| match failure {
            Some(failure) => Some(Err(failure)),
            None => loaded.next(),
        })
        .collect()
}

pub fn derive<C: DeserializeOwned + 'static>(
    derive: impl Fn(Request, &C) -> Result<Key, Error>,
    request: key_policy::Request,
) -> key_policy::Decision {
    let request = Request {
        method: request.method,
        route: request.route,
        path: request.path,
        query: request.query,
        headers: request.headers,
    };
    match config::<C>()
        .map_err(Error)
        .and_then(|config| derive(request, &config))
    {
        Ok(key) => key.into_decision(),
        Err(error) => key_policy::Decision::Reject(error.0),
    }
}

pub async fn write<P, C, F>(
    write: impl Fn(Mutation<P>, Context<C>) -> F,
    mutations: Vec<writer::Mutation>,
) -> Vec<Result<writer::Receipt, Failure>>
where
    P: DeserializeOwned,
    C: DeserializeOwned + 'static,
    F: Future<Output = Result<Receipt, Error>>,
{
    let write = &write;
    // All at once: they are of different resources, so they cannot overtake each other.
    crate::call::all(mutations.into_iter().map(|mutation| async move {
        let context = Context::of(&mutation.target, None)?;
        let mutation = Mutation {
            params: params::read(&mutation.target.parts)?,
            operation: mutation.operation.into(),
            expect: mutation.expect.into(),
            idempotency_key: mutation.idempotency_key,
            sequence: mutation.sequence,
        };
        let receipt = write(mutation, context).await.map_err(|error| error.0)?;
        receipt.into_contract()
    }))
    .await
}

pub async fn poll<C, F>(
    poll: impl Fn(Poll, Context<C>) -> F,
    asked: Poll,
) -> Result<change_feed::Page, Failure>
where
    C: DeserializeOwned + 'static,
    F: Future<Output = Result<Page, Error>>,
{
    let context = Context::of_nothing()?;
    match poll(asked, context).await {
        Ok(page) => Ok(page.into_contract()),
        Err(error) => Err(error.0),
    }
}

fn asked<P, C>(question: Question) -> Result<(P, Context<C>), Failure>
where
    P: DeserializeOwned,
    C: DeserializeOwned + 'static,
{
    let params = params::read(&question.target.parts)?;
    Ok((params, Context::of(&question.target, question.known)?))
}

fn outcome<R: IntoReply>(answer: Result<R, Error>) -> Result<Outcome, Failure> {
    answer.map_err(|error| error.0)?.into_reply().into_outcome()
}

/// Runs futures at the same time, and gives their results in their order.
pub(crate) async fn all<T, F: Future<Output = T>>(futures: impl Iterator<Item = F>) -> Vec<T> {
    let mut running: Vec<_> = futures.map(|future| (Box::pin(future), None)).collect();
    std::future::poll_fn(|context| {
        let mut done = true;
        for (future, result) in &mut running {
            if result.is_none() {
                match future.as_mut().poll(context) {
                    std::task::Poll::Ready(value) => *result = Some(value),
                    std::task::Poll::Pending => done = false,
                }
            }
        }
        if done {
            std::task::Poll::Ready(())
        } else {
            std::task::Poll::Pending
        }
    })
    .await;
    running
        .into_iter()
        .filter_map(|(_, result)| result)
        .collect()
}

pub async fn start<L: crate::Lifecycle>(_: &L) -> Result<(), Failure> {
    L::start().await.map_err(|error| error.0)
}

pub async fn probe<L: crate::Lifecycle>(_: &L) -> Result<(), Failure> {
    L::probe().await.map_err(|error| error.0)
}

pub async fn stop<L: crate::Lifecycle>(_: &L) {
    L::stop().await;
}
