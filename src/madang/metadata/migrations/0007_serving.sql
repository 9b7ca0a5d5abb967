-- up
-- The revision of everything that is to be served; grows with every change of an endpoint.
CREATE TABLE serving_state (
    project TEXT NOT NULL,
    revision BIGINT NOT NULL,
    PRIMARY KEY (project)
);
-- arms: JSON, [{"model", "version", "weight", "digest", "location"}]. An endpoint that was removed
-- keeps its row with no arms, so that its revisions go on when it comes back.
CREATE TABLE serving_endpoint (
    project TEXT NOT NULL,
    name TEXT NOT NULL,
    revision BIGINT NOT NULL,
    log BOOLEAN NOT NULL,
    arms TEXT NOT NULL,
    changed_us BIGINT NOT NULL,
    PRIMARY KEY (project, name)
);

-- down
DROP TABLE serving_endpoint;
DROP TABLE serving_state;
