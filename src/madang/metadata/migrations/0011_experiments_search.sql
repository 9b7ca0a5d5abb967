-- up
-- `deleted` is when: null for what is there, so that a purge knows what is old enough.
ALTER TABLE experiment ADD COLUMN updated BIGINT NOT NULL DEFAULT 0;
ALTER TABLE experiment ADD COLUMN deleted BIGINT;
UPDATE experiment SET updated = created;
CREATE TABLE experiment_tag (
    project TEXT NOT NULL,
    experiment_id TEXT NOT NULL,
    name TEXT NOT NULL,
    value TEXT NOT NULL,
    PRIMARY KEY (project, experiment_id, name)
);
ALTER TABLE run ADD COLUMN deleted BIGINT;
-- tags: JSON; context: the tag mlflow.data.context, which searches look at.
CREATE TABLE run_dataset (
    project TEXT NOT NULL,
    run_id TEXT NOT NULL,
    name TEXT NOT NULL,
    digest TEXT NOT NULL,
    number BIGINT NOT NULL,
    source_type TEXT NOT NULL,
    source TEXT NOT NULL,
    columns TEXT,
    profile TEXT,
    tags TEXT NOT NULL,
    context TEXT,
    PRIMARY KEY (project, run_id, name, digest)
);
-- The logged models that a run used (role in) and made (role out).
CREATE TABLE run_model (
    project TEXT NOT NULL,
    run_id TEXT NOT NULL,
    role TEXT NOT NULL,
    model_id TEXT NOT NULL,
    number BIGINT NOT NULL,
    step BIGINT NOT NULL,
    PRIMARY KEY (project, run_id, role, model_id)
);
CREATE TABLE logged_model (
    project TEXT NOT NULL,
    id TEXT NOT NULL,
    experiment_id TEXT NOT NULL,
    name TEXT NOT NULL,
    run_id TEXT,
    type TEXT NOT NULL,
    status TEXT NOT NULL,
    message TEXT NOT NULL,
    created BIGINT NOT NULL,
    updated BIGINT NOT NULL,
    deleted BIGINT,
    PRIMARY KEY (project, id)
);
CREATE INDEX logged_model_by_experiment ON logged_model (project, experiment_id, created, id);
CREATE TABLE logged_model_param (
    project TEXT NOT NULL,
    model_id TEXT NOT NULL,
    name TEXT NOT NULL,
    value TEXT NOT NULL,
    PRIMARY KEY (project, model_id, name)
);
CREATE TABLE logged_model_tag (
    project TEXT NOT NULL,
    model_id TEXT NOT NULL,
    name TEXT NOT NULL,
    value TEXT NOT NULL,
    PRIMARY KEY (project, model_id, name)
);
-- The last point of each metric of a run on a dataset; empty texts for no dataset.
CREATE TABLE logged_model_metric (
    project TEXT NOT NULL,
    model_id TEXT NOT NULL,
    name TEXT NOT NULL,
    run_id TEXT NOT NULL,
    dataset_name TEXT NOT NULL,
    dataset_digest TEXT NOT NULL,
    step BIGINT NOT NULL,
    time BIGINT NOT NULL,
    value DOUBLE PRECISION,
    PRIMARY KEY (project, model_id, name, run_id, dataset_name, dataset_digest)
);
-- Their key is all that finds a row, so that it is the row's place too (SQLite keeps it once).
ALTER TABLE run_param RENAME TO run_param_before;
CREATE TABLE run_param (
    project TEXT NOT NULL,
    run_id TEXT NOT NULL,
    name TEXT NOT NULL,
    value TEXT NOT NULL,
    PRIMARY KEY (project, run_id, name)
) WITHOUT ROWID;
INSERT INTO run_param SELECT * FROM run_param_before;
DROP TABLE run_param_before;
ALTER TABLE run_tag RENAME TO run_tag_before;
CREATE TABLE run_tag (
    project TEXT NOT NULL,
    run_id TEXT NOT NULL,
    name TEXT NOT NULL,
    value TEXT NOT NULL,
    PRIMARY KEY (project, run_id, name)
) WITHOUT ROWID;
INSERT INTO run_tag SELECT * FROM run_tag_before;
DROP TABLE run_tag_before;
ALTER TABLE run_metric RENAME TO run_metric_before;
CREATE TABLE run_metric (
    project TEXT NOT NULL,
    run_id TEXT NOT NULL,
    name TEXT NOT NULL,
    number BIGINT NOT NULL,
    step BIGINT NOT NULL,
    time BIGINT NOT NULL,
    value DOUBLE PRECISION,
    PRIMARY KEY (project, run_id, name, number)
) WITHOUT ROWID;
INSERT INTO run_metric SELECT * FROM run_metric_before;
DROP TABLE run_metric_before;
ALTER TABLE run_metric_last RENAME TO run_metric_last_before;
CREATE TABLE run_metric_last (
    project TEXT NOT NULL,
    run_id TEXT NOT NULL,
    name TEXT NOT NULL,
    step BIGINT NOT NULL,
    time BIGINT NOT NULL,
    value DOUBLE PRECISION,
    PRIMARY KEY (project, run_id, name)
) WITHOUT ROWID;
INSERT INTO run_metric_last SELECT * FROM run_metric_last_before;
DROP TABLE run_metric_last_before;
-- A deleted model keeps its row, so that its versions' numbers are never used again.
ALTER TABLE model ADD COLUMN updated BIGINT NOT NULL DEFAULT 0;
ALTER TABLE model ADD COLUMN description TEXT NOT NULL DEFAULT '';
ALTER TABLE model ADD COLUMN deleted BIGINT;
UPDATE model SET updated = created;
-- In model_tag, version 0 is the model itself.
ALTER TABLE model_version ADD COLUMN updated BIGINT NOT NULL DEFAULT 0;
ALTER TABLE model_version ADD COLUMN source TEXT NOT NULL DEFAULT '';
ALTER TABLE model_version ADD COLUMN run_link TEXT NOT NULL DEFAULT '';
ALTER TABLE model_version ADD COLUMN model_id TEXT;
ALTER TABLE model_version ADD COLUMN actor TEXT NOT NULL DEFAULT '';
ALTER TABLE model_version ADD COLUMN deleted BIGINT;
UPDATE model_version SET updated = created;
CREATE INDEX model_version_by_run ON model_version (project, run_id);
-- down
-- The tables of params, tags and metrics stay as they are: to statements they are the same.
DROP INDEX model_version_by_run;
ALTER TABLE model_version DROP COLUMN deleted;
ALTER TABLE model_version DROP COLUMN actor;
ALTER TABLE model_version DROP COLUMN model_id;
ALTER TABLE model_version DROP COLUMN run_link;
ALTER TABLE model_version DROP COLUMN source;
ALTER TABLE model_version DROP COLUMN updated;
DELETE FROM model_tag WHERE version = 0;
ALTER TABLE model DROP COLUMN deleted;
ALTER TABLE model DROP COLUMN description;
ALTER TABLE model DROP COLUMN updated;
DROP TABLE logged_model_metric;
DROP TABLE logged_model_tag;
DROP TABLE logged_model_param;
DROP TABLE logged_model;
DROP TABLE run_model;
DROP TABLE run_dataset;
ALTER TABLE run DROP COLUMN deleted;
DROP TABLE experiment_tag;
ALTER TABLE experiment DROP COLUMN deleted;
ALTER TABLE experiment DROP COLUMN updated;
