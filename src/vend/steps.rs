//! How long the steps of a request take that no port measures.

use std::time::Instant;

/// Measures a step.
pub(super) fn measured<T, E>(step: &'static str, work: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
    let begun = Instant::now();
    let done = work();
    record(step, begun, done.is_ok());
    done
}

/// Measures a step that awaits.
pub(super) async fn measured_async<T, E>(step: &'static str, work: impl Future<Output = Result<T, E>>) -> Result<T, E> {
    let begun = Instant::now();
    let done = work.await;
    record(step, begun, done.is_ok());
    done
}

fn record(step: &'static str, begun: Instant, done: bool) {
    let outcome = if done { "done" } else { "failed" };
    metrics::histogram!("daypass_step_seconds", "step" => step, "outcome" => outcome).record(begun.elapsed());
}
