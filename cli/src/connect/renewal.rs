//! Renews the certificate of a context while a command runs, so that nobody has to do it once a month.
//!
//! The new certificate is checked, and kept beside the present one until a controller has let it in once: what a crash or a
//! mistake made of it can't lock the user out.

use canasta_proto::pb::user_service_client::UserServiceClient;
use canasta_proto::pb::{IssuedCertificate, RenewCertificateRequest};
use canasta_transport::keys::PrivateKey;
use canasta_transport::material::Material;
use jiff::Timestamp;
use tonic::transport::Channel;

use super::new_key;
use crate::contexts::{Context, Contexts, Leaf};
use crate::error::Error;
use crate::output;

/// Whether the time for a new certificate has come.
pub(super) fn is_due(present: &Material) -> bool {
    present.facts().renew_at(0.0) <= Timestamp::now()
}

/// Gets a certificate for a new key. One that can't be had is told and no error: the present one still does, and the next
/// command tries again.
pub(super) async fn renew(channel: Channel, name: &str, context: &Context, present: &Material) {
    if let Err(error) = try_renew(channel, name, context, present).await {
        output::note(&format!(
            "the certificate of the context '{name}' could not be renewed: {error}"
        ));
    }
}

async fn try_renew(
    channel: Channel,
    name: &str,
    context: &Context,
    present: &Material,
) -> Result<(), Error> {
    let (key, csr) = new_key()?;
    let request = RenewCertificateRequest { csr: csr.into() };
    let answer = UserServiceClient::new(channel)
        .renew_certificate(request)
        .await?;
    let issued = answer.into_inner().issued.unwrap_or_default();
    let next = checked(context, present, &key, &issued)?;
    Contexts::update(|known| {
        // Another command may have renewed it meanwhile, or the context was added anew: that one is left alone.
        let same = |kept: &&mut Context| kept.leaf == context.leaf && kept.next == context.next;
        if let Some(kept) = known.contexts.get_mut(name).filter(same) {
            kept.next = Some(next);
        }
        Ok(())
    })
}

/// The new certificate, if it is one that can take the place of the present one.
fn checked(
    context: &Context,
    present: &Material,
    key: &PrivateKey,
    issued: &IssuedCertificate,
) -> Result<Leaf, Error> {
    let no_use = |why: String| {
        Error::local(
            format!("the controller's answer is of no use: {why}"),
            "compare the versions with `canasta version`",
        )
    };
    let leaf = Leaf::new(key, &issued.certificate)?;
    let next = context
        .material(&leaf)
        .map_err(|error| no_use(error.to_string()))?;
    if next.identity() != present.identity() {
        return Err(no_use(format!("it names {}", next.identity())));
    }
    if next.facts().not_after <= present.facts().not_after {
        return Err(no_use(
            "it ends no later than the present certificate".to_owned(),
        ));
    }
    Ok(leaf)
}

/// The new certificate was let in: the one before it goes.
pub(super) fn settle(name: &str, used: &Leaf) {
    let settled = Contexts::update(|known| {
        let same = |kept: &&mut Context| kept.next.as_ref() == Some(used);
        if let Some(kept) = known.contexts.get_mut(name).filter(same) {
            kept.leaf = used.clone();
            kept.next = None;
        }
        Ok(())
    });
    if let Err(error) = settled {
        output::note(&format!(
            "the new certificate of the context '{name}' is used, but could not be made the only one: {error}"
        ));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use canasta_proto::pb::IssuedCertificate;
    use canasta_transport::authority::{Authority, IssueRequest};
    use canasta_transport::keys::PrivateKey;
    use canasta_transport::spiffe::Identity;
    use jiff::Timestamp;

    use super::checked;
    use crate::contexts::Context;

    fn issued(ca: &Authority, who: &Identity, key: &PrivateKey, hours: u64) -> IssuedCertificate {
        let now = Timestamp::now();
        let request = IssueRequest {
            public_key: &key.public().expect("a key"),
            identity: who.clone(),
            not_before: now,
            not_after: now + Duration::from_secs(3600 * hours),
        };
        let leaf = ca.issue(&request).expect("a certificate");
        IssuedCertificate {
            certificate: leaf.to_vec().into(),
            ca_certificate: ca.certificate().to_vec().into(),
            fleet_id: "f".to_owned(),
            name: "anna".to_owned(),
        }
    }

    #[test]
    fn only_what_can_take_the_place_of_the_present_certificate_is_kept() {
        let ca = Authority::create(Timestamp::now()).expect("a CA");
        let other_ca = Authority::create(Timestamp::now()).expect("a CA");
        let user = |name: &str| ca.fleet().user(name.parse().expect("a name"));
        let (anna, berta) = (user("anna"), user("berta"));
        let (old, new) = (
            PrivateKey::generate().expect("a key"),
            PrivateKey::generate().expect("a key"),
        );
        let context =
            Context::new("ctl:7440", &old, issued(&ca, &anna, &old, 2)).expect("a context");
        let present = context.material(&context.leaf).expect("sound");
        let check = |answer| checked(&context, &present, &new, &answer).map_err(|e| e.to_string());
        check(issued(&ca, &anna, &new, 3)).expect("a good one");
        let strange = other_ca.fleet().user("anna".parse().expect("a name"));
        for (what, answer) in [
            ("another key", issued(&ca, &anna, &old, 3)),
            ("another user", issued(&ca, &berta, &new, 3)),
            ("another fleet", issued(&other_ca, &strange, &new, 3)),
            ("no longer life", issued(&ca, &anna, &new, 1)),
            ("nothing", IssuedCertificate::default()),
        ] {
            let error = check(answer).expect_err(what);
            assert!(error.contains("of no use"), "{what}: {error}");
        }
    }
}
