-- up
-- What somebody approved for somebody else to do; `subject` names it with all that it was shown as.
CREATE TABLE policy_approval (
    project TEXT NOT NULL,
    id TEXT NOT NULL,
    subject TEXT NOT NULL,
    actor TEXT NOT NULL,
    reason TEXT NOT NULL,
    created BIGINT NOT NULL,
    expires BIGINT NOT NULL,
    PRIMARY KEY (project, id)
);
CREATE INDEX policy_approval_subject ON policy_approval (project, subject);
-- down
DROP TABLE policy_approval;
