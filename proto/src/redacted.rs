//! `Debug` of the messages that hold a secret: everything but the secret. Used wherever a message ends up in a log.

use std::fmt;

use crate::pb;

impl fmt::Debug for pb::AddUserResponse {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("AddUserResponse")
            .field("user", &self.user)
            .field("token_expires_at", &self.token_expires_at)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for pb::CreateJoinCredentialResponse {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("CreateJoinCredentialResponse")
            .field("kind", &self.kind)
            .field("token_id", &self.token_id)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for pb::EnrolHostRequest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("EnrolHostRequest")
            .field("hostname", &self.hostname)
            .field("advertise", &self.advertise)
            .field("port", &self.port)
            .field("expected_name", &self.expected_name)
            .field("agent_version", &self.agent_version)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for pb::GetApiCredentialsResponse {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("GetApiCredentialsResponse")
            .field("server_name", &self.server_name)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for pb::GetKubeconfigResponse {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("GetKubeconfigResponse")
            .field("cluster", &self.cluster)
            .field("servers", &self.servers)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for pb::JoinToken {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("JoinToken")
            .field("expires_at", &self.expires_at)
            .field("controller_address", &self.controller_address)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for pb::RedeemUserRequest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("RedeemUserRequest")
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for pb::StoreJoinCredentialRequest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("StoreJoinCredentialRequest")
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use crate::pb;

    #[test]
    fn a_secret_is_not_shown() {
        let shown = format!(
            "{:?} {:?} {:?} {:?} {:?} {:?} {:?} {:?}",
            pb::AddUserResponse {
                token: "geheim".into(),
                ..Default::default()
            },
            pb::CreateJoinCredentialResponse {
                token: "geheim".into(),
                ..Default::default()
            },
            pb::EnrolHostRequest {
                token: "geheim".into(),
                ..Default::default()
            },
            pb::GetApiCredentialsResponse {
                client_key: "geheim".into(),
                ..Default::default()
            },
            pb::GetKubeconfigResponse {
                client_key: "geheim".into(),
                ..Default::default()
            },
            pb::JoinToken {
                token: "geheim".into(),
                ..Default::default()
            },
            pb::RedeemUserRequest {
                token: "geheim".into(),
                ..Default::default()
            },
            pb::StoreJoinCredentialRequest {
                token: "geheim".into(),
            },
        );
        assert!(
            !shown.contains("geheim") && !shown.contains("103"),
            "{shown}"
        );
    }
}
