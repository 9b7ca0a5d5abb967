-- up
-- What the newest call of each ingestion did; the dataset's own progress is the truth.
CREATE TABLE ingestion (
    project TEXT NOT NULL,
    dataset TEXT NOT NULL,
    source TEXT NOT NULL,
    events BIGINT NOT NULL,
    valid BIGINT NOT NULL,
    quarantined BIGINT NOT NULL,
    began_us BIGINT NOT NULL,
    landed_us BIGINT,
    error TEXT NOT NULL,
    PRIMARY KEY (project, dataset, source)
);
-- How far each part (a topic's partition, a connector's file) is. position: JSON. number: of the
-- application's batch that recorded it.
CREATE TABLE ingestion_part (
    project TEXT NOT NULL,
    dataset TEXT NOT NULL,
    source TEXT NOT NULL,
    part TEXT NOT NULL,
    number BIGINT NOT NULL,
    position TEXT NOT NULL,
    lag BIGINT,
    newest_us BIGINT,
    landed_us BIGINT NOT NULL,
    PRIMARY KEY (project, dataset, source, part)
);

-- down
DROP TABLE ingestion_part;
DROP TABLE ingestion;
