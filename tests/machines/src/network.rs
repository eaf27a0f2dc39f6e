//! The network of a lab: a namespace of its own with a bridge in it, so that the machine's links,
//! routes and rules stay as they are and nothing outside reaches a node. Called by [`crate::Lab`].

use crate::place::{BRIDGE, Layout};
use crate::program::{Place, ProgramError, run};

/// Being in the lab's network namespace and otherwise where the caller is.
pub(crate) fn place(layout: &Layout) -> Place {
    Place {
        netns: Some(layout.netns()),
        ..Place::default()
    }
}

/// Makes what is missing of namespace and bridge.
pub(crate) fn ensure(layout: &Layout) -> Result<(), ProgramError> {
    let name = layout.netns_name();
    if place(layout).with(|| Ok(())).is_err() {
        remove(layout)?;
        run(&Place::default(), &["ip", "netns", "add", &name], b"")?;
    }
    let inside = place(layout);
    let ip = |argv: &[&str]| run(&inside, argv, b"").map(drop);
    if ip(&["ip", "link", "show", "dev", BRIDGE]).is_err() {
        // A fixed address: by default a bridge takes one of its ports' and changes with them.
        let mac = "02:ca:7a:57:a0:01";
        ip(&[
            "ip",
            "link",
            "add",
            BRIDGE,
            "address",
            mac,
            "type",
            "bridge",
            "mcast_snooping",
            "0",
        ])?;
    }
    let address = format!("{}/{}", layout.gateway(), layout.network().prefix_len());
    ip(&["ip", "address", "replace", &address, "dev", BRIDGE])?;
    ip(&["ip", "link", "set", "dev", BRIDGE, "up"])?;
    ip(&["ip", "link", "set", "dev", "lo", "up"])
}

/// Removes a link of the lab's network, if it is there.
pub(crate) fn remove_link(layout: &Layout, link: &str) -> Result<(), ProgramError> {
    let inside = place(layout);
    if run(&inside, &["ip", "link", "show", "dev", link], b"").is_err() {
        return Ok(());
    }
    run(&inside, &["ip", "link", "delete", "dev", link], b"").map(drop)
}

/// Removes the namespace, and with it every link in it.
pub(crate) fn remove(layout: &Layout) -> Result<(), ProgramError> {
    if !layout.netns().exists() {
        return Ok(());
    }
    run(
        &Place::default(),
        &["ip", "netns", "delete", &layout.netns_name()],
        b"",
    )
    .map(drop)
}
