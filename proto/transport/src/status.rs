//! Errors on the wire: a [`Fault`] has a code by meaning, a stable reason for programs, and subject, hint and causes for the
//! operator. Daemons turn their errors into one, the CLI and the controller read it back out of a status.
//!
//! The details are those of `google.rpc` (ErrorInfo with the domain [`DOMAIN`], BadRequest, RetryInfo), so that grpcurl shows them.

use std::collections::HashMap;
use std::error::Error;
use std::fmt;
use std::time::Duration;

use canasta_proto::pb;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

/// The domain of this project's reasons in `google.rpc.ErrorInfo`.
pub const DOMAIN: &str = "canasta.fleet";

/// The most bytes that a fault may take in headers; peers refuse longer ones or drop them.
const MAX_HEADER_BYTES: usize = 6 * 1024;
const MAX_MESSAGE: usize = 800;
const MAX_HINT: usize = 800;
const MAX_SUBJECT: usize = 200;
const MAX_REASON: usize = 64;
const MAX_CAUSE: usize = 400;
const MAX_CAUSES: usize = 8;
const MAX_VIOLATIONS: usize = 8;

/// A field of a request that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// The field by its path in the request: `k3s_version`.
    pub field: String,
    /// The rule that was broken.
    pub description: String,
}

/// An error as it crosses the wire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The code by meaning.
    pub code: Code,
    /// Stable, upper case, for programs: `HOST_NOT_REGISTERED`. The name of the code when the peer gave none.
    pub reason: String,
    /// What happened, lower case, without a full stop.
    pub message: String,
    /// What it is about: a host, a path, an address, a unit. May be empty.
    pub subject: String,
    /// What to do next. May be empty.
    pub hint: String,
    /// The chain of causes, nearest first.
    pub causes: Vec<String>,
    /// Fields of the request that are not as they should be.
    pub violations: Vec<Violation>,
    /// After how long the same call may be made again; unset where waiting alone does not help.
    pub retry_after: Option<Duration>,
}

