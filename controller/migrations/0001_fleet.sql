-- The fleet: hosts, users, tokens, certificates, and what was done. Times are milliseconds since 1970.

CREATE TABLE meta (
    key   TEXT PRIMARY KEY,                        -- `fleet_id`, `opened_at`
    value TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE hosts (
    name          TEXT PRIMARY KEY,
    added_at      INTEGER NOT NULL,
    address       TEXT NOT NULL DEFAULT '',        -- from `host add --address`, HOST:PORT
    advertise     TEXT NOT NULL DEFAULT '',        -- from `join --advertise`, HOST:PORT
    source        TEXT NOT NULL DEFAULT '',        -- where the join came from, with the agent's port
    hostname      TEXT NOT NULL DEFAULT '',
    agent_version TEXT NOT NULL DEFAULT '',
    joined_at     INTEGER,
    facts         BLOB                             -- NodeFacts, as its agent told last
) STRICT, WITHOUT ROWID;

CREATE TABLE users (
    name     TEXT PRIMARY KEY,
    role     TEXT NOT NULL CHECK (role IN ('viewer', 'operator', 'admin')),
    added_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Rows stay for some days after their end, so that a late caller is told what happened to its token.
CREATE TABLE tokens (
    hash       BLOB PRIMARY KEY,                   -- SHA-256 of the secret
    purpose    TEXT NOT NULL CHECK (purpose IN ('join', 'user')),
    name       TEXT NOT NULL,                      -- of the host or user
    expires_at INTEGER NOT NULL,
    used_key   BLOB,                               -- SHA-256 of the public key that it was redeemed with
    ended      TEXT NOT NULL DEFAULT '' CHECK (ended IN ('', 'replaced', 'removed'))
) STRICT, WITHOUT ROWID;

CREATE INDEX tokens_by_name ON tokens (purpose, name);

-- No foreign key to hosts and users: certificates of those that were removed stay on record as revoked.
CREATE TABLE certificates (
    serial      TEXT PRIMARY KEY,
    kind        TEXT NOT NULL CHECK (kind IN ('agent', 'user')),
    name        TEXT NOT NULL,
    spki_sha256 BLOB NOT NULL,
    der         BLOB NOT NULL,
    issued_at   INTEGER NOT NULL,
    not_after   INTEGER NOT NULL,
    pending     INTEGER NOT NULL,                  -- 1 until an agent was seen with it, when it renews another
    used_at     INTEGER,                           -- when its holder was seen with it first
    revoked_at  INTEGER
) STRICT, WITHOUT ROWID;

CREATE INDEX certificates_by_name ON certificates (kind, name);

CREATE TABLE audit (
    id           INTEGER PRIMARY KEY AUTOINCREMENT,
    at           INTEGER NOT NULL,
    who          TEXT NOT NULL,
    source       TEXT NOT NULL,
    what         TEXT NOT NULL,
    subject      TEXT NOT NULL DEFAULT '',
    operation_id TEXT NOT NULL DEFAULT '',
    outcome      TEXT NOT NULL DEFAULT ''          -- empty while the call runs, or when the controller stopped in it
) STRICT;
