//! Whether there is a receiver.

use std::time::Duration;

use tokio::net::TcpStream;

use super::client::Client;
use super::settings::HttpSettings;
use crate::sink::SinkError;

/// Connects and says nothing: a receiver may take any request for rows. A line about it for a person.
///
/// # Errors
/// Why not.
pub async fn probe(settings: &HttpSettings) -> Result<String, SinkError> {
    let client = Client::new(settings)?;
    let away = |why: String| SinkError::Unavailable(format!("{}: {why}", client.place()));
    match tokio::time::timeout(Duration::from_secs(5), TcpStream::connect(client.address())).await {
        Ok(Ok(_)) => Ok(format!("{} takes connections; nothing was sent to it", client.place())),
        Ok(Err(e)) => Err(away(e.to_string())),
        Err(_) => Err(away("no connection within 5 s".to_owned())),
    }
}
