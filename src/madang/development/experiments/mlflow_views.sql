-- MLflow's tables in the shape of the metadata database's: views that the default engine reads, and
-- what writing to them does to MLflow's tables. {project}, {root} and {largest} are literals.
--
-- MLflow's times are whole milliseconds; the microseconds stand in tables of ours, and count as long
-- as their milliseconds are MLflow's.

CREATE TEMP VIEW experiment AS
SELECT {project} AS project, CAST(e.experiment_id AS TEXT) AS id, e.name AS name,
  CASE WHEN x.created / 1000 = e.creation_time THEN x.created
    ELSE coalesce(e.creation_time, 0) * 1000 END AS created,
  CASE WHEN x.updated / 1000 = e.last_update_time THEN x.updated
    ELSE coalesce(e.last_update_time, e.creation_time, 0) * 1000 END AS updated,
  CASE WHEN e.lifecycle_stage = 'deleted'
    THEN coalesce(x.deleted, e.last_update_time * 1000, 0) END AS deleted
FROM experiments e LEFT JOIN madang_experiment x ON x.id = e.experiment_id
WHERE e.workspace = 'default';

CREATE TEMP TRIGGER experiment_made INSTEAD OF INSERT ON experiment BEGIN
  INSERT INTO experiments (experiment_id, name, artifact_location, lifecycle_stage, creation_time,
    last_update_time, workspace)
  VALUES (CAST(NEW.id AS INTEGER), NEW.name, {root} || '/' || NEW.id,
    CASE WHEN NEW.deleted IS NULL THEN 'active' ELSE 'deleted' END, NEW.created / 1000,
    NEW.updated / 1000, 'default');
  INSERT INTO madang_experiment VALUES (CAST(NEW.id AS INTEGER), NEW.created, NEW.updated, NEW.deleted)
  ON CONFLICT (id) DO UPDATE SET created = excluded.created, updated = excluded.updated,
    deleted = excluded.deleted;
END;

CREATE TEMP TRIGGER experiment_changed INSTEAD OF UPDATE ON experiment BEGIN
  UPDATE experiments SET name = NEW.name, last_update_time = NEW.updated / 1000,
    lifecycle_stage = CASE WHEN NEW.deleted IS NULL THEN 'active' ELSE 'deleted' END
  WHERE experiment_id = CAST(OLD.id AS INTEGER);
  INSERT INTO madang_experiment VALUES (CAST(NEW.id AS INTEGER), NEW.created, NEW.updated, NEW.deleted)
  ON CONFLICT (id) DO UPDATE SET created = excluded.created, updated = excluded.updated,
    deleted = excluded.deleted;
END;

CREATE TEMP VIEW experiment_tag AS
SELECT {project} AS project, CAST(experiment_id AS TEXT) AS experiment_id, key AS name,
  coalesce(value, '') AS value
FROM experiment_tags;

CREATE TEMP TRIGGER experiment_tag_set INSTEAD OF INSERT ON experiment_tag BEGIN
  INSERT INTO experiment_tags (key, value, experiment_id)
  VALUES (NEW.name, NEW.value, CAST(NEW.experiment_id AS INTEGER))
  ON CONFLICT (key, experiment_id) DO UPDATE SET value = excluded.value;
END;

CREATE TEMP TRIGGER experiment_tag_removed INSTEAD OF DELETE ON experiment_tag BEGIN
  DELETE FROM experiment_tags
  WHERE key = OLD.name AND experiment_id = CAST(OLD.experiment_id AS INTEGER);
END;

-- A run that was deleted with its experiment has its time, so that it comes back with it; MLflow
-- brings back all runs of an experiment that MLflow deleted.
CREATE TEMP VIEW run AS
SELECT {project} AS project, r.run_uuid AS id, CAST(r.experiment_id AS TEXT) AS experiment_id,
  coalesce(r.name, '') AS name, r.status AS status,
  CASE WHEN x.started / 1000 = r.start_time THEN x.started
    ELSE coalesce(r.start_time, 0) * 1000 END AS started,
  CASE WHEN x.ended / 1000 = r.end_time THEN x.ended ELSE r.end_time * 1000 END AS ended,
  (SELECT t.value FROM tags t WHERE t.key = 'mlflow.parentRunId' AND t.run_uuid = r.run_uuid)
    AS parent_id,
  coalesce(r.user_id, '') AS actor,
  CASE WHEN r.lifecycle_stage = 'deleted' THEN coalesce(x.deleted,
    (SELECT coalesce(e.last_update_time * 1000, 0) FROM experiments e
      LEFT JOIN madang_experiment y ON y.id = e.experiment_id
      WHERE e.experiment_id = r.experiment_id AND e.lifecycle_stage = 'deleted'
      AND y.deleted IS NULL),
    r.deleted_time * 1000, 0) END AS deleted,
  coalesce(x.points, 0) AS points
