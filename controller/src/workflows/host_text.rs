//! The name of a host in a stored plan: checked when it is read back.

use std::ops::Deref;

use canasta_proto::name::{HostName, NameError};
use serde::{Deserialize, Serialize};

/// The name of a host, stored as its text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(super) struct HostText(HostName);

impl Deref for HostText {
    type Target = HostName;

    fn deref(&self) -> &HostName {
        &self.0
    }
}

impl From<HostName> for HostText {
    fn from(host: HostName) -> Self {
        Self(host)
    }
}

impl TryFrom<String> for HostText {
    type Error = NameError;

    fn try_from(text: String) -> Result<Self, NameError> {
        text.parse().map(Self)
    }
}

impl From<HostText> for String {
    fn from(host: HostText) -> Self {
        host.0.into()
    }
}

impl std::fmt::Display for HostText {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(formatter)
    }
}
