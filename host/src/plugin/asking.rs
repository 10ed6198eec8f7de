//! How an async loader's component is asked: with one question a call (`loader`), or with many (`batch-loader`). Knows
//! neither who waits nor for how long.

use wasmtime::component::{Accessor, Instance};

use super::bindings::{Answer, batch_loader, loader, types};
use super::instance::Mould;
use super::state::State;

/// The loader of one instance.
pub(super) enum Guest {
    /// `loader`
    One(loader::Guest),
    /// `batch-loader`
    Many(batch_loader::Guest),
}

impl Guest {
    /// Looks it up. A component that exports both is used through `batch-loader`.
    pub(super) fn of(
        mould: &Mould,
        store: &mut wasmtime::Store<State>,
        instance: &Instance,
    ) -> wasmtime::Result<Self> {
        let worldly = &mould.worldly;
        match (&worldly.batch, &worldly.loader) {
            (Some(indices), _) => indices.load(store, instance).map(Self::Many),
            (None, Some(indices)) => indices.load(store, instance).map(Self::One),
            (None, None) => Err(wasmtime::format_err!(
                "the component exports neither `batch-loader` nor `loader`"
            )),
        }
    }

    /// Asks. Of `batch-loader`, the answers are as many as the guest gave: they are judged where they are told apart.
    pub(super) async fn ask(
        &self,
        accessor: &Accessor<State>,
        questions: Vec<types::Question>,
    ) -> wasmtime::Result<Vec<Answer>> {
        match self {
            Self::Many(guest) => guest.call_load_many(accessor, questions).await,
            Self::One(guest) => {
                let mut answers = Vec::with_capacity(questions.len());
                for question in questions {
                    answers.push(guest.call_load(accessor, question).await?);
                }
                Ok(answers)
            }
        }
    }
}