impl Fault {
    /// A fault with a code, a stable reason and a message.
    pub fn new(code: Code, reason: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            code,
            reason: reason.into(),
            message: message.into(),
            subject: String::new(),
            hint: String::new(),
            causes: Vec::new(),
            violations: Vec::new(),
            retry_after: None,
        }
    }

    /// A fault from an error: its text is the message, its sources are the causes.
    pub fn from_error(code: Code, reason: impl Into<String>, error: &dyn Error) -> Self {
        Self::new(code, reason, error.to_string()).caused_by(chain(error))
    }

    /// A field of a request that broke a rule: INVALID_ARGUMENT with the reason `INVALID_FIELD`.
    pub fn invalid(field: impl Into<String>, rule: impl fmt::Display) -> Self {
        let rule = rule.to_string();
        let field = field.into();
        let mut fault =
            Self::new(Code::InvalidArgument, "INVALID_FIELD", &*rule).about(field.clone());
        fault.violations.push(Violation {
            field,
            description: rule,
        });
        fault
    }

    /// Says what it is about.
    #[must_use]
    pub fn about(mut self, subject: impl Into<String>) -> Self {
        self.subject = subject.into();
        self
    }

    /// Says what to do next.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = hint.into();
        self
    }

    /// Says when the call may be made again.
    #[must_use]
    pub fn retry_after(mut self, pause: Duration) -> Self {
        self.retry_after = Some(pause);
        self
    }

    /// Says why it happened, nearest cause first.
    #[must_use]
    pub fn caused_by(mut self, causes: Vec<String>) -> Self {
        self.causes = causes;
        self
    }

    /// Reads a fault out of a status, whoever made it.
    pub fn from_status(status: &Status) -> Self {
        let details = status.get_error_details();
        let mut fault = Self::new(status.code(), code_name(status.code()), status.message());
        match details.error_info().filter(|info| info.domain == DOMAIN) {
            Some(info) => {
                let text = |key: &str| info.metadata.get(key).cloned().unwrap_or_default();
                fault.reason.clone_from(&info.reason);
                fault.subject = text("subject");
                fault.hint = text("hint");
                fault.causes = (0..MAX_CAUSES)
                    .map_while(|index| info.metadata.get(&cause_key(index)).cloned())
                    .collect();
            }
            // Made on this side, by the library: what is behind it is in its sources.
            None => fault.causes = chain(status),
        }
        if let Some(request) = details.bad_request() {
            fault.violations = request
                .field_violations
                .iter()
                .take(MAX_VIOLATIONS)
                .map(|violation| Violation {
                    field: violation.field.clone(),
                    description: violation.description.clone(),
                })
                .collect();
        }
        fault.retry_after = details.retry_info().and_then(|info| info.retry_delay);
        fault.cleaned()
    }

    /// The fault as part of an operation or a task. Evidence is added by who captured it.
    pub fn to_report(&self) -> pb::ErrorReport {
        let fault = self.clone().cleaned();
        pb::ErrorReport {
            reason: fault.reason,
            message: fault.message,
            causes: fault.causes,
            subject: fault.subject,
            hint: fault.hint,
            evidence: Vec::new(),
        }
    }

    /// Reads a fault out of a report, which has no code of its own.
    pub fn from_report(code: Code, report: &pb::ErrorReport) -> Self {
        Self {
            code,
            reason: report.reason.clone(),
            message: report.message.clone(),
            subject: report.subject.clone(),
            hint: report.hint.clone(),
            causes: report.causes.clone(),
            violations: Vec::new(),
            retry_after: None,
        }
        .cleaned()
    }

    /// Cuts all texts to their bounds and takes out what could play tricks on a terminal.
    fn cleaned(mut self) -> Self {
        let bounds = [
            (&mut self.reason, MAX_REASON),
            (&mut self.message, MAX_MESSAGE),
            (&mut self.subject, MAX_SUBJECT),
            (&mut self.hint, MAX_HINT),
        ];
        for (text, most) in bounds {
            *text = clean(text, most);
        }
        self.causes.truncate(MAX_CAUSES);
        for cause in &mut self.causes {
            *cause = clean(cause, MAX_CAUSE);
        }
        self.violations.truncate(MAX_VIOLATIONS);
        for violation in &mut self.violations {
            violation.field = clean(&violation.field, MAX_SUBJECT);
            violation.description = clean(&violation.description, MAX_CAUSE);
        }
        self
    }

    fn as_status(&self) -> Status {
        let mut metadata = HashMap::new();
        for (key, text) in [("subject", &self.subject), ("hint", &self.hint)] {
            if !text.is_empty() {
                metadata.insert(key.to_owned(), text.clone());
            }
        }
        for (index, cause) in self.causes.iter().enumerate() {
            metadata.insert(cause_key(index), cause.clone());
        }
        let mut details = ErrorDetails::with_error_info(&self.reason, DOMAIN, metadata);
        for violation in &self.violations {
            details.add_bad_request_violation(&violation.field, &violation.description);
        }
        if let Some(pause) = self.retry_after {
            details.set_retry_info(Some(pause));
        }
        Status::with_error_details(self.code, &self.message, details)
    }

    /// Leaves out the least needed part. False when there is nothing left to leave out.
    fn shrink(&mut self) -> bool {
        if self.causes.pop().is_some() || self.violations.pop().is_some() {
            return true;
        }
        let longest = if self.hint.len() > self.message.len() {
            &mut self.hint
        } else {
            &mut self.message
        };
        let half = longest.len() / 2;
        *longest = clean(longest, half);
        half > 0
    }
}

impl From<Fault> for Status {
    fn from(fault: Fault) -> Self {
        let mut fault = fault.cleaned();
        loop {
            let status = fault.as_status();
            if header_bytes(&status) <= MAX_HEADER_BYTES || !fault.shrink() {
                return status;
            }
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.message)
    }
}

impl Error for Fault {}

/// The texts of the sources of an error, nearest first, without the error's own.
pub fn chain(error: &dyn Error) -> Vec<String> {
    let mut causes = Vec::new();
    let mut next = error.source();
    while let Some(cause) = next.filter(|_| causes.len() < MAX_CAUSES) {
        causes.push(cause.to_string());
        next = cause.source();
    }
    causes
}

/// The name of a code as gRPC writes it: `FAILED_PRECONDITION`.
pub const fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

fn cause_key(index: usize) -> String {
    format!("cause.{index}")
}

