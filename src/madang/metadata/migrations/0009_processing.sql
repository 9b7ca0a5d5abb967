-- up
-- Every definition of a view that was ever registered, by its hash.
CREATE TABLE data_view (
    project TEXT NOT NULL,
    name TEXT NOT NULL,
    hash TEXT NOT NULL,
    definition TEXT NOT NULL,
    -- Where its columns come from, JSON; empty as long as its sources are not there.
    lineage TEXT NOT NULL,
    registered BIGINT NOT NULL,
    PRIMARY KEY (project, name, hash)
);
-- The definition that is in force; names ignore case, as SQL does.
CREATE TABLE data_view_current (
    project TEXT NOT NULL,
    folded TEXT NOT NULL,
    name TEXT NOT NULL,
    hash TEXT NOT NULL,
    PRIMARY KEY (project, folded)
);
-- What people say of a dataset, view, topic or model.
CREATE TABLE data_note (
    project TEXT NOT NULL,
    kind TEXT NOT NULL,
    name TEXT NOT NULL,
    description TEXT NOT NULL,
    owner TEXT NOT NULL,
    -- JSON.
    tags TEXT NOT NULL,
    PRIMARY KEY (project, kind, name)
);
-- The columns of datasets as last seen, so that a search opens no table; known by the ledger's line.
CREATE TABLE data_schema (
    project TEXT NOT NULL,
    name TEXT NOT NULL,
    version BIGINT NOT NULL,
    -- JSON, [[name, type]].
    columns TEXT NOT NULL,
    PRIMARY KEY (project, name)
);
CREATE TABLE data_schema_head (
    project TEXT NOT NULL PRIMARY KEY,
    -- The last line of the ledger that was looked at.
    seq BIGINT NOT NULL
);
-- down
DROP TABLE data_schema_head;
DROP TABLE data_schema;
DROP TABLE data_note;
DROP TABLE data_view_current;
DROP TABLE data_view;
