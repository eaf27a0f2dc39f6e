//! `canasta-agent join`: reads the token, hands it to the service, and shows what comes of it.

use std::io::Read as _;
use std::path::Path;

use super::{
    DONE, FAILED, JoinArgs, NOT_ALLOWED, Output, TokenSource, UNREACHABLE, USAGE, print,
    print_json, remark, tell_error,
};
use crate::join::client::{self, ClientError};
use crate::join::message::{Answer, Ask, Done, Failure, JoinRequest, TokenText};

/// More than any token has, in bytes.
const MAX_TOKEN: u64 = 4096;

pub(super) async fn run(args: JoinArgs) -> u8 {
    let token = match read_token(&args.token) {
        Ok(token) => token,
        Err((what, source)) => {
            tell_error(
                &what,
                &[source.to_string()],
                "give a file that holds the token alone, or `-` for standard input",
            );
            return USAGE;
        }
    };
    let output = args.output;
    let ask = Ask::Join(request(args, token));
    let shown = |answer: &Answer| match (output, answer) {
        (Output::Json, answer) => print_json(answer),
        (Output::Text, Answer::Progress { message }) => remark(message),
        (Output::Text, _) => {}
    };
    let last = client::ask(Path::new(crate::paths::JOIN_SOCKET), &ask, shown).await;
    show_end(output, last)
}

/// What the service is asked: each flag in its place.
fn request(args: JoinArgs, token: TokenText) -> JoinRequest {
    JoinRequest {
        controller: args.controller,
        token,
        advertise: args.advertise,
        name: args.name,
    }
}

fn show_end(output: Output, last: Result<Answer, ClientError>) -> u8 {
    let last = match last {
        Ok(last) => last,
        Err(error) => return tell_client_error(&error),
    };
    if output == Output::Json {
        print_json(&last);
    }
    match &last {
        Answer::Done(done) => {
            if output == Output::Text {
                show_done(done);
            }
            if done.reached == Some(false) {
                FAILED
            } else {
                DONE
            }
        }
        Answer::Error(failure) => {
            if output == Output::Text {
                tell_error(&failure.message, &failure.causes, &failure.hint);
            }
            code_of(failure)
        }
        Answer::Progress { .. } | Answer::Status(_) => FAILED,
    }
}

fn show_done(done: &Done) {
    print(&format!(
        "joined fleet {} as {}, listening on {}",
        done.fleet_id, done.name, done.listening
    ));
    match done.reached {
        Some(true) => {
            let at = done
                .attempts
                .iter()
                .find(|attempt| attempt.error.is_empty());
            let at = at
                .map(|attempt| format!(" at {}", attempt.address))
                .unwrap_or_default();
            print(&format!("the controller reached this node{at}"));
        }
        Some(false) => {
            let tried: Vec<String> = done
                .attempts
                .iter()
                .map(|attempt| format!("{}: {}", attempt.address, attempt.error))
                .collect();
            tell_error(
                "this node has joined, but the controller can't reach it",
                &tried,
                &done.hint,
            );
        }
        None => remark(&format!(
            "the controller did not tell whether it reached this node\nhint: {}",
            done.hint
        )),
    }
}

fn code_of(failure: &Failure) -> u8 {
    match failure.reason.as_str() {
        "NOT_ROOT" => NOT_ALLOWED,
        "CONTROLLER_UNREACHABLE" | "ENROLMENT_CUT" => UNREACHABLE,
        "TOKEN_MALFORMED" | "ADDRESS_INVALID" | "NAME_INVALID" => USAGE,
        _ => FAILED,
    }
}

pub(super) fn tell_client_error(error: &ClientError) -> u8 {
    tell_error(
        &error.to_string(),
        &canasta_transport::status::chain(error),
        error.hint(),
    );
    match error {
        ClientError::NotAllowed { .. } => NOT_ALLOWED,
        _ => UNREACHABLE,
    }
}

fn read_token(source: &TokenSource) -> Result<TokenText, (String, std::io::Error)> {
    let path = match (&source.token, &source.token_file) {
        (Some(token), _) => return Ok(TokenText::new(token.trim())),
        (None, Some(path)) => path,
        (None, None) => return Ok(TokenText::new("")),
    };
    let mut text = String::new();
    let (what, read) = if path.as_os_str() == "-" {
        let read = std::io::stdin()
            .lock()
            .take(MAX_TOKEN)
            .read_to_string(&mut text);
        (
            "failed to read the token from standard input".to_owned(),
            read,
        )
    } else {
        let read = std::fs::File::open(path)
            .and_then(|file| file.take(MAX_TOKEN).read_to_string(&mut text));
        (
            format!("failed to read the token from {}", path.display()),
            read,
        )
    };
    read.map_err(|source| (what, source))?;
    Ok(TokenText::new(text.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_read_from_a_file() {
        let directory = tempfile::tempdir().expect("directory");
        let path = directory.path().join("token");
        std::fs::write(&path, "  canasta-join.a.b\n").expect("write");
        let source = |path: &Path| TokenSource {
            token: None,
            token_file: Some(path.to_path_buf()),
        };
        assert_eq!(
            read_token(&source(&path)).expect("token").reveal(),
            "canasta-join.a.b"
        );
        let (what, _) = read_token(&source(&directory.path().join("none"))).expect_err("missing");
        assert!(what.contains("none"), "{what}");
    }

    #[test]
    fn each_flag_reaches_the_service() {
        use clap::Parser as _;

        let line = [
            "canasta-agent",
            "join",
            "--controller",
            "ctl:7440",
            "--token",
            "canasta-join.a.b",
            "--advertise",
            "10.0.0.5:7444",
            "--name",
            "cp1",
        ];
        let parsed = super::super::CommandLine::try_parse_from(line).expect("good");
        let Some(super::super::Command::Join(args)) = parsed.command else {
            panic!("a join");
        };
        let token = read_token(&args.token).expect("a token");
        let request = request(args, token);
        assert_eq!(request.controller, "ctl:7440");
        assert_eq!(request.token.reveal(), "canasta-join.a.b");
        assert_eq!(request.advertise.as_deref(), Some("10.0.0.5:7444"));
        assert_eq!(request.name.as_deref(), Some("cp1"));
    }

    #[test]
    fn the_exit_code_says_what_went_wrong() {
        let failed = |reason: &str| {
            Ok(Answer::Error(Failure {
                reason: reason.to_owned(),
                message: "x".to_owned(),
                causes: Vec::new(),
                hint: String::new(),
            }))
        };
        for (reason, code) in [
            ("CLOCK_SKEW", FAILED),
            ("TOKEN_MALFORMED", USAGE),
            ("CONTROLLER_UNREACHABLE", UNREACHABLE),
            ("NOT_ROOT", NOT_ALLOWED),
        ] {
            assert_eq!(show_end(Output::Text, failed(reason)), code, "{reason}");
        }
        assert_eq!(show_end(Output::Text, Err(ClientError::Cut)), UNREACHABLE);
    }
}
