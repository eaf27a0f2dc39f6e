//! Times and certificates as they go over the wire.

use canasta_proto::pb;
use jiff::Timestamp;

use crate::identity::Issuer;
use crate::store::CertificateRow;

/// A time for a message.
pub(super) fn time(at: Timestamp) -> prost_types::Timestamp {
    prost_types::Timestamp {
        seconds: at.as_second(),
        nanos: at.subsec_nanosecond(),
    }
}

/// A certificate with what its holder needs to know.
pub(super) fn issued(
    issuer: &Issuer,
    name: String,
    certificate: CertificateRow,
) -> pb::IssuedCertificate {
    pb::IssuedCertificate {
        name,
        fleet_id: issuer.fleet().to_string(),
        certificate: certificate.der.into(),
        ca_certificate: issuer.ca_certificate().to_vec().into(),
    }
}
