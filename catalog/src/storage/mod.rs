//! One storage layer: `object_store` (S3, local files, memory) behind Iceberg's storage trait.
//!
//! Knows locations, credentials and stores; knows nothing of tables.
//!
//! The same [`Stores`] gives Iceberg its [`FileIO`] and firn the raw [`ObjectStore`], for what Iceberg's trait lacks (a put that
//! must not overwrite). Faults wrap it in tests: see [`fault`]; in debug builds its writes are failpoints.

mod error;
#[cfg(debug_assertions)]
mod failing;
pub mod fault;
mod file_io;
mod location;
mod paced;
mod s3;

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use iceberg::io::{FileIO, FileIOBuilder};
use object_store::ObjectStore;
use object_store::local::LocalFileSystem;
use object_store::memory::InMemory;
use object_store::path::Path;
use serde::{Deserialize, Serialize};

use crate::{Error, ErrorKind, Result};
pub(crate) use error::explain;
use fault::{Faults, FaultyStore};
pub(crate) use location::Locator;
use location::{Location, Scheme};
use paced::PacedStore;

pub use paced::Pace;

/// Opens the store of `location` and answers the `FileIO` for it and for every other location under the same properties.
///
/// Locations: `s3://bucket/key`, `s3a://` and `s3n://` (the same thing), `file:///path`, `/path`, `memory://name/key`.
/// Properties as in `PyIceberg`: `s3.endpoint`, `s3.access-key-id`, `s3.secret-access-key`, `s3.session-token`, `s3.region`,
/// `s3.path-style-access` or `s3.force-virtual-addressing`; without keys the environment's AWS settings apply.
///
/// # Errors
/// `Unsupported` for another scheme, `Refused` for a location or property that can't be used. Nothing is asked over the network.
pub fn file_io(location: &str, properties: &HashMap<String, String>) -> Result<FileIO> {
    let stores = Stores::new(properties.clone());
    stores.object_store(location)?;
    Ok(stores.file_io())
}

/// The stores under one set of properties: one for each scheme and bucket, opened when first asked for. Clones share them, so
/// `memory://` stores are seen by the clones of one `Stores` alone.
#[derive(Clone, Default, Serialize, Deserialize)]
pub struct Stores {
    properties: HashMap<String, String>,
    #[serde(skip)]
    open: Arc<Mutex<HashMap<String, Arc<dyn ObjectStore>>>>,
    #[serde(skip)]
    faults: Option<Faults>,
    #[serde(skip)]
    pace: Option<Arc<dyn Pace>>,
}

/// Without the properties: they hold secrets.
impl fmt::Debug for Stores {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stores").field("faults", &self.faults.is_some()).finish_non_exhaustive()
    }
}

impl Stores {
    pub fn new(properties: HashMap<String, String>) -> Self {
        Self { properties, ..Self::default() }
    }

    /// The same stores as somebody sees them for whom they fail as `faults` says; it is told of each call.
    #[must_use]
    pub fn with_faults(self, faults: Faults) -> Self {
        Self { faults: Some(faults), ..self }
    }

    /// The same stores as somebody sees them who uses them no faster than `pace` lets him.
    #[must_use]
    pub fn with_pace(self, pace: Arc<dyn Pace>) -> Self {
        Self { pace: Some(pace), ..self }
    }

    /// For Iceberg. It carries no properties: its `Debug` would print them.
    pub fn file_io(&self) -> FileIO {
        FileIOBuilder::new(Arc::new(file_io::ObjectStoreFactory::new(self.clone()))).build()
    }

    /// The store that holds `location`, and the path in it.
    ///
    /// # Errors
    /// As [`file_io()`].
    pub fn object_store(&self, location: &str) -> Result<(Arc<dyn ObjectStore>, Path)> {
        let location = Location::parse(location)?;
        let key = location.store_key();
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let store = match open.get(&key) {
            Some(store) => store.clone(),
            None => {
                let store: Arc<dyn ObjectStore> = match location.scheme {
                    Scheme::S3 => Arc::new(s3::build(&location.bucket, &self.properties)?),
                    Scheme::File => Arc::new(LocalFileSystem::new()),
                    Scheme::Memory => Arc::new(InMemory::new()),
                };
                open.insert(key, store.clone());
                store
            }
        };
        #[cfg(debug_assertions)]
        let store: Arc<dyn ObjectStore> = Arc::new(failing::FailingStore(store));
        let store = match &self.faults {
            Some(faults) => Arc::new(FaultyStore::new(store, faults.clone())),
            None => store,
        };
        let store = match &self.pace {
            Some(pace) => Arc::new(PacedStore::new(store, Arc::clone(pace))),
            None => store,
        };
        Ok((store, location.path))
    }

    /// Where the store of `location` is, for errors: the S3 endpoint.
    fn endpoint(&self) -> Option<&str> {
        self.properties.get("s3.endpoint").map(String::as_str)
    }
}

/// A location that isn't usable as it is written.
fn bad_location(location: &str, why: impl fmt::Display) -> Error {
    Error::new(ErrorKind::Refused, format!("location {location:?} can't be used: {why}"))
}

#[cfg(test)]
mod tests;
