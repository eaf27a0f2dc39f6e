//! Which host a command means that names none: the one that fits, when exactly one does.
//!
//! A command without `--host` means "the machine" in the manual of the old system, also when it is given a second time. So
//! a host that is still free comes first, and without one the host that has what the command makes.

use std::fmt;

use canasta_proto::name::HostName;
use canasta_proto::pb;
use futures_util::future::join_all;

use super::gather::has_program;
use super::{Context, Error};
use crate::clusters::CONTROL_PLANE;
use crate::fleet::Phase;
use crate::store::HostRow;

/// What a host is looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wish {
    /// To install a control plane on it.
    Install,
    /// To adopt the control plane that is there.
    Adopt,
    /// To join it to a cluster as a worker.
    Join,
}

impl Wish {
    /// What makes a host fit, for who reads that none does.
    fn rule(self) -> &'static str {
        match self {
            Self::Install => {
                "a host fits when its agent is connected and it has no k3s, or the control plane that this fleet installed"
            }
            Self::Adopt => {
                "a host fits when its agent is connected and it has a k3s control plane that someone else installed"
            }
            Self::Join => {
                "a host fits when its agent is connected and it has no k3s, or is a worker already"
            }
        }
    }
}

/// A host with why it fits or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// The host.
    pub host: String,
    /// Whether the command could mean it.
    pub fits: bool,
    /// Why, or why not.
    pub why: String,
}

impl fmt::Display for Candidate {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fits = if self.fits { "fits" } else { "does not fit" };
        write!(formatter, "{}: {fits}, {}", self.host, self.why)
    }
}

/// How many fit, in words.
pub(super) fn fitting(hosts: &[Candidate]) -> String {
    let names: Vec<&str> = hosts
        .iter()
        .filter(|candidate| candidate.fits)
        .map(|candidate| candidate.host.as_str())
        .collect();
    if hosts.is_empty() {
        "none is registered".to_owned()
    } else if names.is_empty() {
        "none fits".to_owned()
    } else {
        format!("several fit: {}", names.join(", "))
    }
}

/// Whether a command could mean a host.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Fit {
    /// Nothing was done there yet.
    Free(String),
    /// What the command makes is there.
    Done(String),
    /// It could not.
    No(String),
}

/// What is known of a host that was not named.
#[derive(Debug, Clone, Default)]
struct Seen {
    /// Why its agent can't be asked; none when it can.
    away: Option<String>,
    /// Its cluster, its role there, and whether the cluster was adopted.
    member: Option<(String, String, bool)>,
    k3s: pb::K3sFacts,
}

/// Judges one host. A pure function.
fn judge(wish: Wish, seen: &Seen) -> Fit {
    if let Some(away) = &seen.away {
        return Fit::No(away.clone());
    }
    if let Some((cluster, role, adopted)) = &seen.member {
        let control_plane = role == CONTROL_PLANE;
        let done = match wish {
            Wish::Install => control_plane && !adopted,
            Wish::Adopt => control_plane && *adopted,
            Wish::Join => !control_plane,
        };
        let why = match (control_plane, adopted) {
            (true, true) => format!("it has the adopted control plane of cluster {cluster}"),
            (true, false) => format!("it has the control plane of cluster {cluster}"),
            (false, _) => format!("it is a worker of cluster {cluster}"),
        };
        return if done { Fit::Done(why) } else { Fit::No(why) };
    }
    let k3s = &seen.k3s;
    let foreign = has_program(k3s) && k3s.origin() != pb::K3sOrigin::Installed;
    // An install of ours that did not come to its end: it goes on as what it is.
    let unfinished = has_program(k3s) && !foreign;
    match (wish, k3s.role()) {
        (Wish::Join, pb::K3sRole::Server) if unfinished => {
            return Fit::No("it has an unfinished control plane".to_owned());
        }
        (Wish::Install, pb::K3sRole::Agent) if unfinished => {
            return Fit::No("it has an unfinished worker".to_owned());
        }
        _ => {}
    }
    match (wish, foreign) {
        (Wish::Install | Wish::Join, false) => {
            Fit::Free("it is connected and in no cluster".to_owned())
        }
        (Wish::Join, true) => Fit::No("it has a k3s that this fleet did not install".to_owned()),
        (Wish::Install, true) => Fit::No(
            "it has a k3s that this fleet did not install (--adopt takes it over)".to_owned(),
        ),
        (Wish::Adopt, true) if k3s.role() == pb::K3sRole::Server => {
            Fit::Free("it has a k3s control plane that someone else installed".to_owned())
        }
        (Wish::Adopt, true) => Fit::No("its k3s is no control plane".to_owned()),
        (Wish::Adopt, false) => Fit::No("it has no k3s that someone else installed".to_owned()),
    }
}

/// The place of the only host that is meant: the only free one, or without any the only one that is done.
fn only(fits: &[Fit]) -> Option<usize> {
    let places = |wanted: fn(&Fit) -> bool| -> Vec<usize> {
        let places = fits.iter().enumerate().filter(|(_, fit)| wanted(fit));
        places.map(|(place, _)| place).collect()
    };
    let free = places(|fit| matches!(fit, Fit::Free(_)));
    let done = places(|fit| matches!(fit, Fit::Done(_)));
    match (free.as_slice(), done.as_slice()) {
        ([one], _) | ([], [one]) => Some(*one),
        _ => None,
    }
}

