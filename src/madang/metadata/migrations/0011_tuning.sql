-- up
-- A search. Its id is its run's; `owner` is the process that runs it, empty when none does.
-- `spec` (JSON) is what can't change when it is resumed; `warm` (JSON) is what it learned before.
CREATE TABLE study (
    project TEXT NOT NULL,
    id TEXT NOT NULL,
    name TEXT NOT NULL,
    created BIGINT NOT NULL,
    owner TEXT NOT NULL,
    state TEXT NOT NULL,
    stopped TEXT NOT NULL,
    spec TEXT NOT NULL,
    warm TEXT NOT NULL,
    notes TEXT NOT NULL,
    PRIMARY KEY (project, id)
);
CREATE INDEX study_by_name ON study (project, name, created, id);
CREATE INDEX study_by_time ON study (project, created, id);
-- `seen` counts the trials that had ended when this one was asked for, and `ended` is its place
-- among those that ended, so that a sampler with a memory can be brought to where it was.
CREATE TABLE trial (
    project TEXT NOT NULL,
    study_id TEXT NOT NULL,
    number BIGINT NOT NULL,
    run_id TEXT NOT NULL,
    attempts BIGINT NOT NULL,
    state TEXT NOT NULL,
    params TEXT NOT NULL,
    seen BIGINT NOT NULL,
    ended BIGINT,
    outcome TEXT NOT NULL,
    PRIMARY KEY (project, study_id, number)
);
CREATE TABLE trial_report (
    project TEXT NOT NULL,
    study_id TEXT NOT NULL,
    number BIGINT NOT NULL,
    step BIGINT NOT NULL,
    time BIGINT NOT NULL,
    value DOUBLE PRECISION NOT NULL,
    PRIMARY KEY (project, study_id, number, step)
);
-- down
DROP TABLE trial_report;
DROP TABLE trial;
DROP TABLE study;
