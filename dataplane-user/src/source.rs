//! Where objects come from: a Kubernetes API server or a directory of manifests.