FROM runs r LEFT JOIN madang_run x ON x.run_uuid = r.run_uuid;

CREATE TEMP TRIGGER run_made INSTEAD OF INSERT ON run BEGIN
  INSERT INTO runs (run_uuid, name, source_type, source_name, entry_point_name, user_id, status,
    start_time, end_time, source_version, lifecycle_stage, artifact_uri, experiment_id, deleted_time)
  VALUES (NEW.id, NEW.name, 'UNKNOWN', '', '', NEW.actor, NEW.status, NEW.started / 1000,
    NEW.ended / 1000, '', CASE WHEN NEW.deleted IS NULL THEN 'active' ELSE 'deleted' END,
    (SELECT artifact_location FROM experiments
      WHERE experiment_id = CAST(NEW.experiment_id AS INTEGER)) || '/' || NEW.id || '/artifacts',
    CAST(NEW.experiment_id AS INTEGER), NEW.deleted / 1000);
  INSERT INTO tags (key, value, run_uuid) VALUES ('mlflow.runName', NEW.name, NEW.id);
  INSERT INTO madang_run VALUES (NEW.id, NEW.started, NEW.ended, NEW.deleted, NEW.points)
  ON CONFLICT (run_uuid) DO UPDATE SET started = excluded.started, ended = excluded.ended,
    deleted = excluded.deleted, points = excluded.points;
END;

CREATE TEMP TRIGGER run_counted INSTEAD OF UPDATE OF points ON run BEGIN
  INSERT INTO madang_run VALUES (OLD.id, OLD.started, OLD.ended, OLD.deleted, NEW.points)
  ON CONFLICT (run_uuid) DO UPDATE SET points = excluded.points;
END;

CREATE TEMP TRIGGER run_changed INSTEAD OF UPDATE OF name, status, started, ended, deleted ON run BEGIN
  UPDATE runs SET name = NEW.name, status = NEW.status, start_time = NEW.started / 1000,
    end_time = NEW.ended / 1000, deleted_time = NEW.deleted / 1000,
    lifecycle_stage = CASE WHEN NEW.deleted IS NULL THEN 'active' ELSE 'deleted' END
  WHERE run_uuid = OLD.id;
  INSERT INTO tags (key, value, run_uuid) SELECT 'mlflow.runName', NEW.name, NEW.id
  WHERE NEW.name <> OLD.name
  ON CONFLICT (key, run_uuid) DO UPDATE SET value = excluded.value;
  INSERT INTO madang_run VALUES (NEW.id, NEW.started, NEW.ended, NEW.deleted, NEW.points)
  ON CONFLICT (run_uuid) DO UPDATE SET started = excluded.started, ended = excluded.ended,
    deleted = excluded.deleted;
END;

-- The tag that nests a run is the tag alone here.
CREATE TEMP TRIGGER run_nested INSTEAD OF UPDATE OF parent_id ON run BEGIN
  SELECT 1;
END;

CREATE TEMP VIEW run_param AS
SELECT {project} AS project, run_uuid AS run_id, key AS name, value AS value FROM params;

CREATE TEMP TRIGGER run_param_added INSTEAD OF INSERT ON run_param BEGIN
  INSERT INTO params (key, value, run_uuid) VALUES (NEW.name, NEW.value, NEW.run_id)
  ON CONFLICT (key, run_uuid) DO NOTHING;
END;

CREATE TEMP VIEW run_tag AS
SELECT {project} AS project, run_uuid AS run_id, key AS name, coalesce(value, '') AS value
FROM tags WHERE key <> 'mlflow.runName';

CREATE TEMP TRIGGER run_tag_set INSTEAD OF INSERT ON run_tag BEGIN
  INSERT INTO tags (key, value, run_uuid) VALUES (NEW.name, NEW.value, NEW.run_id)
  ON CONFLICT (key, run_uuid) DO UPDATE SET value = excluded.value;
END;

CREATE TEMP TRIGGER run_tag_removed INSTEAD OF DELETE ON run_tag BEGIN
  DELETE FROM tags WHERE key = OLD.name AND run_uuid = OLD.run_id;
END;

-- MLflow's points have milliseconds and no infinity, and those that are equal become one. A metric
-- that this engine logs is therefore kept whole beside MLflow's rows, from its first point on.
CREATE TEMP VIEW run_metric AS
SELECT {project} AS project, run_uuid AS run_id, key AS name, number, step, time, value
FROM madang_metric
UNION ALL
SELECT {project}, m.run_uuid, m.key, m.rowid, m.step, m.timestamp * 1000,
  CASE WHEN m.is_nan THEN NULL ELSE m.value END
FROM metrics m WHERE NOT EXISTS
  (SELECT 1 FROM madang_key k WHERE k.run_uuid = m.run_uuid AND k.key = m.key);

