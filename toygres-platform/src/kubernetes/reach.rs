//! Whether an instance can be reached from here: its container may be up before the network knows where it is.

use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::Instant;
use toygres_models::instances::Endpoint;

/// One try may take so long, also after the end.
const TRY_LIMIT: Duration = Duration::from_secs(1);
/// Pause between two tries.
const PAUSE: Duration = Duration::from_millis(50);

/// Waits until something listens there, and says what is in the way if nothing does by the end.
pub(super) async fn listens(endpoint: &Endpoint, end: Instant) -> Result<(), String> {
    loop {
        let address = (endpoint.host.as_str(), endpoint.port);
        let why = match tokio::time::timeout(TRY_LIMIT, TcpStream::connect(address)).await {
            Ok(Ok(_)) => return Ok(()),
            Ok(Err(cause)) => cause.to_string(),
            Err(_) => "no answer".to_owned(),
        };
        if Instant::now() + PAUSE >= end {
            let Endpoint { host, port } = endpoint;
            return Err(format!(
                "its server has started, but can't be reached at {host}:{port}: {why}"
            ));
        }
        tokio::time::sleep(PAUSE).await;
    }
}
