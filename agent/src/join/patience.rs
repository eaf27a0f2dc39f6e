//! How long a join waits for a controller that takes no more calls from this node's address for now.

use std::time::Duration;

use canasta_transport::status::Fault;

/// What the controller calls it.
const TOO_MANY: &str = "TOO_MANY_CALLS";
/// The first pause where the controller names none.
const FIRST: Duration = Duration::from_secs(1);
/// The shortest pause, also where the controller names a shorter one or none at all: a join must not spin.
const SHORTEST: Duration = Duration::from_millis(100);
/// The longest pause that is taken without being asked for.
const LONGEST: Duration = Duration::from_secs(10);

/// The patience of one join.
#[derive(Debug)]
pub(super) struct Patience {
    /// How long it may still wait.
    left: Duration,
    /// The least that it waits next: other machines behind the same address want the same room.
    next: Duration,
}

impl Patience {
    /// Waits this long, all in all.
    pub(super) fn new(most: Duration) -> Self {
        Self {
            left: most,
            next: SHORTEST,
        }
    }

    /// How long to wait before the call is made again; `None` for a refusal that time does not mend, and when there was enough
    /// waiting.
    pub(super) fn pause(&mut self, fault: &Fault) -> Option<Duration> {
        if fault.reason != TOO_MANY {
            return None;
        }
        let pause = fault.retry_after.unwrap_or(FIRST).max(self.next);
        self.left = self.left.checked_sub(pause)?;
        self.next = (pause * 2).min(LONGEST);
        Some(pause)
    }
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;

    fn refused(reason: &str) -> Fault {
        Fault::new(Code::ResourceExhausted, reason, "no")
    }

    #[test]
    fn pauses_are_the_controllers_then_grow_and_have_an_end() {
        let mut patience = Patience::new(Duration::from_secs(20));
        let told = refused(TOO_MANY).retry_after(Duration::from_millis(300));
        let seconds = |pause: Option<Duration>| pause.map(|pause| pause.as_secs_f64());
        assert_eq!(seconds(patience.pause(&told)), Some(0.3));
        assert_eq!(seconds(patience.pause(&told)), Some(0.6));
        assert_eq!(seconds(patience.pause(&refused(TOO_MANY))), Some(1.2));
        let long = refused(TOO_MANY).retry_after(Duration::from_secs(15));
        assert_eq!(seconds(patience.pause(&long)), Some(15.0));
        assert_eq!(patience.pause(&told), None, "10 s are more than is left");
    }

    #[test]
    fn a_controller_that_names_no_time_at_all_is_not_asked_in_a_spin() {
        let mut patience = Patience::new(Duration::from_secs(1));
        let now = refused(TOO_MANY).retry_after(Duration::ZERO);
        let mut waited = Duration::ZERO;
        for expected in [SHORTEST, SHORTEST * 2, SHORTEST * 4] {
            assert_eq!(patience.pause(&now), Some(expected));
            waited += expected;
        }
        assert_eq!(patience.pause(&now), None, "{waited:?} of 1 s are waited");
    }

    #[test]
    fn other_refusals_are_told_at_once() {
        let mut patience = Patience::new(Duration::from_mins(1));
        assert_eq!(patience.pause(&refused("DISK_FULL")), None);
        assert_eq!(patience.pause(&refused(TOO_MANY)), Some(FIRST));
    }
}
