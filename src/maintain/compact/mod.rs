//! Rewrites a table's data files: small ones into large ones, without the rows that were deleted.
//!
//! The writer goes on meanwhile, and so may others. `contents` says what a snapshot holds; `plan` chooses groups of files, in the partitions that `filter` takes; `rewrite`
//! writes the live rows of a group anew (`equality` finds those that equality deletes took, `read` fetches old files, `decode` gives their rows,
//! `shape` says what rows look like, `sort` puts them into partitions and a table's sort order, `writer` encodes them, `ways` remembers where each
//! row went, `finished` has the new files); `commit` puts groups into the table as it is by then, with the deletes that came in
//! between. `run` is all of it together.
//!
//! # Why the commit does not lose
//! Nothing that the writer does makes a group worthless. Files that it added are not the group's. Rows that it deleted from the group's old
//! files are deleted from the new ones, in the same commit. Only another rewrite of the same files does: then the group is given up.

mod commit;
mod contents;
mod decode;
mod equality;
mod filter;
mod finished;
mod plan;
mod read;
mod report;
mod rewrite;
mod run;
mod shape;
mod sort;
mod ways;
mod writer;

pub use filter::PartitionFilter;
pub use plan::{Choice, Limits};
pub use report::{CompactReport, GroupReport, GroupState};
pub use run::{CompactError, Compaction, Leave};
