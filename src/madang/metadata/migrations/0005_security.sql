-- up
CREATE TABLE identity_user (
    project TEXT NOT NULL,
    name TEXT NOT NULL,
    roles TEXT NOT NULL,
    password TEXT,
    active BOOLEAN NOT NULL,
    created BIGINT NOT NULL,
    PRIMARY KEY (project, name)
);
CREATE TABLE identity_token (
    project TEXT NOT NULL,
    id TEXT NOT NULL,
    digest TEXT NOT NULL,
    user_name TEXT NOT NULL,
    label TEXT NOT NULL,
    created BIGINT NOT NULL,
    expires BIGINT,
    PRIMARY KEY (project, id),
    FOREIGN KEY (project, user_name) REFERENCES identity_user (project, name)
);
CREATE UNIQUE INDEX identity_token_by_digest ON identity_token (project, digest);
-- A deleted version keeps its row without content, so that no version number comes twice.
CREATE TABLE secret (
    project TEXT NOT NULL,
    name TEXT NOT NULL,
    version BIGINT NOT NULL,
    master_key TEXT NOT NULL,
    data_key BYTEA,
    value BYTEA,
    created BIGINT NOT NULL,
    PRIMARY KEY (project, name, version)
);
-- Which ring of the keyring file holds this project's master keys.
CREATE TABLE secret_ring (
    project TEXT NOT NULL PRIMARY KEY,
    ring TEXT NOT NULL
);
-- down
DROP TABLE secret_ring;
DROP TABLE secret;
DROP TABLE identity_token;
DROP TABLE identity_user;
