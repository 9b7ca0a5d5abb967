-- up
-- Alerts, each with its last episode; times are milliseconds since 1970 UTC.
CREATE TABLE alert (
    project TEXT NOT NULL,
    id TEXT NOT NULL,
    rule TEXT NOT NULL,
    labels TEXT NOT NULL,
    annotations TEXT NOT NULL,
    state TEXT NOT NULL,
    value DOUBLE PRECISION,
    active BIGINT NOT NULL,
    fired BIGINT,
    resolved BIGINT,
    seen BIGINT NOT NULL,
    ledger BIGINT,
    PRIMARY KEY (project, id)
);
-- The time of the last evaluation.
CREATE TABLE alert_clock (
    project TEXT PRIMARY KEY,
    time BIGINT NOT NULL
);
CREATE TABLE alert_silence (
    project TEXT NOT NULL,
    id TEXT NOT NULL,
    labels TEXT NOT NULL,
    until BIGINT NOT NULL,
    comment TEXT NOT NULL,
    made_by TEXT NOT NULL,
    PRIMARY KEY (project, id)
);
-- What a receiver was told of a group of alerts last: the digest of their states, and when.
CREATE TABLE alert_notice (
    project TEXT NOT NULL,
    receiver TEXT NOT NULL,
    subject TEXT NOT NULL,
    told TEXT NOT NULL,
    time BIGINT NOT NULL,
    PRIMARY KEY (project, receiver, subject)
);
-- down
DROP TABLE alert_notice;
DROP TABLE alert_silence;
DROP TABLE alert_clock;
DROP TABLE alert;
