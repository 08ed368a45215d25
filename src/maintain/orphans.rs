//! Files under a table's location that nobody knows.

use firn_catalog::maintain::orphans::{Found, find, remove};
use firn_catalog::storage::Stores;
use firn_catalog::{Catalog, Patience, Result, surroundings};
use iceberg::TableIdent;

/// What a person or a policy asks for.
#[derive(Clone, Copy, Debug)]
pub struct Wish {
    pub age_ms: u64,
    pub delete: bool,
}

/// Finds them, and removes them where that is wished.
///
/// # Errors
/// See [`find`] and [`remove`].
pub async fn orphans(catalog: &dyn Catalog, stores: &Stores, table: &TableIdent, wish: Wish) -> Result<Found> {
    let now_ms = surroundings::now_ms();
    match wish.delete {
        true => remove(catalog, stores, table, wish.age_ms, now_ms, Patience::default()).await,
        false => find(stores, &catalog.load(table).await?, wish.age_ms, now_ms).await,
    }
}
