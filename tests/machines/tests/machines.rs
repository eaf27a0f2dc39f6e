//! The fleet on systemd nodes, from the packages. Runs in the profile `machines`, by `sudo ./dev test`.
//!
//! All tests share one lab whose controller stays; each takes nodes of its own, so that none sees what another left. A
//! test process brings up what it needs and finds what is up already.

#![expect(
    clippy::disallowed_types,
    reason = "packages are looked at with their own tools"
)]

mod machines {
    mod bad_luck;
    mod disks;
    mod enrolment;
    mod exports;
    mod install;
    mod join_luck;
    mod joins;
    mod lab;
    mod packages;
    mod rejoin;
    mod shares;
    mod ssh;
    mod unfit;
    mod uninstall;
    mod upgrade;
    mod workers;

    use canasta_machines::{Cut, Protocol};

    /// A cut of one port, in one direction.
    fn closed(from: &str, to: &str, protocol: Protocol, port: u16) -> Cut {
        Cut {
            from: from.to_owned(),
            to: to.to_owned(),
            protocol: Some(protocol),
            port: Some(port),
            one_way: true,
            ..Cut::default()
        }
    }

    /// Something that is done at the end of a test, also where an assertion ends it: what it spoilt serves other tests.
    struct Afterwards<F: FnMut()>(F);

    impl<F: FnMut()> Drop for Afterwards<F> {
        fn drop(&mut self) {
            (self.0)();
        }
    }

    fn afterwards<F: FnMut()>(work: F) -> Afterwards<F> {
        Afterwards(work)
    }
}
