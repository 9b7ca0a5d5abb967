-- up
-- Every schema that a topic had, by its version from 1 on; the last one is in force.
CREATE TABLE topic_schema (
    project TEXT NOT NULL,
    topic TEXT NOT NULL,
    version BIGINT NOT NULL,
    columns TEXT NOT NULL,
    compatibility TEXT NOT NULL,
    malformed TEXT NOT NULL,
    time BIGINT NOT NULL,
    PRIMARY KEY (project, topic, version)
);
-- down
DROP TABLE topic_schema;
