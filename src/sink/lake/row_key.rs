//! Which columns tell the rows of an upsert table apart.
//!
//! | asked in this order | because |
//! |---|---|
//! | the key of the records | that is what they are |
//! | the configuration's | no record came yet; it declares the records' key |
//! | the property [`KEY`] | it is the records' key as last agreed upon: Iceberg's identifier fields can't be float or double |
//! | the identifier fields | a table that others made |

use iceberg::spec::{Schema, TableMetadata};

use crate::sink::lake::{LakeError, TableSpec, schema};

/// Table property: the field ids of the key columns, as a JSON array.
pub const KEY: &str = "firn.key";

/// The places of the key columns among the table's, ascending. `of_records` is empty until a record came.
///
/// # Errors
/// When there is no key, or one of its columns is missing.
pub(crate) fn places(
    metadata: &TableMetadata,
    spec: &TableSpec,
    of_records: &[String],
) -> Result<Vec<usize>, LakeError> {
    let fields = metadata.current_schema().as_struct().fields();
    let named = if of_records.is_empty() { &spec.key } else { of_records };
    let mut places = vec![];
    for name in named {
        let missing = || spec.settings(format!("the key column {name} is missing in the table"));
        places.push(schema::find(fields, name).ok_or_else(missing)?);
    }
    if places.is_empty() {
        for id in field_ids(metadata) {
            let missing =
                || spec.settings(format!("the key column of field id {id} is missing in the table ({KEY} names it)"));
            places.push(fields.iter().position(|f| f.id == id).ok_or_else(missing)?);
        }
    }
    if places.is_empty() {
        return Err(spec.settings("upsert needs a key: declare the key columns, or use mode append"));
    }
    places.sort_unstable();
    places.dedup();
    Ok(places)
}

/// The key columns as the table itself tells them.
pub fn key_columns(metadata: &TableMetadata) -> Vec<String> {
    let schema = metadata.current_schema();
    field_ids(metadata).into_iter().filter_map(|id| Some(schema.name_by_field_id(id)?.to_owned())).collect()
}

/// The property's value for a key of these columns.
pub(crate) fn to_json(schema: &Schema, columns: &[String]) -> String {
    serde_json::Value::from(ids_of(schema, columns)).to_string()
}

/// What the property must become where the table tells another key than these columns.
pub(crate) fn to_note(metadata: &TableMetadata, schema: &Schema, columns: &[String]) -> Option<String> {
    let told = field_ids(metadata);
    (told != ids_of(schema, columns)).then(|| to_json(schema, columns))
}

fn ids_of(schema: &Schema, columns: &[String]) -> Vec<i32> {
    let fields = schema.as_struct().fields();
    let mut ids: Vec<i32> =
        columns.iter().filter_map(|name| Some(fields.get(schema::find(fields, name)?)?.id)).collect();
    ids.sort_unstable();
    ids
}

/// Ascending.
fn field_ids(metadata: &TableMetadata) -> Vec<i32> {
    let noted = metadata.properties().get(KEY).and_then(|json| serde_json::from_str::<Vec<i32>>(json).ok());
    let mut ids = noted.unwrap_or_else(|| metadata.current_schema().identifier_field_ids().collect());
    ids.sort_unstable();
    ids
}
