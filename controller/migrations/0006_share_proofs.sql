-- What hosts could do on the NFS shares of their clusters.

-- The check that counts for a cluster: the last one that came to its end.
CREATE TABLE storage_checks (
    cluster      TEXT PRIMARY KEY REFERENCES clusters (name) ON DELETE CASCADE,
    operation_id TEXT NOT NULL,
    checked_at   INTEGER NOT NULL,                 -- milliseconds since 1970
    unproved     TEXT NOT NULL                     -- JSON: nodes that were no hosts of the fleet then
) STRICT;

-- Its outcomes, and those of one that is under way.
CREATE TABLE share_proofs (
    cluster      TEXT NOT NULL REFERENCES clusters (name) ON DELETE CASCADE,
    operation_id TEXT NOT NULL,
    server       TEXT NOT NULL,
    path         TEXT NOT NULL,
    host         TEXT NOT NULL,
    step         TEXT NOT NULL CHECK (step IN ('write', 'read', 'remove')),
    reason       TEXT NOT NULL DEFAULT '',         -- empty when it was done
    message      TEXT NOT NULL DEFAULT '',
    hint         TEXT NOT NULL DEFAULT '',
    PRIMARY KEY (cluster, operation_id, server, path, host, step)
) STRICT, WITHOUT ROWID;
