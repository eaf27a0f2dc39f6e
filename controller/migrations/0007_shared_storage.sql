-- Storage classes that the controller makes, with what is behind them.
CREATE TABLE shared_storage (
    cluster    TEXT NOT NULL REFERENCES clusters (name) ON DELETE CASCADE,
    class      TEXT NOT NULL,
    host       TEXT REFERENCES hosts (name) ON DELETE SET NULL, -- that exports the share; null where another server does
    server     TEXT NOT NULL,
    path       TEXT NOT NULL,
    clients    TEXT NOT NULL,                      -- JSON: who may mount it beside the nodes of the cluster
    made       INTEGER NOT NULL,                   -- 1 once the class is there
    is_default INTEGER NOT NULL,                   -- 1 for the one that instances of the cluster get
    PRIMARY KEY (cluster, class)
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX shared_storage_default ON shared_storage (cluster) WHERE is_default = 1;

-- The check that counts is one for each share: the set-up of one proves no other.
CREATE TABLE share_checks (
    cluster      TEXT NOT NULL REFERENCES clusters (name) ON DELETE CASCADE,
    server       TEXT NOT NULL,
    path         TEXT NOT NULL,
    operation_id TEXT NOT NULL,
    checked_at   INTEGER NOT NULL,                 -- milliseconds since 1970
    unproved     TEXT NOT NULL,                    -- JSON: nodes that were no hosts of the fleet then
    PRIMARY KEY (cluster, server, path)
) STRICT, WITHOUT ROWID;
INSERT INTO share_checks
    SELECT DISTINCT made.cluster, proof.server, proof.path, made.operation_id, made.checked_at, made.unproved
    FROM storage_checks AS made
    JOIN share_proofs AS proof ON proof.cluster = made.cluster AND proof.operation_id = made.operation_id;
DROP TABLE storage_checks;
