//! What a path names: a group and version, a resource, a namespace, an object, a part of it.

/// What a request is about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Target {
    /// Group; empty for the core group.
    pub group: String,
    /// Version, such as `v1`.
    pub version: String,
    /// Resource, in the plural.
    pub resource: String,
    /// Namespace; empty for objects of the cluster, and for those of all namespaces.
    pub namespace: String,
    /// Name of the object; empty for all of them.
    pub name: String,
    /// Subresource and what follows it; empty for the object itself.
    pub subresource: String,
}

impl Target {
    /// From `/api/v1/…` or `/apis/<group>/<version>/…`; nothing for other paths, and for those that
    /// name no resource.
    pub fn parse(path: &str) -> Option<Self> {
        let path = path.strip_prefix('/')?;
        let path = path.strip_suffix('/').unwrap_or(path);
        let parts: Vec<&str> = path.split('/').collect();
        let (group, version, rest) = match parts.as_slice() {
            ["api", version, rest @ ..] => ("", *version, rest),
            ["apis", group, version, rest @ ..] => (*group, *version, rest),
            _ => return None,
        };
        let target = |resource: &&str, namespace: &str, name: &str, subresource: &[&str]| Self {
            group: group.to_owned(),
            version: version.to_owned(),
            resource: (*resource).to_owned(),
            namespace: namespace.to_owned(),
            name: decoded(name),
            subresource: subresource.join("/"),
        };
        match rest {
            // `namespaces/x/status` and `namespaces/x/finalize` are parts of the namespace itself.
            ["namespaces", name, part @ ("status" | "finalize")] if group.is_empty() => {
                Some(target(&"namespaces", "", name, &[*part]))
            }
            ["namespaces", namespace, resource, rest @ ..] => {
                let (name, rest) = rest.split_first().unwrap_or((&"", &[]));
                Some(target(resource, namespace, name, rest))
            }
            [resource, rest @ ..] => {
                let (name, rest) = rest.split_first().unwrap_or((&"", &[]));
                Some(target(resource, "", name, rest))
            }
            [] => None,
        }
    }
}

/// Names with a colon, as those of roles, come percent-encoded.
pub fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        let pair: Option<(u8, u8)> = (byte == b'%')
            .then(|| {
                let mut ahead = rest.clone();
                let hex = |byte: Option<u8>| char::from(byte?).to_digit(16);
                let (high, low) = (hex(ahead.next())?, hex(ahead.next())?);
                Some((u8::try_from(high).ok()?, u8::try_from(low).ok()?))
            })
            .flatten();
        match pair {
            Some((high, low)) => {
                bytes.push(high * 16 + low);
                rest.nth(1);
            }
            None => bytes.push(byte),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(path: &str) -> Option<[String; 6]> {
        let Target { group, version, resource, namespace, name, subresource } =
            Target::parse(path)?;
        Some([group, version, resource, namespace, name, subresource])
    }

    #[test]
    fn every_kind_of_path() {
        for (path, expected) in [
            ("/api/v1/pods", ["", "v1", "pods", "", "", ""]),
            ("/api/v1/namespaces/a/pods/", ["", "v1", "pods", "a", "", ""]),
            ("/api/v1/namespaces/a/pods/b/log", ["", "v1", "pods", "a", "b", "log"]),
            ("/api/v1/namespaces/a", ["", "v1", "namespaces", "", "a", ""]),
            ("/api/v1/namespaces/a/status", ["", "v1", "namespaces", "", "a", "status"]),
            ("/api/v1/nodes/n/proxy/a/b", ["", "v1", "nodes", "", "n", "proxy/a/b"]),
            (
                "/apis/apps/v1/namespaces/a/deployments/b/scale",
                ["apps", "v1", "deployments", "a", "b", "scale"],
            ),
            (
                "/apis/rbac.authorization.k8s.io/v1/clusterroles/system%3Anode",
                ["rbac.authorization.k8s.io", "v1", "clusterroles", "", "system:node", ""],
            ),
        ] {
            assert_eq!(parts(path), Some(expected.map(str::to_owned)), "{path}");
        }
        for path in ["/", "/api", "/api/v1", "/apis/apps/v1", "/healthz", "/version"] {
            assert_eq!(parts(path), None, "{path}");
        }
    }
}
