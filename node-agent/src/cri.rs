//! The container runtime, through the container runtime interface (CRI).

pub(crate) mod calls;
pub(crate) mod events;
pub(crate) mod report;
pub(crate) mod wire;

use std::{path::Path, time::Duration};

use http::uri::PathAndQuery;
use hyper_util::rt::TokioIo;
use prost::Message;
use tokio::net::UnixStream;
use tonic::{
    Request, Status,
    client::Grpc,
    transport::{Channel, Endpoint, Uri},
};
use tonic_prost::ProstCodec;

use self::{
    calls::{
        AttachRequest, AttachResponse, ContainerStatusRequest, ContainerStatusResponse,
        CreateContainerRequest, CreateContainerResponse, ExecRequest, ExecResponse,
        ExecSyncRequest, ExecSyncResponse, ImageStatusRequest, ImageStatusResponse,
        ListContainerStatsRequest, ListContainerStatsResponse, ListContainersRequest,
        ListContainersResponse, ListImagesRequest, ListImagesResponse, ListPodSandboxRequest,
        ListPodSandboxResponse, PodSandboxStatusRequest, PodSandboxStatusResponse,
        PortForwardRequest, PortForwardResponse, PullImageRequest, PullImageResponse,
        RemoveContainerRequest, RemoveContainerResponse, RemoveImageRequest, RemoveImageResponse,
        RemovePodSandboxRequest, RemovePodSandboxResponse, ReopenContainerLogRequest,
        ReopenContainerLogResponse, RunPodSandboxRequest, RunPodSandboxResponse,
        StartContainerRequest, StartContainerResponse, StatusRequest, StatusResponse,
        StopContainerRequest, StopContainerResponse, StopPodSandboxRequest, StopPodSandboxResponse,
        UpdateContainerResourcesRequest, UpdateContainerResourcesResponse, VersionRequest,
        VersionResponse,
    },
    report::{ContainerStats, Image},
    wire::{
        Container, ContainerConfig, ContainerFilter, ContainerStatus, ImageSpec,
        LinuxContainerResources, PodSandbox, PodSandboxConfig, PodSandboxFilter, PodSandboxStatus,
    },
};

/// Answers above this are refused: lists of some thousand containers are below it.
const ANSWER_MAX: usize = 32 << 20;
/// How long a call may take that starts no process and pulls nothing.
const CALL_MAX: Duration = Duration::from_secs(30);
/// How long the runtime may take to make a sandbox or a container.
const MAKE_MAX: Duration = Duration::from_mins(2);
/// How long a pull may take.
const PULL_MAX: Duration = Duration::from_mins(30);

/// A runtime behind a socket.
#[derive(Clone, Debug)]
pub(crate) struct Runtime {
    channel: Channel,
}

/// What a command in a container has done.
#[derive(Clone, Debug)]
pub(crate) struct Ran {
    /// What it wrote, both streams.
    pub(crate) output: Vec<u8>,
    /// How it ended.
    pub(crate) code: i32,
}

macro_rules! call {
    ($self:ident, $service:literal, $name:literal, $within:expr, $request:expr) => {
        $self.call(concat!("/runtime.v1.", $service, "/", $name), $within, $request)
    };
}

impl Runtime {
    /// Connects with the first call.
    pub(crate) fn new(socket: &Path) -> Self {
        let socket = socket.to_owned();
        let connector = tower::service_fn(move |_: Uri| {
            let socket = socket.clone();
            async move { UnixStream::connect(socket).await.map(TokioIo::new) }
        });
        // The name means nothing: the connector knows the way.
        let channel =
            Endpoint::from_static("http://runtime").connect_with_connector_lazy(connector);
        Self { channel }
    }

    /// The same connection for other services of the runtime.
    pub(crate) fn channel(&self) -> Channel {
        self.channel.clone()
    }

    async fn call<Q, A>(
        &self,
        path: &'static str,
        within: Duration,
        request: Q,
    ) -> Result<A, Status>
    where
        Q: Message + Default + 'static,
        A: Message + Default + 'static,
    {
        let call = async {
            let mut grpc = Grpc::new(self.channel.clone()).max_decoding_message_size(ANSWER_MAX);
            let ready = grpc.ready().await;
            ready.map_err(|error| Status::unavailable(error.to_string()))?;
            let codec = ProstCodec::<Q, A>::default();
            let path = PathAndQuery::from_static(path);
            grpc.unary(Request::new(request), path, codec).await.map(tonic::Response::into_inner)
        };
        match tokio::time::timeout(within, call).await {
            Ok(answer) => answer,
            Err(_late) => Err(Status::deadline_exceeded(format!("no answer in {within:?}"))),
        }
    }

    pub(crate) async fn version(&self) -> Result<VersionResponse, Status> {
        let request = VersionRequest { version: "v1".into() };
        call!(self, "RuntimeService", "Version", CALL_MAX, request).await
    }

