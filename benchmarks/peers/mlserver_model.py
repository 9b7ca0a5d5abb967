"""Makes MLServer's folder with the benchmark's model; runs in MLServer's own environment."""

import json
import sys
from pathlib import Path

import joblib
from sklearn.datasets import load_breast_cancer
from sklearn.ensemble import HistGradientBoostingClassifier

home, http_port, grpc_port, metrics_port = Path(sys.argv[1]), *map(int, sys.argv[2:5])
model = HistGradientBoostingClassifier(random_state=0)
joblib.dump(model.fit(*load_breast_cancer(return_X_y=True)), home / "model.joblib")
settings = {
    "host": "127.0.0.1",
    "http_port": http_port,
    "grpc_port": grpc_port,
    "metrics_port": metrics_port,
    "parallel_workers": 0,
}
(home / "settings.json").write_text(json.dumps(settings))
model_settings = {
    "name": "cancer",
    "implementation": "mlserver_sklearn.SKLearnModel",
    "parameters": {"uri": "./model.joblib", "version": "1"},
}
(home / "model-settings.json").write_text(json.dumps(model_settings))
