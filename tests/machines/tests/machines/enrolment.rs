//! Joining, on booted nodes.

use canasta_machines::fleet::Fleet;

use super::packages::package;

#[test]
fn an_agent_that_has_not_joined_waits_and_has_no_port_open() {
    let fleet = Fleet::up(&["waiting"]);
    assert_eq!(
        fleet.unit("waiting", "canasta-agent.service", "ActiveState"),
        "active"
    );
    let status = fleet.unit("waiting", "canasta-agent.service", "StatusText");
    assert!(status.contains("waiting for join"), "{status}");
    let ports = fleet
        .run("waiting", &["ss", "-Hltn", "sport", "=", ":7443"])
        .ok();
    assert_eq!(ports, "");
}

#[test]
fn a_host_joins_by_the_file_of_an_image() {
    let fleet = Fleet::up(&["image"]);
    if fleet.state_of("image") != "connected" {
        let (controller, token) = fleet.token("image");
        let text = format!("controller = \"{controller}\"\ntoken = \"{token}\"\n");
        fleet
            .lab
            .write("image", "/etc/canasta/join.toml", text.as_bytes(), 0o600)
            .expect("written");
        fleet
            .run("image", &["systemctl", "restart", "canasta-agent"])
            .ok();
    }
    fleet.until_state("image", "connected");
    assert_ne!(
        fleet
            .run("image", &["test", "-e", "/etc/canasta/join.toml"])
            .code,
        0,
        "the token lies on"
    );
}

#[test]
fn a_node_that_the_controller_cannot_reach_is_told_so_with_address_and_port() {
    let fleet = Fleet::up(&["walled"]);
    let address = fleet.lab.address("walled").expect("an address").to_string();
    fleet
        .lab
        .cut(canasta_machines::Cut {
            from: "ctl".to_owned(),
            to: "walled".to_owned(),
            protocol: Some(canasta_machines::Protocol::Tcp),
            port: Some(7443),
            one_way: true,
            min_size: None,
            loss: None,
        })
        .expect("a cut");
    let (controller, token) = fleet.token("walled");
    let argv = [
        "canasta-agent",
        "join",
        "--controller",
        &controller,
        "--token-file",
        "-",
    ];
    let ran = fleet.run_with_input("walled", &argv, token.as_bytes());
    let said = format!("{}{}", ran.out, ran.err);
    fleet.lab.mend().expect("mended");
    assert_ne!(ran.code, 0, "{said}");
    assert!(said.contains(&format!("{address}:7443")), "{said}");
    // With the wall gone the controller finds the node by itself.
    fleet.until_state("walled", "connected");
}

#[test]
fn a_host_that_goes_silent_is_unreachable_since_then() {
    let fleet = Fleet::up(&["silent"]);
    fleet.enrol("silent");
    fleet
        .run("silent", &["systemctl", "stop", "canasta-agent"])
        .ok();
    fleet.until_state("silent", "unreachable");
    let list = fleet.canasta(&["host", "list"]).ok();
    assert!(list.contains("unreachable since 20"), "{list}");
    fleet
        .run("silent", &["systemctl", "start", "canasta-agent"])
        .ok();
    fleet.until_state("silent", "connected");
}

#[test]
fn the_cli_works_from_another_machine_until_its_user_is_removed() {
    let fleet = Fleet::up(&["laptop"]);
    let file = "/var/tmp/canasta.deb";
    fleet
        .lab
        .push("laptop", package("canasta", ".deb").as_ref(), file)
        .expect("copied");
    fleet.run("laptop", &["dpkg", "--install", file]).ok();
    let as_anna = |arguments: &[&str]| {
        let mut argv = vec!["env", "XDG_CONFIG_HOME=/tmp/anna", "canasta"];
        argv.extend(arguments);
        fleet.run("laptop", &argv)
    };
    fleet.canasta(&["user", "remove", "anna"]);
    fleet.run("laptop", &["rm", "-rf", "/tmp/anna"]).ok();
    let added = fleet.asked(&["user", "add", "anna", "--role", "viewer"]);
    let token = added["token"].as_str().expect("a token");
    fleet
        .lab
        .write("laptop", "/tmp/anna.token", token.as_bytes(), 0o600)
        .expect("written");
    as_anna(&[
        "context",
        "add",
        "prod",
        "--controller",
        "ctl",
        "--token-file",
        "/tmp/anna.token",
    ])
    .ok();
    as_anna(&["host", "list"]).ok();
    let refused = as_anna(&["host", "add", "--name", "annas"]);
    assert_eq!(refused.code, 4, "{}", refused.err);
    fleet.canasta(&["user", "remove", "anna"]).ok();
    let refused = as_anna(&["host", "list"]);
    assert_eq!(refused.code, 4, "{}", refused.err);

    let address = fleet.lab.address("laptop").expect("an address").to_string();
    let audit = fleet.asked(&["audit"]);
    let rows = audit["rows"].as_array().expect("rows");
    let told = |row: &&serde_json::Value| {
        row["who"] == "user anna"
            && row["what"]
                .as_str()
                .is_some_and(|what| what.ends_with("/AddHost"))
    };
    let row = rows.iter().find(told);
    let row = row.unwrap_or_else(|| panic!("not audited: {audit:#}"));
    let outcome = row["outcome"].as_str().unwrap_or_default();
    assert!(outcome.contains("ROLE"), "{row}");
    let from = row["from"].as_str().unwrap_or_default();
    assert!(from.contains(&address), "{row}");
}
