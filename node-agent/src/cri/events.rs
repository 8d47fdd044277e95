//! What happens to containers, as containerd tells it; other runtimes are asked every second.

use futures::{Stream, StreamExt as _, stream};
use http::uri::PathAndQuery;
use prost::Message;
use tonic::{Request, Status, client::Grpc, transport::Channel};
use tonic_prost::ProstCodec;

/// Names and numbers of containerd's `services/events/v1/events.proto`.
#[derive(Clone, PartialEq, Message)]
struct SubscribeRequest {
    #[prost(string, repeated, tag = "1")]
    filters: Vec<String>,
}

#[derive(Clone, PartialEq, Message)]
struct Envelope {
    #[prost(string, tag = "3")]
    topic: String,
    #[prost(message, optional, tag = "4")]
    event: Option<Any>,
}

#[derive(Clone, PartialEq, Message)]
struct Any {
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

/// All events of tasks begin with the container's id.
#[derive(Clone, PartialEq, Message)]
struct TaskEvent {
    #[prost(string, tag = "1")]
    container: String,
}

/// The ids of containers to which something happens, from now on.
pub(crate) async fn subscribe(
    channel: Channel,
) -> Result<impl Stream<Item = Result<String, Status>> + use<>, Status> {
    let mut grpc = Grpc::new(channel);
    grpc.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
    let topics = ["exit", "start", "oom", "paused", "resumed"];
    let filters = topics.iter().map(|it| format!("topic==\"/tasks/{it}\",namespace==k8s.io")).collect();
    let codec = ProstCodec::<SubscribeRequest, Envelope>::default();
    let path = PathAndQuery::from_static("/containerd.services.events.v1.Events/Subscribe");
    let request = Request::new(stream::once(async { SubscribeRequest { filters } }));
    let answers = grpc.streaming(request, path, codec).await?.into_inner();
    Ok(answers.filter_map(|answer| async {
        match answer {
            Ok(envelope) => {
                let bytes = envelope.event.unwrap_or_default().value;
                let event = TaskEvent::decode(bytes.as_slice()).ok()?;
                tracing::trace!(topic = envelope.topic, id = event.container, "a container's task");
                (!event.container.is_empty()).then_some(Ok(event.container))
            }
            Err(status) => Some(Err(status)),
        }
    }))
}
