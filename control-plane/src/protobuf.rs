//! Objects in protobuf, as Go clients send and want them: `k8s\0`, an envelope, and the object's message.
//!
//! <https://kubernetes.io/docs/reference/using-api/api-concepts/#protobuf-encoding>

mod read;
mod write;

use serde_json::Value;

pub use self::{read::decode, write::encode};

/// What every body begins with.
const MAGIC: &[u8] = b"k8s\0";
/// How deep messages may lie in each other.
const DEPTH_MAX: u32 = 64;

/// The media type of bodies.
pub const MEDIA: &str = "application/vnd.kubernetes.protobuf";
/// The media type of watches: frames, each behind its length in four bytes.
pub const MEDIA_WATCH: &str = "application/vnd.kubernetes.protobuf;stream=watch";

/// Why bytes are no object.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Another format.
    #[error("the body does not begin with the four bytes `k8s\\0`")]
    NoMagic,
    /// No message.
    #[error("the body is no protobuf message: {0}")]
    Malformed(String),
    /// A kind that nobody here knows.
    #[error("no kind {kind:?} is registered for version {version:?}")]
    Unknown {
        /// Its `apiVersion`.
        version: String,
        /// Its kind.
        kind: String,
    },
}

/// One event of a watch, as a frame.
pub fn frame(kind: &str, object: &Value) -> Vec<u8> {
    write::frame(kind, object)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn there_and_back(object: &Value) -> Value {
        decode(&encode(object)).expect("it was written here")
    }

    #[test]
    fn objects_come_back_as_they_went() {
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {
                "name": "web", "namespace": "shop", "labels": {"app": "web", "empty": ""},
                "creationTimestamp": "2026-01-02T03:04:05Z", "deletionGracePeriodSeconds": 0,
                "managedFields": [{"manager": "kubectl", "operation": "Update", "fieldsType": "FieldsV1",
                    "fieldsV1": {"f:spec": {"f:replicas": {}}}}],
                "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "a", "uid": "u",
                    "controller": true, "blockOwnerDeletion": false}],
            },
            "spec": {
                "terminationGracePeriodSeconds": 0, "enableServiceLinks": false,
                "containers": [{
                    "name": "web", "image": "web:1", "command": ["a", "", "b"],
                    "resources": {"limits": {"cpu": "500m", "memory": "1Gi"}},
                    "livenessProbe": {"httpGet": {"port": "http", "path": "/"}, "periodSeconds": 5},
                    "readinessProbe": {"tcpSocket": {"port": 8080}},
                    "env": [{"name": "A", "valueFrom": {"configMapKeyRef": {"name": "m", "key": "k", "optional": false}}}],
                    "securityContext": {"runAsUser": 0, "privileged": false},
                }],
                "volumes": [{"name": "v", "configMap": {"name": "m", "defaultMode": 420}}],
                "tolerations": [{"key": "k", "operator": "Exists", "tolerationSeconds": 0}],
            },
            "status": {"phase": "Running", "containerStatuses": [{
                "name": "web", "image": "web:1", "imageID": "", "ready": false, "restartCount": 0,
                "state": {"terminated": {"exitCode": 0, "finishedAt": "2026-01-02T03:04:05Z"}},
            }]},
        });
        assert_eq!(there_and_back(&pod), pod);
        let secret = json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "a"},
            "data": {"key": "dmFsdWU=", "none": ""}, "type": "Opaque", "immutable": true,
        });
        assert_eq!(there_and_back(&secret), secret);
        let lease = json!({
            "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "a"},
            "spec": {"renewTime": "2026-01-02T03:04:05.678901Z", "leaseDurationSeconds": 40},
        });
        assert_eq!(there_and_back(&lease), lease);
        let deployment = json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "a", "generation": -3},
            "spec": {"replicas": 0, "strategy": {"rollingUpdate": {"maxSurge": "25%", "maxUnavailable": 0}}},
        });
        assert_eq!(there_and_back(&deployment), deployment);
        let list = json!({
            "apiVersion": "v1", "kind": "ConfigMapList", "metadata": {"resourceVersion": "7"},
            "items": [{"metadata": {"name": "a"}, "data": {"k": "v"}}, {"metadata": {"name": "b"}}],
        });
        assert_eq!(there_and_back(&list), list);
    }

    #[test]
    fn what_go_always_writes_and_json_leaves_out_is_left_out() {
        // metadata { name: "a", generateName: "", creationTimestamp: {} }, data {}.
        let metadata = [&b"\x0a\x01a\x12\x00"[..], b"\x42\x00"].concat();
        let message = [&[0x0a, u8::try_from(metadata.len()).unwrap()][..], &metadata].concat();
        let mut envelope = vec![0x0a, 0x0f];
        envelope.extend(b"\x0a\x02v1\x12\x09ConfigMap");
        envelope.extend([0x12, u8::try_from(message.len()).unwrap()]);
        envelope.extend(message);
        let object = decode(&[MAGIC, &envelope].concat()).expect("an object");
        let expected = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}});
        assert_eq!(object, expected);
    }

    #[test]
    fn what_is_no_object_is_refused_with_a_reason() {
        assert_eq!(decode(b"{}"), Err(Error::NoMagic));
        assert!(matches!(decode(b"k8s\0\x0a\xff"), Err(Error::Malformed(_))));
        let unknown = encode(&json!({"apiVersion": "v9", "kind": "Nothing"}));
        assert!(matches!(decode(&unknown), Err(Error::Unknown { .. })));
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_break_it(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..300)) {
            let mut body = encode(&json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}}));
            body.extend(bytes);
            let _either = decode(&body);
        }
    }
}
