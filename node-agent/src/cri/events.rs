//! What happens to containers, as containerd tells it; other runtimes are asked every second.

use futures::{Stream, StreamExt as _};
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

#[derive(Clone, PartialEq, Message)]
struct TaskExit {
    #[prost(string, tag = "1")]
    container: String,
    /// The container's own, or that of a command in it.
    #[prost(string, tag = "2")]
    process: String,
}

/// Something that happened to a container or a sandbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Happened {
    /// Its id.
    pub(crate) id: String,
    /// Whether it has ended. The runtime itself may say so a moment later.
    pub(crate) has_ended: bool,
}

impl Envelope {
    fn read(self) -> Option<Happened> {
        let bytes = self.event.unwrap_or_default().value;
        let has_ended = self.topic == "/tasks/exit";
        let id = if has_ended {
            let exit = TaskExit::decode(bytes.as_slice()).ok()?;
            // Commands in containers come and go.
            (exit.process == exit.container).then_some(exit.container)?
        } else {
            TaskEvent::decode(bytes.as_slice()).ok()?.container
        };
        (!id.is_empty()).then_some(Happened { id, has_ended })
    }
}

/// What happens to containers, from now on.
pub(crate) async fn subscribe(
    channel: Channel,
) -> Result<impl Stream<Item = Result<Happened, Status>> + use<>, Status> {
    let mut grpc = Grpc::new(channel);
    grpc.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
    let topics = ["exit", "start", "oom", "paused", "resumed"];
    let filters =
        topics.iter().map(|it| format!("topic==\"/tasks/{it}\",namespace==k8s.io")).collect();
    let codec = ProstCodec::<SubscribeRequest, Envelope>::default();
    let path = PathAndQuery::from_static("/containerd.services.events.v1.Events/Subscribe");
    let request = Request::new(SubscribeRequest { filters });
    let answers = grpc.server_streaming(request, path, codec).await?.into_inner();
    Ok(answers.filter_map(|answer| async {
        match answer {
            Ok(envelope) => envelope.read().map(Ok),
            Err(status) => Some(Err(status)),
        }
    }))
}
