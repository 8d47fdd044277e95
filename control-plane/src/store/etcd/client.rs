//! Calls of etcd over gRPC.

use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, StreamExt as _, stream};
use http::uri::PathAndQuery;
use prost::Message;
use tonic::{
    Request, Status,
    client::Grpc,
    transport::{Channel, Endpoint},
};
use tonic_prost::ProstCodec;

use super::wire::{
    CompactionRequest, CompactionResponse, RangeRequest, RangeResponse, TxnRequest, TxnResponse,
    WatchCreate, WatchRequest, WatchResponse,
};

/// An answer of this size is refused; pages and transactions are far below it.
const ANSWER_MAX: usize = 64 << 20;
/// How long a call may take, with everything that a new leader needs.
const CALL_MAX: Duration = Duration::from_secs(5);
const CONNECT_MAX: Duration = Duration::from_secs(2);

/// Servers of one etcd; a call goes to one that answers.
#[derive(Clone, Debug)]
pub(super) struct Client {
    channel: Channel,
}

impl Client {
    /// Servers by their addresses, such as `http://127.0.0.1:2379`. Connects with the first call.
    pub(super) fn new(servers: &[String]) -> Result<Self, tonic::transport::Error> {
        let endpoints = servers.iter().map(|server| {
            Ok(Endpoint::from_shared(server.clone())?
                .connect_timeout(CONNECT_MAX)
                .http2_keep_alive_interval(Duration::from_secs(5))
                .keep_alive_timeout(Duration::from_secs(5))
                .keep_alive_while_idle(true))
        });
        let endpoints: Result<Vec<Endpoint>, tonic::transport::Error> = endpoints.collect();
        Ok(Self { channel: Channel::balance_list(endpoints?.into_iter()) })
    }

    async fn call<Q, A>(&self, path: &'static str, request: Q) -> Result<A, Status>
    where
        Q: Message + Default + 'static,
        A: Message + Default + 'static,
    {
        let call = async {
            let mut grpc = Grpc::new(self.channel.clone()).max_decoding_message_size(ANSWER_MAX);
            ready(&mut grpc).await?;
            let codec = ProstCodec::<Q, A>::default();
            let path = PathAndQuery::from_static(path);
            grpc.unary(Request::new(request), path, codec).await.map(tonic::Response::into_inner)
        };
        match tokio::time::timeout(CALL_MAX, call).await {
            Ok(answer) => answer,
            Err(_elapsed) => Err(Status::deadline_exceeded(format!("no answer in {CALL_MAX:?}"))),
        }
    }

    pub(super) async fn range(&self, request: RangeRequest) -> Result<RangeResponse, Status> {
        self.call("/etcdserverpb.KV/Range", request).await
    }

    pub(super) async fn transact(&self, request: TxnRequest) -> Result<TxnResponse, Status> {
        self.call("/etcdserverpb.KV/Txn", request).await
    }

    pub(super) async fn compact(&self, revision: i64) -> Result<CompactionResponse, Status> {
        self.call("/etcdserverpb.KV/Compact", CompactionRequest { revision }).await
    }

    /// Changes of the keys from `key` to `end`, from a revision on.
    pub(super) async fn watch(
        &self,
        key: Bytes,
        end: Bytes,
        from: i64,
    ) -> Result<impl Stream<Item = Result<WatchResponse, Status>> + use<>, Status> {
        let create = WatchCreate { key, range_end: end, start_revision: from };
        // The stream of requests stays open: its end would be the end of the watch.
        let requests =
            stream::once(async { WatchRequest { create: Some(create) } }).chain(stream::pending());
        let call = async {
            let mut grpc = Grpc::new(self.channel.clone()).max_decoding_message_size(ANSWER_MAX);
            ready(&mut grpc).await?;
            let codec = ProstCodec::<WatchRequest, WatchResponse>::default();
            let path = PathAndQuery::from_static("/etcdserverpb.Watch/Watch");
            grpc.streaming(Request::new(requests), path, codec).await
        };
        match tokio::time::timeout(CALL_MAX, call).await {
            Ok(answer) => answer.map(tonic::Response::into_inner),
            Err(_elapsed) => Err(Status::deadline_exceeded(format!("no answer in {CALL_MAX:?}"))),
        }
    }
}

async fn ready(grpc: &mut Grpc<Channel>) -> Result<(), Status> {
    grpc.ready().await.map_err(|error| Status::unavailable(error.to_string()))
}
