-- up
CREATE TABLE workflow_trigger (
    project TEXT NOT NULL,
    name TEXT NOT NULL,
    -- What was defined, JSON.
    spec TEXT NOT NULL,
    -- A schedule's next time; nothing for the other kinds and for one that is switched off.
    next_due_us BIGINT,
    -- The ledger's end at its definition: what happened before fires nothing.
    since_seq BIGINT NOT NULL,
    -- Where a topic ended at its definition, JSON.
    since_topic TEXT NOT NULL,
    PRIMARY KEY (project, name)
);
CREATE TABLE workflow_event (
    project TEXT NOT NULL,
    -- Derived from trigger and key, so that an event is written once.
    id TEXT NOT NULL,
    trigger_name TEXT NOT NULL,
    key TEXT NOT NULL,
    reason TEXT NOT NULL,
    data TEXT NOT NULL,
    pipeline TEXT NOT NULL,
    params TEXT NOT NULL,
    pool TEXT NOT NULL,
    status TEXT NOT NULL,
    run_id TEXT NOT NULL,
    -- How many later events this one's run stands for too.
    merged BIGINT NOT NULL,
    created_us BIGINT NOT NULL,
    due_us BIGINT NOT NULL,
    started_us BIGINT,
    ended_us BIGINT,
    attempts BIGINT NOT NULL,
    -- The process that watches its run, so that another one takes over when it died.
    owner TEXT NOT NULL,
    error TEXT NOT NULL,
    PRIMARY KEY (project, id)
);
CREATE INDEX workflow_event_by_status ON workflow_event (project, status, trigger_name, due_us);
CREATE INDEX workflow_event_by_time ON workflow_event (project, created_us);
CREATE INDEX workflow_event_by_start ON workflow_event (project, trigger_name, started_us);
CREATE TABLE workflow_pool (
    project TEXT NOT NULL,
    name TEXT NOT NULL,
    slots BIGINT NOT NULL,
    PRIMARY KEY (project, name)
);
-- How far the ledger was read for new datasets and finished runs.
CREATE TABLE workflow_position (
    project TEXT PRIMARY KEY,
    seq BIGINT NOT NULL
);
-- Runs that a trigger after several pipelines has seen, until it has one of each.
CREATE TABLE workflow_upstream (
    project TEXT NOT NULL,
    trigger_name TEXT NOT NULL,
    pipeline TEXT NOT NULL,
    run_id TEXT NOT NULL,
    PRIMARY KEY (project, trigger_name, pipeline)
);
-- down
DROP TABLE workflow_upstream;
DROP TABLE workflow_position;
DROP TABLE workflow_pool;
DROP TABLE workflow_event;
DROP TABLE workflow_trigger;