CREATE TEMP TRIGGER run_metric_logged INSTEAD OF INSERT ON run_metric BEGIN
  INSERT INTO madang_metric
  SELECT m.run_uuid, m.key, m.rowid - 4611686018427387904, m.step, m.timestamp * 1000,
    CASE WHEN m.is_nan THEN NULL ELSE m.value END
  FROM metrics m WHERE m.run_uuid = NEW.run_id AND m.key = NEW.name AND NOT EXISTS
    (SELECT 1 FROM madang_key k WHERE k.run_uuid = NEW.run_id AND k.key = NEW.name);
  INSERT INTO madang_key
  SELECT NEW.run_id, NEW.name,
    (SELECT count(*) FROM metrics m WHERE m.run_uuid = NEW.run_id AND m.key = NEW.name)
  WHERE NOT EXISTS
    (SELECT 1 FROM madang_key k WHERE k.run_uuid = NEW.run_id AND k.key = NEW.name);
  INSERT INTO metrics (key, value, timestamp, run_uuid, step, is_nan)
  VALUES (NEW.name, coalesce(max(min(NEW.value, {largest}), -{largest}), 0), NEW.time / 1000,
    NEW.run_id, NEW.step, NEW.value IS NULL)
  ON CONFLICT DO NOTHING;
  UPDATE madang_key SET rows = rows + changes() WHERE run_uuid = NEW.run_id AND key = NEW.name;
  INSERT INTO madang_metric
  VALUES (NEW.run_id, NEW.name, NEW.number, NEW.step, NEW.time, NEW.value);
END;

CREATE TEMP VIEW run_metric_last AS
SELECT {project} AS project, l.run_uuid AS run_id, l.key AS name, l.step AS step,
  CASE WHEN x.run_uuid IS NULL THEN coalesce(l.timestamp, 0) * 1000 ELSE x.time END AS time,
  CASE WHEN x.run_uuid IS NOT NULL THEN x.value WHEN l.is_nan THEN NULL ELSE l.value END AS value
FROM latest_metrics l LEFT JOIN madang_latest x ON x.run_uuid = l.run_uuid AND x.key = l.key
  AND x.step = l.step AND x.time / 1000 = l.timestamp AND (x.value IS NULL) = l.is_nan
  AND coalesce(max(min(x.value, {largest}), -{largest}), 0) = l.value;

CREATE TEMP TRIGGER run_metric_last_moved INSTEAD OF INSERT ON run_metric_last
WHEN NOT EXISTS (SELECT 1 FROM run_metric_last v WHERE v.run_id = NEW.run_id AND v.name = NEW.name
  AND (v.step > NEW.step OR (v.step = NEW.step AND v.time > NEW.time))) BEGIN
  INSERT INTO latest_metrics (key, value, timestamp, step, is_nan, run_uuid)
  VALUES (NEW.name, coalesce(max(min(NEW.value, {largest}), -{largest}), 0), NEW.time / 1000,
    NEW.step, NEW.value IS NULL, NEW.run_id)
  ON CONFLICT (key, run_uuid) DO UPDATE SET value = excluded.value, timestamp = excluded.timestamp,
    step = excluded.step, is_nan = excluded.is_nan;
  INSERT INTO madang_latest VALUES (NEW.run_id, NEW.name, NEW.step, NEW.time, NEW.value)
  ON CONFLICT (run_uuid, key) DO UPDATE SET step = excluded.step, time = excluded.time,
    value = excluded.value;
END;

-- MLflow's runs of an experiment share a dataset; what each run said of it stands beside.
CREATE TEMP VIEW run_dataset AS
SELECT {project} AS project, i.destination_id AS run_id, d.name AS name, d.digest AS digest,
  i.rowid AS number,
  coalesce(x.source_type, d.dataset_source_type) AS source_type,
  coalesce(x.source, d.dataset_source) AS source,
  CASE WHEN x.input_uuid IS NULL THEN d.dataset_schema ELSE x.columns END AS columns,
  CASE WHEN x.input_uuid IS NULL THEN d.dataset_profile ELSE x.profile END AS profile,
  (SELECT json_group_object(t.name, t.value) FROM input_tags t WHERE t.input_uuid = i.input_uuid)
    AS tags,
  (SELECT t.value FROM input_tags t WHERE t.input_uuid = i.input_uuid
    AND t.name = 'mlflow.data.context') AS context
FROM inputs i JOIN datasets d ON d.dataset_uuid = i.source_id
LEFT JOIN madang_dataset x ON x.input_uuid = i.input_uuid
WHERE i.source_type = 'DATASET' AND i.destination_type = 'RUN';

