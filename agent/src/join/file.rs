//! A join that was prepared before the first start: `/etc/canasta/join.toml`, for images and cloud-init.
//!
//! Read once at the start of a service that has not joined. It holds a token, so it is deleted as soon as it can be of no
//! more use: after the join, when the token is refused for good, or when nobody can make sense of it.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::enrol;
use super::message::JoinRequest;
use crate::agent::Core;

/// Takes up the file, if there is one, and tries until the node has joined or the token is of no use.
pub(crate) async fn take_up(core: Arc<Core>) {
    let path = core.paths.join_file.clone();
    let Some(request) = read(&core, &path).await else {
        return;
    };
    if core.identity.material().is_some() {
        tracing::info!(path = %path.display(), "this node has joined already; the file is not used");
        delete(&core, &path).await;
        return;
    }
    let mut pause = core.timings.join_retry_first;
    loop {
        let progress = |message| tracing::info!("join: {message}");
        match enrol::join(&core, &request, progress).await {
            Ok(done) => {
                if done.reached != Some(true) {
                    tracing::warn!(attempts = ?done.attempts, hint = done.hint, "joined, but the controller did not reach this node");
                }
                delete(&core, &path).await;
                return;
            }
            Err(error) if error.is_final() => {
                tracing::error!(
                    reason = error.reason(),
                    error = &error as &dyn std::error::Error,
                    hint = error.hint(),
                    "the token of {} is of no use; the file is deleted",
                    path.display()
                );
                delete(&core, &path).await;
                return;
            }
            Err(error) => tracing::warn!(
                reason = error.reason(),
                error = &error as &dyn std::error::Error,
                hint = error.hint(),
                "could not join; trying again within {} s",
                pause.as_secs_f32()
            ),
        }
        tokio::select! {
            () = tokio::time::sleep(jittered(pause)) => {}
            () = core.life.stopping.cancelled() => return,
        }
        if core.identity.material().is_some() {
            // Someone has joined it by hand meanwhile.
            delete(&core, &path).await;
            return;
        }
        pause = (pause * 2).min(core.timings.join_retry_last);
    }
}

async fn read(core: &Core, path: &Path) -> Option<JoinRequest> {
    let text = match core.host.root.read_text(crate::paths::JOIN_FILE).await {
        Ok(text) => text?,
        Err(error) => {
            tracing::error!(
                error = &error as &dyn std::error::Error,
                "the prepared join can't be read; it may hold a token: mend it and restart canasta-agent, or delete it"
            );
            return None;
        }
    };
    match parse(&text) {
        Ok(request) => Some(request),
        Err(why) => {
            tracing::error!(
                path = %path.display(),
                "the prepared join is not understood, and is deleted because it may hold a token: {why}; write it anew with the keys controller, token, advertise and name, and restart canasta-agent"
            );
            delete(core, path).await;
            None
        }
    }
}

/// What the file asks for, or in which line it makes no sense. The parser's own words are not told: they can quote what
/// stands there, and that may be the token.
fn parse(text: &str) -> Result<JoinRequest, String> {
    toml::from_str(text).map_err(|error| {
        let before = error.span().and_then(|span| text.get(..span.start));
        let line = before.unwrap_or_default().matches('\n').count() + 1;
        let misspelt = ["unknown field", "missing field", "duplicate"]
            .into_iter()
            .find(|kind| error.message().starts_with(kind))
            .unwrap_or("not of the form KEY = \"VALUE\"");
        format!("line {line}: {misspelt}")
    })
}

async fn delete(core: &Core, path: &Path) {
    if let Err(error) = core.host.root.remove_file(crate::paths::JOIN_FILE).await {
        tracing::error!(
            error = &error as &dyn std::error::Error,
            "{} holds a token and can't be deleted; delete it by hand",
            path.display()
        );
    }
}

/// Between half of the pause and all of it, so that many nodes of one image don't come at once.
fn jittered(pause: Duration) -> Duration {
    let random = uuid::Uuid::new_v4().as_bytes()[0];
    pause.mul_f64(0.5 + 0.5 * f64::from(random) / f64::from(u8::MAX))
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn what_makes_no_sense_is_told_by_its_line_and_never_quoted() {
        let good = "controller = \"ctl\"\ntoken = \"canasta-join.secret\"\n";
        assert!(parse(good).is_ok());
        for (text, told) in [
            (
                "controller = \"ctl\"\ntoken = canasta-join.secret\n",
                "line 2: not of the form",
            ),
            (
                "controller = \"ctl\"\ntoken = [\"secret\"]\n",
                "line 2: not of the form",
            ),
            (
                "controller = \"ctl\"\nsecret = \"x\"\ntoken = \"y\"\n",
                "line 2: unknown field",
            ),
            ("controller = \"ctl\"\n", "missing field"),
            ("canasta-join.secret", "not of the form"),
        ] {
            let why = parse(text).expect_err(text);
            assert!(
                why.contains(told) && !why.contains("secret"),
                "{text}: {why}"
            );
        }
    }
}
