-- up
CREATE TABLE pipeline_run (
    project TEXT NOT NULL,
    id TEXT NOT NULL,
    pipeline TEXT NOT NULL,
    status TEXT NOT NULL,
    params TEXT NOT NULL,
    code TEXT NOT NULL,
    diff TEXT NOT NULL,
    actor TEXT NOT NULL,
    reason TEXT NOT NULL,
    -- The process that runs it, so that a dead one is told from a slow one.
    owner TEXT NOT NULL,
    started_us BIGINT NOT NULL,
    ended_us BIGINT,
    -- Result name to artifact, JSON.
    results TEXT NOT NULL,
    PRIMARY KEY (project, id)
);
CREATE INDEX pipeline_run_by_name ON pipeline_run (project, pipeline, started_us);
CREATE TABLE pipeline_step (
    project TEXT NOT NULL,
    run_id TEXT NOT NULL,
    position BIGINT NOT NULL,
    name TEXT NOT NULL,
    status TEXT NOT NULL,
    attempts BIGINT NOT NULL,
    process TEXT NOT NULL,
    cache_key TEXT NOT NULL,
    started_us BIGINT,
    ended_us BIGINT,
    error TEXT NOT NULL,
    -- What it used, returned and made, JSON.
    detail TEXT NOT NULL,
    PRIMARY KEY (project, run_id, position)
);
CREATE INDEX pipeline_step_by_key ON pipeline_step (project, cache_key, ended_us);
CREATE TABLE artifact (
    project TEXT NOT NULL,
    digest TEXT NOT NULL,
    kind TEXT NOT NULL,
    media_type TEXT NOT NULL,
    size_bytes BIGINT NOT NULL,
    -- The bytes, when they are few; else they are an object of the storage.
    inline BYTEA,
    PRIMARY KEY (project, digest, kind)
);
-- down
DROP TABLE artifact;
DROP TABLE pipeline_step;
DROP TABLE pipeline_run;