CREATE TEMP TRIGGER run_dataset_set INSTEAD OF INSERT ON run_dataset BEGIN
  INSERT INTO datasets (dataset_uuid, experiment_id, name, digest, dataset_source_type,
    dataset_source, dataset_schema, dataset_profile)
  SELECT lower(hex(randomblob(16))), r.experiment_id, NEW.name, NEW.digest, NEW.source_type,
    NEW.source, NEW.columns, NEW.profile
  FROM runs r WHERE r.run_uuid = NEW.run_id
  ON CONFLICT (experiment_id, name, digest) DO UPDATE SET
    dataset_source_type = excluded.dataset_source_type, dataset_source = excluded.dataset_source,
    dataset_schema = excluded.dataset_schema, dataset_profile = excluded.dataset_profile;
  INSERT INTO inputs (input_uuid, source_type, source_id, destination_type, destination_id, step)
  SELECT lower(hex(randomblob(16))), 'DATASET', d.dataset_uuid, 'RUN', NEW.run_id, 0
  FROM datasets d JOIN runs r ON r.experiment_id = d.experiment_id
  WHERE r.run_uuid = NEW.run_id AND d.name = NEW.name AND d.digest = NEW.digest
  ON CONFLICT DO NOTHING;
  DELETE FROM input_tags WHERE input_uuid IN
    (SELECT i.input_uuid FROM inputs i JOIN datasets d ON d.dataset_uuid = i.source_id
      WHERE i.source_type = 'DATASET' AND i.destination_type = 'RUN'
      AND i.destination_id = NEW.run_id AND d.name = NEW.name AND d.digest = NEW.digest);
  INSERT INTO input_tags (input_uuid, name, value)
  SELECT i.input_uuid, j.key, j.value
  FROM json_each(NEW.tags) j, inputs i JOIN datasets d ON d.dataset_uuid = i.source_id
  WHERE i.source_type = 'DATASET' AND i.destination_type = 'RUN'
    AND i.destination_id = NEW.run_id AND d.name = NEW.name AND d.digest = NEW.digest;
  INSERT INTO madang_dataset
  SELECT i.input_uuid, NEW.source_type, NEW.source, NEW.columns, NEW.profile
  FROM inputs i JOIN datasets d ON d.dataset_uuid = i.source_id
  WHERE i.source_type = 'DATASET' AND i.destination_type = 'RUN'
    AND i.destination_id = NEW.run_id AND d.name = NEW.name AND d.digest = NEW.digest
  ON CONFLICT (input_uuid) DO UPDATE SET source_type = excluded.source_type,
    source = excluded.source, columns = excluded.columns, profile = excluded.profile;
END;

CREATE TEMP VIEW run_model AS
SELECT {project} AS project, source_id AS run_id,
  CASE source_type WHEN 'RUN_INPUT' THEN 'in' ELSE 'out' END AS role,
  destination_id AS model_id, rowid AS number, step AS step
FROM inputs
WHERE (source_type = 'RUN_INPUT' AND destination_type = 'MODEL_INPUT')
  OR (source_type = 'RUN_OUTPUT' AND destination_type = 'MODEL_OUTPUT');

CREATE TEMP TRIGGER run_model_set INSTEAD OF INSERT ON run_model BEGIN
  INSERT INTO inputs (input_uuid, source_type, source_id, destination_type, destination_id, step)
  VALUES (lower(hex(randomblob(16))),
    CASE NEW.role WHEN 'in' THEN 'RUN_INPUT' ELSE 'RUN_OUTPUT' END, NEW.run_id,
    CASE NEW.role WHEN 'in' THEN 'MODEL_INPUT' ELSE 'MODEL_OUTPUT' END, NEW.model_id, NEW.step)
  ON CONFLICT (source_type, source_id, destination_type, destination_id)
  DO UPDATE SET step = excluded.step;
END;

CREATE TEMP VIEW logged_model AS
SELECT {project} AS project, m.model_id AS id, CAST(m.experiment_id AS TEXT) AS experiment_id,
  m.name AS name, m.source_run_id AS run_id, coalesce(m.model_type, '') AS type,
  CASE m.status WHEN 2 THEN 'READY' WHEN 3 THEN 'FAILED' ELSE 'PENDING' END AS status,
  coalesce(m.status_message, '') AS message,
  CASE WHEN x.created / 1000 = m.creation_timestamp_ms THEN x.created
    ELSE m.creation_timestamp_ms * 1000 END AS created,
  CASE WHEN x.updated / 1000 = m.last_updated_timestamp_ms THEN x.updated
    ELSE m.last_updated_timestamp_ms * 1000 END AS updated,
  CASE WHEN m.lifecycle_stage = 'deleted'
    THEN coalesce(x.deleted, m.last_updated_timestamp_ms * 1000) END AS deleted
FROM logged_models m LEFT JOIN madang_logged x ON x.model_id = m.model_id;