/// Bytes that a status takes in headers: the message percent-encoded, the details in base64.
fn header_bytes(status: &Status) -> usize {
    let message: usize = status
        .message()
        .bytes()
        .map(|byte| {
            if matches!(byte, b' '..=b'~') && byte != b'%' {
                1
            } else {
                3
            }
        })
        .sum();
    message + status.details().len().div_ceil(3) * 4
}

/// Turns line breaks into spaces, takes out control and direction characters, and cuts at a character's end.
fn clean(text: &str, most: usize) -> String {
    let mut clean = String::with_capacity(text.len().min(most));
    for character in text.chars() {
        let character = match character {
            '\n' | '\r' | '\t' => ' ',
            character if character.is_control() || is_direction(character) => continue,
            character => character,
        };
        if clean.len() + character.len_utf8() > most {
            // Room for the sign that something is missing.
            while clean.len() + '…'.len_utf8() > most && clean.pop().is_some() {}
            if '…'.len_utf8() <= most {
                clean.push('…');
            }
            break;
        }
        clean.push(character);
    }
    clean
}

/// Marks that change the direction of text, which can make a message read as another.
const fn is_direction(character: char) -> bool {
    matches!(
        character,
        '\u{061c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
    )
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tonic::{Code, Status};

    use super::{Fault, MAX_HEADER_BYTES, chain, clean, header_bytes};

    fn full() -> Fault {
        let mut fault = Fault::invalid("k3s_version", "a version looks like v1.34.8+k3s1")
            .about("host cp1")
            .hint("ask `canasta artefact list`")
            .caused_by(vec!["first".to_owned(), "second".to_owned()])
            .retry_after(Duration::from_millis(1500));
        fault.reason = "VERSION".to_owned();
        fault
    }

    #[test]
    fn a_fault_survives_the_wire() {
        let status = Status::from(full());
        assert_eq!(status.code(), Code::InvalidArgument);
        assert_eq!(Fault::from_status(&status), full());
    }

    #[test]
    fn a_fault_survives_a_report() {
        let mut fault = full();
        fault.violations.clear();
        fault.retry_after = None;
        assert_eq!(Fault::from_report(fault.code, &fault.to_report()), fault);
    }

    #[test]
    fn a_status_of_someone_else_is_read_too() {
        let fault = Fault::from_status(&Status::unavailable("tcp connect error"));
        assert_eq!(fault.reason, "UNAVAILABLE");
        assert_eq!(fault.message, "tcp connect error");
    }

    #[test]
    fn faults_stay_within_the_header_limit() {
        for letter in ["x", "ü", "%", "漢"] {
            let mut fault = Fault::new(Code::Internal, "BIG", letter.repeat(9000))
                .about(letter.repeat(9000))
                .hint(letter.repeat(9000))
                .caused_by(vec![letter.repeat(9000); 50]);
            fault.violations = vec![
                super::Violation {
                    field: letter.repeat(900),
                    description: letter.repeat(900),
                };
                50
            ];
            let status = Status::from(fault);
            assert!(header_bytes(&status) <= MAX_HEADER_BYTES);
            let read = Fault::from_status(&status);
            assert!(read.message.len() > 100 && read.hint.len() > 100);
            assert_eq!(read.reason, "BIG");
        }
    }

    #[test]
    fn nothing_in_a_fault_plays_tricks_on_a_terminal() {
        let status = Status::from(Fault::new(
            Code::Internal,
            "X",
            "a\nb\u{1b}[31mc\u{202e}d\0",
        ));
        assert_eq!(status.message(), "a b[31mcd");
        // A peer that does not clean is not trusted either.
        let raw = Status::internal("a\u{7}\u{2066}b");
        assert_eq!(Fault::from_status(&raw).message, "ab");
    }

    #[test]
    fn texts_are_cut_at_a_character() {
        assert_eq!(clean("abcdef", 6), "abcdef");
        assert_eq!(clean("abcdefg", 6), "abc…");
        assert_eq!(clean("üüüü", 6), "ü…");
        assert_eq!(clean("abc", 0), "");
        assert_eq!(clean("abc", 2), "");
    }

    #[test]
    fn a_chain_holds_the_sources_alone() {
        #[derive(Debug, thiserror::Error)]
        #[error("outer")]
        struct Outer(#[source] std::io::Error);
        let error = Outer(std::io::Error::other("inner"));
        assert_eq!(chain(&error), ["inner"]);
    }
}
