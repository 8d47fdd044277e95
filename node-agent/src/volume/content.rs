//! What is in volumes that we write: ConfigMaps, Secrets, fields of the pod, tokens.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::{
    authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec},
    core::v1::{DownwardAPIVolumeFile, KeyToPath, Pod, ServiceAccount, Volume, VolumeProjection},
};
use kube::{Api, Client, api::PostParams};

use crate::{
    configs::{Configs, Content, Key, Kind},
    pod::env::{self, Place},
};

/// Tokens are asked for anew after this part of their lives.
const REFRESH_PERCENT: i64 = 80;
const MODE: u32 = 0o644;
const TOKEN_MODE: u32 = 0o644;

/// A file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct File {
    pub(crate) bytes: Vec<u8>,
    pub(crate) mode: u32,
    pub(crate) owner: Option<u32>,
}

/// Files by their paths.
pub(crate) type Files = BTreeMap<String, File>;

struct Token {
    text: String,
    refresh: Timestamp,
}

/// Tokens of one pod.
#[derive(Default)]
pub(crate) struct Tokens(Mutex<BTreeMap<(String, i64), Token>>);

impl Tokens {
    /// When one has to be asked for anew.
    pub(crate) fn refresh_at(&self) -> Option<Timestamp> {
        let tokens = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        tokens.values().map(|it| it.refresh).min()
    }
}

/// Where content comes from.
pub(crate) struct Sources<'s> {
    pub(crate) pod: &'s Pod,
    pub(crate) configs: &'s Configs,
    pub(crate) client: &'s Client,
    pub(crate) tokens: &'s Tokens,
    pub(crate) place: &'s Place,
    pub(crate) addresses: &'s [IpAddr],
}

/// The files of a volume; otherwise why there are none.
pub(crate) async fn of(volume: &Volume, sources: &Sources<'_>) -> Result<Files, String> {
    let mut files = Files::new();
    if let Some(map) = &volume.config_map {
        let wish = Wish {
            kind: Kind::ConfigMap,
            name: &map.name,
            items: map.items.as_deref(),
            is_optional: map.optional == Some(true),
            mode: mode(map.default_mode),
        };
        sources.config(&wish, &mut files).await?;
    } else if let Some(secret) = &volume.secret {
        let wish = Wish {
            kind: Kind::Secret,
            name: secret.secret_name.as_deref().unwrap_or_default(),
            items: secret.items.as_deref(),
            is_optional: secret.optional == Some(true),
            mode: mode(secret.default_mode),
        };
        sources.config(&wish, &mut files).await?;
    } else if let Some(downward) = &volume.downward_api {
        for item in downward.items.iter().flatten() {
            sources.field(item, mode(downward.default_mode), &mut files)?;
        }
    } else if let Some(projected) = &volume.projected {
        for source in projected.sources.iter().flatten() {
            sources.projection(source, mode(projected.default_mode), &mut files).await?;
        }
    }
    Ok(files)
}

fn mode(given: Option<i32>) -> u32 {
    given.and_then(|it| u32::try_from(it).ok()).unwrap_or(MODE)
}

struct Wish<'w> {
    kind: Kind,
    name: &'w str,
    items: Option<&'w [KeyToPath]>,
    is_optional: bool,
    mode: u32,
}