CREATE TEMP TRIGGER logged_model_made INSTEAD OF INSERT ON logged_model BEGIN
  INSERT INTO logged_models (model_id, experiment_id, name, artifact_location,
    creation_timestamp_ms, last_updated_timestamp_ms, status, lifecycle_stage, model_type,
    source_run_id, status_message)
  VALUES (NEW.id, CAST(NEW.experiment_id AS INTEGER), NEW.name,
    (SELECT artifact_location FROM experiments
      WHERE experiment_id = CAST(NEW.experiment_id AS INTEGER))
      || '/models/' || NEW.id || '/artifacts',
    NEW.created / 1000, NEW.updated / 1000,
    CASE NEW.status WHEN 'READY' THEN 2 WHEN 'FAILED' THEN 3 ELSE 1 END,
    CASE WHEN NEW.deleted IS NULL THEN 'active' ELSE 'deleted' END, NEW.type, NEW.run_id,
    NEW.message);
  INSERT INTO madang_logged VALUES (NEW.id, NEW.created, NEW.updated, NEW.deleted)
  ON CONFLICT (model_id) DO UPDATE SET created = excluded.created, updated = excluded.updated,
    deleted = excluded.deleted;
END;

CREATE TEMP TRIGGER logged_model_changed INSTEAD OF UPDATE ON logged_model BEGIN
  UPDATE logged_models SET last_updated_timestamp_ms = NEW.updated / 1000,
    status = CASE NEW.status WHEN 'READY' THEN 2 WHEN 'FAILED' THEN 3 ELSE 1 END,
    lifecycle_stage = CASE WHEN NEW.deleted IS NULL THEN 'active' ELSE 'deleted' END
  WHERE model_id = OLD.id;
  INSERT INTO madang_logged VALUES (NEW.id, NEW.created, NEW.updated, NEW.deleted)
  ON CONFLICT (model_id) DO UPDATE SET created = excluded.created, updated = excluded.updated,
    deleted = excluded.deleted;
END;

CREATE TEMP VIEW logged_model_param AS
SELECT {project} AS project, model_id, param_key AS name, param_value AS value
FROM logged_model_params;

CREATE TEMP TRIGGER logged_model_param_set INSTEAD OF INSERT ON logged_model_param BEGIN
  INSERT INTO logged_model_params (model_id, experiment_id, param_key, param_value)
  SELECT NEW.model_id, m.experiment_id, NEW.name, NEW.value
  FROM logged_models m WHERE m.model_id = NEW.model_id
  ON CONFLICT (model_id, param_key) DO UPDATE SET param_value = excluded.param_value;
END;

CREATE TEMP VIEW logged_model_tag AS
SELECT {project} AS project, model_id, tag_key AS name, tag_value AS value
FROM logged_model_tags;

CREATE TEMP TRIGGER logged_model_tag_set INSTEAD OF INSERT ON logged_model_tag BEGIN
  INSERT INTO logged_model_tags (model_id, experiment_id, tag_key, tag_value)
  SELECT NEW.model_id, m.experiment_id, NEW.name, NEW.value
  FROM logged_models m WHERE m.model_id = NEW.model_id
  ON CONFLICT (model_id, tag_key) DO UPDATE SET tag_value = excluded.tag_value;
END;

CREATE TEMP TRIGGER logged_model_tag_removed INSTEAD OF DELETE ON logged_model_tag BEGIN
  DELETE FROM logged_model_tags WHERE model_id = OLD.model_id AND tag_key = OLD.name;
END;

-- MLflow has one point a time, step and run, whatever it was measured on: the last one of each
-- dataset stands beside, until MLflow has a newer one.
CREATE TEMP VIEW logged_model_metric AS
SELECT {project} AS project, s.model_id, s.name, s.run_id, s.dataset_name, s.dataset_digest, s.step,
  s.time, s.value
FROM madang_model_metric s WHERE NOT EXISTS
  (SELECT 1 FROM logged_model_metrics n WHERE n.model_id = s.model_id AND n.metric_name = s.name
    AND n.run_id = s.run_id AND coalesce(n.dataset_name, '') = s.dataset_name
    AND coalesce(n.dataset_digest, '') = s.dataset_digest
    AND n.metric_timestamp_ms > s.time / 1000)
UNION ALL
SELECT {project}, m.model_id, m.metric_name, m.run_id, coalesce(m.dataset_name, ''),
  coalesce(m.dataset_digest, ''), m.metric_step, m.metric_timestamp_ms * 1000, m.metric_value
FROM logged_model_metrics m WHERE NOT EXISTS
  (SELECT 1 FROM logged_model_metrics n WHERE n.model_id = m.model_id
    AND n.metric_name = m.metric_name AND n.run_id = m.run_id
    AND coalesce(n.dataset_name, '') = coalesce(m.dataset_name, '')
    AND coalesce(n.dataset_digest, '') = coalesce(m.dataset_digest, '')
    AND (n.metric_timestamp_ms, n.metric_step) > (m.metric_timestamp_ms, m.metric_step))
