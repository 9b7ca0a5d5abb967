-- up
CREATE TABLE experiment (
    project TEXT NOT NULL,
    id TEXT NOT NULL,
    name TEXT NOT NULL,
    created BIGINT NOT NULL,
    PRIMARY KEY (project, id),
    UNIQUE (project, name)
);
-- `points` counts the metric points ever logged: it numbers them, and updating it locks the run.
CREATE TABLE run (
    project TEXT NOT NULL,
    id TEXT NOT NULL,
    experiment_id TEXT NOT NULL,
    name TEXT NOT NULL,
    status TEXT NOT NULL,
    started BIGINT NOT NULL,
    ended BIGINT,
    parent_id TEXT,
    actor TEXT NOT NULL,
    points BIGINT NOT NULL,
    PRIMARY KEY (project, id)
);
CREATE INDEX run_by_start ON run (project, started, id);
CREATE INDEX run_by_experiment ON run (project, experiment_id, started, id);
CREATE INDEX run_by_parent ON run (project, parent_id, started, id);
CREATE TABLE run_param (
    project TEXT NOT NULL,
    run_id TEXT NOT NULL,
    name TEXT NOT NULL,
    value TEXT NOT NULL,
    PRIMARY KEY (project, run_id, name)
);
CREATE TABLE run_tag (
    project TEXT NOT NULL,
    run_id TEXT NOT NULL,
    name TEXT NOT NULL,
    value TEXT NOT NULL,
    PRIMARY KEY (project, run_id, name)
);
-- Every point; a null value is NaN, which SQLite can't hold.
CREATE TABLE run_metric (
    project TEXT NOT NULL,
    run_id TEXT NOT NULL,
    name TEXT NOT NULL,
    number BIGINT NOT NULL,
    step BIGINT NOT NULL,
    time BIGINT NOT NULL,
    value DOUBLE PRECISION,
    PRIMARY KEY (project, run_id, name, number)
);
-- The last point of each metric, so that a list of runs reads no history.
CREATE TABLE run_metric_last (
    project TEXT NOT NULL,
    run_id TEXT NOT NULL,
    name TEXT NOT NULL,
    step BIGINT NOT NULL,
    time BIGINT NOT NULL,
    value DOUBLE PRECISION,
    PRIMARY KEY (project, run_id, name)
);
-- `last_version` only grows, so that a number is never used again.
CREATE TABLE model (
    project TEXT NOT NULL,
    name TEXT NOT NULL,
    last_version BIGINT NOT NULL,
    created BIGINT NOT NULL,
    PRIMARY KEY (project, name)
);
CREATE TABLE model_version (
    project TEXT NOT NULL,
    name TEXT NOT NULL,
    version BIGINT NOT NULL,
    format TEXT NOT NULL,
    digest TEXT NOT NULL,
    location TEXT NOT NULL,
    created BIGINT NOT NULL,
    run_id TEXT,
    signature TEXT NOT NULL,
    inputs TEXT NOT NULL,
    evaluation TEXT NOT NULL,
    description TEXT NOT NULL,
    PRIMARY KEY (project, name, version)
);
CREATE TABLE model_tag (
    project TEXT NOT NULL,
    model TEXT NOT NULL,
    version BIGINT NOT NULL,
    name TEXT NOT NULL,
    value TEXT NOT NULL,
    PRIMARY KEY (project, model, version, name)
);
CREATE TABLE model_alias (
    project TEXT NOT NULL,
    model TEXT NOT NULL,
    name TEXT NOT NULL,
    version BIGINT NOT NULL,
    PRIMARY KEY (project, model, name)
);
-- down
DROP TABLE model_alias;
DROP TABLE model_tag;
DROP TABLE model_version;
DROP TABLE model;
DROP TABLE run_metric_last;
DROP TABLE run_metric;
DROP TABLE run_tag;
DROP TABLE run_param;
DROP TABLE run;
DROP TABLE experiment;
