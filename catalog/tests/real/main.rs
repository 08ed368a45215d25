//! The catalogs against real servers. Each test says that it is skipped unless the environment names its server:
//!
//! - `FIRN_HMS_URI`, and for a warehouse on S3 `FIRN_S3_ENDPOINT`, `FIRN_S3_ACCESS_KEY`, `FIRN_S3_SECRET_KEY`, `FIRN_S3_REGION`,
//!   `FIRN_WAREHOUSE_BUCKET`: as `deploy/native/stack env` prints them. Without S3 the warehouse is a local folder, which works where the
//!   metastore runs on this machine.
//! - `FIRN_REST_URI` with `FIRN_REST_WAREHOUSE`, and the same S3, which the server must know as well.
//! - `FIRN_TRINO_URL`, `FIRN_TRINO_CATALOG`: a Trino on that metastore and S3.
//! - `FIRN_HMS_RESTART`: a shell command that starts that metastore anew, for the test that needs it.
//!
//! The suite that all catalogs pass comes with `--features firn-catalog/conformance`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod ground;
mod hms;
mod proxy;
mod rest;
mod trino;