AND NOT EXISTS
  (SELECT 1 FROM madang_model_metric s WHERE s.model_id = m.model_id AND s.name = m.metric_name
    AND s.run_id = m.run_id AND s.dataset_name = coalesce(m.dataset_name, '')
    AND s.dataset_digest = coalesce(m.dataset_digest, '')
    AND s.time / 1000 >= m.metric_timestamp_ms);

CREATE TEMP TRIGGER logged_model_metric_moved INSTEAD OF INSERT ON logged_model_metric BEGIN
  INSERT INTO logged_model_metrics (model_id, metric_name, metric_timestamp_ms, metric_step,
    metric_value, experiment_id, run_id, dataset_uuid, dataset_name, dataset_digest)
  SELECT NEW.model_id, NEW.name, NEW.time / 1000, NEW.step,
    max(min(NEW.value, {largest}), -{largest}), m.experiment_id, NEW.run_id,
    (SELECT d.dataset_uuid FROM datasets d WHERE d.experiment_id = m.experiment_id
      AND d.name = NEW.dataset_name AND d.digest = NEW.dataset_digest),
    nullif(NEW.dataset_name, ''), nullif(NEW.dataset_digest, '')
  FROM logged_models m WHERE m.model_id = NEW.model_id
  ON CONFLICT DO NOTHING;
  INSERT INTO madang_model_metric VALUES (NEW.model_id, NEW.name, NEW.run_id, NEW.dataset_name,
    NEW.dataset_digest, NEW.step, NEW.time, NEW.value)
  ON CONFLICT (model_id, name, run_id, dataset_name, dataset_digest) DO UPDATE SET
    step = excluded.step, time = excluded.time, value = excluded.value
  WHERE (excluded.time, excluded.step) >= (madang_model_metric.time, madang_model_metric.step);
END;

-- MLflow forgets a deleted model and its numbers; they are kept beside, and never used again.
CREATE TEMP VIEW model AS
SELECT {project} AS project, m.name AS name,
  max(coalesce(x.last_version, 0), coalesce((SELECT max(v.version) FROM model_versions v
    WHERE v.workspace = 'default' AND v.name = m.name), 0)) AS last_version,
  CASE WHEN x.created / 1000 = m.creation_time THEN x.created
    ELSE coalesce(m.creation_time, 0) * 1000 END AS created,
  CASE WHEN x.updated / 1000 = m.last_updated_time THEN x.updated
    ELSE coalesce(m.last_updated_time, m.creation_time, 0) * 1000 END AS updated,
  coalesce(m.description, '') AS description, NULL AS deleted
FROM registered_models m LEFT JOIN madang_model x ON x.name = m.name
WHERE m.workspace = 'default'
UNION ALL
SELECT {project}, x.name, x.last_version, x.created, x.updated, '', coalesce(x.deleted, x.updated)
FROM madang_model x WHERE NOT EXISTS
  (SELECT 1 FROM registered_models m WHERE m.workspace = 'default' AND m.name = x.name);

CREATE TEMP TRIGGER model_made INSTEAD OF INSERT ON model BEGIN
  INSERT INTO registered_models (name, creation_time, last_updated_time, description, workspace)
  VALUES (NEW.name, NEW.created / 1000, NEW.updated / 1000, NEW.description, 'default');
  INSERT INTO madang_model VALUES (NEW.name, NEW.last_version, NEW.created, NEW.updated, NULL)
  ON CONFLICT (name) DO UPDATE SET created = excluded.created, updated = excluded.updated,
    deleted = NULL, last_version = max(madang_model.last_version, excluded.last_version);
END;

CREATE TEMP TRIGGER model_changed INSTEAD OF UPDATE ON model WHEN NEW.deleted IS NULL BEGIN
  UPDATE registered_models SET creation_time = NEW.created / 1000,
    last_updated_time = NEW.updated / 1000, description = NEW.description
  WHERE workspace = 'default' AND name = OLD.name;
  INSERT INTO madang_model VALUES (NEW.name, NEW.last_version, NEW.created, NEW.updated, NULL)
  ON CONFLICT (name) DO UPDATE SET created = excluded.created, updated = excluded.updated,
    last_version = excluded.last_version;
END;

CREATE TEMP TRIGGER model_deleted INSTEAD OF UPDATE ON model
WHEN NEW.deleted IS NOT NULL AND OLD.deleted IS NULL BEGIN
  INSERT INTO madang_model
  VALUES (OLD.name, OLD.last_version, OLD.created, NEW.updated, NEW.deleted)
  ON CONFLICT (name) DO UPDATE SET updated = excluded.updated, deleted = excluded.deleted,
    last_version = excluded.last_version;
  UPDATE model_version SET deleted = NEW.deleted WHERE name = OLD.name AND deleted IS NULL;
  DELETE FROM model_version_tags WHERE workspace = 'default' AND name = OLD.name;
  DELETE FROM model_versions WHERE workspace = 'default' AND name = OLD.name;
  DELETE FROM registered_model_aliases WHERE workspace = 'default' AND name = OLD.name;
  DELETE FROM registered_model_tags WHERE workspace = 'default' AND name = OLD.name;
  DELETE FROM registered_models WHERE workspace = 'default' AND name = OLD.name;
