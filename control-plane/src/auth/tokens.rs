//! Tokens of service accounts: signed, for an audience, until a time.

use std::path::Path;

use jiff::Timestamp;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use rcgen::{KeyPair, PublicKeyData as _};
use serde::{Deserialize, Serialize};

use super::{User, tls};

/// Who issues tokens, and for whom they are if nobody says.
pub const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";
/// The shortest life of a token, in seconds.
const LIFE_MIN_S: i64 = 600;
/// Its life if nobody asks for another.
const LIFE_S: i64 = 3_600;

/// The key that signs tokens.
#[expect(missing_debug_implementations, reason = "it is a key")]
pub struct Signer {
    encoding: EncodingKey,
    decoding: DecodingKey,
}

/// What a token says.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Claims {
    iss: String,
    sub: String,
    aud: Vec<String>,
    exp: i64,
    iat: i64,
    #[serde(rename = "kubernetes.io")]
    about: About,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct About {
    namespace: String,
    serviceaccount: Named,
    #[serde(skip_serializing_if = "Option::is_none")]
    pod: Option<Named>,
}

/// An object that a token is bound to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Named {
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
}

/// Whose token it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bearer {
    /// Namespace of the service account.
    pub namespace: String,
    /// The account.
    pub account: Named,
    /// The pod that it is bound to.
    pub pod: Option<Named>,
    /// For whom it is.
    pub audiences: Vec<String>,
}

impl Bearer {
    /// Whom it names.
    pub fn user(&self) -> User {
        let groups = vec![
            "system:serviceaccounts".into(),
            format!("system:serviceaccounts:{}", self.namespace),
        ];
        let name = format!("system:serviceaccount:{}:{}", self.namespace, self.account.name);
        User::known(name, self.account.uid.clone(), groups)
    }
}

/// A token that is not good.
#[derive(Debug, thiserror::Error)]
#[error("the token is not good: {0}")]
pub struct Bad(#[from] jsonwebtoken::errors::Error);

impl Signer {
    /// The signer of a directory, made if it is not there.
    pub fn open(directory: &Path) -> Result<Self, tls::Error> {
        let path = directory.join("sa.key");
        if !path.exists() {
            tls::write_private(&path, &KeyPair::generate()?.serialize_pem())?;
        }
        let text = std::fs::read_to_string(&path).map_err(|cause| tls::Error::File {
            doing: "read",
            path: path.clone(),
            cause,
        })?;
        let key = KeyPair::from_pem(&text)?;
        let encoding = EncodingKey::from_ec_der(&key.serialize_der());
        // The point itself, without the header that says which curve it is on.
        let decoding = DecodingKey::from_ec_der(key.der_bytes());
        Ok(Self { encoding, decoding })
    }

    /// A token, and when it ends. An empty `audiences` stands for the server itself.
    pub fn issue(&self, bearer: &Bearer, life_s: Option<i64>) -> Result<(String, Timestamp), Bad> {
        let now = Timestamp::now().as_second();
        let exp = now + life_s.unwrap_or(LIFE_S).max(LIFE_MIN_S);
        let aud = if bearer.audiences.is_empty() {
            vec![ISSUER.to_owned()]
        } else {
            bearer.audiences.clone()
        };
        let claims = Claims {
            iss: ISSUER.into(),
            sub: bearer.user().name,
            aud,
            exp,
            iat: now,
            about: About {
                namespace: bearer.namespace.clone(),
                serviceaccount: bearer.account.clone(),
                pod: bearer.pod.clone(),
            },
        };
        let token = jsonwebtoken::encode(&Header::new(Algorithm::ES256), &claims, &self.encoding)?;
        Ok((token, Timestamp::from_second(exp).unwrap_or(Timestamp::MAX)))
    }

    /// Whose token it is, if it is good and for one of `audiences`; empty: for the server itself.
    pub fn verify(&self, token: &str, audiences: &[String]) -> Result<Bearer, Bad> {
        let mut validation = Validation::new(Algorithm::ES256);
        validation.set_issuer(&[ISSUER]);
        let own = [ISSUER.to_owned()];
        validation.set_audience(if audiences.is_empty() { &own } else { audiences });
        let claims: Claims = jsonwebtoken::decode(token, &self.decoding, &validation)?.claims;
        Ok(Bearer {
            namespace: claims.about.namespace,
            account: claims.about.serviceaccount,
            pod: claims.about.pod,
            audiences: claims.aud,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_good_for_its_audience_and_for_nobody_else() {
        let directory = tempfile::tempdir().expect("a directory");
        let signer = Signer::open(directory.path()).expect("a signer");
        let account = Named { name: "default".into(), uid: "u".into() };
        let bearer =
            Bearer { namespace: "a".into(), account, pod: None, audiences: vec!["vault".into()] };
        let (token, _) = signer.issue(&bearer, None).expect("a token");
        assert_eq!(signer.verify(&token, &["vault".into()]).expect("good"), bearer);
        assert!(signer.verify(&token, &[]).is_err());
        let other = tempfile::tempdir().expect("a directory");
        let other = Signer::open(other.path()).expect("a signer");
        assert!(other.verify(&token, &["vault".into()]).is_err());
    }
}
