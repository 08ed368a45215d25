//! S3 settings, named as `PyIceberg` names them, into a client.

use std::collections::HashMap;
use std::time::Duration;

use object_store::aws::{AmazonS3, AmazonS3Builder};
use object_store::{BackoffConfig, ClientOptions, RetryConfig};

use crate::{Error, ErrorKind, Result};

/// Longer, and an unreachable store looks like a hang; shorter, and a restart of the store fails what would have gone through.
const RETRY_FOR: Duration = Duration::from_secs(20);
const CONNECT_WITHIN: Duration = Duration::from_secs(5);
/// S3's own default region, which MinIO and others answer to as well.
const DEFAULT_REGION: &str = "us-east-1";

pub(super) fn build(bucket: &str, properties: &HashMap<String, String>) -> Result<AmazonS3> {
    let get = |name: &str| properties.get(name).map(String::as_str).filter(|v| !v.is_empty());
    let endpoint = get("s3.endpoint").map(|e| e.trim_end_matches('/'));
    let virtual_hosts = virtual_hosts(properties, endpoint.is_some())?;

    let retry = RetryConfig { backoff: BackoffConfig::default(), max_retries: 6, retry_timeout: RETRY_FOR };
    let mut builder = AmazonS3Builder::from_env()
        .with_bucket_name(bucket)
        .with_virtual_hosted_style_request(virtual_hosts)
        .with_retry(retry)
        .with_client_options(ClientOptions::new().with_allow_http(true).with_connect_timeout(CONNECT_WITHIN));
    if let Some(endpoint) = endpoint {
        builder =
            builder.with_endpoint(if virtual_hosts { bucket_host(endpoint, bucket)? } else { endpoint.to_owned() });
    }
    if let Some(key) = get("s3.access-key-id") {
        builder = builder.with_access_key_id(key);
    }
    if let Some(secret) = get("s3.secret-access-key") {
        builder = builder.with_secret_access_key(secret);
    }
    if let Some(token) = get("s3.session-token") {
        builder = builder.with_token(token);
    }
    let from_env = || std::env::var("AWS_REGION").or_else(|_| std::env::var("AWS_DEFAULT_REGION")).ok();
    let region = get("s3.region").or_else(|| get("client.region")).map(str::to_owned).or_else(from_env);
    builder = builder.with_region(region.unwrap_or_else(|| DEFAULT_REGION.to_owned()));
    builder.build().map_err(|e| {
        Error::new(ErrorKind::Refused, format!("the S3 settings for bucket {bucket} can't be used: {e}")).with_source(e)
    })
}

/// Stated, or else: a custom endpoint is addressed by path, AWS by host.
fn virtual_hosts(properties: &HashMap<String, String>, custom_endpoint: bool) -> Result<bool> {
    let flag = |name: &str| -> Result<Option<bool>> {
        let Some(text) = properties.get(name) else { return Ok(None) };
        let parsed = text
            .to_ascii_lowercase()
            .parse()
            .map_err(|_| Error::new(ErrorKind::Refused, format!("{name} = {text:?}: true or false is needed")))?;
        Ok(Some(parsed))
    };
    if let Some(path_style) = flag("s3.path-style-access")? {
        return Ok(!path_style);
    }
    Ok(flag("s3.force-virtual-addressing")?.unwrap_or(!custom_endpoint))
}

/// `http://host:9000` -> `http://bucket.host:9000`: with a custom endpoint the client takes the host as given.
fn bucket_host(endpoint: &str, bucket: &str) -> Result<String> {
    let (scheme, host) = endpoint.split_once("://").ok_or_else(|| {
        Error::new(ErrorKind::Refused, format!("s3.endpoint = {endpoint:?}: http:// or https:// is missing"))
    })?;
    Ok(format!("{scheme}://{bucket}.{host}"))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::aws(&[], false, true)]
    #[case::own_endpoint(&[], true, false)]
    #[case::path_style(&[("s3.path-style-access", "true")], false, false)]
    #[case::forced(&[("s3.force-virtual-addressing", "True")], true, true)]
    fn a_bucket_is_addressed_by_host_unless_the_endpoint_is_custom(
        #[case] properties: &[(&str, &str)],
        #[case] custom: bool,
        #[case] expected: bool,
    ) {
        let properties = properties.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        assert_eq!(virtual_hosts(&properties, custom).unwrap(), expected);
    }

    #[test]
    fn a_flag_that_is_no_flag_is_named() {
        let properties = HashMap::from([("s3.path-style-access".to_owned(), "yes please".to_owned())]);
        assert!(virtual_hosts(&properties, true).unwrap_err().to_string().contains("s3.path-style-access"));
    }
}