END;

CREATE TEMP TRIGGER model_forgotten INSTEAD OF DELETE ON model BEGIN
  DELETE FROM registered_models WHERE workspace = 'default' AND name = OLD.name;
  DELETE FROM madang_model WHERE name = OLD.name;
END;

CREATE TEMP VIEW model_version AS
SELECT {project} AS project, v.name AS name, v.version AS version,
  coalesce(x.format, 'object') AS format, coalesce(x.digest, '') AS digest,
  CASE WHEN x.name IS NOT NULL THEN x.location
    WHEN coalesce(v.storage_location, v.source) LIKE 'file:%'
      OR coalesce(v.storage_location, v.source) LIKE '/%'
      OR coalesce(v.storage_location, v.source) LIKE 'mlflow-artifacts:/%'
      OR coalesce(v.storage_location, v.source) LIKE 'runs:/%'
      OR coalesce(v.storage_location, v.source) LIKE 'models:/m-%'
    THEN 'versions/' || v.name || '/' || v.version ELSE '' END AS location,
  CASE WHEN x.name IS NOT NULL THEN x.created
    ELSE coalesce(v.creation_time, 0) * 1000 END AS created,
  nullif(v.run_id, '') AS run_id,
  coalesce(x.signature, '{{"inputs": [], "outputs": []}}') AS signature,
  coalesce(x.inputs, '[]') AS inputs, coalesce(x.evaluation, '{{}}') AS evaluation,
  coalesce(v.description, '') AS description,
  CASE WHEN x.updated / 1000 = v.last_updated_time THEN x.updated
    ELSE coalesce(v.last_updated_time, v.creation_time, 0) * 1000 END AS updated,
  coalesce(x.source, v.source, '') AS source, coalesce(v.run_link, '') AS run_link,
  CASE WHEN x.name IS NOT NULL THEN x.model_id WHEN v.source LIKE 'models:/m-%'
    THEN substr(v.source, 9, instr(substr(v.source, 9) || '/', '/') - 1) END AS model_id,
  coalesce(v.user_id, '') AS actor, NULL AS deleted
FROM model_versions v LEFT JOIN madang_version x ON x.name = v.name AND x.version = v.version
  AND x.created / 1000 = v.creation_time AND x.deleted IS NULL
WHERE v.workspace = 'default' AND v.current_stage IS NOT 'Deleted_Internal'
UNION ALL
SELECT {project}, x.name, x.version, x.format, x.digest, x.location, x.created, NULL, x.signature,
  x.inputs, x.evaluation, '', x.updated, x.source, '', x.model_id, '', x.deleted
FROM madang_version x WHERE x.deleted IS NOT NULL;

-- Where MLflow finds the files: what stands behind a source, else where ours are.
CREATE TEMP TRIGGER model_version_made INSTEAD OF INSERT ON model_version BEGIN
  DELETE FROM madang_version WHERE name = NEW.name AND version = NEW.version;
  INSERT INTO madang_version VALUES (NEW.name, NEW.version, NEW.format, NEW.digest, NEW.location,
    NEW.created, NEW.updated, NEW.signature, NEW.inputs, NEW.evaluation, NEW.source, NEW.model_id,
    NEW.deleted);
  INSERT INTO model_versions (name, version, creation_time, last_updated_time, description, user_id,
    current_stage, source, run_id, status, status_message, run_link, storage_location, workspace)
  VALUES (NEW.name, NEW.version, NEW.created / 1000, NEW.updated / 1000, NEW.description, NEW.actor,
    'None', madang_source(NEW.source, NEW.location), NEW.run_id, 'READY', NULL, NEW.run_link,
    madang_place(NEW.source, NEW.location), 'default');
END;

