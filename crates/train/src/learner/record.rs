//! What a checkpoint of burn-train holds of a session.

use briquette_composer::{Position, Session, Trainable, Trained};
use briquette_core::Clock;
use burn::prelude::*;
use burn::tensor::backend::AutodiffBackend;

/// The session's tensors, and its position as JSON.
pub(super) type SessionRecord<B, M> = (<Trained<B, M> as Module<B>>::Record, String);

/// What is kept of a session.
pub(super) fn save<B: AutodiffBackend, M: Trainable<B>>(session: &Session<B, M>) -> SessionRecord<B, M> {
    let position = serde_json::to_string(&session.position()).expect("plain data");
    (session.parts().clone().into_record(), position)
}

/// Puts back what was kept.
///
/// # Panics
/// When it is of another model or recipe: burn's trait leaves no room for an error, and to train on with some of the
/// tensors would be worse.
pub(super) fn restore<B: AutodiffBackend, M: Trainable<B>>(
    session: &mut Session<B, M>,
    (tensors, position): SessionRecord<B, M>,
) {
    let finished = session.clock() == Clock::Finished;
    let position: Position = serde_json::from_str(&position)
        .unwrap_or_else(|problem| panic!("the checkpoint holds no position of a session: {problem}"));
    session
        .resume(tensors, &position)
        .unwrap_or_else(|problem| panic!("the checkpoint does not fit: {problem}"));
    // A position knows steps alone.
    if finished {
        session.set_clock(Clock::Finished);
    }
}