    /// Whether the runtime and its network are ready; otherwise why not.
    pub(crate) async fn not_ready(&self) -> Result<Option<String>, Status> {
        let answer: StatusResponse =
            call!(self, "RuntimeService", "Status", CALL_MAX, StatusRequest {}).await?;
        let conditions = answer.status.unwrap_or_default().conditions;
        let words = conditions
            .iter()
            .filter(|it| !it.status)
            .map(|it| format!("{} is not met: {} {}", it.r#type, it.reason, it.message));
        let words: Vec<String> = words.collect();
        Ok((!words.is_empty()).then(|| words.join("; ")))
    }

    pub(crate) async fn run_sandbox(&self, config: PodSandboxConfig) -> Result<String, Status> {
        let request = RunPodSandboxRequest { config: Some(config) };
        let answer: RunPodSandboxResponse =
            call!(self, "RuntimeService", "RunPodSandbox", MAKE_MAX, request).await?;
        Ok(answer.pod_sandbox_id)
    }

    pub(crate) async fn stop_sandbox(&self, id: &str) -> Result<(), Status> {
        let request = StopPodSandboxRequest { pod_sandbox_id: id.into() };
        let answer: Result<StopPodSandboxResponse, Status> =
            call!(self, "RuntimeService", "StopPodSandbox", MAKE_MAX, request).await;
        gone_is_fine(answer.map(drop))
    }

    pub(crate) async fn remove_sandbox(&self, id: &str) -> Result<(), Status> {
        let request = RemovePodSandboxRequest { pod_sandbox_id: id.into() };
        let answer: Result<RemovePodSandboxResponse, Status> =
            call!(self, "RuntimeService", "RemovePodSandbox", MAKE_MAX, request).await;
        gone_is_fine(answer.map(drop))
    }

    pub(crate) async fn sandbox(&self, id: &str) -> Result<PodSandboxStatus, Status> {
        let request = PodSandboxStatusRequest { pod_sandbox_id: id.into() };
        let answer: PodSandboxStatusResponse =
            call!(self, "RuntimeService", "PodSandboxStatus", CALL_MAX, request).await?;
        Ok(answer.status.unwrap_or_default())
    }

    /// Sandboxes with a label of this value; no label is all of them.
    pub(crate) async fn sandboxes(
        &self,
        label: Option<(&str, &str)>,
    ) -> Result<Vec<PodSandbox>, Status> {
        let mut filter = PodSandboxFilter::default();
        filter.label_selector.extend(label.map(|(name, value)| (name.into(), value.into())));
        let request = ListPodSandboxRequest { filter: Some(filter) };
        let answer: ListPodSandboxResponse =
            call!(self, "RuntimeService", "ListPodSandbox", CALL_MAX, request).await?;
        Ok(answer.items)
    }

    pub(crate) async fn create(
        &self,
        sandbox: &str,
        config: ContainerConfig,
        sandbox_config: PodSandboxConfig,
    ) -> Result<String, Status> {
        let request = CreateContainerRequest {
            pod_sandbox_id: sandbox.into(),
            config: Some(config),
            sandbox_config: Some(sandbox_config),
        };
        let answer: CreateContainerResponse =
            call!(self, "RuntimeService", "CreateContainer", MAKE_MAX, request).await?;
        Ok(answer.container_id)
    }

    pub(crate) async fn start(&self, id: &str) -> Result<(), Status> {
        let request = StartContainerRequest { container_id: id.into() };
        let answer: StartContainerResponse =
            call!(self, "RuntimeService", "StartContainer", MAKE_MAX, request).await?;
        let StartContainerResponse {} = answer;
        Ok(())
    }

    /// Asks the container to end, and ends it after `grace`.
    pub(crate) async fn stop(&self, id: &str, grace: Duration) -> Result<(), Status> {
        let timeout = i64::try_from(grace.as_secs()).unwrap_or(i64::MAX);
        let request = StopContainerRequest { container_id: id.into(), timeout };
        let within = grace + MAKE_MAX;
        let answer: Result<StopContainerResponse, Status> =
            call!(self, "RuntimeService", "StopContainer", within, request).await;
        gone_is_fine(answer.map(drop))
    }

    pub(crate) async fn remove(&self, id: &str) -> Result<(), Status> {
        let request = RemoveContainerRequest { container_id: id.into() };
        let answer: Result<RemoveContainerResponse, Status> =
            call!(self, "RuntimeService", "RemoveContainer", MAKE_MAX, request).await;
        gone_is_fine(answer.map(drop))
    }

    /// Containers with a label of this value; no label is all of them.
    pub(crate) async fn containers(
        &self,
        label: Option<(&str, &str)>,
    ) -> Result<Vec<Container>, Status> {
        let mut filter = ContainerFilter::default();
        filter.label_selector.extend(label.map(|(name, value)| (name.into(), value.into())));
        let request = ListContainersRequest { filter: Some(filter) };
        let answer: ListContainersResponse =
            call!(self, "RuntimeService", "ListContainers", CALL_MAX, request).await?;
        Ok(answer.containers)
    }

    pub(crate) async fn container(&self, id: &str) -> Result<ContainerStatus, Status> {
        let request = ContainerStatusRequest { container_id: id.into() };
        let answer: ContainerStatusResponse =
            call!(self, "RuntimeService", "ContainerStatus", CALL_MAX, request).await?;
        Ok(answer.status.unwrap_or_default())
    }

    pub(crate) async fn resize(
        &self,
        id: &str,
        linux: LinuxContainerResources,
    ) -> Result<(), Status> {
        let request = UpdateContainerResourcesRequest {
            container_id: id.into(),
            linux: Some(linux),
            ..Default::default()
        };
        let answer: UpdateContainerResourcesResponse =
            call!(self, "RuntimeService", "UpdateContainerResources", CALL_MAX, request).await?;
        let UpdateContainerResourcesResponse {} = answer;
        Ok(())
    }

    pub(crate) async fn reopen_log(&self, id: &str) -> Result<(), Status> {
        let request = ReopenContainerLogRequest { container_id: id.into() };
        let answer: ReopenContainerLogResponse =
            call!(self, "RuntimeService", "ReopenContainerLog", CALL_MAX, request).await?;
        let ReopenContainerLogResponse {} = answer;
        Ok(())
    }

    /// Runs a command in a container, to its end or until `within` is over.
    pub(crate) async fn exec_sync(
        &self,
        id: &str,
        command: &[String],
        within: Duration,
    ) -> Result<Ran, Status> {
        let timeout = i64::try_from(within.as_secs()).unwrap_or(i64::MAX);
        let request = ExecSyncRequest { container_id: id.into(), cmd: command.to_vec(), timeout };
        let answer: ExecSyncResponse =
            call!(self, "RuntimeService", "ExecSync", within + Duration::from_secs(5), request)
                .await?;
        let mut output = answer.stdout;
        output.extend(answer.stderr);
        Ok(Ran { output, code: answer.exit_code })
    }

    /// Where a command with streams is reached, by HTTP.
    pub(crate) async fn exec(&self, request: ExecRequest) -> Result<String, Status> {
        let answer: ExecResponse = call!(self, "RuntimeService", "Exec", CALL_MAX, request).await?;
        Ok(answer.url)
    }

    /// Where the streams of a container are reached, by HTTP.
    pub(crate) async fn attach(&self, request: AttachRequest) -> Result<String, Status> {
        let answer: AttachResponse =
            call!(self, "RuntimeService", "Attach", CALL_MAX, request).await?;
        Ok(answer.url)
    }

    /// Where ports of a sandbox are reached, by HTTP.
    pub(crate) async fn port_forward(&self, sandbox: &str) -> Result<String, Status> {
        let request = PortForwardRequest { pod_sandbox_id: sandbox.into(), ..Default::default() };
        let answer: PortForwardResponse =
            call!(self, "RuntimeService", "PortForward", CALL_MAX, request).await?;
        Ok(answer.url)
    }

    pub(crate) async fn stats(&self) -> Result<Vec<ContainerStats>, Status> {
        let request = ListContainerStatsRequest {};
        let answer: ListContainerStatsResponse =
            call!(self, "RuntimeService", "ListContainerStats", CALL_MAX, request).await?;
        Ok(answer.stats)
    }

    pub(crate) async fn images(&self) -> Result<Vec<Image>, Status> {
        let request = ListImagesRequest::default();
        let answer: ListImagesResponse =
            call!(self, "ImageService", "ListImages", CALL_MAX, request).await?;
        Ok(answer.images)
    }

    /// The image of this name, if the node has it.
    pub(crate) async fn image(&self, name: &str) -> Result<Option<Image>, Status> {
        let request = ImageStatusRequest { image: Some(spec(name)) };
        let answer: ImageStatusResponse =
            call!(self, "ImageService", "ImageStatus", CALL_MAX, request).await?;
        Ok(answer.image)
    }

    pub(crate) async fn remove_image(&self, id: &str) -> Result<(), Status> {
        let request = RemoveImageRequest { image: Some(spec(id)) };
        let answer: Result<RemoveImageResponse, Status> =
            call!(self, "ImageService", "RemoveImage", MAKE_MAX, request).await;
        gone_is_fine(answer.map(drop))
    }

    pub(crate) async fn pull(&self, name: &str) -> Result<String, Status> {
        let request = PullImageRequest { image: Some(spec(name)), ..Default::default() };
        let answer: PullImageResponse =
            call!(self, "ImageService", "PullImage", PULL_MAX, request).await?;
        Ok(answer.image_ref)
    }
}

fn spec(name: &str) -> ImageSpec {
    ImageSpec { image: name.into(), ..Default::default() }
}

/// What is to go and is not there has gone.
fn gone_is_fine(answer: Result<(), Status>) -> Result<(), Status> {
    match answer {
        Err(status) if status.code() == tonic::Code::NotFound => Ok(()),
        other => other,
    }
}