CREATE TEMP TRIGGER model_version_changed INSTEAD OF UPDATE ON model_version
WHEN NEW.deleted IS OLD.deleted BEGIN
  UPDATE model_versions SET name = NEW.name, description = NEW.description,
    last_updated_time = NEW.updated / 1000
  WHERE workspace = 'default' AND name = OLD.name AND version = OLD.version
    AND (OLD.deleted IS NULL OR current_stage = 'Deleted_Internal');
  -- What stands beside another version, which had this name and number before, is not this one's.
  DELETE FROM madang_version WHERE NEW.evaluation <> OLD.evaluation
    AND name = OLD.name AND version = OLD.version
    AND (deleted IS NOT OLD.deleted OR created / 1000 <> OLD.created / 1000);
  UPDATE madang_version SET name = NEW.name, updated = NEW.updated, evaluation = NEW.evaluation
  WHERE name = OLD.name AND version = OLD.version;
  INSERT INTO madang_version
  SELECT NEW.name, NEW.version, NEW.format, NEW.digest, NEW.location, NEW.created, NEW.updated,
    NEW.signature, NEW.inputs, NEW.evaluation, NEW.source, NEW.model_id, NULL
  WHERE NEW.name <> OLD.name OR NEW.evaluation <> OLD.evaluation
  ON CONFLICT (name, version) DO NOTHING;
END;

CREATE TEMP TRIGGER model_version_deleted INSTEAD OF UPDATE ON model_version
WHEN NEW.deleted IS NOT NULL AND OLD.deleted IS NULL BEGIN
  DELETE FROM madang_version WHERE name = OLD.name AND version = OLD.version;
  INSERT INTO madang_version VALUES (OLD.name, OLD.version, OLD.format, OLD.digest, OLD.location,
    OLD.created, NEW.updated, OLD.signature, OLD.inputs, OLD.evaluation, OLD.source, OLD.model_id,
    NEW.deleted);
  UPDATE model_versions SET current_stage = 'Deleted_Internal',
    last_updated_time = NEW.updated / 1000, description = NULL, user_id = NULL,
    source = 'REDACTED-SOURCE-PATH', run_id = 'REDACTED-RUN-ID', run_link = 'REDACTED-RUN-LINK',
    status_message = NULL
  WHERE workspace = 'default' AND name = OLD.name AND version = OLD.version;
END;

CREATE TEMP VIEW model_tag AS
SELECT {project} AS project, name AS model, 0 AS version, key AS name, coalesce(value, '') AS value
FROM registered_model_tags WHERE workspace = 'default'
UNION ALL
SELECT {project}, name, version, key, coalesce(value, '')
FROM model_version_tags WHERE workspace = 'default';

CREATE TEMP TRIGGER model_tag_set INSTEAD OF INSERT ON model_tag WHEN NEW.version = 0 BEGIN
  INSERT INTO registered_model_tags (key, value, name, workspace)
  VALUES (NEW.name, NEW.value, NEW.model, 'default')
  ON CONFLICT (workspace, key, name) DO UPDATE SET value = excluded.value;
END;

CREATE TEMP TRIGGER version_tag_set INSTEAD OF INSERT ON model_tag WHEN NEW.version <> 0 BEGIN
  INSERT INTO model_version_tags (key, value, name, version, workspace)
  VALUES (NEW.name, NEW.value, NEW.model, NEW.version, 'default')
  ON CONFLICT (workspace, key, name, version) DO UPDATE SET value = excluded.value;
END;

CREATE TEMP TRIGGER model_tag_moved INSTEAD OF UPDATE ON model_tag BEGIN
  UPDATE registered_model_tags SET name = NEW.model
  WHERE OLD.version = 0 AND workspace = 'default' AND name = OLD.model AND key = OLD.name;
  UPDATE model_version_tags SET name = NEW.model WHERE OLD.version <> 0 AND workspace = 'default'
    AND name = OLD.model AND version = OLD.version AND key = OLD.name;
END;

CREATE TEMP TRIGGER model_tag_removed INSTEAD OF DELETE ON model_tag BEGIN
  DELETE FROM registered_model_tags
  WHERE OLD.version = 0 AND workspace = 'default' AND name = OLD.model AND key = OLD.name;
  DELETE FROM model_version_tags WHERE OLD.version <> 0 AND workspace = 'default'
    AND name = OLD.model AND version = OLD.version AND key = OLD.name;
END;

CREATE TEMP VIEW model_alias AS
SELECT {project} AS project, name AS model, alias AS name, version AS version
FROM registered_model_aliases WHERE workspace = 'default';

CREATE TEMP TRIGGER model_alias_set INSTEAD OF INSERT ON model_alias BEGIN
  INSERT INTO registered_model_aliases (alias, version, name, workspace)
  VALUES (NEW.name, NEW.version, NEW.model, 'default')
  ON CONFLICT (workspace, name, alias) DO UPDATE SET version = excluded.version;
END;

CREATE TEMP TRIGGER model_alias_moved INSTEAD OF UPDATE ON model_alias BEGIN
  UPDATE registered_model_aliases SET name = NEW.model, version = NEW.version
  WHERE workspace = 'default' AND name = OLD.model AND alias = OLD.name;
END;

CREATE TEMP TRIGGER model_alias_removed INSTEAD OF DELETE ON model_alias BEGIN
  DELETE FROM registered_model_aliases
  WHERE workspace = 'default' AND name = OLD.model AND alias = OLD.name;
END;
