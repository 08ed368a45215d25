//! A Confluent-compatible schema registry: schemas by id, over HTTP. What a schema means is somebody else's business.
//!
//! # Layout
//! - here: what is asked and what the answers mean. `client`: the requests, the only place that knows the HTTP client.

mod client;

use std::collections::HashSet;
use std::time::Duration;

use client::{Answer, Client};
use serde::Deserialize;

/// Schemas that one schema may refer to, directly or not. More is no schema of a table.
const MAX_REFERENCES: usize = 200;

/// How a registry is reached.
#[derive(Clone, Default)]
pub struct Settings {
    /// One address or more, asked in turn. A base path is kept.
    pub urls: Vec<String>,
    /// `user:password`
    pub basic_auth: Option<String>,
    pub bearer_token: Option<String>,
    /// Certificates (PEM) that are trusted beside the usual ones.
    pub ca: Option<Vec<u8>>,
    /// For one request.
    pub timeout: Duration,
}

/// Without the secrets.
impl std::fmt::Debug for Settings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Settings")
            .field("urls", &self.urls.len())
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}

/// What stands under an id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// An Avro schema, and those that it refers to: each after those that it refers to itself.
    Avro { schema: String, references: Vec<String> },
    /// A schema of another kind, under the registry's word for it.
    Other(String),
    /// Nothing, in the registry's own words.
    Nothing(String),
}

/// Why a registry gave no answer that says anything of the schema.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RegistryError {
    /// The settings can't be used.
    #[error("{0}")]
    Settings(String),
    /// Not reached, or overloaded, or broken: it may answer later.
    #[error("{0}")]
    Unavailable(String),
    /// It wants other credentials.
    #[error("{0}: correct basic.auth.user.info or bearer.auth.token under [registry.properties]")]
    Denied(String),
    /// It does not take the schema.
    #[error("{0}")]
    Refused(String),
    /// What answers is no schema registry.
    #[error(
        "{0}: registry.url has to be the root of a Confluent-compatible API, e.g. http://apicurio:8080/apis/ccompat/v7"
    )]
    NoRegistry(String),
}

/// A registry.
#[derive(Debug)]
pub struct Registry {
    client: Client,
}

/// Confluent's answer for a schema.
#[derive(Deserialize)]
struct Registered {
    schema: String,
    #[serde(rename = "schemaType")]
    kind: Option<String>,
    #[serde(default)]
    references: Option<Vec<Reference>>,
}

#[derive(Deserialize)]
struct Reference {
    subject: String,
    version: i64,
}

impl Registry {
    /// Asks nothing yet.
    ///
    /// # Errors
    /// `Settings`.
    pub fn new(settings: &Settings) -> Result<Self, RegistryError> {
        Ok(Self { client: Client::new(settings)? })
    }

    /// The schema under an id, with all that it refers to.
    ///
    /// # Errors
    /// When nothing can be said of the schema now. It is worth asking again.
    pub async fn schema(&self, id: i32) -> Result<Found, RegistryError> {
        let registered: Registered = match self.client.get(&["schemas", "ids", &id.to_string()]).await? {
            Answer::Found(registered) => registered,
            Answer::Nothing(told) => return Ok(Found::Nothing(told)),
        };
        if let Some(kind) = registered.kind.filter(|kind| kind != "AVRO") {
            return Ok(Found::Other(kind));
        }
        let mut references = Vec::new();
        // Depth first: a schema is done when all that it refers to are.
        let mut seen = HashSet::new();
        let mut open: Vec<Step> = ask(registered.references);
        while let Some(step) = open.pop() {
            let (subject, version) = match step {
                Step::Done(schema) => {
                    references.push(schema);
                    continue;
                }
                Step::Ask(reference) => (reference.subject, reference.version.to_string()),
            };
            if !seen.insert((subject.clone(), version.clone())) {
                continue;
            }
            if seen.len() > MAX_REFERENCES {
                return Ok(Found::Nothing(format!("it refers to more than {MAX_REFERENCES} schemas")));
            }
            match self.client.get::<Registered>(&["subjects", &subject, "versions", &version]).await? {
                Answer::Found(found) => {
                    open.push(Step::Done(found.schema));
                    open.extend(ask(found.references));
                }
                Answer::Nothing(told) => {
                    let told = format!("it refers to {subject} version {version}, which is not there: {told}");
                    return Ok(Found::Nothing(told));
                }
            }
        }
        Ok(Found::Avro { schema: registered.schema, references })
    }

    /// The id of an Avro schema as a version of the subject; a new version where there is none like it.
    ///
    /// # Errors
    /// `Refused` where the subject's compatibility rule does not allow it.
    pub async fn register(&self, subject: &str, schema: &str) -> Result<i32, RegistryError> {
        #[derive(Deserialize)]
        struct Id {
            id: i32,
        }
        let body = serde_json::json!({"schema": schema, "schemaType": "AVRO"});
        match self.client.post::<Id>(&["subjects", subject, "versions"], &body).await? {
            Answer::Found(Id { id }) => Ok(id),
            Answer::Nothing(told) => Err(RegistryError::NoRegistry(told)),
        }
    }

    /// Whether it answers as a registry does.
    ///
    /// # Errors
    /// What stands in the way.
    pub async fn probe(&self) -> Result<(), RegistryError> {
        match self.client.get::<Vec<String>>(&["subjects"]).await? {
            Answer::Found(_) => Ok(()),
            Answer::Nothing(told) => Err(RegistryError::NoRegistry(told)),
        }
    }
}

enum Step {
    Ask(Reference),
    Done(String),
}

/// The first comes out first.
fn ask(references: Option<Vec<Reference>>) -> Vec<Step> {
    references.into_iter().flatten().rev().map(Step::Ask).collect()
}

#[cfg(test)]
mod tests;
