-- up
-- What a purge still has to remove from the storage: written with the rows' removal, deleted after
-- the objects, so that a killed purge is finished by the next one.
CREATE TABLE purge_pending (
    project TEXT NOT NULL,
    prefix TEXT NOT NULL,
    PRIMARY KEY (project, prefix)
);
-- down
DROP TABLE purge_pending;
