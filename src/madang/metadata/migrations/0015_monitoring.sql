-- up
-- What is watched. `spec` (JSON) is its configuration and what followed from it; `layout` holds the
-- frozen bins, `reference` the sketch of all of the reference's rows, `windows` (MessagePack) those
-- of its windows. Layout and reference are empty until there is enough of the log to make them of.
CREATE TABLE monitor (
    project TEXT NOT NULL,
    name TEXT NOT NULL,
    generation TEXT NOT NULL,
    spec TEXT NOT NULL,
    layout BYTEA NOT NULL,
    reference BYTEA NOT NULL,
    windows BYTEA NOT NULL,
    PRIMARY KEY (project, name)
);
-- How far a topic's partition was read: written with what was read.
CREATE TABLE monitor_progress (
    project TEXT NOT NULL,
    monitor TEXT NOT NULL,
    topic TEXT NOT NULL,
    part BIGINT NOT NULL,
    topic_id TEXT NOT NULL,
    position BIGINT NOT NULL,
    PRIMARY KEY (project, monitor, topic, part)
);
-- The predictions of one window, counted. `changed` counts what was added to it and to its outcomes,
-- `judged` is what it was when the window was judged.
CREATE TABLE monitor_part (
    project TEXT NOT NULL,
    monitor TEXT NOT NULL,
    start_us BIGINT NOT NULL,
    sketch BYTEA NOT NULL,
    changed BIGINT NOT NULL,
    judged BIGINT NOT NULL,
    report TEXT NOT NULL,
    PRIMARY KEY (project, monitor, start_us)
);
-- One row of a request, to be joined with its outcome; `output` holds doubles, little-endian.
CREATE TABLE monitor_prediction (
    project TEXT NOT NULL,
    monitor TEXT NOT NULL,
    id TEXT NOT NULL,
    number BIGINT NOT NULL,
    time_us BIGINT NOT NULL,
    model TEXT NOT NULL,
    output BYTEA NOT NULL,
    PRIMARY KEY (project, monitor, id, number)
) WITHOUT ROWID;
CREATE INDEX monitor_prediction_by_time ON monitor_prediction (project, monitor, time_us, id, number);
CREATE TABLE monitor_outcome (
    project TEXT NOT NULL,
    monitor TEXT NOT NULL,
    id TEXT NOT NULL,
    number BIGINT NOT NULL,
    time_us BIGINT NOT NULL,
    value TEXT NOT NULL,
    PRIMARY KEY (project, monitor, id, number)
) WITHOUT ROWID;
-- Some predictions of each window with their keys and served features (JSON), drawn by a hash.
CREATE TABLE monitor_served (
    project TEXT NOT NULL,
    monitor TEXT NOT NULL,
    start_us BIGINT NOT NULL,
    priority BIGINT NOT NULL,
    content TEXT NOT NULL,
    PRIMARY KEY (project, monitor, start_us, priority)
);
CREATE TABLE monitor_finding (
    project TEXT NOT NULL,
    monitor TEXT NOT NULL,
    start_us BIGINT NOT NULL,
    kind TEXT NOT NULL,
    subject TEXT NOT NULL,
    found_us BIGINT NOT NULL,
    content TEXT NOT NULL,
    PRIMARY KEY (project, monitor, start_us, kind, subject)
);
-- down
DROP TABLE monitor_finding;
DROP TABLE monitor_served;
DROP TABLE monitor_outcome;
DROP TABLE monitor_prediction;
DROP TABLE monitor_part;
DROP TABLE monitor_progress;
DROP TABLE monitor;
