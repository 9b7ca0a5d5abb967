-- What MLflow's tables can't hold stands beside them, in tables that MLflow leaves alone.
CREATE TABLE IF NOT EXISTS madang_experiment (
  id INTEGER PRIMARY KEY, created BIGINT NOT NULL, updated BIGINT NOT NULL, deleted BIGINT
);
CREATE TABLE IF NOT EXISTS madang_run (
  run_uuid TEXT PRIMARY KEY, started BIGINT NOT NULL, ended BIGINT, deleted BIGINT,
  points BIGINT NOT NULL DEFAULT 0
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS madang_key (
  run_uuid TEXT NOT NULL, key TEXT NOT NULL, rows BIGINT NOT NULL, PRIMARY KEY (run_uuid, key)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS madang_metric (
  run_uuid TEXT NOT NULL, key TEXT NOT NULL, number BIGINT NOT NULL, step BIGINT NOT NULL,
  time BIGINT NOT NULL, value DOUBLE PRECISION, PRIMARY KEY (run_uuid, key, number)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS madang_latest (
  run_uuid TEXT NOT NULL, key TEXT NOT NULL, step BIGINT NOT NULL, time BIGINT NOT NULL,
  value DOUBLE PRECISION, PRIMARY KEY (run_uuid, key)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS madang_dataset (
  input_uuid TEXT PRIMARY KEY, source_type TEXT NOT NULL, source TEXT NOT NULL, columns TEXT,
  profile TEXT
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS madang_logged (
  model_id TEXT PRIMARY KEY, created BIGINT NOT NULL, updated BIGINT NOT NULL, deleted BIGINT
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS madang_model_metric (
  model_id TEXT NOT NULL, name TEXT NOT NULL, run_id TEXT NOT NULL, dataset_name TEXT NOT NULL,
  dataset_digest TEXT NOT NULL, step BIGINT NOT NULL, time BIGINT NOT NULL,
  value DOUBLE PRECISION, PRIMARY KEY (model_id, name, run_id, dataset_name, dataset_digest)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS madang_model (
  name TEXT PRIMARY KEY, last_version BIGINT NOT NULL, created BIGINT NOT NULL,
  updated BIGINT NOT NULL, deleted BIGINT
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS madang_version (
  name TEXT NOT NULL, version BIGINT NOT NULL, format TEXT NOT NULL, digest TEXT NOT NULL,
  location TEXT NOT NULL, created BIGINT NOT NULL, updated BIGINT NOT NULL,
  signature TEXT NOT NULL, inputs TEXT NOT NULL, evaluation TEXT NOT NULL, source TEXT NOT NULL,
  model_id TEXT, deleted BIGINT, PRIMARY KEY (name, version)
) WITHOUT ROWID;
-- The lines of changes that are done and not yet in the ledger.
CREATE TABLE IF NOT EXISTS madang_line (
  id TEXT PRIMARY KEY, project TEXT NOT NULL, seq BIGINT NOT NULL, line TEXT NOT NULL
) WITHOUT ROWID;
