-- Workers, what is known of a cluster's API, and what is owed to it. Times are milliseconds since 1970.

-- What is known of a worker besides its row in cluster_nodes. A control plane is recorded when it is Ready and has none.
CREATE TABLE worker_marks (
    host     TEXT PRIMARY KEY REFERENCES cluster_nodes (host) ON DELETE CASCADE,
    ready_at INTEGER,                              -- when its Node was first seen Ready; none means never
    settled  INTEGER NOT NULL                      -- 1 when the Node object is of the k3s that is on the host now
) STRICT, WITHOUT ROWID;

-- What the API of a cluster can do, probed once and again after an upgrade.
CREATE TABLE capabilities (
    cluster          TEXT PRIMARY KEY REFERENCES clusters (name) ON DELETE CASCADE,
    server_version   TEXT NOT NULL,
    eviction_version TEXT NOT NULL,                -- `v1`, `v1beta1`
    probed_at        INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- What is to be done in a cluster once its API answers. An uncordon is due only when its operation has ended.
CREATE TABLE debts (
    id           INTEGER PRIMARY KEY AUTOINCREMENT,
    cluster      TEXT NOT NULL REFERENCES clusters (name) ON DELETE CASCADE,
    kind         TEXT NOT NULL CHECK (kind IN ('delete-node', 'uncordon')),
    node_name    TEXT NOT NULL,
    host         TEXT NOT NULL,                    -- whose Node it was; empty for a node that is no host of the fleet
    operation_id TEXT NOT NULL,
    since        INTEGER NOT NULL,
    last_error   TEXT NOT NULL DEFAULT '',
    UNIQUE (cluster, kind, node_name)
) STRICT;