/// The host that is named, or the one that fits. The second value tells that it was chosen.
///
/// # Errors
/// When the name is none or not registered, or not exactly one host fits.
pub(super) async fn choose(
    context: &Context,
    named: &str,
    wish: Wish,
) -> Result<(HostRow, bool), Error> {
    if !named.is_empty() {
        named.parse::<HostName>().map_err(|rule| Error::Name {
            field: "host",
            rule,
        })?;
        return Ok((context.fleet.host(named).await?, false));
    }
    let mut hosts = context.store.hosts().await?;
    let members = context.clusters.memberships().await?;
    let clusters = context.store.clusters().await?;
    let seen = hosts.iter().map(async |host| {
        let member = members.get(host.name.as_str()).map(|(cluster, role)| {
            let row = clusters.iter().find(|row| row.name == *cluster);
            let adopted = row.is_some_and(|row| row.adopted);
            (cluster.clone(), role.clone(), adopted)
        });
        look(context, host, member).await
    });
    let fits: Vec<Fit> = join_all(seen)
        .await
        .iter()
        .map(|seen| judge(wish, seen))
        .collect();
    if let Some(place) = only(&fits) {
        return Ok((hosts.swap_remove(place), true));
    }
    let hosts = hosts.into_iter().zip(fits).map(|(host, fit)| {
        let (fits, why) = match fit {
            Fit::Free(why) | Fit::Done(why) => (true, why),
            Fit::No(why) => (false, why),
        };
        Candidate {
            host: host.name.into(),
            fits,
            why,
        }
    });
    Err(Error::HostRequired {
        rule: wish.rule(),
        hosts: hosts.collect(),
    })
}

/// Looks at a host. One in no cluster is asked now: what it told last may be from before somebody installed something.
async fn look(context: &Context, host: &HostRow, member: Option<(String, String, bool)>) -> Seen {
    let phase = context.fleet.state(&host.name).map(|state| state.phase);
    let mut seen = Seen {
        away: match phase {
            Some(Phase::Connected) => None,
            Some(Phase::Waiting) | None => Some("it has not joined".to_owned()),
            Some(Phase::NotDialled) => {
                Some("it is being dialled, try again in a moment".to_owned())
            }
            Some(Phase::Unreachable { reason }) => {
                Some(format!("its agent can't be reached: {reason}"))
            }
            Some(Phase::NeedsRejoin { reason }) => Some(format!("it must join again: {reason}")),
        },
        member,
        k3s: pb::K3sFacts::default(),
    };
    if seen.away.is_none() && seen.member.is_none() {
        match context.fleet.refresh(&host.name).await {
            Ok(facts) => seen.k3s = facts.k3s.unwrap_or_default(),
            Err(error) => seen.away = Some(error.to_string()),
        }
    }
    seen
}

#[cfg(test)]
mod tests {
    use canasta_proto::pb;

    use super::{Fit, Seen, Wish, judge, only};

    fn member(role: &str, adopted: bool) -> Seen {
        Seen {
            member: Some(("c".to_owned(), role.to_owned(), adopted)),
            ..Seen::default()
        }
    }

    fn with_k3s(origin: pb::K3sOrigin, role: pb::K3sRole) -> Seen {
        Seen {
            k3s: pb::K3sFacts {
                present: true,
                origin: origin.into(),
                role: role.into(),
                unit: "k3s.service".to_owned(),
                ..pb::K3sFacts::default()
            },
            ..Seen::default()
        }
    }

    #[test]
    fn each_host_is_judged_by_what_is_wanted_of_it() {
        use pb::K3sOrigin::{Foreign, Installed};
        use pb::K3sRole::{Agent, Server};
        let away = Seen {
            away: Some("it has not joined".to_owned()),
            ..Seen::default()
        };
        for (seen, install, adopt, join) in [
            (Seen::default(), "free", "no", "free"),
            (away, "no", "no", "no"),
            (member("control-plane", false), "done", "no", "no"),
            (member("control-plane", true), "no", "done", "no"),
            (member("worker", false), "no", "no", "done"),
            (with_k3s(Foreign, Server), "no", "free", "no"),
            (with_k3s(Foreign, Agent), "no", "no", "no"),
            // An install that did not come to its end.
            (with_k3s(Installed, Server), "free", "no", "no"),
            (with_k3s(Installed, Agent), "no", "no", "free"),
        ] {
            for (wish, expected) in [
                (Wish::Install, install),
                (Wish::Adopt, adopt),
                (Wish::Join, join),
            ] {
                let (word, why) = match judge(wish, &seen) {
                    Fit::Free(why) => ("free", why),
                    Fit::Done(why) => ("done", why),
                    Fit::No(why) => ("no", why),
                };
                assert_eq!(word, expected, "{wish:?} {seen:?}: {why}");
                assert!(!why.is_empty());
            }
        }
    }

    #[test]
    fn a_free_host_comes_first_and_no_choice_is_made_among_several() {
        let fit = |word: &str| match word {
            "free" => Fit::Free(String::new()),
            "done" => Fit::Done(String::new()),
            _ => Fit::No(String::new()),
        };
        for (words, place) in [
            (&[][..], None),
            (&["no"], None),
            (&["free"], Some(0)),
            (&["no", "done"], Some(1)),
            (&["done", "free"], Some(1)),
            (&["done", "done", "free"], Some(2)),
            (&["free", "free"], None),
            (&["done", "done"], None),
            (&["done", "free", "free"], None),
        ] {
            let fits: Vec<Fit> = words.iter().map(|word| fit(word)).collect();
            assert_eq!(only(&fits), place, "{words:?}");
        }
    }
}
