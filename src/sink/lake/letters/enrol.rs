//! Letters that are not in the pending set, on their way into it.
//!
//! By a commit that makes a snapshot, if an empty one: whoever planned on the base before did not compare its keys with these
//! letters, and must not land. A REST catalog compares the head of main, and no property.

use std::collections::HashMap;

use async_trait::async_trait;
use firn_catalog::{Attempt, CommitError, Error, ErrorKind, Plan, Planner};
use iceberg::table::Table;

use crate::record::Origin;
use crate::sink::lake::letters::pending::{PENDING, PendingLetter};
use crate::sink::lake::letters::replay::Standing;
use crate::sink::lake::resume::{CHECKPOINT, LAST_SNAPSHOT_ID};
use crate::sink::lake::{LakeError, LakeTable};

impl LakeTable {
    /// Has the keys of these letters noted by every commit from now on. What the log has of them up to here is the caller's to look
    /// at: [`PendingLetter::noted_from`] says up to where.
    ///
    /// # Errors
    /// When the catalog can't be reached, or the table keeps changing. Enrolling again does no harm.
    pub async fn enrol(&self, letters: &[(Origin, u128)]) -> Result<(), LakeError> {
        let snapshot_id = firn_catalog::new_snapshot_id();
        let mut enrolment = Enrolment { table: self, letters, snapshot_id };
        match firn_catalog::commit(self.catalog(), &self.ident, snapshot_id, &mut enrolment, self.patience()).await {
            Ok(done) => {
                if let Err(e) = done.cleanup.run().await {
                    tracing::debug!(error = %e, "files that nobody needs stay behind");
                }
                Ok(())
            }
            Err(CommitError::Stale { reason, .. }) => Err(self.spec().settings(reason)),
            Err(CommitError::Undecided(e) | CommitError::Failed(e)) => Err(e.into()),
        }
    }
}

struct Enrolment<'a> {
    table: &'a LakeTable,
    letters: &'a [(Origin, u128)],
    snapshot_id: i64,
}

#[async_trait]
impl Planner for Enrolment<'_> {
    async fn plan(&mut self, base: &Table, _: Attempt) -> Result<Plan, CommitError> {
        let standing = self.table.standing_in(base.metadata());
        let standing = standing.map_err(|e| CommitError::Failed(Error::new(ErrorKind::Invalid, e.to_string())))?;
        let Some(Standing { checkpoint, mut pending, .. }) = standing else {
            let reason = "the table was never committed to: it knows no letters".to_owned();
            return Err(CommitError::Stale { reason, open: false });
        };
        pending.make_place(self.letters.iter().filter_map(|(origin, key)| {
            let noted_from = checkpoint.next(&origin.at)?;
            Some(PendingLetter { origin: origin.clone(), key: *key, noted_from, later: false })
        }));
        let json = checkpoint.to_json();
        Ok(Plan {
            summary: HashMap::from([(CHECKPOINT.to_owned(), json.clone())]),
            properties: HashMap::from([
                (CHECKPOINT.to_owned(), json),
                (LAST_SNAPSHOT_ID.to_owned(), self.snapshot_id.to_string()),
                (PENDING.to_owned(), pending.to_json(&self.table.key_ids())),
            ]),
            retention: self.table.spec().retention,
            ..Plan::default()
        })
    }
}
