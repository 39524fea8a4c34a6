//! `daypass.v1.AuditService`

use std::{pin::Pin, sync::Arc, time::Instant};

use tokio::sync::mpsc;
use tokio_stream::{Stream, wrappers::ReceiverStream};
use tonic::{Request, Response, Status, async_trait};

use super::{
    edge::{measure, origin, with_call_id},
    status::status,
};
use crate::{
    model::error::{Code, Error},
    proto::v1::{self, audit_service_server::AuditService},
    server::grpc::Edge,
    vend::TailFrom,
};

/// The most records that a tail may begin with.
const MAX_LAST: u32 = 10_000;

/// Records that wait for a slow reader.
const WAITING_RECORDS: usize = 256;

#[async_trait]
impl AuditService for Edge {
    type TailStream = Pin<Box<dyn Stream<Item = Result<v1::TailResponse, Status>> + Send>>;

    async fn tail(&self, request: Request<v1::TailRequest>) -> Result<Response<Self::TailStream>, Status> {
        let begun = Instant::now();
        let origin = origin("AuditService/Tail", &request);
        let call_id = origin.call_id.clone();
        let started = async {
            let call = self.authenticate(origin, &request).await?;
            let v1::TailRequest { after_seq, last, follow } = request.into_inner();
            if last > MAX_LAST {
                let error = Error::new(Code::InvalidRequest, format!("last is at most {MAX_LAST}"));
                return Err(self.vend.refused(&call, error).await);
            }
            let place = self.place_for(&call).await?;
            self.vend.begin_tail(&call).await?;
            let from = if last > 0 { TailFrom::Newest(last as usize) } else { TailFrom::After(after_seq) };
            let (sender, records) = mpsc::channel(WAITING_RECORDS);
            let tail = send_tail(Arc::clone(&self.vend), call, from, follow, self.shutdown.clone(), sender);
            let age = self.connection_age;
            tokio::spawn(async move {
                let _too_old = tokio::time::timeout(age, tail).await;
                drop(place);
            });
            Ok(records)
        };
        let answer = started.await.map_err(|error| status(&error, &call_id));
        measure("AuditService/Tail", begun, answer.as_ref().err());
        let stream = answer.map(|records| -> Self::TailStream { Box::pin(ReceiverStream::new(records)) });
        with_call_id(stream, &call_id)
    }
}

async fn send_tail(
    vend: Arc<crate::vend::Vend>,
    call: crate::vend::Call,
    from: TailFrom,
    follow: bool,
    mut shutdown: tokio::sync::watch::Receiver<bool>,
    sender: mpsc::Sender<Result<v1::TailResponse, Status>>,
) {
    let call_id = call.origin.call_id.clone();
    let (records, mut lines) = mpsc::channel(WAITING_RECORDS);
    let reading = tokio::spawn(async move { vend.tail(&call, from, follow, records).await });
    loop {
        let line = tokio::select! {
            line = lines.recv() => line,
            () = sender.closed() => break,
            _ = shutdown.wait_for(|over| *over) => break,
        };
        let Some((seq, record)) = line else { break };
        if sender.send(Ok(v1::TailResponse { seq, record })).await.is_err() {
            break;
        }
    }
    drop(lines);
    if let Ok(Err(error)) = reading.await {
        let _gone = sender.send(Err(status(&error, &call_id))).await;
    }
}
