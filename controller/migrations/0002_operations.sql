-- Operations, artefacts and clusters. Times are milliseconds since 1970; states and outcomes are the numbers of the wire contract.

CREATE TABLE operations (
    id         TEXT PRIMARY KEY,                   -- UUID version 7
    kind       TEXT NOT NULL,
    title      TEXT NOT NULL,
    state      INTEGER NOT NULL,
    started_by TEXT NOT NULL,
    started_at INTEGER NOT NULL,
    ended_at   INTEGER,
    hosts      TEXT NOT NULL CHECK (json_valid(hosts)),
    request    TEXT NOT NULL CHECK (json_valid(request)), -- what the workflow is rebuilt from; no secrets
    error      BLOB,                               -- ErrorReport
    last_seq   INTEGER NOT NULL
) STRICT;

CREATE INDEX operations_by_state ON operations (state);

CREATE TABLE operation_steps (
    operation_id TEXT NOT NULL REFERENCES operations (id) ON DELETE CASCADE,
    position     INTEGER NOT NULL,
    id           TEXT NOT NULL,
    title        TEXT NOT NULL,
    host         TEXT NOT NULL,
    state        INTEGER NOT NULL,
    outcome      INTEGER NOT NULL DEFAULT 0,
    detail       TEXT NOT NULL DEFAULT '',
    attempts     INTEGER NOT NULL DEFAULT 0,
    started_at   INTEGER,
    ended_at     INTEGER,
    error        BLOB,                             -- ErrorReport
    PRIMARY KEY (operation_id, id)
) STRICT, WITHOUT ROWID;

CREATE TABLE operation_events (
    operation_id TEXT NOT NULL REFERENCES operations (id) ON DELETE CASCADE,
    seq          INTEGER NOT NULL,
    payload      BLOB NOT NULL,                    -- OperationEvent
    PRIMARY KEY (operation_id, seq)
) STRICT, WITHOUT ROWID;

CREATE TABLE artefacts (
    name      TEXT NOT NULL,
    version   TEXT NOT NULL,
    arch      TEXT NOT NULL,
    sha256    TEXT NOT NULL,
    size      INTEGER NOT NULL,
    source    TEXT NOT NULL,
    stored_at INTEGER NOT NULL,
    modified  INTEGER NOT NULL,                    -- of the file when it was last hashed, nanoseconds since 1970
    PRIMARY KEY (name, version, arch)
) STRICT, WITHOUT ROWID;

CREATE TABLE clusters (
    name        TEXT PRIMARY KEY,
    k3s_version TEXT NOT NULL,
    ca_hash     TEXT NOT NULL,
    endpoint    TEXT NOT NULL,
    adopted     INTEGER NOT NULL,
    created_at  INTEGER NOT NULL,
    public_ips  TEXT NOT NULL CHECK (json_valid(public_ips))
) STRICT;

CREATE TABLE cluster_nodes (
    host      TEXT PRIMARY KEY,                    -- a host belongs to one cluster at most
    cluster   TEXT NOT NULL REFERENCES clusters (name) ON DELETE CASCADE,
    node_name TEXT NOT NULL,
    role      TEXT NOT NULL,
    node_ip   TEXT NOT NULL,
    tls_sans  TEXT NOT NULL CHECK (json_valid(tls_sans)),
    UNIQUE (cluster, node_name)
) STRICT;
