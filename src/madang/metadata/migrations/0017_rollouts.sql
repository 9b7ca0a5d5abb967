-- up
-- How a rollout assigns an endpoint's requests (JSON); null when none runs there.
ALTER TABLE serving_endpoint ADD COLUMN split TEXT NOT NULL DEFAULT 'null';
-- `record` (JSON) is all that is said of a rollout. `turn` grows with each change of it, so that of
-- two processes which decide at once one is refused.
CREATE TABLE rollout (
    project TEXT NOT NULL,
    id TEXT NOT NULL,
    endpoint TEXT NOT NULL,
    ended BOOLEAN NOT NULL,
    turn BIGINT NOT NULL,
    record TEXT NOT NULL,
    PRIMARY KEY (project, id)
);
CREATE UNIQUE INDEX rollout_running ON rollout (project, endpoint) WHERE NOT ended;
-- How far a topic's partition was read: written with what was read.
CREATE TABLE rollout_progress (
    project TEXT NOT NULL,
    rollout TEXT NOT NULL,
    topic TEXT NOT NULL,
    part BIGINT NOT NULL,
    position BIGINT NOT NULL,
    PRIMARY KEY (project, rollout, topic, part)
);
-- One request at one arm; removed when the rollout has ended. `unit` is the key it was assigned by,
-- `bucket` its latency's, `answer` (JSON) what is scored once the outcome is known.
CREATE TABLE rollout_prediction (
    project TEXT NOT NULL,
    rollout TEXT NOT NULL,
    id TEXT NOT NULL,
    arm BIGINT NOT NULL,
    stage BIGINT NOT NULL,
    unit TEXT NOT NULL,
    grp TEXT NOT NULL,
    bucket BIGINT,
    failed BOOLEAN NOT NULL,
    covariate DOUBLE PRECISION,
    answer TEXT NOT NULL,
    score DOUBLE PRECISION,
    PRIMARY KEY (project, rollout, id, arm)
) WITHOUT ROWID;
-- The newest outcome of each prediction, be it known before the prediction is.
CREATE TABLE rollout_outcome (
    project TEXT NOT NULL,
    rollout TEXT NOT NULL,
    id TEXT NOT NULL,
    value TEXT NOT NULL,
    time_us BIGINT NOT NULL,
    PRIMARY KEY (project, rollout, id)
) WITHOUT ROWID;
-- down
DROP TABLE rollout_outcome;
DROP TABLE rollout_prediction;
DROP TABLE rollout_progress;
DROP TABLE rollout;
ALTER TABLE serving_endpoint DROP COLUMN split;