impl Sources<'_> {
    fn namespace(&self) -> &str {
        self.pod.metadata.namespace.as_deref().unwrap_or_default()
    }

    async fn config(&self, wish: &Wish<'_>, files: &mut Files) -> Result<(), String> {
        let key =
            Key { kind: wish.kind, namespace: self.namespace().into(), name: wish.name.into() };
        let content: Arc<Content> = match self.configs.get(&key).await {
            Some(content) => content,
            None if wish.is_optional => return Ok(()),
            None => return Err(format!("{} {:?} not found", wish.kind.word(), wish.name)),
        };
        let file = |bytes: &Vec<u8>, mode| File { bytes: bytes.clone(), mode, owner: None };
        let Some(items) = wish.items else {
            let all = content.data.iter().map(|(key, bytes)| (key.clone(), file(bytes, wish.mode)));
            files.extend(all);
            return Ok(());
        };
        for item in items {
            let mode = item.mode.and_then(|it| u32::try_from(it).ok()).unwrap_or(wish.mode);
            match content.data.get(&item.key) {
                Some(bytes) => drop(files.insert(item.path.clone(), file(bytes, mode))),
                None if wish.is_optional => {}
                None => {
                    return Err(format!(
                        "references non-existent {} key: {}",
                        wish.kind.word(),
                        item.key
                    ));
                }
            }
        }
        Ok(())
    }

    fn field(
        &self,
        item: &DownwardAPIVolumeFile,
        mode: u32,
        files: &mut Files,
    ) -> Result<(), String> {
        let mode = item.mode.and_then(|it| u32::try_from(it).ok()).unwrap_or(mode);
        let value = if let Some(selector) = &item.field_ref {
            env::field(self.pod, selector, self.place, self.addresses)
        } else if let Some(selector) = &item.resource_field_ref {
            env::resource(self.pod, None, selector, self.place)
        } else {
            None
        };
        let value = value.ok_or_else(|| format!("there is no value for {:?}", item.path))?;
        files.insert(item.path.clone(), File { bytes: value.into_bytes(), mode, owner: None });
        Ok(())
    }

    async fn projection(
        &self,
        source: &VolumeProjection,
        mode: u32,
        files: &mut Files,
    ) -> Result<(), String> {
        if let Some(map) = &source.config_map {
            let wish = Wish {
                kind: Kind::ConfigMap,
                name: &map.name,
                items: map.items.as_deref(),
                is_optional: map.optional == Some(true),
                mode,
            };
            self.config(&wish, files).await?;
        }
        if let Some(secret) = &source.secret {
            let wish = Wish {
                kind: Kind::Secret,
                name: &secret.name,
                items: secret.items.as_deref(),
                is_optional: secret.optional == Some(true),
                mode,
            };
            self.config(&wish, files).await?;
        }
        for item in source.downward_api.iter().flat_map(|it| it.items.iter().flatten()) {
            self.field(item, mode, files)?;
        }
        if let Some(token) = &source.service_account_token {
            let audience = token.audience.clone().unwrap_or_default();
            let text = self.token(audience, token.expiration_seconds.unwrap_or(3_600)).await?;
            let file = File { bytes: text.into_bytes(), mode: TOKEN_MODE, owner: None };
            files.insert(token.path.clone(), file);
        }
        Ok(())
    }

    /// A token for the pod's account: the one that it has, or a new one when that is old.
    async fn token(&self, audience: String, seconds: i64) -> Result<String, String> {
        let key = (audience, seconds);
        {
            let tokens = self.tokens.0.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(token) = tokens.get(&key).filter(|it| it.refresh > Timestamp::now()) {
                return Ok(token.text.clone());
            }
        }
        let account = self.pod.spec.as_ref().and_then(|it| it.service_account_name.as_deref());
        let account = account.unwrap_or("default");
        let request = TokenRequest {
            spec: Some(TokenRequestSpec {
                audiences: (!key.0.is_empty()).then(|| vec![key.0.clone()]),
                expiration_seconds: Some(seconds),
                bound_object_ref: Some(BoundObjectReference {
                    api_version: Some("v1".into()),
                    kind: Some("Pod".into()),
                    name: self.pod.metadata.name.clone(),
                    uid: self.pod.metadata.uid.clone(),
                }),
                ..TokenRequestSpec::default()
            }),
            ..TokenRequest::default()
        };
        let api = Api::<ServiceAccount>::namespaced(self.client.clone(), self.namespace());
        let answer = api.create_token_request(account, &PostParams::default(), &request).await;
        let answer = answer.map_err(|error| format!("failed to fetch token: {error}"))?;
        let status = answer.status.unwrap_or_default();
        let text = status.token.unwrap_or_default();
        let end = status.expiration_timestamp.map_or_else(Timestamp::now, |it| it.0);
        let life = end.duration_since(Timestamp::now()).as_secs();
        let refresh = SignedDuration::from_secs(life.max(0) * REFRESH_PERCENT / 100);
        let refresh = Timestamp::now().checked_add(refresh).unwrap_or(Timestamp::MAX);
        let mut tokens = self.tokens.0.lock().unwrap_or_else(PoisonError::into_inner);
        tokens.insert(key, Token { text: text.clone(), refresh });
        Ok(text)
    }
}
