//! How long the steps of a request take that no port measures.

use std::time::Instant;

/// Measures a step.
pub(super) fn measured<T>(step: &'static str, work: impl FnOnce() -> T) -> T {
    let begun = Instant::now();
    let done = work();
    record(step, begun);
    done
}

/// Measures a step that awaits.
pub(super) async fn measured_async<T>(step: &'static str, work: impl Future<Output = T>) -> T {
    let begun = Instant::now();
    let done = work.await;
    record(step, begun);
    done
}

fn record(step: &'static str, begun: Instant) {
    metrics::histogram!("daypass_step_seconds", "step" => step, "outcome" => "done").record(begun.elapsed());
}
