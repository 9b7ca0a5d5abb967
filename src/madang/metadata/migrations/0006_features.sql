-- up
-- Every definition of a feature view that was ever registered, by its hash.
CREATE TABLE feature_view (
    project TEXT NOT NULL,
    name TEXT NOT NULL,
    hash TEXT NOT NULL,
    definition TEXT NOT NULL,
    registered BIGINT NOT NULL,
    PRIMARY KEY (project, name, hash)
);
-- The definition that is in force.
CREATE TABLE feature_view_current (
    project TEXT NOT NULL,
    name TEXT NOT NULL,
    hash TEXT NOT NULL,
    PRIMARY KEY (project, name)
);
-- down
DROP TABLE feature_view_current;
DROP TABLE feature_view;
