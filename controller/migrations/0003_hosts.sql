-- Since when an agent is away, over restarts of the controller.

ALTER TABLE hosts ADD COLUMN away TEXT CHECK (away IN ('unreachable', 'needs-rejoin')); -- empty while it is connected
ALTER TABLE hosts ADD COLUMN away_since INTEGER;
