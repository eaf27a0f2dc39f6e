//! Units as systemd tells them over D-Bus.

use super::*;
use std::collections::HashMap;
use std::path::Path;
use std::time::UNIX_EPOCH;
use zbus::Variant;

fn variant<'a>(value: impl Into<Variant<'a>>) -> OwnedVariant {
    OwnedVariant::try_from(value.into()).unwrap()
}

#[test]
fn properties_become_a_unit() {
    let properties = HashMap::from([
        ("Id".to_owned(), variant("k3s.service")),
        ("LoadState".to_owned(), variant("loaded")),
        ("ActiveState".to_owned(), variant("active")),
        ("SubState".to_owned(), variant("running")),
        ("Result".to_owned(), variant("success")),
        ("UnitFileState".to_owned(), variant("enabled")),
        ("Type".to_owned(), variant("notify")),
        ("MainPID".to_owned(), variant(4711_u32)),
        ("NRestarts".to_owned(), variant(2_u32)),
        ("ExecMainStatus".to_owned(), variant(1_i32)),
        (
            "ExecMainStartTimestamp".to_owned(),
            variant(1_700_000_000_500_000_u64),
        ),
        ("InvocationID".to_owned(), variant(vec![0xab_u8; 16])),
        (
            "FragmentPath".to_owned(),
            variant("/etc/systemd/system/k3s.service"),
        ),
    ]);
    let unit = unit::Properties(properties).into_unit("k3s.service");
    assert!(unit.is_active() && unit.is_enabled() && unit.is_loaded() && !unit.is_failed());
    assert_eq!(
        (
            unit.type_.as_str(),
            unit.sub_state.as_str(),
            unit.result.as_str()
        ),
        ("notify", "running", "success")
    );
    assert_eq!(
        (unit.main_pid, unit.n_restarts, unit.exec_main_status),
        (Some(4711), 2, 1)
    );
    assert_eq!(
        unit.exec_main_start,
        Some(UNIX_EPOCH + Duration::from_millis(1_700_000_000_500))
    );
    assert_eq!(unit.invocation_id, Some("ab".repeat(16)));
    assert_eq!(
        unit.fragment_path.as_deref(),
        Some(Path::new("/etc/systemd/system/k3s.service"))
    );
}

#[test]
fn what_is_missing_or_of_another_type_is_empty() {
    let properties = HashMap::from([
        ("LoadState".to_owned(), variant("not-found")),
        ("MainPID".to_owned(), variant(0_u32)),
        ("NRestarts".to_owned(), variant("two")),
        ("ExecMainStartTimestamp".to_owned(), variant(0_u64)),
        ("InvocationID".to_owned(), variant(Vec::<u8>::new())),
        ("FragmentPath".to_owned(), variant("")),
    ]);
    let unit = unit::Properties(properties).into_unit("x.service");
    let expected = Unit {
        name: "x.service".to_owned(),
        load_state: "not-found".to_owned(),
        ..Unit::default()
    };
    assert_eq!(unit, expected);
}

#[test]
fn a_deleted_unit_that_still_runs_is_asked_as_a_service() {
    let of = |load_state: &str, active_state: &str| {
        let properties = HashMap::from([
            ("LoadState".to_owned(), variant(load_state)),
            ("ActiveState".to_owned(), variant(active_state)),
        ]);
        unit::Properties(properties).is_nothing()
    };
    assert!(of("not-found", "inactive"));
    assert!(!of("not-found", "active"));
    assert!(!of("loaded", "inactive"));
    assert!(!unit::Properties(HashMap::new()).is_nothing());
}

#[test]
fn errors_are_sorted_by_what_to_do_about_them() {
    use zbus::fdo::Error as Fdo;
    let of = |error: Fdo| sorted("start", "k3s.service", zbus::Error::FDO(Box::new(error)));
    assert!(matches!(
        of(Fdo::ServiceUnknown(String::new())),
        SystemdError::Unreachable { .. }
    ));
    assert!(matches!(
        of(Fdo::AccessDenied(String::new())),
        SystemdError::Refused { .. }
    ));
    assert!(matches!(
        of(Fdo::FileNotFound(String::new())),
        SystemdError::NoSuchUnit { .. }
    ));
    let lost = std::io::Error::from(std::io::ErrorKind::BrokenPipe);
    assert!(matches!(
        sorted("start", "x", zbus::Error::from(lost)),
        SystemdError::Unreachable { .. }
    ));
    assert_eq!(
        of(Fdo::FileNotFound(String::new())).to_string(),
        "failed to start k3s.service: systemd knows no such unit"
    );
}

/// systemd takes a property only in its own type.
#[test]
fn a_program_that_runs_once_is_described_in_systemds_types() {
    let argv = ["/usr/bin/x", "a b"].map(str::to_owned);
    let properties = once(&argv, Rights::Root, Duration::from_secs(2));
    let types: Vec<(&str, String)> = properties
        .iter()
        .map(|(name, value)| (*name, value.value_signature().to_string()))
        .collect();
    assert_eq!(
        types,
        [
            ("Description", "s"),
            ("Type", "s"),
            ("ExecStart", "a(sasb)"),
            ("TimeoutStartUSec", "t"),
            ("CollectMode", "s"),
            ("LimitNOFILE", "t"),
        ]
        .map(|(name, type_)| (name, type_.to_owned()))
    );
}

#[test]
fn a_program_that_only_speaks_with_the_network_is_bounded_in_systemds_types() {
    let rights = Rights::NetworkOnly {
        writes: "/run/x".to_owned(),
    };
    let argv = ["/usr/bin/x".to_owned()];
    let properties = once(&argv, rights, Duration::from_secs(2));
    let type_of = |wanted: &str| {
        let found = properties.iter().find(|(name, _)| *name == wanted);
        found.map(|(_, value)| value.value_signature().to_string())
    };
    for (name, type_) in [
        ("CapabilityBoundingSet", "t"),
        ("ProtectSystem", "s"),
        ("ReadWritePaths", "as"),
        ("RestrictAddressFamilies", "(bas)"),
        ("MemoryMax", "t"),
        ("NoNewPrivileges", "b"),
    ] {
        assert_eq!(type_of(name).as_deref(), Some(type_), "{name}");
    }
}
