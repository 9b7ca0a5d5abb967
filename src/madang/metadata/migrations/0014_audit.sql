-- up
-- Signed checkpoints of the ledger, by how many lines they are about.
CREATE TABLE ledger_checkpoint (
    size BIGINT PRIMARY KEY,
    time BIGINT NOT NULL,
    note TEXT NOT NULL
);
-- Hashes of the Merkle tree over the lines: level 1 is over 256 lines, level 2 over 65,536, and so on.
CREATE TABLE ledger_node (
    level BIGINT NOT NULL,
    position BIGINT NOT NULL,
    hash BYTEA NOT NULL,
    PRIMARY KEY (level, position)
);
-- down
DROP TABLE ledger_node;
DROP TABLE ledger_checkpoint;
