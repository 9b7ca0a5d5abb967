-- up
-- Every change of every key, in the order of the project's versions.
CREATE TABLE configuration (
    project TEXT NOT NULL,
    version BIGINT NOT NULL,
    key TEXT NOT NULL,
    value TEXT NOT NULL,
    deleted BOOLEAN NOT NULL,
    time BIGINT NOT NULL,
    PRIMARY KEY (project, version)
);
CREATE INDEX configuration_by_key ON configuration (project, key, version);
-- The newest version of each project, so that a watcher asks for one row.
CREATE TABLE configuration_head (
    project TEXT NOT NULL PRIMARY KEY,
    version BIGINT NOT NULL
);
-- down
DROP TABLE configuration_head;
DROP TABLE configuration;
