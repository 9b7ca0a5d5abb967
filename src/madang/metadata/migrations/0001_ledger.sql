-- up
CREATE TABLE ledger (
    seq BIGINT PRIMARY KEY,
    hash BYTEA NOT NULL,
    body BYTEA NOT NULL,
    project TEXT NOT NULL,
    time BIGINT NOT NULL,
    actor TEXT NOT NULL,
    kind TEXT NOT NULL,
    subject TEXT NOT NULL
);
CREATE INDEX ledger_by_subject ON ledger (project, subject, seq);
CREATE INDEX ledger_by_kind ON ledger (project, kind, seq);
-- One row: where the chain ends, so that a dropped tail is noticed.
CREATE TABLE ledger_head (
    id BIGINT PRIMARY KEY,
    seq BIGINT NOT NULL,
    hash BYTEA NOT NULL
);
-- An index of the lines' inputs and outputs, for lineage; by line, as they are written and checked.
CREATE TABLE ledger_edge (
    seq BIGINT NOT NULL,
    role TEXT NOT NULL,
    ref TEXT NOT NULL,
    project TEXT NOT NULL,
    PRIMARY KEY (seq, role, ref, project)
);
CREATE INDEX ledger_edge_by_ref ON ledger_edge (project, ref, role, seq);
-- Intents whose outcome is not written yet.
CREATE TABLE ledger_open (
    seq BIGINT PRIMARY KEY,
    project TEXT NOT NULL,
    kind TEXT NOT NULL,
    owner TEXT NOT NULL
);
-- down
DROP TABLE ledger_open;
DROP TABLE ledger_edge;
DROP TABLE ledger_head;
DROP TABLE ledger;
