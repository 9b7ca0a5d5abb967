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
-- Which events of a topic a line of the ledger seals, by their hashes.
CREATE TABLE audit_seal (
    project TEXT NOT NULL,
    topic TEXT NOT NULL,
    partition_number BIGINT NOT NULL,
    first_offset BIGINT NOT NULL,
    next_offset BIGINT NOT NULL,
    seq BIGINT NOT NULL,
    PRIMARY KEY (project, topic, partition_number, first_offset)
);
-- down
DROP TABLE audit_seal;
DROP TABLE ledger_node;
DROP TABLE ledger_checkpoint;
