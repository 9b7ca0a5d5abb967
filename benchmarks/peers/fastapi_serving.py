"""What people write by hand: a scikit-learn model behind FastAPI, on uvicorn. One worker."""

import os

import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel
from sklearn.datasets import load_breast_cancer
from sklearn.ensemble import HistGradientBoostingClassifier

X, y = load_breast_cancer(return_X_y=True)
model = HistGradientBoostingClassifier(random_state=0).fit(X, y)
app = FastAPI()


class Tensor(BaseModel):
    name: str
    shape: list[int]
    datatype: str
    data: list[float]


class Request(BaseModel):
    inputs: list[Tensor]


@app.post("/v2/models/cancer/infer")
def infer(request: Request):
    tensor = request.inputs[0]
    rows = [tensor.data[i : i + 30] for i in range(0, len(tensor.data), 30)]
    probabilities = model.predict_proba(rows)
    return {
        "model_name": "cancer",
        "model_version": "1",
        "outputs": [
            {
                "name": "predict_proba",
                "shape": list(probabilities.shape),
                "datatype": "FP64",
                "data": probabilities.ravel().tolist(),
            }
        ],
    }


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(os.environ["PORT"]), access_log=False)
