//! The bearer token of a REST catalog: given, or had by OAuth2 client credentials and renewed before it runs out.

use std::collections::HashMap;
use std::time::Duration;

use reqwest::Client;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::client::answer;
use super::config::RestConfig;
use super::fault::Fault;
use super::wire::Token;

/// How long before its end a token is renewed: longer than a request may take to arrive.
const RENEW_AHEAD: Duration = Duration::from_secs(60);
/// For a server that doesn't say: what the protocol's reference client assumes.
const DEFAULT_LIFE: Duration = Duration::from_secs(3600);

pub(super) enum Auth {
    Nothing,
    Token(String),
    ClientCredentials { server: String, form: HashMap<&'static str, String>, current: Mutex<Option<Current>> },
}

/// A token in use.
pub(super) struct Current {
    token: String,
    renew_at: Instant,
}

impl Auth {
    /// A `credential` wins over a `token`. `uri` is the catalog's, for a server that issues tokens itself.
    pub(super) fn new(config: &RestConfig, uri: &str) -> Self {
        let Some(credential) = config.property("credential") else {
            return config.property("token").map_or(Self::Nothing, |t| Self::Token(t.to_owned()));
        };
        let server =
            config.property("oauth2-server-uri").map_or_else(|| format!("{uri}/v1/oauth/tokens"), str::to_owned);
        let mut form = HashMap::from([("grant_type", "client_credentials".to_owned())]);
        let secret = match credential.split_once(':') {
            Some((id, secret)) => {
                form.insert("client_id", id.to_owned());
                secret
            }
            None => credential,
        };
        form.insert("client_secret", secret.to_owned());
        form.insert("scope", config.property("scope").unwrap_or("catalog").to_owned());
        for optional in ["audience", "resource"] {
            form.extend(config.property(optional).map(|v| (optional, v.to_owned())));
        }
        Self::ClientCredentials { server, form, current: Mutex::default() }
    }

    /// # Errors
    /// When the token server can't be reached or refuses the credential.
    pub(super) async fn token(&self, http: &Client) -> Result<Option<String>, Fault> {
        match self {
            Self::Nothing => Ok(None),
            Self::Token(token) => Ok(Some(token.clone())),
            Self::ClientCredentials { server, form, current } => {
                let mut current = current.lock().await;
                if let Some(current) = current.as_ref().filter(|c| Instant::now() < c.renew_at) {
                    return Ok(Some(current.token.clone()));
                }
                let asked = Instant::now();
                let got: Token = answer(http.post(server).form(form)).await.map_err(asking)?;
                let life = got.expires_in.map_or(DEFAULT_LIFE, Duration::from_secs);
                // A short life is used by half.
                let renew_at = asked + life.saturating_sub(RENEW_AHEAD).max(life / 2);
                *current = Some(Current { token: got.access_token.clone(), renew_at });
                Ok(Some(got.access_token))
            }
        }
    }

    /// The server refused the token: whether another one can be had.
    pub(super) async fn renew(&self, refused: &str) -> bool {
        let Self::ClientCredentials { current, .. } = self else { return false };
        let mut current = current.lock().await;
        if current.as_ref().is_some_and(|c| c.token == refused) {
            *current = None;
        }
        true
    }
}

/// The request proper was not sent then.
fn asking(fault: Fault) -> Fault {
    match fault {
        Fault::NotSent(m) | Fault::Lost(m) => Fault::NotSent(format!("token server: {m}")),
        // By OAuth2 a bad credential is a 400 or 401.
        Fault::Status(400..=499, m) => Fault::Status(401, format!("the token server refuses the credential: {m}")),
        Fault::Status(_, m) => Fault::NotSent(format!("token server: {m}")),
    }
}
