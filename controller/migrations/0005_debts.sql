-- Debts know the machine that they are about, and bootstrap tokens can be owed.

CREATE TABLE debts_with_machine (
    id           INTEGER PRIMARY KEY AUTOINCREMENT,
    cluster      TEXT NOT NULL REFERENCES clusters (name) ON DELETE CASCADE,
    kind         TEXT NOT NULL CHECK (kind IN ('delete-node', 'uncordon', 'delete-tokens')),
    node_name    TEXT NOT NULL,                    -- of a token the host that was to join
    host         TEXT NOT NULL,                    -- whose Node it was; empty for a node that is no host of the fleet
    machine      TEXT NOT NULL DEFAULT '',         -- the machine-id behind the Node; empty when it is not known
    operation_id TEXT NOT NULL,
    since        INTEGER NOT NULL,
    last_error   TEXT NOT NULL DEFAULT '',
    UNIQUE (cluster, kind, node_name)
) STRICT;

INSERT INTO debts_with_machine (id, cluster, kind, node_name, host, operation_id, since, last_error)
    SELECT id, cluster, kind, node_name, host, operation_id, since, last_error FROM debts;

DROP TABLE debts;
ALTER TABLE debts_with_machine RENAME TO debts;
